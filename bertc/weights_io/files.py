"""Files of weights: opened with care, and stretches of them as arrays, fetched when read.

A file that is truncated while it is mapped ends the process, as with every use of mmap; a file that changed between
opening and reading is noticed.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bertc.errors import BertcError, error
from bertc.weights_io.tensor import Element, Tensor, quoted

STORAGE: dict[Element, np.dtype[Any]] = {
    "f64": np.dtype("<f8"),
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),
    "i64": np.dtype("<i8"),
    "i32": np.dtype("<i4"),
    "i16": np.dtype("<i2"),
    "i8": np.dtype("i1"),
    "u8": np.dtype("u1"),
    "bool": np.dtype("u1"),
}
"""How each element type lies in a file; NumPy has no bf16, and a stored bool may be any byte."""

MAPPED_FROM = 1 << 20
"""Arrays of at least this many bytes are mapped, smaller ones copied: each live mapping holds a file descriptor."""

MAX_SHARING = 64
"""How often a byte may be part of a tensor, on average. Layers that share their weights do so, ALBERT's at most 24."""

MAX_NAME = 255
"""Characters of a file's name, on Linux."""


class Version(NamedTuple):
    """What changes when a file is replaced or written to."""

    device: int
    inode: int
    size: int
    modified_ns: int


def open_file(path: Path) -> BinaryIO:
    """Open for reading. Raises B0002 when there is no regular file at `path` or it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise error("B0002", f"`{path}` is not a regular file", help="name a file or a directory of weights")
        return path.open("rb")
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else "not a path"
        raise error("B0002", f"`{path}` cannot be read: {reason}", help="check the path and its permissions") from None


def neighbour(path: Path, name: str) -> Path:
    """The file called `name` in the folder of `path`, which a file that came from elsewhere must not choose freely.

    A hub's cache is the one place where it may be a link: from `snapshots/COMMIT/` into `blobs/` beside it.
    Raises B0404 for any other place.
    """
    folder = path.parent.resolve()
    blobs = [parent.parent / "blobs" for parent in folder.parents if parent.name == "snapshots"]
    is_plain_name = 0 < len(name) <= MAX_NAME and name not in (".", "..") and not {"/", "\\", "\0"} & set(name)
    if not is_plain_name or Path(os.path.realpath(path.parent / name)).parent not in (folder, *blobs):
        message = f"`{path}` names the file {quoted(name)}, which is not in its own folder"
        raise error("B0404", message, help="put the files of one checkpoint beside one another, without links")
    return path.parent / name


def damaged(path: Path, reason: str) -> BertcError:
    """B0401, for a file that is of a known format and breaks its rules."""
    return error("B0401", f"`{path}` {reason}", help="the file is damaged or incomplete: fetch or export it again")


def check_sharing(path: Path, tensors: Iterable[Tensor], stored: int) -> None:
    """Raises B0401 when the tensors together are far larger than the `stored` bytes that they all lie in."""
    total = sum(math.prod(tensor.shape) * STORAGE[tensor.element].itemsize for tensor in tensors)
    if total > MAX_SHARING * stored:
        raise damaged(path, f"has tensors of {total} bytes together, but stores {stored}")


@dataclass(frozen=True, slots=True)
class FileBytes:
    """The bytes of an open file, a slice of which is read when it is asked for.

    Of a mapping, each page that is touched counts as memory of the process, and up to two megabytes around it.
    """

    file: BinaryIO
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        first, last, _ = part.indices(self.size)
        self.file.seek(first)
        return self.file.read(last - first)


def version(file: BinaryIO) -> Version:
    status = os.fstat(file.fileno())
    return Version(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def tensor_at(
    path: Path, opened: Version, offset: int, *, name: str, shape: tuple[int, ...], element: Element
) -> Tensor:
    """The tensor whose values start `offset` bytes into the file at `path`, in row-major order.

    The caller has checked that the values lie inside the file. The arrays are read-only.
    `read` raises B0407 when the file at `path` is no longer the one that was opened.
    """

    def read() -> NDArray[Any]:
        with open_file(path) as file:
            if version(file) != opened:
                message = f"`{path}` changed after it was opened"
                raise error("B0407", message, help="run again once nothing writes to it")
            values = decoded(_stretch(file, offset, math.prod(shape), STORAGE[element]), element)
        values.flags.writeable = False
        return values.reshape(shape)

    return Tensor(name, shape, element, read)


def _stretch(file: BinaryIO, offset: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    if count * dtype.itemsize < MAPPED_FROM:
        return np.fromfile(file, dtype, count, offset=offset)
    mapped = np.asarray(np.memmap(file, dtype, mode="r", offset=offset, shape=(count,)))
    return np.require(mapped, requirements=["ALIGNED"])


def decoded(stored: NDArray[Any], element: Element) -> NDArray[Any]:
    """Values as they lie in a file, in a type that NumPy has."""
    if element == "bf16":
        wide = stored.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    if element == "bool":
        return stored != 0
    return stored

"""Weights: one reader per checkpoint format, one table of names per model family, one binding of both to a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bertc.errors import BertcError, error
from bertc.weights_io import safetensors, shards
from bertc.weights_io.binding import bind
from bertc.weights_io.files import open_file
from bertc.weights_io.names import canonical_names
from bertc.weights_io.random_init import random_weights
from bertc.weights_io.tensor import Element, Tensor, weights_hash

__all__ = ["Element", "Tensor", "bind", "canonical_names", "open_checkpoint", "random_weights", "weights_hash"]


@dataclass(frozen=True)
class Reader:
    """One checkpoint format: `recognises` looks at the first bytes of a file, `read` finds the tensors in it."""

    format: str
    recognises: Callable[[bytes], bool]
    read: Callable[[Path], dict[str, Tensor]]


READERS = (
    Reader("safetensors", safetensors.recognises, safetensors.read_safetensors),
    Reader("an index of safetensors shards", shards.recognises, shards.read_shards),
)
"""Asked in this order. A new format is a module with `recognises` and a reading function, and a line here."""

DIRECTORY_FILES = ("model.safetensors", "model.safetensors.index.json")
"""What a directory of a model keeps its weights in; the first that is there is read."""

HEAD = 64
"""Bytes of a file that are enough to recognise it."""


def open_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors at `path`, a file or a model's directory, under the names they have there. No values are read.

    The format is recognised by content. Raises B0002 when there is nothing to read, B0401 when the file is damaged,
    B0402 when its format is not known, B0403 for an element type that is not read, B0404 for a shard out of bounds.
    """
    file = _in_directory(path) if path.is_dir() else path
    with open_file(file) as opened:
        head = opened.read(HEAD)
    for reader in READERS:
        if reader.recognises(head):
            return reader.read(file)
    raise _not_recognised(file, head)


def _in_directory(folder: Path) -> Path:
    for name in DIRECTORY_FILES:
        if (folder / name).is_file():
            return folder / name
    wanted = " nor ".join(f"`{name}`" for name in DIRECTORY_FILES)
    raise error("B0002", f"`{folder}` holds neither {wanted}", help="name the file of weights itself")


def _not_recognised(path: Path, head: bytes) -> BertcError:
    found = f"starts with the bytes {head[:9].hex(' ')}" if head else "is empty"
    formats = " or ".join(reader.format for reader in READERS)
    if head.startswith(b"version https://git-lfs"):
        found, what_to_do = "is a Git LFS pointer", "fetch what it points to with `git lfs pull`"
    else:
        what_to_do = "save the model as safetensors, or fetch the file again if it should be that already"
    return error("B0402", f"`{path}` is not {formats}: it {found}", help=what_to_do)

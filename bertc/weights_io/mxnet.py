"""MXNet's lists of arrays, which Gluon and GluonNLP write as `.params`. All numbers are little-endian.

    u64 0x112, u64 0
    u64 count, then each array:     u32 0xF993FAC9 or 0xF993FACA, i32 storage (0: dense), shape,
                                    i32 device, i32 number of the device, i32 type, values
                              or:   u32 0xF993FAC8, shape, and from the device on as above
    u64 count, then each name:      u64 length, UTF-8

A shape is u32 rank, then as many i64. An array of rank 0 has nothing after its shape, except with 0xF993FACA, where it
is a scalar. `Module` puts `arg:` or `aux:` before names.

Source: https://github.com/apache/mxnet, src/ndarray/ndarray.cc, NDArray::Save and NDArray::Load
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bertc.errors import error
from bertc.weights_io.files import STORAGE, FileBytes, damaged, open_file, tensor_at, version
from bertc.weights_io.tensor import Element, Tensor

LIST_MAGIC = 0x112
DENSE_ONLY, WITH_STORAGE, WITH_SCALARS = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DENSE = 0

ELEMENTS: dict[int, Element] = {
    0: "f32",
    1: "f64",
    2: "f16",
    3: "u8",
    4: "i32",
    5: "i8",
    6: "i64",
    7: "bool",
    8: "i16",
    12: "bf16",
}
"""By their number in mshadow's TypeFlag."""

MAX_ARRAYS = 10_000
MAX_RANK = 32
MAX_VALUES = 2**56
MAX_NAME = 1 << 12
MODULE_PREFIXES = ("arg:", "aux:")


class Entry(NamedTuple):
    """An array whose values start `first` bytes into the file."""

    first: int
    shape: tuple[int, ...]
    element: Element


class _Truncated(Exception):
    """A number or a stretch of bytes that the file ends before."""


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` is meant to be a list of arrays."""
    return head[:16] == LIST_MAGIC.to_bytes(8, "little") + bytes(8)


def read_mxnet(path: Path) -> dict[str, Tensor]:
    """The arrays of the file at `path`, by name.

    Raises B0401 when the file breaks the format, B0403 for an element type that is not read, B0413 for sparse arrays.
    """
    with open_file(path) as file:
        opened = version(file)
        if opened.size < 24:
            raise damaged(path, f"is {opened.size} bytes long, shorter than the 24 that start a list of arrays")
        data = FileBytes(file, opened.size)
        try:
            entries, at = _entries(path, data)
            names = _names(path, data, at)
        except _Truncated as problem:
            raise damaged(path, str(problem)) from None
    if len(names) != len(entries):
        raise damaged(path, f"has {len(entries)} arrays and {len(names)} names")
    if len(set(names)) != len(names):
        raise damaged(path, "has two arrays of the same name")
    return {
        name: tensor_at(path, opened, entry.first, name=name, shape=entry.shape, element=entry.element)
        for name, entry in zip(names, entries, strict=True)
        if entry is not None
    }


def _entries(path: Path, data: FileBytes) -> tuple[Sequence[Entry | None], int]:
    count, at = _number(data, 16, 8)
    if count > MAX_ARRAYS:
        raise damaged(path, f"announces {count} arrays; at most {MAX_ARRAYS} are read")
    entries: list[Entry | None] = []
    for index in range(count):
        entry, at = _entry(path, data, at, index)
        entries.append(entry)
    return entries, at


def _entry(path: Path, data: FileBytes, at: int, index: int) -> tuple[Entry | None, int]:
    """The array at `at`, or None for one that was never given values; and where it ends."""
    magic, at = _number(data, at, 4)
    if magic not in (DENSE_ONLY, WITH_STORAGE, WITH_SCALARS):
        raise damaged(path, f"has {magic:#x} before array {index}, where an array's magic number should stand")
    storage, at = (DENSE, at) if magic == DENSE_ONLY else _number(data, at, 4)
    if storage != DENSE:
        message = f"`{path}` holds array {index} as sparse"
        raise error("B0413", message, help="save the parameters as dense arrays")
    shape, at = _shape(path, data, at, index)
    if not shape and magic != WITH_SCALARS:
        return None, at
    kind, at = _number(data, at + 8, 4)
    if kind not in ELEMENTS:
        message = f"`{path}` holds array {index} as MXNet's type {kind}; weights are read as "
        raise error("B0403", message + ", ".join(ELEMENTS.values()), help="save the parameters as float32")
    size = math.prod(shape) * STORAGE[ELEMENTS[kind]].itemsize
    return Entry(at, shape, ELEMENTS[kind]), _within(data, at, size)


def _shape(path: Path, data: FileBytes, at: int, index: int) -> tuple[tuple[int, ...], int]:
    rank, at = _number(data, at, 4)
    if rank > MAX_RANK:
        raise damaged(path, f"gives array {index} a shape of {rank} sizes; at most {MAX_RANK} are read")
    shape = tuple(_number(data, at + 8 * axis, 8)[0] for axis in range(rank))
    # Counted without sizes of 0: NumPy refuses an empty array whose other sizes overflow.
    if math.prod(max(size, 1) for size in shape) > MAX_VALUES:
        raise damaged(path, f"gives array {index} the shape {list(shape)}, of more than {MAX_VALUES} values")
    return shape, at + 8 * rank


def _names(path: Path, data: FileBytes, at: int) -> list[str]:
    count, at = _number(data, at, 8)
    if count > MAX_ARRAYS:
        raise damaged(path, f"announces {count} names; at most {MAX_ARRAYS} are read")
    names: list[str] = []
    for _ in range(count):
        length, at = _number(data, at, 8)
        if length > MAX_NAME:
            raise damaged(path, f"has a name of {length} bytes; at most {MAX_NAME} are read")
        end = _within(data, at, length)
        name = data[at:end].decode("utf-8", "replace")
        names.append(name.removeprefix(next(filter(name.startswith, MODULE_PREFIXES), "")))
        at = end
    if at != len(data):
        raise damaged(path, f"goes on for {len(data) - at} bytes after its last name")
    return names


def _number(data: FileBytes, at: int, size: int) -> tuple[int, int]:
    """The unsigned number of `size` bytes at `at`, and where it ends. A negative one reads as far too large a one."""
    end = _within(data, at, size)
    return int.from_bytes(data[at:end], "little"), end


def _within(data: FileBytes, at: int, size: int) -> int:
    if size > len(data) - at:
        raise _Truncated(f"ends after {len(data)} bytes, where {at + size} are needed")
    return at + size

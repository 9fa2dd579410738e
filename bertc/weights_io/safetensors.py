"""The safetensors format, as its specification has it.

    8 bytes    N, the length of the header, unsigned and little-endian
    N bytes    JSON, padded with spaces: {NAME: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
    the rest   the values, row-major and little-endian, without holes or overlap

Source: https://github.com/huggingface/safetensors#format. The header may also hold "__metadata__", strings by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bertc.errors import error
from bertc.weights_io.budget import MAX_HEADER, Budget, Budgets
from bertc.weights_io.files import STORAGE, damaged, open_file, tensor_at, version
from bertc.weights_io.strict_json import Json, JsonError, parse_json_within
from bertc.weights_io.tensor import Element, Tensor, quoted

MAX_RANK = 32
MAX_VALUES = 2**56

ELEMENTS: dict[str, Element] = {
    "F64": "f64",
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "I64": "i64",
    "I32": "i32",
    "I16": "i16",
    "I8": "i8",
    "U8": "u8",
    "BOOL": "bool",
}
OTHER_ELEMENTS = {
    *("U16", "U32", "U64", "C64", "F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E5M2", "F8_E8M0"),
    *("F8_E4M3FNUZ", "F8_E5M2FNUZ"),
}
"""Types of the format that no network here has for its weights."""


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` is meant to be safetensors."""
    return head[8:9] == b"{"


@dataclass(frozen=True)
class Entry:
    """What the header says of one tensor; its values are bytes `first` to `last` after the header."""

    name: str
    shape: tuple[int, ...]
    element: Element
    first: int
    last: int


def read_safetensors(path: Path, budgets: Budgets | None = None) -> dict[str, Tensor]:
    """The tensors of the file at `path`, by name; the files of one checkpoint share their `budgets`.

    Raises B0401 when the file breaks the format, B0403 for an element type that is not read.
    """
    budgets = budgets or Budgets()
    with open_file(path) as file:
        opened = version(file)
        length = file.read(8)
        if len(length) < 8:
            raise damaged(path, f"is {opened.size} bytes long, shorter than the 8 that give the header's length")
        header_size = int.from_bytes(length, "little")
        if not budgets.header.spend(header_size):
            read = f"at most {MAX_HEADER} are read of a checkpoint"
            raise damaged(path, f"announces a header of {header_size} bytes; {read}")
        if 8 + header_size > opened.size:
            raise damaged(path, f"ends at byte {opened.size}, inside its header of 8 + {header_size} bytes")
        header = file.read(header_size)
    values = 8 + header_size
    entries = [_entry(path, name, fields) for name, fields in _header_fields(path, header, budgets.punctuation).items()]
    _check_layout(path, entries, opened.size - values)
    return {
        entry.name: tensor_at(
            path, opened, values + entry.first, name=entry.name, shape=entry.shape, element=entry.element
        )
        for entry in entries
    }


def _header_fields(path: Path, header: bytes, punctuation: Budget) -> dict[str, Json]:
    """The header without its metadata."""
    if header[:1] != b"{":
        raise damaged(path, "has a header that does not start with `{`")
    try:
        fields = cast(dict[str, Json], parse_json_within(header, punctuation))
    except JsonError as problem:
        raise damaged(path, f"has a header that {problem}") from None
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(path, "has a `__metadata__` that is not an object of strings")
    return fields


def _check_layout(path: Path, entries: Sequence[Entry], size: int) -> None:
    """The values of all tensors, put end to end, must be the `size` bytes after the header."""
    end = 0
    for entry in sorted(entries, key=lambda entry: (entry.first, entry.last)):
        if entry.first != end:
            found = "leaves a hole before" if entry.first > end else "overlaps what is before"
            raise damaged(path, f"{found} {quoted(entry.name)}, which starts at byte {entry.first} and not at {end}")
        end = entry.last
    if end != size:
        raise damaged(path, f"has {size} bytes of values, but its header accounts for {end}")


def _entry(path: Path, name: str, fields: Json) -> Entry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise damaged(path, f"describes {quoted(name)} by something else than dtype, shape and data_offsets")
    element = _element(path, name, fields["dtype"])
    shape, offsets = _counts(fields["shape"]), _counts(fields["data_offsets"])
    if shape is None or len(shape) > MAX_RANK:
        raise damaged(path, f"gives {quoted(name)} a shape that is not a list of at most {MAX_RANK} sizes")
    if offsets is None or len(offsets) != 2:
        raise damaged(path, f"gives {quoted(name)} data_offsets that are not two positions")
    # Counted without sizes of 0: NumPy refuses an empty array whose other sizes overflow.
    if math.prod(max(size, 1) for size in shape) > MAX_VALUES:
        raise damaged(path, f"gives {quoted(name)} the shape {list(shape)}, of more than {MAX_VALUES} values")
    first, last = offsets
    needed = math.prod(shape) * STORAGE[element].itemsize
    if last - first != needed:
        found = f"{last - first} bytes; {fields['dtype']} of shape {list(shape)} takes {needed}"
        raise damaged(path, f"gives {quoted(name)} {found}")
    return Entry(name, shape, element, first, last)


def _element(path: Path, name: str, dtype: Json) -> Element:
    if not isinstance(dtype, str) or dtype not in ELEMENTS.keys() | OTHER_ELEMENTS:
        raise damaged(path, f"gives {quoted(name)} a dtype that the format does not have")
    if dtype not in ELEMENTS:
        message = f"`{path}` holds {quoted(name)} as {dtype}; weights are read as {', '.join(ELEMENTS)}"
        raise error("B0403", message, help="convert the checkpoint to F32, F16 or BF16")
    return ELEMENTS[dtype]


def _counts(value: Json) -> tuple[int, ...] | None:
    """A list of integers from 0, as a tuple."""
    if not isinstance(value, list):
        return None
    counts = tuple(item for item in value if type(item) is int and item >= 0)
    return counts if len(counts) == len(value) else None

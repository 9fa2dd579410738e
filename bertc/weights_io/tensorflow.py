"""TensorFlow's checkpoints, of version 1 and 2 alike, without TensorFlow.

    PREFIX.index                  a sorted table: "" -> BundleHeaderProto, NAME -> BundleEntryProto
    PREFIX.data-00000-of-00001    the values, row-major; an entry says which file, where, and their masked CRC-32C
    checkpoint                    a text: which PREFIX of the folder is the newest

TensorFlow 2 names a value by the path that leads to it (`model/layer/kernel/.ATTRIBUTES/VARIABLE_VALUE`), and writes
the graph of objects, with the full name of each variable, as the value `_CHECKPOINTABLE_OBJECT_GRAPH`.

Source: https://github.com/tensorflow/tensorflow, tensorflow/core/util/tensor_bundle/tensor_bundle.h and
tensorflow/core/protobuf/{tensor_bundle,trackable_object_graph}.proto
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bertc.errors import error
from bertc.types import FLOATS
from bertc.weights_io import snappy
from bertc.weights_io.budget import Budget
from bertc.weights_io.crc32c import masked_crc32c
from bertc.weights_io.files import STORAGE, Version, damaged, neighbour, open_file, tensor_at, version
from bertc.weights_io.object_graph import variable_names
from bertc.weights_io.protobuf import MAX_FIELDS, Message, WireError, parse_message, varint
from bertc.weights_io.sstable import read_table
from bertc.weights_io.tensor import Element, Tensor, quoted

MAX_INDEX = 16 << 20
"""Bytes; BERT large with its optimizer's slots has an index of 70 KB."""
MAX_GRAPH = 4 << 20
"""Bytes of the graph of objects."""
MAX_STATE = 1 << 20
"""Bytes of the text that names the newest checkpoint."""
MAX_SHARDS = 1000
MAX_RANK = 8
MAX_VALUES = 2**56

ELEMENTS: dict[int, Element] = {
    1: "f32",
    2: "f64",
    3: "i32",
    4: "u8",
    5: "i16",
    6: "i8",
    9: "i64",
    10: "bool",
    14: "bf16",
    19: "f16",
}
"""By their number in TensorFlow's DataType."""
STRING = 7

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
SLOT = re.compile(r"/(adam_[mv]|Adam(_1)?|lamb_[mv]|Momentum)$|/\.OPTIMIZER_SLOT/")
"""In the names of what an optimizer keeps for each parameter."""


@dataclass(frozen=True)
class Entry:
    """What the index says of one value; it is bytes `first` to `last` of a shard."""

    name: str
    kind: int
    shape: tuple[int, ...]
    shard: int
    first: int
    last: int
    checksum: int


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` is meant to be an index: its first entry is the header, under no name."""
    start = snappy.literal_start(memoryview(head)) if head[:2] != b"\0\0" else 0
    # Nothing shared, a key of no bytes, a value of some, in which field 1 is a number: how many shards there are.
    return start is not None and head[start : start + 2] == b"\0\0" and head[start + 3 : start + 4] == b"\x08"


def find_index(path: Path) -> Path | None:
    """The index of the checkpoint that `path` names: by its prefix, or by the folder that it is in.

    In a folder, the file `checkpoint` says which one, else it is the only one. None where `path` names no checkpoint.
    Raises B0404 where what is in the folder leads out of it.
    """
    if not path.is_dir():
        index = path.parent / f"{path.name}.index"
        return index if path.name and os.path.isfile(index) and not os.path.exists(path) else None
    if (newest := _newest(path / "checkpoint")) is not None:
        return newest
    indices = sorted(path.glob("*.index"))
    return neighbour(indices[0], indices[0].name) if len(indices) == 1 else None


def read_tensorflow(index: Path) -> dict[str, Tensor]:
    """The parameters of the checkpoint whose index is `index`, by the names that TensorFlow's variables had.

    What belongs to training is left out: an optimizer's slots, scalars and whole numbers. `read` of a tensor raises
    B0401 when its checksum is wrong. Raises B0401 for an index that is damaged or does not fit its shards, B0002
    where a shard is missing, B0403 for an element type that is not read, B0413 for variables cut into slices.
    """
    shard_count, entries = _read_index(index)
    shards = {shard: _shard(index, shard, shard_count) for shard in sorted({entry.shard for entry in entries})}
    versions = {shard: _version(path) for shard, path in shards.items()}
    _check_layout(index, entries, versions)
    parameters = _parameters(entries, _variable_names(index, entries, shards, versions))
    if len({entry.name for entry in parameters}) < len(parameters):
        raise damaged(index, "has two variables of the same name")
    return {entry.name: _tensor(index, entry, shards[entry.shard], versions[entry.shard]) for entry in parameters}


def _newest(state: Path) -> Path | None:
    """The index beside `state` that its line `model_checkpoint_path: "..."` names, wherever it was written."""
    if not state.is_file():
        return None
    with open_file(state) as file:
        line = re.search(rb'^model_checkpoint_path: "([^"\\\n]*)"', file.read(MAX_STATE), re.MULTILINE)
    if line is None:
        return None
    name = line[1].decode("utf-8", "replace").rpartition("/")[2]
    if not os.path.isfile(state.parent / f"{name}.index"):  # Path.is_file raises for names the system cannot hold
        return None
    return neighbour(state, f"{name}.index")


def _read_index(index: Path) -> tuple[int, list[Entry]]:
    """The number of shards, and what the index says of each value."""
    with open_file(index) as file:
        content = file.read(MAX_INDEX + 1)
    if len(content) > MAX_INDEX:
        raise damaged(index, f"is an index of more than {MAX_INDEX} bytes")
    try:
        budget = Budget(MAX_FIELDS)
        table = ((key, parse_message(value, budget)) for key, value in read_table(content))
        key, header = next(table, (None, Message({})))
        shard_count = header.number(1)
        if key != b"" or not 0 < shard_count <= MAX_SHARDS:
            raise WireError(f"does not start with a header that counts 1 to {MAX_SHARDS} shards")
        if header.number(2):
            message = f"`{index}` holds numbers with the highest byte first"
            raise error("B0413", message, help="save the checkpoint again on a little-endian machine")
        return shard_count, [_entry(index, key, value, shard_count) for key, value in table]
    except WireError as problem:
        raise damaged(index, str(problem)) from None


def _entry(index: Path, key: bytes, entry: Message, shard_count: int) -> Entry:
    name = key.decode("utf-8", "replace")
    shape = tuple(dimension.number(1) for dimension in entry.message(2).messages(2))
    first, size = entry.number(4), entry.number(5)
    if entry.number(3) >= shard_count:
        raise WireError(f"puts {quoted(name)} into shard {entry.number(3)} of {shard_count}")
    if any(True for _ in entry.stretches(7)) or b"\0" in key:
        message = f"`{index}` holds the variable {quoted(name)} in slices"
        raise error("B0413", message, help="save the checkpoint again without partitioned variables")
    # Counted without sizes of 0: NumPy refuses an empty array whose other sizes overflow.
    if len(shape) > MAX_RANK or math.prod(max(length, 1) for length in shape) > MAX_VALUES:
        raise WireError(f"gives {quoted(name)} a shape beyond {MAX_RANK} sizes or {MAX_VALUES} values")
    kind = entry.number(1)
    if kind in ELEMENTS and size != (needed := math.prod(shape) * STORAGE[ELEMENTS[kind]].itemsize):
        raise WireError(f"gives {quoted(name)} {size} bytes; {ELEMENTS[kind]} of shape {list(shape)} takes {needed}")
    return Entry(name, kind, shape, entry.number(3), first, first + size, entry.number(6))


def _shard(index: Path, shard: int, count: int) -> Path:
    return neighbour(index, f"{index.name.removesuffix('.index')}.data-{shard:05d}-of-{count:05d}")


def _version(shard: Path) -> Version:
    with open_file(shard) as file:
        return version(file)


def _check_layout(index: Path, entries: Iterable[Entry], versions: Mapping[int, Version]) -> None:
    """Values lie inside their shard and apart from one another; between them may be padding."""
    ends: defaultdict[int, int] = defaultdict(int)
    for entry in sorted(entries, key=lambda entry: (entry.shard, entry.first, entry.last)):
        if entry.first < ends[entry.shard]:
            where = f"byte {entry.first} of shard {entry.shard}"
            raise damaged(index, f"lets {quoted(entry.name)} overlap what is before it at {where}")
        if entry.last > versions[entry.shard].size:
            found = f"shard {entry.shard}, which has {versions[entry.shard].size}"
            raise damaged(index, f"puts {quoted(entry.name)} at bytes {entry.first} to {entry.last} of {found}")
        ends[entry.shard] = entry.last


def _parameters(entries: Iterable[Entry], names: Mapping[str, str] | None) -> list[Entry]:
    """The entries without what belongs to training, by the names that variables had."""
    return [
        replace(entry, name=entry.name if names is None else names[entry.name])
        for entry in entries
        if entry.shape
        and entry.kind != STRING
        and (entry.kind not in ELEMENTS or ELEMENTS[entry.kind] in FLOATS)
        and not SLOT.search(entry.name)
        and (names is None or entry.name in names)
    ]


def _tensor(index: Path, entry: Entry, shard: Path, opened: Version) -> Tensor:
    if entry.kind not in ELEMENTS:
        message = f"`{index}` holds {quoted(entry.name)} as TensorFlow's type {entry.kind}; weights are read as "
        raise error("B0403", message + ", ".join(ELEMENTS.values()), help="save the variable as float32")
    values = tensor_at(shard, opened, entry.first, name=entry.name, shape=entry.shape, element=ELEMENTS[entry.kind])
    octets = tensor_at(shard, opened, entry.first, name=entry.name, shape=(entry.last - entry.first,), element="u8")

    def read() -> NDArray[Any]:
        if masked_crc32c(octets.read()) != entry.checksum:
            raise damaged(shard, f"holds values of {quoted(entry.name)} whose checksum is wrong")
        return values.read()

    return replace(values, read=read)


def _variable_names(
    index: Path, entries: Iterable[Entry], shards: Mapping[int, Path], versions: Mapping[int, Version]
) -> dict[str, str] | None:
    """What variables were called, by key, as the graph of objects has it; None without one."""
    entry = next((entry for entry in entries if entry.name == OBJECT_GRAPH), None)
    if entry is None:
        return None
    try:
        stored = _string(entry, shards[entry.shard], versions[entry.shard])
        return variable_names(parse_message(stored))
    except WireError as problem:
        raise damaged(index, f"has a graph of objects that {problem}") from None


def _string(entry: Entry, shard: Path, opened: Version) -> memoryview:
    """A single string, which lies as its length, the checksum of that in 4 bytes, the string."""
    size = entry.last - entry.first
    if entry.kind != STRING or entry.shape or size > MAX_GRAPH:
        raise WireError(f"is not one string of at most {MAX_GRAPH} bytes")
    stored = tensor_at(shard, opened, entry.first, name=entry.name, shape=(size,), element="u8").read().data
    length, start = varint(stored, 0)
    if length != len(stored) - start - 4:
        raise WireError(f"claims {length} bytes and has {len(stored) - start - 4}")
    # The checksum of a string covers its length as a number of 4 bytes, not as it lies.
    if masked_crc32c(length.to_bytes(4, "little") + bytes(stored[start:])) != entry.checksum:
        raise WireError("has a wrong checksum")
    return stored[start + 4 :]

"""TensorFlow's checkpoints put together from blocks and records, good and bad."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from protobuf_builder import fixed, nested, number, varint

from bertc.weights_io.crc32c import masked_crc32c


def header(shards: int = 1) -> bytes:
    return number(1, shards)


def entry(
    shape: Iterable[int] = (2,), kind: int = 1, shard: int = 0, offset: int = 0, size: int = 8, checksum: int = 0
) -> bytes:
    sizes = b"".join(nested(2, number(1, length)) for length in shape)
    place = number(3, shard) + number(4, offset) + number(5, size)
    return number(1, kind) + nested(2, sizes) + place + fixed(6, checksum)


def record(key: bytes, value: bytes, shared: int = 0) -> bytes:
    return varint(shared) + varint(len(key)) + varint(len(value)) + key + value


RESTARTS = bytes(4) + (1).to_bytes(4, "little")


def block(content: bytes, compression: int = 0, checksum: int | None = None) -> bytes:
    body = content + bytes([compression])
    return body + (masked_crc32c(body) if checksum is None else checksum).to_bytes(4, "little")


def footer(metadata: bytes, index: bytes) -> bytes:
    return (metadata + index).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def table(*blocks: bytes, places: Iterable[bytes] | None = None) -> bytes:
    """A file of blocks of data, an index that leads to them (or to `places`), and the footer."""
    starts = [sum(map(len, blocks[:number])) for number in range(len(blocks))]
    own = [varint(start) + varint(len(block) - 5) for start, block in zip(starts, blocks, strict=True)]
    handles = own if places is None else list(places)
    body = b"".join(blocks) + block(RESTARTS)
    index = block(b"".join(record(b"%09d" % at, handle) for at, handle in enumerate(handles)) + RESTARTS)
    metadata = varint(sum(map(len, blocks))) + varint(len(RESTARTS))
    return body + index + footer(metadata, varint(len(body)) + varint(len(index) - 5))


def data_block(records: bytes) -> bytes:
    return block(records + RESTARTS)


def index_of(entries: Mapping[str, bytes], shards: int = 1) -> bytes:
    records = record(b"", header(shards)) + b"".join(record(k.encode(), v) for k, v in sorted(entries.items()))
    return table(data_block(records))


VALUES = np.array([1, 2], "<f4").tobytes()
GOOD = entry(checksum=masked_crc32c(VALUES))


def graph_value(graph: bytes, lie: int = 0) -> tuple[bytes, int]:
    """A string as it lies, and the checksum of its entry."""
    start = (len(graph) + lie).to_bytes(4, "little")
    inner = masked_crc32c(start).to_bytes(4, "little")
    return varint(len(graph) + lie) + inner + graph, masked_crc32c(start + inner + graph)


def with_graph(
    graph: bytes, lie: int = 0, broken: int = 0, shape: tuple[int, ...] = (), **entries: bytes
) -> tuple[bytes, bytes]:
    """An index and its shard, of a graph of objects and the variable `a`."""
    stored, checksum = graph_value(graph, lie)
    graph_entry = entry(shape, 7, 0, 8, len(stored), checksum ^ broken)
    return index_of({"_CHECKPOINTABLE_OBJECT_GRAPH": graph_entry, "a": GOOD, **entries}), VALUES + stored


def graph_of(full_name: bytes) -> bytes:
    """A root with one variable, `kernel`, whose key is `a`."""
    root = nested(1, nested(1, number(1, 1) + nested(2, b"kernel")))
    return root + nested(1, nested(2, nested(2, full_name) + nested(3, b"a")))


def write(folder: Path, index: bytes, *shards: bytes) -> Path:
    for shard, content in enumerate(shards):
        (folder / f"m.data-{shard:05d}-of-{len(shards):05d}").write_bytes(content)
    (folder / "m.index").write_bytes(index)
    return folder / "m.index"

"""The sorted table of LevelDB, which TensorFlow keeps the index of a checkpoint in. Read only.

    blocks     each followed by a byte for its compression and a masked CRC-32C of both
    footer     48 bytes: where the block of metadata and the block of the index lie, padding, a magic number

A block holds keys in order, each as what it adds to the one before, and ends with offsets that allow to start in its
middle. The index has one entry for each block of data: its place.
Source: https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bertc.weights_io import snappy
from bertc.weights_io.crc32c import masked_crc32c
from bertc.weights_io.protobuf import WireError, varint

FOOTER = 48
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
TRAILER = 5
"""Bytes after a block: its compression and its checksum."""
PLAIN, SNAPPY = 0, 1
MAX_BLOCK = 4 << 20
"""Bytes of a block; TensorFlow starts a new one after 256 KiB."""
MAX_TABLE = 16 << 20
"""Bytes of all blocks, unpacked; BERT large with its optimizer's slots has 100 KB."""
MAX_ENTRIES = 6_000
"""Of a table. BERT large with the two slots that Adam has for each parameter has 1200."""
MAX_KEY = 400
"""Bytes: a key is put together from the one before, so that three bytes can stand for all of it."""


class Place(NamedTuple):
    """Bytes `first` to `last` of the file, without the trailer."""

    first: int
    last: int


def read_table(file: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The keys and values of a table, in order. Raises WireError when it breaks the format."""
    data = memoryview(file)
    if len(data) < FOOTER or bytes(data[-8:]) != MAGIC:
        raise WireError("does not end as a table does, with its magic number")
    footer = data[-FOOTER:]
    _, at = _place(footer, 0)
    index, _ = _place(footer, at)
    before: bytes | None = None
    end = count = unpacked = 0
    for _, handle in _entries(_block(data, index)):
        place, _ = _place(handle, 0)
        if place.first < end:
            raise WireError(f"has a block at byte {place.first} that overlaps what is before it")
        end = place.last + TRAILER
        block = _block(data, place)
        unpacked += len(block)
        if unpacked > MAX_TABLE:
            raise WireError(f"has more than {MAX_TABLE} bytes of blocks")
        for key, value in _entries(block):
            if before is not None and key <= before:
                raise WireError(f"has keys out of order in the block at byte {place.first}")
            before = key
            count += 1
            if count > MAX_ENTRIES:
                raise WireError(f"has more than {MAX_ENTRIES} entries")
            yield key, value


def _place(data: memoryview, at: int) -> tuple[Place, int]:
    first, at = varint(data, at)
    size, at = varint(data, at)
    return Place(first, first + size), at


def _block(data: memoryview, place: Place) -> memoryview:
    if place.last + TRAILER > len(data) - FOOTER:
        raise WireError(f"has a block from byte {place.first} to {place.last}, beyond its {len(data)} bytes")
    size = place.last - place.first
    if size > MAX_BLOCK:
        raise WireError(f"has a block of {size} bytes; at most {MAX_BLOCK} are read")
    stored = int.from_bytes(data[place.last + 1 : place.last + TRAILER], "little")
    if masked_crc32c(data[place.first : place.last + 1]) != stored:
        raise WireError(f"has a block at byte {place.first} whose checksum is wrong")
    content, compression = data[place.first : place.last], data[place.last]
    if compression == PLAIN:
        return content
    if compression == SNAPPY:
        return memoryview(snappy.decompress(content, MAX_BLOCK))
    raise WireError(f"has a block at byte {place.first} compressed in an unknown way, {compression}")


def _entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The keys and values of a block."""
    end = _end_of_entries(block)
    key, at = b"", 0
    while at < end:
        shared, at = varint(block, at)
        added, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or added + size > end - at:
            raise WireError("has an entry that does not fit into its block")
        if shared + added > MAX_KEY:
            raise WireError(f"has a key of more than {MAX_KEY} bytes")
        key = key[:shared] + bytes(block[at : at + added])
        yield key, block[at + added : at + added + size]
        at += added + size


def _end_of_entries(block: memoryview) -> int:
    """Where the offsets start; the last four bytes of a block count them."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if len(block) < 4 or end < 0:
        raise WireError(f"has a block of {len(block)} bytes that claims {restarts} offsets")
    return end

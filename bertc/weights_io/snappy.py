"""Snappy's raw format, read only.

    varint     the number of bytes that the rest stands for
    elements   each starts with a byte whose two low bits say whether it is a literal or a copy of earlier output

Source: https://github.com/google/snappy/blob/main/format_description.txt
"""

from __future__ import annotations

from bertc.weights_io.protobuf import WireError, varint

MAX_RATIO = 64
"""Bytes that a byte of input can stand for: no element writes more than 64, and none is shorter than a byte."""

SHORT_LITERAL = 60
OFFSET_SIZES = {1: 1, 2: 2, 3: 4}
"""How many bytes give a copy's distance, by kind of copy; three more bits of the first kind's stand in its tag."""


def decompress(data: memoryview, limit: int) -> bytes:
    """What `data` stands for, of at most `limit` bytes. Raises WireError when it breaks the format."""
    size, at = varint(data, 0)
    if size > min(limit, MAX_RATIO * len(data)):
        raise WireError(f"has {len(data)} compressed bytes that claim to be {size}")
    output = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        if tag & 3 == 0:
            length, at = _literal_length(data, at, tag >> 2)
            output += _taken(data, at, length)
            at += length
        else:
            length, distance, at = _copy(data, at, tag)
            _repeat(output, length, distance)
        if len(output) > size:
            break
    if len(output) != size:
        raise WireError(f"has compressed bytes that claim to be {size} and are {len(output)} or more")
    return bytes(output)


def literal_start(head: memoryview) -> int | None:
    """Where the first literal's bytes start in compressed data that begins with `head`."""
    try:
        _, at = varint(head, 0)
        if at >= len(head) or head[at] & 3:
            return None
        _, start = _literal_length(head, at + 1, head[at] >> 2)
    except WireError:
        return None
    return start


def _literal_length(data: memoryview, at: int, code: int) -> tuple[int, int]:
    if code < SHORT_LITERAL:
        return code + 1, at
    width = code - SHORT_LITERAL + 1
    return int.from_bytes(_taken(data, at, width), "little") + 1, at + width


def _copy(data: memoryview, at: int, tag: int) -> tuple[int, int, int]:
    """Length, distance, and where the element ends."""
    kind = tag & 3
    width = OFFSET_SIZES[kind]
    distance = int.from_bytes(_taken(data, at, width), "little")
    if kind == 1:
        return (tag >> 2 & 7) + 4, distance | tag >> 5 << 8, at + width
    return (tag >> 2) + 1, distance, at + width


def _repeat(output: bytearray, length: int, distance: int) -> None:
    if not 0 < distance <= len(output):
        raise WireError(f"has a copy from {distance} bytes back where {len(output)} are known")
    pattern = output[len(output) - distance :][:length]
    output += (pattern * (length // len(pattern) + 1))[:length]


def _taken(data: memoryview, at: int, size: int) -> memoryview:
    if size > len(data) - at:
        raise WireError(f"ends {size - (len(data) - at)} bytes too early inside compressed bytes")
    return data[at : at + size]

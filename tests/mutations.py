"""Files changed at random, but so that what is read first still holds: lengths, checksums and brackets are made right.

A mutation takes bytes and a generator of choices, and gives other bytes. Those of a structure (opcodes, fields, keys)
change one part of it and put the whole together again; `octets` knows no structure and serves for the parts.
"""

from __future__ import annotations

import json
import pickle
import pickletools
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from protobuf_builder import varint

Mutation = Callable[[bytes, Random], bytes]

MAX_SIZE = 200_000
"""Bytes that a mutation may make of a file, so that thousands of them take minutes."""
EDGES = [(1 << bits) + step for bits in (0, 7, 8, 15, 16, 31, 32, 63, 64) for step in (-1, 0, 1)]
"""Numbers at which widths end or signs turn."""
EDGE_VALUES: list[Any] = [*EDGES, -1, 1e308, 0.5, None, True, "", "..", "/etc/passwd", "\0", "é" * 300, [], {}, [[]]]


def octets(content: bytes, choose: Random) -> bytes:
    """A few bytes turned, overwritten by a number, cut out, doubled, repeated, or put elsewhere."""
    if not content:
        return bytes(choose.choice(EDGES) & 0xFF for _ in range(choose.randrange(1, 20)))
    at, other = choose.randrange(len(content)), choose.randrange(len(content))
    size = choose.choice((1, 2, 4, 8, choose.randrange(1, 64)))
    piece, rest = content[at : at + size], content[at + size :]
    match choose.randrange(9):
        case 0 | 1:
            return content[:at] + bytes([content[at] ^ 1 << choose.randrange(8)]) + content[at + 1 :]
        case 2 | 3:
            return _overwritten(content, at, number(choose))
        case 4:
            return content[:at] + rest
        case 5:
            return content[:at] + piece + content[at:]
        case 6:
            times = min(choose.choice((2, 50, 5000)), MAX_SIZE // len(piece))
            return content[:at] + piece * times + rest
        case 7:
            return content[:at] + content[other : other + size] + rest
        case _:
            return content[:at]


def number(choose: Random) -> bytes:
    """A number at an edge, of some width and byte order, or a varint."""
    value = choose.choice(EDGES)
    width = choose.choice((1, 2, 4, 8, 0))
    order = choose.choice(("little", "big"))
    return (value & (1 << 8 * width) - 1).to_bytes(width, order) if width else varint(value & (1 << 64) - 1)


def aligned(width: int) -> Mutation:
    """Numbers of `width` bytes set to edges, or swapped, where they are likely to stand."""

    def mutation(content: bytes, choose: Random) -> bytes:
        at, other = (choose.randrange(len(content) // width) * width for _ in range(2))
        value = choose.choice((*EDGES, at, len(content), int.from_bytes(content[other : other + width], "little")))
        return _overwritten(content, at, (value & (1 << 8 * width) - 1).to_bytes(width, "little"))

    return mutation


def _overwritten(content: bytes, at: int, data: bytes) -> bytes:
    return content[:at] + data + content[at + len(data) :]


TOKENS = (
    *("[", "]", "{", "}", ":", ": ", ",", "- ", "? ", "&a ", "*a", "!t ", "'", '"', "|\n", "#", "%", "\\", "---\n"),
    *("\0", "\t", "\n", "\x85", "\u2028", "é", "\ufeff", "\\ud800", "1e999", "0x", "null", "<<", "[" * 40, "9" * 40),
)


def text(content: bytes, choose: Random) -> bytes:
    """Characters that mean something to YAML and JSON, words, and lines."""
    at = choose.randrange(len(content) + 1)
    piece = choose.choice(TOKENS).encode("utf-8", "surrogatepass")
    return content[:at] + piece + content[at + choose.randrange(3) :]


def lines(content: bytes, choose: Random) -> bytes:
    """Lines cut out, doubled, or put elsewhere."""
    parts = content.splitlines(keepends=True)
    at, other = choose.randrange(len(parts)), choose.randrange(len(parts))
    parts[at : at + choose.randrange(2)] = [parts[other]] * choose.choice((0, 1, 2, 500))
    return b"".join(parts)


# JSON: one value is replaced, removed, renamed, or put elsewhere.


def json_values(content: bytes, choose: Random) -> bytes:
    tree = json.loads(content)
    _change(choose.choice(_containers(tree)), choose)
    return json.dumps(tree).encode()


def _containers(tree: Any) -> list[Any]:
    if not isinstance(tree, dict | list):
        return []
    inner = tree.values() if isinstance(tree, dict) else tree
    return [tree, *(found for value in inner for found in _containers(value))]


def _change(container: Any, choose: Random) -> None:
    keys = list(container) if isinstance(container, dict) else list(range(len(container)))
    if not keys:
        return
    key, other = choose.choice(keys), choose.choice(keys)
    match choose.randrange(5):
        case 0:
            del container[key]
        case 1:
            container[key] = container[other]
        case 2 if isinstance(container, dict):
            container[str(choose.choice(EDGE_VALUES))] = container.pop(key)
        case 3 if isinstance(container, list):
            container[:] = container * choose.choice((2, 40))
        case _:
            container[key] = choose.choice(EDGE_VALUES)


# Pickles: opcodes are replaced, given another argument, cut out, repeated, or put elsewhere.

SNIPPETS = (
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"(", b"t", b"R", b"}", b"]", b"N", b"b", b"0", b".", b"Q"),
    *(
        b"h\x00",
        b"\x94",
        b"\x93",
        b"\x85R",
        b"\x8c\x00",
        b"K\x00",
        b"M\xff\xff",
        b"J\xff\xff\xff\xff",
        b"G\x7f\xf0\0\0\0\0\0\0",
    ),
    *(b"J\xff\xff\xff\x7f", b"r\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\x8e" + b"\xff" * 7 + b"\x7f"),
)


def opcodes(content: bytes, choose: Random) -> bytes:
    """`content` may be several pickles, one after the other and one in another."""
    places = _opcode_places(content)
    if len(places) < 2:
        return octets(content, choose)
    start, other = choose.choice(places), choose.choice(places)
    end = next((place for place in places if place > start), len(content))
    until = min(other + choose.randrange(1, 60), len(content))
    snippet = choose.choice(SNIPPETS)
    match choose.randrange(7):
        case 0:
            return content[:start] + snippet + content[end:]
        case 1:
            return content[:start] + snippet * choose.choice((1, 1, 2, 1000)) + content[start:]
        case 2:
            return _overwritten(content, start + 1, number(choose))
        case 3:
            return content[:start] + content[end:]
        case 4:
            return content[:start] + content[start:end] * choose.choice((2, 1000)) + content[end:]
        case 5:
            return content[:start] + content[other:until] + content[end:]
        case _:
            return octets(content, choose)


def _opcode_places(content: bytes) -> list[int]:
    """Where the opcodes start, of every pickle that begins with its protocol."""
    places: set[int] = set()
    start = content.find(pickle.PROTO)
    while start >= 0:
        try:
            for _, _, at in pickletools.genops(content[start:]):
                places.add(start + (at or 0))
        except (ValueError, KeyError, UnicodeError):  # what follows is no pickle
            pass
        start = content.find(pickle.PROTO, start + 1)
    return sorted(places)


# Protocol Buffers: a field of some message is changed, and the lengths around it are made right.

Field = tuple[int, bytes]
"""The key of a field, which says its number and kind, and its value as it lies."""
STRETCH = 2


def fields(content: bytes, choose: Random) -> bytes:
    message = _fields(content)
    if not message:
        return octets(content, choose)
    at = choose.randrange(len(message))
    key, value = message[at]
    if key & 7 == STRETCH and choose.random() < 0.8:
        message[at] = key, _with_length(fields(_without_length(value), choose))
    else:
        _change_field(message, at, choose)
    return b"".join(varint(key) + value for key, value in message)


def _change_field(message: list[Field], at: int, choose: Random) -> None:
    key, value = message[at]
    match choose.randrange(6):
        case 0:
            message[at] = key, _with_length(octets(_without_length(value), choose)) if key & 7 == STRETCH else value
        case 1:
            message[at] = key & ~7, varint(choose.choice(EDGES) & (1 << 64) - 1)
        case 2:
            message[at] = choose.choice((key ^ 1 << choose.randrange(7), choose.randrange(128))), value
        case 3:
            message[at : at + 1] = []
        case 4:
            message[at : at + 1] = [message[at]] * min(choose.choice((2, 1000)), MAX_SIZE // (len(value) + 1))
        case _:
            message[at] = choose.choice(message)


def _fields(content: bytes) -> list[Field]:
    """The fields of what may be a message; none where it is not."""
    found: list[Field] = []
    at = 0
    while at < len(content):
        start, key, at = at, *_number(content, at)
        first = at
        match key & 7:
            case 0:
                _, at = _number(content, at)
            case 2:
                size, at = _number(content, at)
                at += size
            case 1 | 5:
                at += 8 if key & 7 == 1 else 4
            case _:
                return []
        if at > len(content) or first == start:
            return []
        found.append((key, content[first:at]))
    return found


def _number(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(content) and shift < 70:
        value |= (content[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if content[at - 1] < 0x80:
            return value, at
    return value, len(content) + 1


def _with_length(content: bytes) -> bytes:
    return varint(len(content)) + content


def _without_length(value: bytes) -> bytes:
    return value[_number(value, 0)[1] :]


def after_length(mutation: Mutation, layout: str = "<Q") -> Mutation:
    """What stands behind its own length is changed, and the length is made right; what follows it stays."""

    def mutated(content: bytes, choose: Random) -> bytes:
        width = struct.calcsize(layout)
        (size,) = struct.unpack_from(layout, content)
        inner = mutation(content[width : width + size], choose)
        return struct.pack(layout, len(inner)) + inner + content[width + size :]

    return mutated


def mutated(content: bytes, mutations: Sequence[Mutation], choose: Random) -> bytes:
    """One to three mutations, one after the other; the later ones of bytes, since the structure may be gone."""
    changed = choose.choice(mutations)(content, choose)
    for _ in range(choose.choice((0, 0, 1, 2))):
        changed = octets(changed, choose)
    return changed[:MAX_SIZE]

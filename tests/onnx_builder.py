"""ONNX models put together from fields, for what no library writes."""

from __future__ import annotations

from collections.abc import Iterable

from protobuf_builder import nested, number

FLOAT, HALF = 1, 10
VALUES = bytes(range(24))


def tensor(name: bytes, shape: Iterable[int] = (2, 3), kind: int = FLOAT, values: bytes = nested(9, VALUES)) -> bytes:
    return b"".join(number(1, size) for size in shape) + number(2, kind) + nested(8, name) + values


def external(location: bytes, **entries: bytes) -> bytes:
    """The fields of a tensor whose values are in another file."""
    pairs = {b"location": location} | {key.encode(): value for key, value in entries.items()}
    return b"".join(nested(13, nested(1, key) + nested(2, value)) for key, value in pairs.items()) + number(14, 1)


def node(op: bytes, inputs: Iterable[bytes], outputs: Iterable[bytes], name: bytes = b"") -> bytes:
    ends = b"".join(nested(1, value) for value in inputs) + b"".join(nested(2, value) for value in outputs)
    return nested(1, ends + nested(3, name) + nested(4, op))


def model(*tensors: bytes, nodes: bytes = b"", graph: bytes = b"") -> bytes:
    return number(1, 10) + nested(7, nodes + b"".join(nested(5, one) for one in tensors) + graph)


GOOD = tensor(b"a.b")

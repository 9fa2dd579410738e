"""Pickles put together from opcodes, for what no pickler writes."""

from __future__ import annotations

import pickle
import struct


def call(name: str, *arguments: bytes) -> bytes:
    """The opcodes of a call of `module name`."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n(" + b"".join(arguments) + b"tR"


def text(string: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(string.encode())) + string.encode()


def entry(value: bytes, name: str = "a") -> bytes:
    """A pickle of a dict with one entry."""
    return b"\x80\x04}" + text(name) + value + b"s."


def under_many_names(value: bytes, count: int = 9990) -> bytes:
    """A pickle of a dict with one value under that many names."""
    names = b"".join(text(str(at)) + b"h\x01" for at in range(count))
    return b"\x80\x04}(" + text("x") + value + b"q\x01" + names + b"u."


def number(value: int) -> bytes:
    return pickle.LONG1 + bytes([len(data := value.to_bytes(20, "little", signed=True))]) + data


def shape_opcodes(*sizes: int) -> bytes:
    return b"(" + b"".join(map(number, sizes)) + b"t"


F4 = (
    call("numpy dtype", text("f4"), b"\x89\x88")
    + b"(K\x03"
    + text("<")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
"""Little-endian float32."""


def array(shape: bytes = shape_opcodes(3), dtype: bytes = F4, values: bytes = b"C\x0c" + bytes(12)) -> bytes:
    return entry(call("numpy._core.numeric _frombuffer", values, dtype, shape, text("C")))


def latin1(string: str) -> bytes:
    return call("_codecs encode", text(string), text("latin1"))

"""What stands in a pickle and where its machine keeps it: inert records, a stack with marks, a memo, and a stream.

Each length is held against the bytes that are left before it is used.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from bertc.errors import BertcError
from bertc.weights_io.files import damaged

Decode = Callable[[bytes, str], tuple[str, int]]
"""One of the decoders of `codecs`, which, unlike a codec found by its name, import nothing when they are used."""
MAX_LINE = 1 << 20
"""Bytes of an argument of protocol 0, which ends with its line. An array of this protocol is one such line."""


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that the pickle names and would import: `collections.OrderedDict`."""

    name: str


@dataclass(eq=False, slots=True)
class Call:
    """A call that the pickle asks for, and the state that it would give the result. Further content is dropped."""

    function: Any
    arguments: Any
    state: Any = None


@dataclass(frozen=True, eq=False, slots=True)
class Persistent:
    """A reference to what the pickle's writer keeps elsewhere; of torch, the storage of a tensor."""

    identity: Any


@dataclass(frozen=True, slots=True)
class Stretch:
    """`size` bytes of the file from `offset` on: bytes as they are, or a text in UTF-8."""

    offset: int
    size: int
    kind: Literal["bytes", "text"]


@dataclass
class Machine:
    path: Path
    file: BinaryIO
    end: int
    position: int
    stack: list[Any] = field(default_factory=list[Any])
    marks: list[int] = field(default_factory=list[int])
    memo: dict[int, Any] = field(default_factory=dict[int, Any])
    persistent: list[Persistent] = field(default_factory=list[Persistent])

    def refusal(self, reason: str) -> BertcError:
        return damaged(self.path, f"holds a pickle that {reason} at byte {self.position}")

    def take(self, count: int) -> bytes:
        self.reserve(count)
        taken = self.file.read(count)
        if len(taken) < count:
            raise self.refusal("was cut short")
        return taken

    def reserve(self, count: int) -> None:
        if count > self.end - self.position:
            raise self.refusal("ends too early, or has a length beyond its end,")
        self.position += count

    def line(self) -> bytes:
        line = self.file.readline(min(MAX_LINE, self.end - self.position))
        if not line.endswith(b"\n"):
            raise self.refusal("has a line without an end")
        self.position += len(line)
        return line[:-1]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.refusal("takes more from the stack than there is")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise self.refusal("asks for a mark that is not set")
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def text(self, encoded: bytes, decode: Decode = codecs.utf_8_decode) -> str:
        try:
            text, _ = decode(encoded, "strict")
            text.encode()
        except UnicodeError:
            raise self.refusal("has a text that is not in its encoding, or half a surrogate pair,") from None
        return text

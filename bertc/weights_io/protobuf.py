"""The wire format of Protocol Buffers: varints, and the fields of a message by number. Values are not copied.

Source: https://protobuf.dev/programming-guides/encoding/. A field that stands once in its message but was written
twice is refused, where Protocol Buffers would take the last or merge the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from bertc.weights_io.budget import Budget
from bertc.weights_io.files import FileBytes

MAX_FIELDS = 100_000
"""In one file, in messages within messages too: two bytes can be a field. BERT large has 16 000 as an ONNX graph."""
MAX_TEXT = 1000
"""Bytes of a name."""

VARINT, FIXED64, STRETCH, FIXED32 = 0, 1, 2, 5
FIXED_SIZE = {FIXED64: 8, FIXED32: 4}
HEAD = 20
"""Bytes of the two longest numbers: what a field starts with has no more."""


class WireError(ValueError):
    """Why bytes are refused, as the end of a sentence that starts with their name."""


def varint(data: memoryview | bytes, at: int) -> tuple[int, int]:
    """The unsigned number of up to 64 bits that starts at `at`, seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise WireError(f"ends at byte {at}, inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
    raise WireError(f"has a number of more than 64 bits before byte {at}")


class Stretch(NamedTuple):
    """A field's bytes: those from `start` to `end` of the file."""

    file: memoryview | FileBytes
    start: int
    end: int
    budget: Budget

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def data(self) -> memoryview | bytes:
        return self.file[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Message:
    """Fields by number, each with every value it was given: a number, or a stretch of bytes."""

    fields: dict[int, list[int | Stretch]]

    def number(self, field: int, default: int = 0) -> int:
        """An unsigned number; one that is negative in the message's definition is 2**64 more here."""
        value = self._one(field)
        if isinstance(value, Stretch):
            raise WireError(f"has bytes instead of a number in field {field}")
        return default if value is None else value

    def stretch(self, field: int) -> Stretch | None:
        value = self._one(field)
        if isinstance(value, int):
            raise WireError(f"has a number instead of bytes in field {field}")
        return value

    def text(self, field: int) -> str:
        stretch = self.stretch(field)
        return _text(stretch, field) if stretch else ""

    def message(self, field: int) -> Message:
        """A message inside this one; one without fields when there is none."""
        stretch = self.stretch(field)
        return _message(stretch) if stretch else Message({})

    def messages(self, field: int) -> Iterator[Message]:
        return map(_message, self.stretches(field))

    def texts(self, field: int) -> list[str]:
        return [_text(stretch, field) for stretch in self.stretches(field)]

    def stretches(self, field: int) -> Iterator[Stretch]:
        for value in self.fields.get(field, ()):
            if isinstance(value, int):
                raise WireError(f"has a number instead of bytes in field {field}")
            yield value

    def numbers(self, field: int) -> Iterator[int]:
        """A repeated number, packed into stretches or not."""
        for value in self.fields.get(field, ()):
            if isinstance(value, int):
                yield value
                continue
            data, at = value.data, 0
            while at < len(data):
                _spend(value.budget)
                number, at = varint(data, at)
                yield number

    def _one(self, field: int) -> int | Stretch | None:
        values = self.fields.get(field, ())
        if len(values) > 1:
            raise WireError(f"has field {field} twice")
        return values[0] if values else None


def parse_message(data: memoryview | FileBytes, budget: Budget | None = None) -> Message:
    """The fields of the message that `data` holds. Raises WireError when its bytes break the format.

    Messages of one file share a `budget`.
    """
    return _message(Stretch(data, 0, len(data), budget or Budget(MAX_FIELDS)))


def _message(stretch: Stretch) -> Message:
    fields: dict[int, list[int | Stretch]] = {}
    at = stretch.start
    while at < stretch.end:
        _spend(stretch.budget)
        head = stretch.file[at : min(at + HEAD, stretch.end)]
        key, size = varint(head, 0)
        value, size = _value(stretch, at, head, size, key & 7)
        fields.setdefault(key >> 3, []).append(value)
        at += size
    return Message(fields)


def _spend(budget: Budget) -> None:
    if not budget.spend():
        raise WireError(f"has more than {MAX_FIELDS} fields")


def _value(message: Stretch, at: int, head: memoryview | bytes, size: int, kind: int) -> tuple[int | Stretch, int]:
    """The value of the field at `at`, which starts with `head`, whose key has `size` bytes; and the field's size."""
    if kind == VARINT:
        return varint(head, size)
    if kind == STRETCH:
        length, size = varint(head, size)
        _check_room(message, at + size, length)
        return Stretch(message.file, at + size, at + size + length, message.budget), size + length
    if kind in FIXED_SIZE:
        length = FIXED_SIZE[kind]
        _check_room(message, at + size, length)
        return int.from_bytes(head[size : size + length], "little"), size + length
    raise WireError(f"has a field of the unknown kind {kind} before byte {at + size}")


def _check_room(message: Stretch, at: int, size: int) -> None:
    if size > message.end - at:
        raise WireError(f"has a field of {size} bytes where {message.end - at} are left")


def _text(stretch: Stretch, field: int) -> str:
    if stretch.size > MAX_TEXT:
        raise WireError(f"has a text of more than {MAX_TEXT} bytes in field {field}")
    try:
        return str(stretch.data, "utf-8")
    except UnicodeDecodeError:
        raise WireError(f"has a text in field {field} that is not UTF-8") from None

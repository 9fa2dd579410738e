"""The wire format of Protocol Buffers: varints, and the fields of a message by number. Values are not copied.

Source: https://protobuf.dev/programming-guides/encoding/. A field that stands once in its message but was written
twice is refused, where Protocol Buffers would take the last or merge the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MAX_FIELDS = 100_000
"""In one message; ten times what the graphs of large networks have for nodes."""

VARINT, FIXED64, STRETCH, FIXED32 = 0, 1, 2, 5
FIXED_SIZE = {FIXED64: 8, FIXED32: 4}


class WireError(ValueError):
    """Why bytes are refused, as the end of a sentence that starts with their name."""


def varint(data: memoryview, at: int) -> tuple[int, int]:
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


@dataclass(frozen=True, slots=True)
class Stretch:
    """A field's bytes and where they start in the file."""

    start: int
    data: memoryview


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
        try:
            return str(stretch.data, "utf-8") if stretch else ""
        except UnicodeDecodeError:
            raise WireError(f"has a text in field {field} that is not UTF-8") from None

    def message(self, field: int) -> Message:
        """A message inside this one; one without fields when there is none."""
        stretch = self.stretch(field)
        return parse_message(stretch) if stretch else Message({})

    def messages(self, field: int) -> Iterator[Message]:
        return map(parse_message, self.stretches(field))

    def texts(self, field: int) -> list[str]:
        return [Message({field: [stretch]}).text(field) for stretch in self.stretches(field)]

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
            at = 0
            while at < len(value.data):
                number, at = varint(value.data, at)
                yield number

    def _one(self, field: int) -> int | Stretch | None:
        values = self.fields.get(field, ())
        if len(values) > 1:
            raise WireError(f"has field {field} twice")
        return values[0] if values else None


def parse_message(whole: Stretch) -> Message:
    """The fields of the message that `whole` holds. Raises WireError when its bytes break the format."""
    fields: dict[int, list[int | Stretch]] = {}
    data, at, count = whole.data, 0, 0
    while at < len(data):
        key, at = varint(data, at)
        field, kind = key >> 3, key & 7
        value, at = _value(whole, at, kind)
        fields.setdefault(field, []).append(value)
        count += 1
        if count > MAX_FIELDS:
            raise WireError(f"has a message of more than {MAX_FIELDS} fields")
    return Message(fields)


def _value(whole: Stretch, at: int, kind: int) -> tuple[int | Stretch, int]:
    """The value at `at`, and where it ends."""
    if kind == VARINT:
        return varint(whole.data, at)
    if kind == STRETCH:
        size, at = varint(whole.data, at)
        return Stretch(whole.start + at, _bytes(whole.data, at, size)), at + size
    if kind in FIXED_SIZE:
        size = FIXED_SIZE[kind]
        return int.from_bytes(_bytes(whole.data, at, size), "little"), at + size
    raise WireError(f"has a field of the unknown kind {kind} before byte {whole.start + at}")


def _bytes(data: memoryview, at: int, size: int) -> memoryview:
    if size > len(data) - at:
        raise WireError(f"has a field of {size} bytes where {len(data) - at} are left")
    return data[at : at + size]

"""The members of a zip file that stores them as they are, found without reading them.

    30 bytes + name + extra field + values + ...     for each member: its local header, and what it holds
    46 bytes + name + extra field + comment          for each member: its entry in the central directory
    56 bytes, 20 bytes                               of archives in the 64-bit form: a wider end record, and its place
    22 bytes                                         the end record: how many entries, and where they start

Source: PKWARE's APPNOTE.TXT, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, section 4.3. Compressed
members are refused: nothing that writes weights compresses them, and a bomb has to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bertc.weights_io.budget import MAX_MEMBERS, Budget
from bertc.weights_io.files import damaged
from bertc.weights_io.tensor import quoted

LOCAL = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
WIDE_END = struct.Struct("<4sQ2H2L4Q")
WIDE_PLACE = struct.Struct("<4sLQL")
NOT_HERE = 0xFFFFFFFF
"""Stands in a field of 32 bits whose value is in the extra field, of the kind WIDE_FIELDS."""
WIDE_FIELDS = 1
ENCRYPTED = 1


class Member(NamedTuple):
    """Bytes `offset` to `offset + size` of the file."""

    offset: int
    size: int


class Entry(NamedTuple):
    """A member as the central directory has it; `header` is where its local header stands."""

    name: str
    size: int
    header: int


class Directory(NamedTuple):
    entries: int
    offset: int
    size: int


def stored_members(path: Path, file: BinaryIO, size: int, budget: Budget) -> dict[str, Member]:
    """The members of the zip file of `size` bytes, by name; no two of them share a byte. Each takes one
    of the `budget`.

    Raises B0401 when the archive breaks its format, or a member is compressed, encrypted or outside its folder.
    """
    directory = _directory(path, file, size)
    if not budget.spend(directory.entries):
        read = f"at most {MAX_MEMBERS} are read of a checkpoint"
        raise damaged(path, f"is an archive that announces {directory.entries} members; {read}")
    file.seek(directory.offset)
    entries = list(_entries(path, file.read(directory.size), directory.entries))
    if len({entry.name for entry in entries}) < len(entries):
        raise damaged(path, "is an archive with two members of one name")
    members: dict[str, Member] = {}
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header):
        member = _member(path, file, entry, directory.offset)
        if entry.header < end:
            raise damaged(path, f"is an archive in which {quoted(entry.name)} overlaps another member")
        end = member.offset + member.size
        members[entry.name] = member
    return members


def _directory(path: Path, file: BinaryIO, size: int) -> Directory:
    end = size - END.size
    if end < 0:
        raise damaged(path, "is too short for an archive")
    signature, _, _, _, count, length, offset, comment = _read(path, file, end, END)
    if signature != b"PK\5\6" or comment:
        raise damaged(path, "is an archive without its last record: it was cut short, or has a comment")
    if end >= WIDE_PLACE.size and (place := _read(path, file, end - WIDE_PLACE.size, WIDE_PLACE))[0] == b"PK\6\7":
        if place[2] + WIDE_END.size > end:
            raise damaged(path, f"is an archive without room for its 64-bit end record at byte {place[2]}")
        end = place[2]
        signature, _, _, _, _, _, _, count, length, offset = _read(path, file, end, WIDE_END)
        if signature != b"PK\6\6":
            raise damaged(path, f"is an archive without the 64-bit end record at byte {end}")
    if offset + length > end:
        raise damaged(path, f"is an archive whose directory ends at byte {offset + length}, beyond byte {end}")
    return Directory(count, offset, length)


def _entries(path: Path, directory: bytes, count: int) -> Iterator[Entry]:
    position = 0
    for _ in range(count):
        if position + ENTRY.size > len(directory):
            raise damaged(path, f"is an archive whose directory has no room for its {count} entries")
        fields = ENTRY.unpack_from(directory, position)
        signature, flags, method, packed, size, name_length, extra_length, comment_length, header = (
            fields[i] for i in (0, 3, 4, 8, 9, 10, 11, 12, 16)
        )
        names = position + ENTRY.size
        extra = names + name_length
        position = extra + extra_length + comment_length
        if signature != b"PK\1\2" or position > len(directory):
            raise damaged(path, "is an archive with a damaged directory")
        name = _checked_name(path, directory[names:extra])
        wide = _wide_fields(directory[extra : extra + extra_length])
        size, packed, header = (
            next(wide, NOT_HERE) if field == NOT_HERE else field for field in (size, packed, header)
        )
        if method or flags & ENCRYPTED or packed != size:
            raise damaged(path, f"is an archive in which {quoted(name)} is compressed or encrypted, not stored")
        yield Entry(name, size, header)


def _wide_fields(extra: bytes) -> Iterator[int]:
    """The 64-bit values of an extra field, which is a row of (kind, length, content)."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        content = extra[position + 4 : position + 4 + length]
        if kind == WIDE_FIELDS:
            yield from (value for (value,) in struct.iter_unpack("<Q", content[: len(content) // 8 * 8]))
        position += 4 + length


def _checked_name(path: Path, encoded: bytes) -> str:
    """A member's name. Nothing is ever unpacked under it, but an honest archive has no other names."""
    try:
        name = encoded.decode("utf-8")
    except UnicodeDecodeError:
        raise damaged(path, "is an archive in which the name of a member is not UTF-8") from None
    if {"", ".", ".."} & set(name.split("/")) or {"\\", "\0"} & set(name):
        raise damaged(path, f"is an archive with a member {quoted(name)}, which is outside its folder or not a file")
    return name


def _member(path: Path, file: BinaryIO, entry: Entry, end: int) -> Member:
    """What `entry` is of, by its local header, which has to agree and lie, with the values, before byte `end`."""
    if entry.header + LOCAL.size > end:
        raise damaged(path, f"is an archive that ends before {quoted(entry.name)}")
    header = _read(path, file, entry.header, LOCAL)
    signature, flags, method, name_length, extra_length = (header[i] for i in (0, 2, 3, 9, 10))
    if signature != b"PK\3\4" or method or flags & ENCRYPTED or file.read(name_length) != entry.name.encode():
        raise damaged(path, f"is an archive in which {quoted(entry.name)} is not what the directory says")
    member = Member(entry.header + LOCAL.size + name_length + extra_length, entry.size)
    if member.offset + member.size > end:
        raise damaged(path, f"is an archive that ends inside {quoted(entry.name)}")
    return member


def _read(path: Path, file: BinaryIO, offset: int, layout: struct.Struct) -> tuple[Any, ...]:
    file.seek(offset)
    record = file.read(layout.size)
    if len(record) < layout.size:
        raise damaged(path, f"is an archive that ends before its record at byte {offset}")
    return layout.unpack(record)

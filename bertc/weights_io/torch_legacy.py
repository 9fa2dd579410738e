"""What torch.save wrote before version 1.6: pickles one after the other, then the values.

    pickle    a magic number
    pickle    1001, the version of the format
    pickle    {"little_endian": True, ...}
    pickle    the object, in which storages are persistent ids
    pickle    the keys of the storages, in the order in which they follow
    per key   8 bytes, the number of values, and the values

A tensor in a plain pickle has its storage as such a file too, in a byte string.
Source: torch/serialization.py, `_legacy_save` and `_legacy_load`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from bertc.errors import error
from bertc.weights_io.budget import Budget, Budgets
from bertc.weights_io.files import damaged, open_file, version
from bertc.weights_io.pickle_machine import Pickle, read_pickle
from bertc.weights_io.pickle_stack import Persistent
from bertc.weights_io.state_dict import Origin, tensors_of
from bertc.weights_io.tensor import Tensor, quoted
from bertc.weights_io.torch_tensors import Storage, StorageIdentity, storage_identity

MAGIC = 0x1950A86A20F9469CFC6C
FORMAT = 1001


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` starts with the pickle of the magic number."""
    return head.startswith(b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b".")


@dataclass(frozen=True)
class Legacy:
    """The object, and the storages that it refers to, by key."""

    content: Any
    storages: dict[str, Storage]

    def storage(self, path: Path, record: Any) -> Storage:
        """Raises B0401 when `record` is not one of these storages."""
        if not isinstance(record, Persistent):
            raise damaged(path, "holds a tensor without a storage")
        return self.storages[storage_identity(path, record).key]


def read_torch_legacy(path: Path, budgets: Budgets | None = None) -> dict[str, Tensor]:
    """The tensors of the file at `path`, by name; the files of one checkpoint share their `budgets`.

    Raises B0401 when the file breaks the format, B0403 for big-endian values and for an element
    type that is not read, B0405 for two tensors of one name, B0412 without tensors.
    """
    budgets = budgets or Budgets()
    with open_file(path) as file:
        opened = version(file)
        legacy = read_legacy(path, file, opened.size, budgets.opcodes)
    origin = Origin(path, opened, lambda record: legacy.storage(path, record))
    return tensors_of(origin, legacy.content, budgets.entries)


def read_legacy(path: Path, file: BinaryIO, end: int, opcodes: Budget) -> Legacy:
    """The file, or part of one, that starts where `file` stands and ends at byte `end`. Raises B0401 and B0403."""

    def read_next() -> Pickle:
        return read_pickle(path, file, end, opcodes)

    if read_next().value != MAGIC or read_next().value != FORMAT:
        raise damaged(path, f"does not start with torch's magic number and the format {FORMAT}")
    match read_next().value:
        case {"little_endian": True}:
            pass
        case {"little_endian": False}:
            message = f"`{path}` holds big-endian values"
            raise error("B0403", message, help="load and save it again with torch on a little-endian machine")
        case _:
            raise damaged(path, "does not say which byte order it has")
    content = read_next()
    keys = read_next().value
    if not isinstance(keys, list):
        raise damaged(path, "has no list of its storages")
    identities = _identities(path, content.persistent)
    names = [key for key in cast(list[Any], keys) if isinstance(key, str)]
    if len(names) < len(cast(list[Any], keys)) or sorted(names) != sorted(identities):
        raise damaged(path, "lists other storages than those of its tensors")
    return Legacy(content.value, _storages(path, file, end, [identities[name] for name in names]))


def _identities(path: Path, records: list[Persistent]) -> dict[str, StorageIdentity]:
    """By key. Records of modules are left out: they are the source of a model that was saved whole."""
    identities: dict[str, StorageIdentity] = {}
    for record in records:
        match record.identity:
            case ("module", *_):
                continue
            case _:
                identity = storage_identity(path, record)
        if identities.setdefault(identity.key, identity) != identity:
            raise damaged(path, f"describes the storage {quoted(identity.key)} in two ways")
    return identities


def _storages(path: Path, file: BinaryIO, end: int, identities: list[StorageIdentity]) -> dict[str, Storage]:
    storages: dict[str, Storage] = {}
    position = file.tell()
    for identity in identities:
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        first, position = position + 8, position + 8 + identity.size
        if count != identity.count:
            raise damaged(path, f"gives the storage {quoted(identity.key)} {count} values, not {identity.count}")
        if position > end:
            raise damaged(path, f"ends inside the storage {quoted(identity.key)}, which takes {identity.size} bytes")
        storages[identity.key] = Storage(identity.kind, first, count)
    return storages

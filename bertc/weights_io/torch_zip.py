"""What torch.save writes since version 1.6: a zip file, uncompressed.

    NAME/data.pkl        the object, a pickle in which storages are persistent ids
    NAME/byteorder       "little" or "big"; older files lack it and are little-endian
    NAME/data/KEY        the values of a storage
    NAME/version, ...    nothing that is needed here

Source: torch/serialization.py, `_save` and `_load`, https://docs.pytorch.org/docs/stable/notes/serialization.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from bertc.errors import error
from bertc.weights_io.budget import Budgets
from bertc.weights_io.files import damaged, open_file, version
from bertc.weights_io.pickle_machine import read_pickle
from bertc.weights_io.pickle_stack import Persistent
from bertc.weights_io.state_dict import Origin, tensors_of
from bertc.weights_io.tensor import Tensor, quoted
from bertc.weights_io.torch_tensors import Storage, storage_identity
from bertc.weights_io.zip_members import Member, stored_members

LONGEST_BYTE_ORDER = len("little")


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` is meant to be a zip file."""
    return head.startswith(b"PK\3\4")


def read_torch_zip(path: Path, budgets: Budgets | None = None) -> dict[str, Tensor]:
    """The tensors of the file at `path`, by name; the files of one checkpoint share their `budgets`.

    Raises B0401 when the file breaks the format, B0403 for big-endian values and for an element
    type that is not read, B0405 for two tensors of one name, B0412 without tensors.
    """
    budgets = budgets or Budgets()
    with open_file(path) as file:
        opened = version(file)
        members = _in_folder(path, stored_members(path, file, opened.size, budgets.members))
        _check_byte_order(path, file, members)
        pickled = members.get("data.pkl")
        if pickled is None:
            raise damaged(path, "is an archive without data.pkl, which torch would have written")
        file.seek(pickled.offset)
        content = read_pickle(path, file, pickled.offset + pickled.size, budgets.opcodes)

    def storage(record: Any) -> Storage:
        if not isinstance(record, Persistent):
            raise damaged(path, "holds a tensor without a storage")
        identity = storage_identity(path, record)
        member = members.get(f"data/{identity.key}")
        if member is None or member.size != identity.size:
            found = "has none" if member is None else f"holds {member.size}"
            raise damaged(path, f"needs {identity.size} bytes in {quoted(f'data/{identity.key}')} and {found}")
        return Storage(identity.kind, member.offset, identity.count)

    return tensors_of(Origin(path, opened, storage), content.value, budgets.entries)


def _in_folder(path: Path, members: dict[str, Member]) -> dict[str, Member]:
    """The members by their names in the one folder that they all lie in."""
    folders = {name.partition("/")[0] for name in members}
    if len(folders) != 1:
        raise damaged(path, f"is an archive of {len(folders)} folders; torch writes one")
    return {name.partition("/")[2]: member for name, member in members.items()}


def _check_byte_order(path: Path, file: BinaryIO, members: dict[str, Member]) -> None:
    if "byteorder" not in members:
        return
    file.seek(members["byteorder"].offset)
    order = file.read(min(members["byteorder"].size, LONGEST_BYTE_ORDER + 1))
    if order == b"big":
        message = f"`{path}` holds big-endian values"
        raise error("B0403", message, help="load and save it again with torch on a little-endian machine")
    if order != b"little":
        raise damaged(path, "names a byte order that is neither little nor big")

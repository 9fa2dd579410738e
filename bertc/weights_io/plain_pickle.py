"""A dict of NumPy arrays or torch tensors, or a checkpoint with one, that the standard `pickle` wrote.

A torch tensor is pickled as in torch's own files, but for its storage: `torch.storage._load_from_bytes` of a byte
string that is a file of torch's format from before 1.6. Source: torch/storage.py, `TypedStorage.__reduce__`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from bertc.errors import error
from bertc.weights_io.budget import Budget, Budgets
from bertc.weights_io.files import damaged, open_file, version
from bertc.weights_io.pickle_machine import read_pickle
from bertc.weights_io.pickle_stack import Call, Global, Stretch
from bertc.weights_io.state_dict import Origin, tensors_of
from bertc.weights_io.tensor import Tensor
from bertc.weights_io.torch_legacy import read_legacy
from bertc.weights_io.torch_tensors import Storage

STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"(dp", b"}q", b"ccollections\nOrderedDict\n")
"""Protocols 2 to 5 name themselves; of 0 and 1 a dict has these."""


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` is meant to be a pickle of a dict."""
    return head.startswith(STARTS)


def read_plain_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors and arrays of the file at `path`, by name.

    Raises B0401 when the file breaks the format, B0403 for an element type that is not read
    and for torch tensors below protocol 3, B0405 for two tensors of one name, B0412 without tensors.
    """
    with open_file(path) as file:
        opened = version(file)
        budgets = Budgets()
        content = read_pickle(path, file, opened.size, budgets.opcodes).value
        if file.tell() != opened.size:
            raise damaged(path, f"has {opened.size - file.tell()} bytes after the end of its pickle")
        return tensors_of(Origin(path, opened, _embedded(path, file, budgets.opcodes)), content, budgets.entries)


def _embedded(path: Path, file: BinaryIO, opcodes: Budget) -> Callable[[Any], Storage]:
    """Reads the storage that lies in a byte string of the pickle; each string once, as tensors can share it."""
    read: dict[Stretch, Storage] = {}

    def storage(record: Any) -> Storage:
        match record:
            case Call(Global("torch.storage._load_from_bytes"), (Stretch(offset, size, "bytes") as stretch,)):
                if stretch not in read:
                    file.seek(offset)
                    legacy = read_legacy(path, file, offset + size, opcodes)
                    read[stretch] = legacy.storage(path, legacy.content)
                return read[stretch]
            case Call(Global("torch.storage._load_from_bytes"), (Call(Global("_codecs.encode")),)):
                message = f"`{path}` holds torch tensors in a pickle of protocol 2 or less, which has no bytes"
                raise error("B0403", message, help="write it again with torch.save, or with pickle's protocol 4")
            case _:
                raise damaged(path, "holds a tensor without a storage")

    return storage

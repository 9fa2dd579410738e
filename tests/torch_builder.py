"""Files of torch put together from opcodes and members, for what torch never writes."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping

from pickle_builder import call, number, shape_opcodes, text

from bertc.weights_io.torch_legacy import MAGIC

EMPTY = b"ccollections\nOrderedDict\n)R"


def storage(key: bytes = text("0"), kind: str = "torch FloatStorage", count: int = 6, more: bytes = b"") -> bytes:
    """The opcodes of a storage's identity."""
    kind_opcodes = b"c" + kind.replace(" ", "\n").encode() + b"\n"
    return b"(" + text("storage") + kind_opcodes + key + text("cpu") + number(count) + more + b"tQ"


def tensor(
    of: bytes | None = None,
    first: bytes = number(0),
    shape: bytes = shape_opcodes(2, 3),
    strides: bytes = shape_opcodes(3, 1),
) -> bytes:
    rest = (first, shape, strides, b"\x89", EMPTY)
    return call("torch._utils _rebuild_tensor_v2", storage() if of is None else of, *rest)


def pickled(value: bytes) -> bytes:
    return b"\x80\x02}" + text("a") + value + b"s."


def archive(content: bytes, members: Mapping[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file with `content` as its data.pkl and one storage of 6 values, or other members."""
    with io.BytesIO() as written:
        with zipfile.ZipFile(written, "w", compression) as file:
            file.writestr("m/data.pkl", content)
            for name, data in (members or {"m/data/0": bytes(24)}).items():
                file.writestr(name, data)
            file.writestr("m/version", b"3")
        return written.getvalue()


def legacy(content: bytes, keys: object = ("0",), values: bytes = struct.pack("<q", 6) + bytes(24)) -> bytes:
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": True}))
    return head + content + pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2) + values


def replaced(whole: bytes, old: bytes, new: bytes, count: int = 1) -> bytes:
    assert old in whole
    return whole.replace(old, new, count)


GOOD = archive(pickled(tensor()))
GOOD_LEGACY = legacy(pickled(tensor(storage(more=b"N"))))

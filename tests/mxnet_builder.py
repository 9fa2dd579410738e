"""MXNet's lists of arrays, put together byte by byte as MXNet's source writes them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = {"<f4": 0, "<f8": 1, "<f2": 2, "|u1": 3, "<i4": 4, "|i1": 5, "<i8": 6}
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA


def array(values: NDArray[Any], magic: int = V2, **fields: Any) -> bytes:
    """One array; `fields` says what is written instead of what is right."""
    shape = fields.get("shape", values.shape)
    storage = b"" if magic == V1 else struct.pack("<i", fields.get("storage", 0))
    sizes = struct.pack("<I", fields.get("rank", len(shape))) + struct.pack(f"<{len(shape)}Q", *shape)
    kind = struct.pack("<iii", 1, 0, fields.get("kind", KINDS[values.dtype.str]))
    return struct.pack("<I", magic) + storage + sizes + kind + values.tobytes()


def names(texts: Iterable[str], count: int | None = None) -> bytes:
    encoded = [text.encode() for text in texts]
    body = b"".join(struct.pack("<Q", len(text)) + text for text in encoded)
    return struct.pack("<Q", len(encoded) if count is None else count) + body


def arrays(content: Iterable[bytes], count: int | None = None) -> bytes:
    content = list(content)
    return struct.pack("<QQQ", 0x112, 0, len(content) if count is None else count) + b"".join(content)


def params(values: Mapping[str, NDArray[Any]], magic: int = V2) -> bytes:
    return arrays(array(value, magic) for value in values.values()) + names(values)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "net.params"
    path.write_bytes(content)
    return path


ONES = np.ones(2, "<f4")
GOOD = array(ONES)

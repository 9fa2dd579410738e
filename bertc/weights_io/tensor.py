"""What every reader gives: a name, a shape, an element type, and the values when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Element = Literal["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool"]


@dataclass(frozen=True)
class Tensor:
    """One named array of a checkpoint. `element` is its type in the file; `read` fetches it, bf16 as float32.

    Nothing is read before `read()` is called, nor kept after it.
    """

    name: str
    shape: tuple[int, ...]
    element: Element
    read: Callable[[], NDArray[Any]]


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, over name, element type, shape and values of each tensor in the order of the names.

    It is a hash of the weights, not of the file: every format that holds the same weights gives the same hash.
    One tensor is in memory at a time.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{len(name.encode())} {name} {tensor.element} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor.read()).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def quoted(name: str, width: int = 100) -> str:
    """A name out of an untrusted file, fit for a message: cut, and without control characters."""
    return f"`{printable(name if len(name) <= width else name[: width - 1] + '…')}`"


def printable(name: str) -> str:
    """A name out of an untrusted file, fit for a terminal: without control characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)

"""What torch writes for a tensor: a call that rebuilds it from a storage, and what a storage is known by.

    _rebuild_tensor_v2(storage, first, shape, strides, requires_grad, hooks[, metadata])
    ("storage", torch.FloatStorage, KEY, LOCATION, COUNT[, view])          the identity of a storage

First and strides count values. Source: torch/_utils.py, and torch/serialization.py, `persistent_id`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bertc.errors import BertcError, error
from bertc.weights_io.files import STORAGE, Version, damaged, tensor_at
from bertc.weights_io.pickle_stack import Global, Persistent
from bertc.weights_io.safetensors import MAX_RANK, MAX_VALUES
from bertc.weights_io.tensor import Element, Tensor, quoted
from bertc.weights_io.views import view

ELEMENTS: dict[str, Element] = {
    "torch.DoubleStorage": "f64",
    "torch.FloatStorage": "f32",
    "torch.HalfStorage": "f16",
    "torch.BFloat16Storage": "bf16",
    "torch.LongStorage": "i64",
    "torch.IntStorage": "i32",
    "torch.ShortStorage": "i16",
    "torch.CharStorage": "i8",
    "torch.ByteStorage": "u8",
    "torch.BoolStorage": "bool",
}
OTHER_SIZES = {
    "torch.ComplexFloatStorage": 8,
    "torch.ComplexDoubleStorage": 16,
    "torch.QInt8Storage": 1,
    "torch.QUInt8Storage": 1,
    "torch.QInt32Storage": 4,
    "torch.QUInt4x2Storage": 1,
    "torch.QUInt2x4Storage": 1,
    "torch.storage.UntypedStorage": 1,
    "torch.UntypedStorage": 1,
}
"""Bytes of a value, of the storages that no network here has for its weights."""

MAX_MORE = 3
"""Arguments after the strides: one object can be under thousands of names, and is looked at for each."""
REBUILD = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
REBUILD_PARAMETER = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")


@dataclass(frozen=True)
class Storage:
    """`count` values, `offset` bytes into the file; `kind` is torch's class."""

    kind: str
    offset: int
    count: int


@dataclass(frozen=True)
class StorageIdentity:
    kind: str
    key: str
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * value_size(self.kind)


def value_size(kind: str) -> int:
    return STORAGE[ELEMENTS[kind]].itemsize if kind in ELEMENTS else OTHER_SIZES[kind]


def storage_identity(path: Path, record: Persistent) -> StorageIdentity:
    """Raises B0401 when `record` is not the identity of a storage, or of one that torch does not have."""
    match record.identity:
        case ("storage", Global(kind), str(key), _, int(count), *rest) if 0 <= count <= MAX_VALUES and rest in (
            [],
            [None],
        ):
            if kind not in ELEMENTS and kind not in OTHER_SIZES:
                raise damaged(path, f"holds a storage of {quoted(kind)}, which torch does not have")
            return StorageIdentity(kind, key, count)
        case _:
            raise damaged(path, "refers to something else than a storage")


def strided(path: Path, opened: Version, name: str, arguments: Any, storage_of: Callable[[Any], Storage]) -> Tensor:
    """The tensor that REBUILD makes of its `arguments`, the first of which `storage_of` takes for a storage.

    Raises B0401 when it reaches beyond its storage, B0403 when its type of element is not read.
    """
    record, first, shape, strides = _layout(path, name, arguments)
    storage = storage_of(record)
    element = ELEMENTS.get(storage.kind)
    if element is None:
        raise not_read(path, name, storage.kind)
    count = math.prod(shape)
    reach = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if count else 0
    if first + reach > storage.count or count > storage.count:
        found = f"{count} values up to value {first + reach}"
        raise damaged(path, f"gives {quoted(name)} {found} of a storage that has {storage.count}")
    offset = storage.offset + first * STORAGE[element].itemsize
    if not count or _is_row_major(shape, strides):
        return tensor_at(path, opened, offset, name=name, shape=shape, element=element)
    reached = tensor_at(path, opened, offset, name=name, shape=(reach,), element=element)

    def in_order(values: NDArray[Any]) -> NDArray[Any]:
        steps = tuple(stride * values.itemsize for stride in strides)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, shape, steps))

    return view(reached, in_order, name=name, shape=shape)


def not_read(path: Path, name: str, kind: str) -> BertcError:
    """B0403, for what is well formed and of no use as a weight."""
    message = f"`{path}` holds {quoted(name)} as {quoted(kind)}; weights are read as {', '.join(STORAGE)}"
    return error("B0403", message, help="convert the checkpoint to dense little-endian float32, float16 or bfloat16")


def sizes(value: Any) -> tuple[int, ...] | None:
    """A tuple of integers from 0, as torch and NumPy write shapes and strides; None for anything else."""
    if not isinstance(value, tuple):
        return None
    items = cast(tuple[Any, ...], value)
    found = tuple(item for item in items if type(item) is int and 0 <= item <= MAX_VALUES)
    return found if len(found) == len(items) <= MAX_RANK else None


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Sizes whose product an array can have. Sizes of 0 do not count: NumPy refuses an empty array of huge sizes."""
    shape = sizes(value)
    return shape if shape is not None and math.prod(max(size, 1) for size in shape) <= MAX_VALUES else None


def _layout(path: Path, name: str, arguments: Any) -> tuple[Any, int, tuple[int, ...], tuple[int, ...]]:
    match arguments:
        case (storage, int(first), shape, strides, *rest) if 0 <= first <= MAX_VALUES and len(rest) <= MAX_MORE:
            pass
        case _:
            raise damaged(path, f"describes {quoted(name)} by something else than a storage, an offset and a shape")
    checked_shape, checked_strides = shape_of(shape), sizes(strides)
    if checked_shape is None or checked_strides is None or len(checked_shape) != len(checked_strides):
        raise damaged(path, f"gives {quoted(name)} a shape or strides that no tensor has")
    if len(rest) > 2 and rest[2]:
        raise not_read(path, name, "a negated or conjugated view")
    return storage, first, checked_shape, checked_strides


def _is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True

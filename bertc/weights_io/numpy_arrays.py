"""What NumPy writes into a pickle for an array, a scalar, and an element type.

    _reconstruct(ndarray, (0,), b"b"), then the state (version, shape, dtype, is_column_major, values)   to protocol 4
    _frombuffer(values, dtype, shape, "C" or "F")                                                        protocol 5
    scalar(dtype, values)
    dtype("f4", False, True), then the state (3, "<", ...)

Below protocol 3, which has no bytes, the values are _codecs.encode(text, "latin1"), or bytes() where there are none.
NumPy 2 calls its packages numpy._core, NumPy 1 numpy.core.
Source: numpy/_core/src/multiarray/methods.c, `array_reduce_ex` and `array_setstate`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertc.errors import BertcError
from bertc.weights_io.files import STORAGE, Version, damaged, tensor_at
from bertc.weights_io.pickle_stack import Call, Global, Stretch
from bertc.weights_io.tensor import Element, Tensor, quoted
from bertc.weights_io.torch_tensors import not_read, shape_of
from bertc.weights_io.views import view

ELEMENTS: dict[str, Element] = {
    "f8": "f64",
    "f4": "f32",
    "f2": "f16",
    "i8": "i64",
    "i4": "i32",
    "i2": "i16",
    "i1": "i8",
    "u1": "u8",
    "b1": "bool",
}
LAST_START = 0xC3
"""The largest byte of characters up to U+00FF in UTF-8."""
_ELEMENT_CODE = re.compile("[biufcmMOSUVT][0-9]{0,4}")


def array(path: Path, opened: Version, name: str, call: Call) -> Tensor | None:
    """The array that `call` makes, or None when it makes something else.

    Raises B0401 when the array is malformed, B0403 when its type of element is not read.
    """
    match call:
        case Call(Global("numpy._core.multiarray._reconstruct" | "numpy.core.multiarray._reconstruct"), _, state):
            match state:
                case (int(), shape, Call() as dtype, bool(is_column_major), values):
                    return _array(path, opened, name, shape, dtype, values, is_column_major=is_column_major)
                case _:
                    pass
        case Call(Global("numpy._core.numeric._frombuffer" | "numpy.core.numeric._frombuffer"), arguments):
            match arguments:
                case (values, Call() as dtype, shape, "C" | "F" as order, *_):
                    return _array(path, opened, name, shape, dtype, values, is_column_major=order == "F")
                case _:
                    pass
        case Call(Global("numpy._core.multiarray.scalar" | "numpy.core.multiarray.scalar"), arguments):
            match arguments:
                case (Call() as dtype, values):
                    return _array(path, opened, name, (), dtype, values, is_column_major=False)
                case _:
                    pass
        case _:
            return None
    raise damaged(path, f"describes {quoted(name)} by something else than NumPy does")


def _array(
    path: Path, opened: Version, name: str, shape: Any, dtype: Call, values: Any, *, is_column_major: bool
) -> Tensor:
    checked = shape_of(shape)
    if checked is None:
        raise damaged(path, f"gives {quoted(name)} a shape that no array has")
    element = _element(path, name, dtype)
    laid_out = checked[::-1] if is_column_major else checked
    found = _values(path, opened, name, values, laid_out, element)
    return view(found, np.transpose, name=name, shape=checked) if is_column_major else found


def _element(path: Path, name: str, dtype: Call) -> Element:
    match dtype:
        case Call(Global("numpy.dtype"), (str(code), *_), (int(), str(order), *_)) if _ELEMENT_CODE.fullmatch(code):
            if code in ELEMENTS and order != ">":
                return ELEMENTS[code]
            raise not_read(path, name, f"{order}{code}")
        case _:
            raise damaged(path, f"gives {quoted(name)} a type of element that is not NumPy's")


def _values(path: Path, opened: Version, name: str, values: Any, shape: tuple[int, ...], element: Element) -> Tensor:
    """The values in the order in which they are stored."""
    size = math.prod(shape) * STORAGE[element].itemsize
    match values:
        case Stretch(offset, found, "bytes") if found == size:
            return tensor_at(path, opened, offset, name=name, shape=shape, element=element)
        # In UTF-8 a byte from 128 on takes two.
        case Call(Global("_codecs.encode"), (Stretch(offset, found, "text"), "latin1")) if size <= found <= 2 * size:
            text = tensor_at(path, opened, offset, name=name, shape=(found,), element="u8")
            return _decoded(path, name, shape, element, lambda: _text(text.read()))
        case Call(Global("_codecs.encode"), (str(short), "latin1")) | str(short) if len(short) == size:
            return _decoded(path, name, shape, element, lambda: short)
        case Call(Global("__builtin__.bytes" | "builtins.bytes"), ()) if size == 0:
            return _decoded(path, name, shape, element, str)
        case _:
            raise _without_values(path, name, size)


def _text(octets: NDArray[np.uint8]) -> str:
    """A text in UTF-8, of Latin-1 alone: one character beyond would make Python take four bytes for each other too."""
    if np.any(octets > LAST_START):
        raise UnicodeError
    return octets.tobytes().decode("utf-8")


def _decoded(path: Path, name: str, shape: tuple[int, ...], element: Element, text: Callable[[], str]) -> Tensor:
    """The tensor whose bytes are the code points of a text."""

    def read() -> NDArray[Any]:
        size = math.prod(shape) * STORAGE[element].itemsize
        try:
            stored = text().encode("latin-1")
        except UnicodeError:
            stored = b""
        if len(stored) != size:
            raise _without_values(path, name, size)
        values = np.frombuffer(stored, STORAGE[element]).reshape(shape)
        if element == "bool":
            values = values != 0
            values.flags.writeable = False
        return values

    return Tensor(name, shape, element, read)


def _without_values(path: Path, name: str, size: int) -> BertcError:
    return damaged(path, f"describes {quoted(name)} as {size} bytes of values, and holds something else")

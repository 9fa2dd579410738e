"""Types of values: an element type and a shape whose sizes are numbers or names (`f16[batch, seq, 64]`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

Dim = int | str
"""A size: a number, or a name such as `batch` that stands for a number known only when the engine runs."""

Shape = tuple[Dim, ...]

FLOATS = ("f64", "f32", "f16", "bf16")
ELEMENTS = (*FLOATS, "i64", "i32", "bool")

BITS = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16, "i64": 64, "i32": 32, "bool": 8}
"""Bits one element takes in memory."""


@dataclass(frozen=True, slots=True)
class Type:
    element: str
    shape: Shape

    def __str__(self) -> str:
        return f"{self.element}{shape_text(self.shape)}"

    @property
    def is_float(self) -> bool:
        return self.element in FLOATS


class TypeMismatch(Exception):
    """Operands do not fit an op; the message is the sentence to show, its place is added by the caller."""


def is_tuple(value: Any) -> TypeGuard[tuple[Any, ...]]:
    """isinstance for attributes: lists of sizes are tuples there, everything else is a number or a name."""
    return isinstance(value, tuple)


def shape_text(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def broadcast(*shapes: Shape) -> Shape:
    """NumPy's broadcasting: align at the right; sizes must be equal or 1. A named size equals only itself."""
    rank = max(map(len, shapes), default=0)
    result: list[Dim] = []
    for axis in range(-rank, 0):
        sizes = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(sizes) > 1:
            raise TypeMismatch(
                f"shapes that broadcast were expected, but {' and '.join(map(shape_text, shapes))} do not"
            )
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def bind_sizes(shape: Sequence[Dim], known: Mapping[str, int]) -> tuple[int, ...]:
    """Replace each named size by its number."""
    return tuple(size if isinstance(size, int) else known[size] for size in shape)

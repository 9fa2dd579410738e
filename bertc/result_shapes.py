"""Shapes of results that no pattern gives: functions of the operands' shapes and the attributes, one for each such op.

All raise TypeMismatch with a sentence that says what was expected and what was found.
"""

from __future__ import annotations

import math

from bertc.types import Dim, Shape, TypeMismatch, broadcast, shape_text


def elementwise(*shapes: Shape) -> tuple[Shape, ...]:
    return (broadcast(*shapes),)


def matmul(x: Shape, y: Shape) -> tuple[Shape, ...]:
    if len(x) < 2 or len(y) < 2 or x[-1] != y[-2]:
        raise TypeMismatch(
            f"matmul takes [..., n, k] and [..., k, m], but {shape_text(x)} and {shape_text(y)} were given"
        )
    return ((*broadcast(x[:-2], y[:-2]), x[-2], y[-1]),)


def transpose(x: Shape, *, axes: tuple[int, ...]) -> tuple[Shape, ...]:
    if sorted(axes) != list(range(len(x))):
        raise TypeMismatch(
            f"axes of {shape_text(x)} are a permutation of 0 to {len(x) - 1}, but {list(axes)} was given"
        )
    return (tuple(x[axis] for axis in axes),)


def reshape(x: Shape, *, shape: Shape) -> tuple[Shape, ...]:
    def count(sizes: Shape) -> tuple[int, list[str]]:
        return math.prod(s for s in sizes if isinstance(s, int)), sorted(s for s in sizes if isinstance(s, str))

    if count(x) != count(shape):
        raise TypeMismatch(
            f"reshape keeps the number of elements, but {shape_text(x)} was to become {shape_text(shape)}"
        )
    return (tuple(shape),)


def _axis(x: Shape, axis: int) -> int:
    if not -len(x) <= axis < 0:
        raise TypeMismatch(f"an axis of {shape_text(x)} counts from the end, -1 to -{len(x)}, but {axis} was given")
    return len(x) + axis


def concat(*parts: Shape, axis: int) -> tuple[Shape, ...]:
    at = _axis(parts[0], axis)
    if any((*p[:at], *p[at + 1 :]) != (*parts[0][:at], *parts[0][at + 1 :]) for p in parts):
        raise TypeMismatch(
            f"concat joins shapes that differ along axis {axis} only, but got {', '.join(map(shape_text, parts))}"
        )
    total = sum(_number(p[at], "concat") for p in parts)
    return ((*parts[0][:at], total, *parts[0][at + 1 :]),)


def split(x: Shape, *, sizes: tuple[int, ...], axis: int) -> tuple[Shape, ...]:
    at = _axis(x, axis)
    if sum(sizes) != x[at] or min(sizes, default=0) < 1:
        raise TypeMismatch(f"the sizes of a split add up to {x[at]}, but {list(sizes)} was given")
    return tuple((*x[:at], size, *x[at + 1 :]) for size in sizes)


def slice_(x: Shape, *, start: int, size: Dim, axis: int) -> tuple[Shape, ...]:
    at = _axis(x, axis)
    end = x[at]
    if start < 0 or (isinstance(size, int) and isinstance(end, int) and start + size > end):
        raise TypeMismatch(f"a slice lies inside {shape_text(x)}, but {size} from {start} along axis {axis} does not")
    return ((*x[:at], size, *x[at + 1 :]),)


def select(x: Shape, *, index: int, axis: int) -> tuple[Shape, ...]:
    at = _axis(x, axis)
    if index < 0 or (isinstance(end := x[at], int) and index >= end):
        raise TypeMismatch(
            f"an index along axis {axis} of {shape_text(x)} is at least 0 and in range, but {index} was given"
        )
    return ((*x[:at], *x[at + 1 :]),)


def sum_(x: Shape, *, axis: int) -> tuple[Shape, ...]:
    at = _axis(x, axis)
    return ((*x[:at], *x[at + 1 :]),)


def cast(x: Shape, *, element: str) -> tuple[Shape, ...]:
    return (x,)


def padding_mask(lengths: Shape, *, size: Dim, element: str) -> tuple[Shape, ...]:
    return ((lengths[0], 1, 1, size),)


def rotary(x: Shape, *, base: float) -> tuple[Shape, ...]:
    if _number(x[-1], "rotary") % 2:
        raise TypeMismatch(f"rotary turns pairs of entries, but {x[-1]} is odd")
    return (x,)


def relative_buckets(*, positions: int, buckets: int, distance: int) -> tuple[Shape, ...]:
    if buckets % 4 or distance <= buckets // 4:
        expected = f"a multiple of 4 buckets, and a distance over {buckets // 4}"
        raise TypeMismatch(f"relative_buckets takes {expected}, but {buckets} and {distance} were given")
    return ((positions, positions),)


def log_buckets(*, positions: int, buckets: int) -> tuple[Shape, ...]:
    if buckets < 2 or positions - 1 <= buckets // 2:
        expected = "at least 2 buckets, and more positions than half of them"
        raise TypeMismatch(f"log_buckets takes {expected}, but {buckets} and {positions} were given")
    return ((positions, positions),)


def _number(size: Dim, what: str) -> int:
    if isinstance(size, str):
        raise TypeMismatch(f"{what} needs sizes known at build time, but `{size}` is not")
    return size

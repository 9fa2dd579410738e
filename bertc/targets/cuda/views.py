"""Where a graph's values lie while it becomes a plan: strides over a buffer, as NumPy's, in sizes that have names.

Transposing, splitting and selecting move no data; reshaping does so only where the strides cannot say it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile

from bertc.targets.cuda.plan import Place, Size
from bertc.types import Dim, Shape

ONE, ZERO = Size(1), Size(0)


@dataclass(frozen=True)
class View:
    """A value: columns of a buffer. `names` are the sizes that its rows are counted by."""

    buffer: str
    names: tuple[str, ...]
    row: Size
    """Elements from one row to the next."""
    offset: int
    width: int

    @property
    def layout(self) -> Layout:
        """[*names, width]"""
        return Layout(self.buffer, (*self.names, self.width), (*_strides(self.names, self.row), ONE), self.offset)


@dataclass(frozen=True)
class Layout:
    """A value of any shape: element (i, j, ...) is strides · (i, j, ...) elements behind `offset` in its buffer."""

    buffer: str
    shape: Shape
    strides: tuple[Size, ...]
    offset: int = 0

    @property
    def place(self) -> Place:
        return Place(self.buffer, self.offset)

    @property
    def is_dense(self) -> bool:
        """Whether the entries stand one behind the other, in order."""
        axes = [(size, stride) for size, stride in zip(self.shape, self.strides, strict=True) if size != 1]
        return not axes or (axes[-1][1] == ONE and _follow(axes))

    def transposed(self, axes: Sequence[int]) -> Layout:
        """Axis i is axis axes[i] of this."""
        shape, strides = tuple(self.shape[axis] for axis in axes), tuple(self.strides[axis] for axis in axes)
        return replace(self, shape=shape, strides=strides)

    def part(self, axis: int, start: int, size: Dim) -> Layout | None:
        """`size` entries along an axis; None where the first one's place is known only when the engine runs."""
        stride = self.strides[axis]
        if start and stride.names:
            return None
        shape = (*self.shape[:axis], size, *self.shape[axis:][1:])
        return replace(self, shape=shape, offset=self.offset + start * stride.factor)

    def without(self, axis: int) -> Layout:
        """Entry 0 of an axis, which goes."""
        shape = tuple(size for index, size in enumerate(self.shape) if index != axis)
        return replace(self, shape=shape, strides=tuple(s for index, s in enumerate(self.strides) if index != axis))

    def broadcast(self, shape: Shape) -> Layout:
        """Repeated along new axes in front, and along those of size 1: strides of 0."""
        missing = len(shape) - len(self.shape)
        own = zip((1,) * missing + self.shape, (ZERO,) * missing + self.strides, shape, strict=True)
        return replace(self, shape=shape, strides=tuple(stride if size == to else ZERO for size, stride, to in own))

    def reshaped(self, shape: Shape) -> Layout | None:
        """The same elements in the same order in another shape; None where no strides say that.

        Axes of both shapes are taken together until their sizes have the same product; such a group of ours has to be
        one behind the other in memory.
        """
        old = [(size, stride) for size, stride in zip(self.shape, self.strides, strict=True) if size != 1]
        new = [size for size in shape if size != 1]
        strides: list[Size] = []
        while old and new:
            ours, theirs = [old.pop(0)], [new.pop(0)]
            while (count := product([size for size, _ in ours])) != (wanted := product(theirs)):
                if old and _divides(count, wanted):
                    ours.append(old.pop(0))
                elif new and _divides(wanted, count):
                    theirs.append(new.pop(0))
                else:
                    return None
            if not _follow(ours):
                return None
            strides += _strides(theirs, ours[-1][1])
        if old or new:
            return None
        known = iter(strides)
        return replace(self, shape=shape, strides=tuple(ZERO if size == 1 else next(known) for size in shape))

    def view(self) -> View | None:
        """As rows that named sizes count, each with its entries side by side; None for what is laid out otherwise."""
        names = tuple(str(size) for size in takewhile(lambda size: isinstance(size, str), self.shape))
        rest = self.shape[len(names) :]
        width = product(rest)
        merged = None if width.names else self.reshaped((*names, width.factor))
        if merged is None or not names or (width.factor != 1 and merged.strides[-1] != ONE):
            return None
        rows = list(zip(names, merged.strides, strict=False))
        return View(self.buffer, names, rows[-1][1], self.offset, width.factor) if _follow(rows) else None


def with_axes(shape: Shape, count: int) -> Shape:
    """The shape with axes of size 1 in front, so that it has `count`."""
    ones: Shape = (1,) * (count - len(shape))
    return ones + shape


def contiguous(buffer: str, shape: Shape) -> Layout:
    """All of a buffer, the last axis's entries side by side."""
    return Layout(buffer, shape, tuple(_strides(shape, ONE)))


def product(sizes: Sequence[Dim], by: Size = ONE) -> Size:
    """The product of sizes and `by`, its names in alphabetical order."""
    factor, names = by.factor, list(by.names)
    for size in sizes:
        if isinstance(size, int):
            factor *= size
        else:
            names.append(size)
    return Size(factor, tuple(sorted(names)))


def _strides(shape: Sequence[Dim], last: Size) -> list[Size]:
    return [product(shape[index + 1 :], last) for index in range(len(shape))]


def _follow(axes: Sequence[tuple[Dim, Size]]) -> bool:
    """Whether each axis goes on where the one behind it ends."""
    return all(product([size], stride) == before for (_, before), (size, stride) in pairwise(axes))


def _divides(part: Size, whole: Size) -> bool:
    return whole.factor % part.factor == 0 and Counter(part.names) <= Counter(whole.names)

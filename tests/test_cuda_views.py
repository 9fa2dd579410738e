"""Layouts against NumPy's strides: what moves no data says the same, and what no strides can say is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bertc.targets.cuda.plan import Size
from bertc.targets.cuda.views import Layout, View, contiguous
from bertc.types import Shape

SIZES = {"batch": 3, "seq": 5}


def numbers(shape: Shape) -> list[int]:
    return [SIZES[size] if isinstance(size, str) else size for size in shape]


def read(layout: Layout, memory: Any) -> Any:
    """What a layout says of memory."""
    strides = [stride(SIZES) * memory.itemsize for stride in layout.strides]
    return np.lib.stride_tricks.as_strided(memory[layout.offset :], numbers(layout.shape), strides)


def whole(*shape: int | str) -> tuple[Layout, Any]:
    return contiguous("x", shape), np.arange(np.prod(numbers(shape)))


def regrouped(shape: Shape, flags: Sequence[bool]) -> Shape:
    """The shape with numbers that follow each other multiplied, and a 4 taken apart, where a flag says so."""
    sizes: list[int | str] = []
    for size, flag in zip(shape, flags, strict=False):
        if flag and sizes and isinstance(size, int) and isinstance(sizes[-1], int):
            sizes[-1] *= size
        else:
            sizes += [2, 1, 2] if flag and size == 4 else [size]
    return tuple(sizes)


@given(
    st.lists(st.sampled_from([1, 2, 3, 4, "batch", "seq"]), min_size=1, max_size=4),
    st.permutations(range(4)),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_reshapes_are_numpys(shape: Sequence[int | str], order: Sequence[int], flags: Sequence[bool]) -> None:
    """Of a transposed layout, in another grouping of its sizes: the same elements, or none where NumPy copies."""
    layout, memory = whole(*shape)
    axes = [axis for axis in order if axis < len(shape)]
    turned, array = layout.transposed(axes), memory.reshape(numbers(tuple(shape))).transpose(axes)
    assert np.array_equal(read(turned, memory), array)
    assert turned.is_dense == array.flags.c_contiguous
    wanted = regrouped(turned.shape, flags)
    merged, expected = turned.reshaped(wanted), array.reshape(numbers(wanted))
    assert (merged is not None) == np.shares_memory(expected, array)
    if merged is not None:
        assert np.array_equal(read(merged, memory), expected)


def test_reshapes_keep_the_number_of_elements() -> None:
    layout, _ = whole("batch", 4)
    assert layout.reshaped(("batch", 2)) is None
    assert layout.reshaped(("seq", 4)) is None
    assert layout.reshaped(("batch", 4, 2)) is None


def test_heads_are_split_and_merged() -> None:
    layout, memory = whole("batch", "seq", 24)
    array = memory.reshape(3, 5, 24)
    heads = layout.reshaped(("batch", "seq", 4, 6))
    assert heads is not None
    assert np.array_equal(read(heads, memory), array.reshape(3, 5, 4, 6))
    turned = heads.transposed((0, 2, 1, 3))
    assert turned.reshaped(("batch", 4, "seq", 6)) == turned
    assert turned.reshaped(("batch", "seq", 24)) is None
    assert turned.transposed((0, 2, 1, 3)).reshaped(("batch", "seq", 24)) == layout
    assert turned.view() is None
    assert (layout.is_dense, heads.is_dense, turned.is_dense) == (True, True, False)


def test_parts() -> None:
    layout, memory = whole("batch", "seq", 24)
    array = memory.reshape(3, 5, 24)
    part = layout.part(2, 8, 4)
    assert part is not None
    assert np.array_equal(read(part, memory), array[:, :, 8:12])
    assert part.view() == View("x", ("batch", "seq"), Size(24), 8, 4)
    assert not part.is_dense
    second = layout.part(1, 2, 1)
    assert second is not None
    row = second.without(1)
    assert np.array_equal(read(row, memory), array[:, 2])
    assert row.view() == View("x", ("batch",), Size(24, ("seq",)), 48, 24)
    assert layout.part(0, 1, 1) is None  # a row further on is 24 · seq, which is known only later
    assert layout.part(0, 0, 1) is not None


def test_broadcasts() -> None:
    layout, memory = whole("batch", 1, 7)
    wide = layout.broadcast((2, "batch", "seq", 7))
    expected = np.broadcast_to(memory.reshape(3, 1, 7), (2, 3, 5, 7))
    assert np.array_equal(read(wide, memory), expected)


def test_rows_of_one_entry() -> None:
    """What is selected of a head with two labels."""
    layout, memory = whole("batch", "seq", 2)
    part = layout.part(2, 1, 1)
    assert part is not None
    ends = part.without(2)
    assert np.array_equal(read(ends, memory), memory.reshape(3, 5, 2)[:, :, 1])
    assert ends.view() == View("x", ("batch", "seq"), Size(2), 1, 1)


def test_views_are_layouts() -> None:
    view = View("x", ("batch", "seq"), Size(24), 8, 4)
    assert view.layout.view() == view

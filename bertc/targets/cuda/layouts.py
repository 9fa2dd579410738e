"""Ops that move no data: their value is another layout of the same memory. What no strides can say is copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bertc.graph import UNUSED, Node
from bertc.targets.cuda.elementwise import axis_of
from bertc.targets.cuda.views import Layout
from bertc.types import Dim

if TYPE_CHECKING:
    from bertc.targets.cuda.lower import Lowering


def transpose(lowering: Lowering, node: Node) -> None:
    """The strides in another order."""
    lowering.layouts[node.key] = lowering.layout(node.values[0]).transposed(node.attribute("axes"))


def reshape(lowering: Lowering, node: Node) -> None:
    """Other strides, or a copy."""
    x, shape = node.values[0], node.types[0].shape
    layout = lowering.layout(x)
    reshaped = layout.reshaped(shape) or lowering.copy(x, layout, lowering.element_in(layout.buffer)).reshaped(shape)
    if reshaped is None:
        raise lowering.refusal(node, f"a reshape of {layout.shape} to {shape} takes sizes that have names apart")
    lowering.layouts[node.key] = reshaped


def split(lowering: Lowering, node: Node) -> None:
    """Each part behind the one before it."""
    layout, axis, start = lowering.layout(node.values[0]), axis_of(lowering, node), 0
    for result, size in zip(node.results, node.attribute("sizes"), strict=True):
        if result != UNUSED:
            lowering.layouts[result] = _part(lowering, node, layout, axis, start, size)
        start += size


def slice_(lowering: Lowering, node: Node) -> None:
    """The same strides, from another place on."""
    layout, axis = lowering.layout(node.values[0]), axis_of(lowering, node)
    part = _part(lowering, node, layout, axis, node.attribute("start"), node.attribute("size"))
    lowering.layouts[node.key] = part


def select(lowering: Lowering, node: Node) -> None:
    """A part of one entry, whose axis goes."""
    layout, axis = lowering.layout(node.values[0]), axis_of(lowering, node)
    lowering.layouts[node.key] = _part(lowering, node, layout, axis, node.attribute("index"), 1).without(axis)


def _part(lowering: Lowering, node: Node, layout: Layout, axis: int, start: int, size: Dim) -> Layout:
    part = layout.part(axis, start, size)
    if part is None:
        raise lowering.refusal(node, f"where entry {start} of axis {axis} lies is known only when the engine runs")
    return part


LOWERINGS: dict[str, Callable[[Lowering, Node], None]] = {
    "transpose": transpose,
    "reshape": reshape,
    "split": split,
    "slice": slice_,
    "select": select,
}

"""Ops entry by entry, look-ups and sums: kernels that take values as they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bertc.graph import Node, Operand
from bertc.plugins import OPS
from bertc.targets.cuda.plan import Size
from bertc.targets.cuda.views import Layout, contiguous, product, with_axes
from bertc.types import Dim

if TYPE_CHECKING:
    from bertc.targets.cuda.lower import Lowering

ACTIVATIONS = ("gelu", "gelu_tanh", "tanh", "relu", "silu", "sigmoid")

AXES = 4
"""Those that the kernel counts; no network has more."""

WIDEST = 1024
"""Entries that a program has at most."""


def pointwise(
    lowering: Lowering,
    name: str,
    z: Layout,
    x: Layout,
    activation: str = "",
    op: str = "",
    y: Layout | None = None,
) -> None:
    """A step: z = activation(x) op y, or activation(x) alone; x and y broadcast to z's shape, of at most 4 axes."""
    shape = with_axes(z.shape, AXES)
    given: dict[str, Any] = {"ACTIVATION": activation, "OP": op}
    for letter, layout in {"x": x, "y": y or x, "z": z}.items():
        given |= strides(letter, layout.broadcast(shape)) | {letter: layout.place}
    given |= {f"size_{axis}": number(shape[axis]) for axis in (1, 2, 3)}
    block = power(shape[-1]) if isinstance(shape[-1], int) else WIDEST
    given["BLOCK"] = min(max(16, block), WIDEST)
    grid = [product(shape[:3]), blocks(shape[3], given["BLOCK"])]
    lowering.step(name, [lowering.launch("pointwise", "pointwise", grid, 4, [z.buffer], **given)])


def strides(letter: str, layout: Layout) -> dict[str, Size | int]:
    """`x_0`, `x_1` and so on: the strides of a kernel's argument, fixed where they are known."""
    return {f"{letter}_{axis}": fixed(stride) for axis, stride in enumerate(layout.strides)}


def fixed(size: Size) -> Size | int:
    """A size as a kernel takes it: a constant where it is known."""
    return size if size.names else size.factor


def number(size: Dim) -> Size | int:
    """A size of a shape as a kernel takes it."""
    return fixed(product([size]))


def blocks(size: Dim, block: int) -> Size:
    """How many blocks cover a size."""
    whole = product([size])
    return Size(whole.factor, whole.names, block)


def power(count: int) -> int:
    """The lowest power of two that is not below a count."""
    return 1 << max(0, count - 1).bit_length()


def binary(lowering: Lowering, node: Node) -> None:
    """x op y; an activation of one of the two that nothing else reads is taken along."""
    left, right = node.inputs
    if OPS[node.op].commutative and _activation(lowering, right):
        left, right = right, left
    activation = _activation(lowering, left)
    if activation:
        left = lowering.graph.producer(str(left)).inputs[0]
    x, y = (_operand(lowering, operand) for operand in (left, right))
    z = lowering.buffer(node.key, None if node.types[0].is_float else "i32")
    pointwise(lowering, node.key, contiguous(z.name, node.types[0].shape), x, activation, node.op, y)


def _activation(lowering: Lowering, operand: Operand) -> str:
    """The activation that gives an operand and has waited for its reader, if there is one."""
    if not isinstance(operand, str) or operand in lowering.layouts:
        return ""
    op = lowering.graph.producer(operand).op
    return op if op in ACTIVATIONS and not lowering.graph.is_constant(operand) else ""


def _operand(lowering: Lowering, operand: Operand) -> Layout:
    return lowering.layout(operand) if isinstance(operand, str) else lowering.number(operand)


def activation(lowering: Lowering, node: Node) -> None:
    """y = activation(x), of what no product and no other op takes along."""
    x = lowering.layout(node.values[0])
    y = lowering.buffer(node.key, lowering.result_element(node.key))
    pointwise(lowering, node.key, contiguous(y.name, node.types[0].shape), x, node.op)


def bias_activation(lowering: Lowering, node: Node) -> None:
    """bias_gelu of what is no product, or of one that others read too."""
    x, bias = node.values
    given: dict[str, Any] = {"x": lowering.dense(x), "bias": lowering.weight(bias), "y": lowering.buffer(node.key)}
    count = product(node.types[0].shape)
    given |= {"count": count, "n": node.types[0].shape[-1], "ACTIVATION": node.op.removeprefix("bias_")}
    grid = [Size(count.factor, count.names, 2048)]
    launch = lowering.launch("bias_gelu", "bias_activation", grid, 8, [node.key], **given, HAS_BIAS=True, BLOCK=2048)
    lowering.step(node.key, [launch])


def concat(lowering: Lowering, node: Node) -> None:
    """A copy of each part into its place; the axis has sizes that are known."""
    whole = contiguous(lowering.buffer(node.key).name, node.types[0].shape)
    axis, start = axis_of(lowering, node), 0
    for part in node.values:
        size = int(lowering.shape(part)[axis])
        place = whole.part(axis, start, size)
        if place is None:
            raise lowering.refusal(node, "parts are joined along axes behind those whose sizes have names")
        pointwise(lowering, f"{node.key}.{part}", place, lowering.layout(part))
        start += size


def embedding(lowering: Lowering, node: Node) -> None:
    """y[..., :] = table[ids[...], :]"""
    table, ids = node.values
    _take_rows(lowering, node, lowering.layout(table), ids)


def first_tokens(lowering: Lowering, node: Node) -> None:
    """y[b] = x[starts[b]]"""
    x, starts = node.values
    _take_rows(lowering, node, lowering.view(x).layout, starts)


def _take_rows(lowering: Lowering, node: Node, table: Layout, rows: str) -> None:
    """Rows of a table, whose entries are side by side, by their numbers."""
    n, row = int(node.types[0].shape[-1]), table.strides[0]
    numbers = lowering.layout(rows)
    y = lowering.buffer(node.key, lowering.element_in(table.buffer))
    given: dict[str, Any] = {"x": table.place, "rows": numbers.place, "y": y, "row": fixed(row), "n": n}
    grid = [product(numbers.shape)]
    launch = lowering.launch("take_rows", "take_rows", grid, 4, [y.name], **given, BLOCK=power(n))
    lowering.step(node.key, [launch])


def take_along(lowering: Lowering, node: Node) -> None:
    """y[..., i, j] = x[..., i, columns[i, j]], the columns as they lie in a table for more places."""
    x, columns = node.values
    *_, rows, count = node.types[0].shape
    table = lowering.layout(columns)
    given: dict[str, Any] = {"x": lowering.dense(x), "row": number(lowering.shape(x)[-1])}
    given |= {"columns": table.place, **strides("columns", table)}
    y = lowering.buffer(node.key)
    given |= {"y": y, "rows": number(rows), "count": number(count), "BLOCK": WIDEST}
    grid = [product(node.types[0].shape[:-1]), blocks(count, WIDEST)]
    lowering.step(node.key, [lowering.launch("take_along", "take_along", grid, 4, [y.name], **given)])


def sum_(lowering: Lowering, node: Node) -> None:
    """Sums are kept in float32: those of many tokens may be more than an f16 can say."""
    x = lowering.layout(node.values[0])
    if len(x.shape) > 3:
        raise lowering.refusal(node, "sums are of values with three axes at most")
    axis = axis_of(lowering, node)
    rest = x.without(axis)
    total = lowering.buffer(node.key, "f32" if node.types[0].is_float else "i32")
    left = rest.broadcast(with_axes(rest.shape, 2))
    given: dict[str, Any] = {"x": x.place, "along": fixed(x.strides[axis]), "count": number(x.shape[axis])}
    given |= strides("x", left) | {f"size_{index}": number(size) for index, size in enumerate(left.shape)}
    grid = [product([left.shape[0]]), blocks(left.shape[1], 64)]
    launch = lowering.launch("sums", "sum_along", grid, 2, [total.name], **given, total=total, BLOCK=64)
    lowering.step(node.key, [launch])


def axis_of(lowering: Lowering, node: Node) -> int:
    """The axis along which a node works, counted from the front."""
    axis: int = node.attribute("axis")
    return len(lowering.shape(node.values[0])) + axis


LOWERINGS: dict[str, Callable[[Lowering, Node], None]] = {
    **dict.fromkeys(("add", "subtract", "multiply", "divide", "maximum"), binary),
    **dict.fromkeys(ACTIVATIONS, activation),
    **dict.fromkeys(("bias_gelu", "bias_gelu_tanh"), bias_activation),
    "concat": concat,
    "embedding": embedding,
    "first_tokens": first_tokens,
    "take_along": take_along,
    "sum": sum_,
}

"""The ways to compute a product with a weight, and what stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertc.graph import UNUSED, Node
from bertc.kernels.hopper import DEPTH
from bertc.targets.cuda import folding, qkv_attention
from bertc.targets.cuda.compile_kernels import HOPPER
from bertc.targets.cuda.elementwise import ACTIVATIONS, blocks, number, strides
from bertc.targets.cuda.hopper import MULTIPROCESSORS, Folded, launches, specialised_tiles
from bertc.targets.cuda.norms import normed, two
from bertc.targets.cuda.plan import Launch, Operation, Place, Product, Size, Tiles
from bertc.targets.cuda.views import View, contiguous, with_axes
from bertc.targets.cuda.views import product as sizes
from bertc.types import BITS

if TYPE_CHECKING:
    from bertc.targets.cuda.lower import Lowering

FEW = 192
"""Rows up to which our own products are taken where nothing was timed: above, cuBLASLt's tiles fill the GPU."""

TILES = {
    "f16": ((64, 64, 64, 6, 4), (64, 64, 64, 12, 4), (64, 32, 128, 4, 4), (128, 32, 128, 4, 8), (64, 128, 64, 4, 4)),
    "f32": ((64, 64, 32, 3, 4), (32, 32, 32, 3, 4)),
}
"""ROWS, COLUMNS, DEPTH, STAGES and warps that our own product is offered in; bf16 as f16."""

NARROW = ((16, 32, 64, 4, 4), (16, 16, 128, 4, 4), (16, 16, 256, 3, 4))
"""The same of products with few rows or columns: a head's."""

ROW = (8, 4)
"""COLUMNS and warps of a product of single rows, which has all of a weight's columns at once: up to ROW_WIDTH."""

ROW_WIDTH = 2048

LARGE = ((128, 256, 64), (128, 128, 64))
"""ROWS, COLUMNS and DEPTH of Triton's products for many rows."""

GROUP = 4
"""Rows of those tiles that are at work together."""

SPLITS = (2, 4, 6)
"""Into how many parts the sum of a product before a norm may be cut."""

Way = Sequence[Operation]

SMALL = (64, 64, 32, 4)
"""ROWS, COLUMNS, DEPTH and warps of products of two values, which are there when a fusion is left out."""


@dataclass(frozen=True)
class Tail:
    """What a product takes along: a bias, an activation or a skip_norm, and the node whose results it computes."""

    last: Node
    bias: str | None
    activation: str = ""
    norm: Node | None = None
    residual: str = ""
    """What the norm adds to the product."""


@dataclass(frozen=True)
class Linear:
    """y = activation(x · wᵀ + bias): x [rows, k], or what its norm is made of; w, the name of a constant [n, k]; bias
    [n] or nothing."""

    x: View
    w: str
    bias: str | None
    n: int
    activation: str = ""
    norm: Folded | None = None

    @property
    def rows(self) -> Size:
        return Size(1, self.x.names)


def matmul(lowering: Lowering, node: Node) -> None:
    """A product with a weight and what follows it, or a product of two values."""
    x, w = node.values
    names_lead = all(isinstance(size, str) for size in lowering.shape(x)[:-1])
    if not (lowering.graph.is_constant(w) and len(lowering.shape(w)) == 2 and names_lead):
        _batched(lowering, node)
        return
    tail = _tail(lowering, node)
    n = int(node.types[0].shape[-1])
    narrow = is_narrow(lowering, node)
    view, folded = (_any_float(lowering, x), None) if narrow else _operand(lowering, x)
    weight = lowering.weight(lowering.rows_of(w)).name
    product = Linear(view, weight, tail.bias, n, tail.activation, folded)
    if tail.norm is None:
        element = lowering.result_element(tail.last.key) if narrow else None
        y = lowering.buffer(tail.last.key, element)
        linear(lowering, tail.last.key, x, product, y)
    elif folding.fits(lowering, x, n):
        folding.linear_and_norm(lowering, node, product, tail.norm, tail.residual)
    else:
        linear_and_norm(lowering, node, product, tail.norm, lowering.dense(tail.residual))


def is_narrow(lowering: Lowering, node: Node) -> bool:
    """Whether a node is a product with a weight of too few rows or columns for a library or large tiles: a head's. Its
    kernel reads and writes any type."""
    if node.op != "matmul":
        return False
    x, w = node.values
    weight = lowering.shape(w)
    return (
        lowering.graph.is_constant(w) and len(weight) == 2 and folding.is_small(lowering.shape(x)[:-1], int(weight[1]))
    )


def _any_float(lowering: Lowering, value: str) -> View:
    """A value as rows, in the plan's element type or in float32."""
    view = lowering.layout(value).view()
    return lowering.view(value) if view is None or lowering.element_in(view.buffer) == "i32" else view


def _operand(lowering: Lowering, value: str) -> tuple[View, Folded | None]:
    """A value as rows that products take, and where it is a folded norm the rows that this is made of."""
    folded = lowering.norms.get(value)
    return (lowering.rows_in(value, folded.total) if folded else _aligned(lowering, value)), folded


def _aligned(lowering: Lowering, value: str) -> View:
    """A value as rows that the library and the copy engine take. Columns of wider rows are copied unless they start at
    a multiple of 256 bytes, and rows at multiples of 16."""
    view, bytes = lowering.view(value), BITS[lowering.element] // 8
    dense = view.offset == 0 and view.row == Size(view.width)
    if dense or (view.offset * bytes % 256 == 0 and view.row.factor * bytes % 16 == 0):
        return view
    return lowering.rows_in(value, lowering.copy(value, view.layout, lowering.element))


def _tail(lowering: Lowering, node: Node) -> Tail:
    """What follows a product and nothing else reads."""
    graph, tail = lowering.graph, Tail(node, None)
    while True:
        readers = graph.users(tail.last.key)
        if len(readers) != 1 or graph.is_output(tail.last.key) or len(tail.last.results) != 1:
            return tail
        longer = _longer(lowering, tail, readers[0])
        if longer is None:
            return tail
        tail = longer
        lowering.done.add(tail.last.key)


def _longer(lowering: Lowering, tail: Tail, reader: Node) -> Tail | None:
    plain = not tail.activation and tail.norm is None
    if reader.op in ("add", "bias_gelu", "bias_gelu_tanh") and plain and tail.bias is None:
        bias = reader.inputs[1]
        n = int(reader.types[0].shape[-1])
        if isinstance(bias, str) and reader.inputs[0] == tail.last.key and folding.is_vector(lowering, bias, n):
            return Tail(reader, bias, reader.op.removeprefix("bias_") if reader.op != "add" else "")
    if reader.op in ACTIVATIONS and plain:
        return Tail(reader, tail.bias, reader.op)
    if reader.op == "skip_norm" and plain and tail.last.key in reader.values[:2]:
        other = next(value for value in reader.values[:2] if value != tail.last.key)
        if other in lowering.layouts or other in lowering.norms:
            return Tail(reader, tail.bias, norm=reader, residual=other)
    return None


def _batched(lowering: Lowering, node: Node) -> None:
    """x · y over four axes, the two in front broadcast."""
    shape = with_axes(node.types[0].shape, 4)
    given: dict[str, Any] = {"z": lowering.buffer(node.key), "size_1": number(shape[1])}
    for letter, value in zip("xy", node.values, strict=True):
        layout = lowering.layout(value)
        layout = layout.broadcast((*shape[:2], *layout.shape[-2:]))
        given |= strides(letter, layout) | {letter: layout.place}
    rows, columns, depth, warps = SMALL
    given |= {
        "rows": number(shape[2]),
        "columns": number(shape[3]),
        "depth": number(lowering.shape(node.values[0])[-1]),
    }
    given |= {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth, "PRECISION": lowering.precision}
    grid = [sizes(shape[:2]), blocks(shape[2], rows), blocks(shape[3], columns)]
    launch = lowering.launch("batched_product", "batched_product", grid, warps, [node.key], **given)
    lowering.step(node.key, [launch])


def linear(lowering: Lowering, name: str, x: str, product: Linear, y: Place) -> None:
    """A step that computes a product of a value: by kernels that take norms along, where these fit; else ours for few
    rows, ours in large tiles or the library's for many."""
    if folding.fits(lowering, x, product.n):
        folding.linear(lowering, name, product, y)
        return
    if folding.is_small(product.x.names, product.n):
        small: list[Way] = [[_row(lowering, product, y)]] if product.x.width <= ROW_WIDTH else []
        small += [[_few(lowering, product, y, 1, tile)] for tile in NARROW]
        lowering.step(name, *small, choices=((FEW, 0), (0, len(small) - len(NARROW))))
        return
    ways: list[Way] = [[_few(lowering, product, y, 1, tile)] for tile in _tiles(lowering)]
    ways += [[_plain_tiles(lowering, product, y, tile)] for tile in _plain_large(lowering, product)]
    ways += [launches(lowering, product, y, tile) for tile in _specialised_tiles(lowering, product)]
    ways.append(_library(lowering, product, y))
    lowering.step(name, *ways, choices=((FEW, 0), (0, len(ways) - 1)))


def linear_and_norm(lowering: Lowering, node: Node, product: Linear, norm: Node, residual: Place) -> None:
    """A step that computes a product, adds a residual and takes the norm: split, or the library's, or ours in large
    tiles, with the residual added to it."""
    n = product.n
    _, _, scale, shift = norm.values
    normal, total = two(lowering, norm)
    bias = _bias(lowering, product)
    ways: list[Way] = []
    for parts in SPLITS:
        if product.x.width % (parts * 64) == 0:
            sums = lowering.memory(f"{node.key}.parts.{parts}", "f32", (parts, *product.x.names, n))
            end = normed(lowering, norm, sums, parts, bias, residual, scale, shift, normal, total)
            ways += [[_few(lowering, product, sums, parts, tile), end] for tile in _tiles(lowering)]
    split = len(ways)
    summed = total or lowering.buffer(node.key)
    adding = normed(lowering, norm, summed, 1, None, residual, scale, shift, normal, total)
    after = normed(lowering, norm, summed, 1, None, None, scale, shift, normal, None)
    tiles = _specialised_tiles(lowering, product)
    if lowering.element == "bf16":  # rounded behind the residual, the sum would lose as much as all weights do
        ways += [[*launches(lowering, product, summed, tile), adding] for tile in tiles]
        ways.append([_product(product, lowering, summed, bias), adding])
    else:
        ways += [[*launches(lowering, product, summed, tile, residual), after] for tile in tiles]
        ways.append([_product(product, lowering, summed, bias), adding])
        ways.append([_product(product, lowering, summed, bias, residual=residual), after])
    lowering.step(norm.key, *ways, choices=((FEW, max(0, split - 1)), (0, len(ways) - 1)))


def _plain_large(lowering: Lowering, product: Linear) -> list[tuple[int, int, int]]:
    """The large tiles that Triton's product is offered in."""
    if lowering.architecture == HOPPER or not _is_large(lowering, product):
        return []
    return [tile for tile in LARGE if product.n % tile[1] == 0]


def _specialised_tiles(lowering: Lowering, product: Linear) -> list[dict[str, int]]:
    """The large tiles that warps with roles are offered."""
    if lowering.architecture != HOPPER or not _is_large(lowering, product):
        return []
    return specialised_tiles(product.n, product.x.width)


def _is_large(lowering: Lowering, product: Linear) -> bool:
    """Whether the copy engine takes what a product reads, of an encoder's rows."""
    is_half = lowering.is_programmatic and lowering.element != "f32"
    return is_half and product.x.names in folding.ROWS and product.x.width % DEPTH == 0


def _tiles(lowering: Lowering) -> tuple[tuple[int, int, int, int, int], ...]:
    return TILES["f32" if lowering.element == "f32" else "f16"]


def _bias(lowering: Lowering, product: Linear) -> Place:
    return lowering.weight(product.bias) if product.bias else lowering.zeros(product.n)


def _few(lowering: Lowering, product: Linear, y: Place, parts: int, tile: tuple[int, ...]) -> Launch:
    rows, columns, depth, stages, warps = tile
    x, n = product.x, product.n
    given: dict[str, Any] = {"x": Place(x.buffer, x.offset), "w": Place(product.w), "y": y, "row": x.row}
    given |= {"bias": _bias(lowering, product), "rows": product.rows, "n": n, "k": x.width, "SPLIT": parts}
    given |= {"ACTIVATION": product.activation, "PRECISION": lowering.precision, "STAGES": stages}
    given |= {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}
    grid = [Size(-(-n // columns)), Size(1, x.names, rows), Size(parts)]
    return lowering.launch("linear", "linear", grid, warps, [y.name], **given)


def _row(lowering: Lowering, product: Linear, y: Place) -> Launch:
    (columns, warps), x, n = ROW, product.x, product.n
    given: dict[str, Any] = {"x": Place(x.buffer, x.offset), "w": Place(product.w), "y": y, "row": x.row}
    given |= {"bias": _bias(lowering, product), "n": n, "k": x.width, "ACTIVATION": product.activation}
    given |= {"COLUMNS": columns, "BLOCK": 1 << (x.width - 1).bit_length()}
    grid = [Size(1, x.names), Size(-(-n // columns))]
    return lowering.launch("linear_row", "linear_row", grid, warps, [y.name], **given)


def _plain_tiles(lowering: Lowering, product: Linear, y: Place, tile: tuple[int, int, int]) -> Launch:
    (rows, columns, depth), n = tile, product.n
    given = _boxes(product, rows, columns, depth) | {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth, "GROUP": GROUP}
    given |= {"rows": product.rows, "n": n, "k": product.x.width, "PROGRAMS": MULTIPROCESSORS}
    given |= {"bias": _bias(lowering, product), "ACTIVATION": product.activation}
    given["y"] = Tiles(y, product.rows, n, Size(n), (rows, columns // 2))
    return lowering.launch("linear_tiles", "linear_tiles", [Size(MULTIPROCESSORS)], 8, [y.name], **given)


def _boxes(product: Linear, rows: int, columns: int, depth: int) -> dict[str, Any]:
    """x and w, of which boxes of so many rows, columns of the product and columns of both are loaded at once."""
    x = product.x
    return {
        "x": Tiles(Place(x.buffer, x.offset), product.rows, x.width, x.row, (rows, depth)),
        "w": Tiles(Place(product.w), Size(product.n), x.width, Size(x.width), (columns, depth)),
    }


def _library(lowering: Lowering, product: Linear, y: Place) -> Way:
    bias, names, n = _bias(lowering, product), product.x.names, product.n
    if product.activation in ("", "relu", "gelu_tanh"):
        return [_product(product, lowering, y, bias, end=product.activation)]
    given: dict[str, Any] = {"x": y, "bias": bias, "y": y, "count": Size(n, names), "n": n}
    given |= {"ACTIVATION": product.activation, "HAS_BIAS": False, "BLOCK": 2048}
    activation = lowering.launch("bias_gelu", "bias_activation", [Size(n, names, 2048)], 8, [y.name], **given)
    return [_product(product, lowering, y, bias), activation]


def _product(product: Linear, lowering: Lowering, y: Place, bias: Place, **rest: Any) -> Product:
    x = product.x
    return Product(
        Place(x.buffer, x.offset), Place(product.w), y, product.rows, x.row, product.n, x.width, bias=bias, **rest
    )


def qkv_projection(lowering: Lowering, node: Node) -> None:
    """One product; query, key and value are columns of it. Or one kernel with the attention that reads them."""
    x, rows, bias = node.values
    heads, size = node.attribute("heads"), node.attribute("size")
    width = heads * size
    view, folded = _operand(lowering, x)
    projection = Linear(view, lowering.weight(rows).name, bias, 3 * width, norm=folded)
    reader = qkv_attention.reader(lowering, node)
    if reader is not None:
        qkv_attention.qkv_attention(lowering, projection, reader)
        return
    *rest, _ = lowering.shape(x)
    merged = contiguous(f"{node.key}.merged", (*rest, 3, heads, size))
    axis = len(rest)
    for index, result in enumerate(node.results):
        part = merged.part(axis, index, 1)
        if part is not None and result != UNUSED:
            lowering.layouts[result] = part.without(axis).transposed((*range(axis - 1), axis, axis - 1, axis + 1))
    y = lowering.memory(merged.buffer, lowering.element, merged.shape)
    linear(lowering, node.key, x, projection, y)


LOWERINGS: dict[str, Callable[[Lowering, Node], None]] = {"matmul": matmul, "qkv_projection": qkv_projection}

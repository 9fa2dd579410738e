"""The ways to compute a product with a weight, and what stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertc.graph import Node
from bertc.targets.cuda.plan import Launch, Operation, Place, Product, Size, Tiles
from bertc.targets.cuda.views import View

if TYPE_CHECKING:
    from bertc.targets.cuda.lower import Lowering

FEW = 192
"""Rows up to which our own products are taken where nothing was timed: above, cuBLASLt's tiles fill the GPU."""

TILES = {
    "f16": ((64, 64, 64, 6, 4), (64, 64, 64, 12, 4), (64, 32, 128, 4, 4), (128, 32, 128, 4, 8), (64, 128, 64, 4, 4)),
    "f32": ((64, 64, 32, 3, 4), (32, 32, 32, 3, 4)),
}
"""ROWS, COLUMNS, DEPTH, STAGES and warps that our own product is offered in; bf16 as f16."""

LARGE = ((128, 256, 64, 3), (128, 128, 64, 4))
"""ROWS, COLUMNS, DEPTH and STAGES of our products for many rows."""

GROUP = 8
"""Rows of large tiles that are at work together."""

MULTIPROCESSORS = 132
"""Of an H100 or H200 (SXM): how many programs share the tiles."""

SPLITS = (2, 4, 6)
"""Into how many parts the sum of a product before a norm may be cut."""

Way = Sequence[Operation]


@dataclass(frozen=True)
class Linear:
    """y = activation(x · wᵀ + bias): x [rows, k]; w, the name of a constant [n, k]; bias [n] or nothing."""

    x: View
    w: str
    bias: str | None
    n: int
    activation: str = ""

    @property
    def rows(self) -> Size:
        return Size(1, self.x.names)


def linear(lowering: Lowering, name: str, product: Linear, y: Place) -> None:
    """A step that computes a product: ours for few rows, ours in large tiles or the library's for many."""
    x = product.x
    if x.names not in (("batch", "seq"), ("tokens",)) or product.n < 64:
        lowering.step(name, [_few(lowering, product, y, 1, (16, 32, 64, 4, 4))])
        return
    ways: list[Way] = [[_few(lowering, product, y, 1, tile)] for tile in _tiles(lowering)]
    for tile in _large_tiles(lowering, product):
        ways += [[_plain_tiles(lowering, product, y, tile)], [_specialised(lowering, product, y, tile)]]
    ways.append(_library(lowering, product, y))
    lowering.step(name, *ways, choices=((FEW, 0), (0, len(ways) - 1)))


def linear_and_norm(lowering: Lowering, node: Node, product: Linear, norm: Node, residual: Place) -> None:
    """A step that computes a product, adds a residual and takes the norm: split, or the library's, or ours in large
    tiles, with the residual added to it."""
    n = product.n
    _, _, scale, shift = norm.values
    normal, total = lowering.two(norm)
    bias = _bias(lowering, product)
    ways: list[Way] = []
    for parts in SPLITS:
        if product.x.width % (parts * 64) == 0:
            sums = lowering.memory(f"{node.key}.parts.{parts}", "f32", parts * n, product.x.names)
            end = lowering.norm(norm, sums, parts, bias, residual, scale, shift, normal, total)
            ways += [[_few(lowering, product, sums, parts, tile), end] for tile in _tiles(lowering)]
    summed = total or lowering.buffer(node.key)
    after = lowering.norm(norm, summed, 1, None, None, scale, shift, normal, None)
    for tile in _large_tiles(lowering, product):
        ways.append([_specialised(lowering, product, summed, tile, residual), after])
    ways += [
        [
            _product(product, lowering, summed, bias),
            lowering.norm(norm, summed, 1, None, residual, scale, shift, normal, total),
        ],
        [_product(product, lowering, summed, bias, residual=residual), after],
    ]
    lowering.step(norm.key, *ways, choices=((FEW, max(0, len(ways) - 3)), (0, len(ways) - 1)))


def _large_tiles(lowering: Lowering, product: Linear) -> list[tuple[int, int, int, int]]:
    """The large tiles that a product can be cut into."""
    if not lowering.programmatic or lowering.element == "f32" or product.x.names not in (("batch", "seq"), ("tokens",)):
        return []
    return [tile for tile in LARGE if product.n % tile[1] == 0 and product.x.width % tile[2] == 0]


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


def _plain_tiles(lowering: Lowering, product: Linear, y: Place, tile: tuple[int, int, int, int]) -> Launch:
    given = _boxes(product, y, tile, (tile[0], tile[1] // 2))
    given |= {"bias": _bias(lowering, product), "ACTIVATION": product.activation, "PROGRAMS": MULTIPROCESSORS}
    return lowering.launch("linear_tiles", "linear_tiles", [Size(MULTIPROCESSORS)], 8, [y.name], **given)


def _specialised(
    lowering: Lowering, product: Linear, y: Place, tile: tuple[int, int, int, int], residual: Place | None = None
) -> Launch:
    given = _boxes(product, y, tile, (tile[0], 64)) | {"bias": _bias(lowering, product), "STAGES": tile[3]}
    given |= {"ACTIVATION": product.activation, "residual": residual or y, "HAS_RESIDUAL": residual is not None}
    return lowering.launch("linear_specialised", "linear_specialised", [Size(MULTIPROCESSORS)], 8, [y.name], **given)


def _boxes(product: Linear, y: Place, tile: tuple[int, int, int, int], stored: tuple[int, int]) -> dict[str, Any]:
    """What products in large tiles take; a box of `stored` is stored at once."""
    (rows, columns, depth, _), x, n = tile, product.x, product.n
    given: dict[str, Any] = {"rows": product.rows, "n": n, "k": x.width, "GROUP": GROUP}
    given |= {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}
    given["x"] = Tiles(Place(x.buffer, x.offset), product.rows, x.width, x.row, (rows, depth))
    given["w"] = Tiles(Place(product.w), Size(n), x.width, Size(x.width), (columns, depth))
    return given | {"y": Tiles(y, product.rows, n, Size(n), stored)}


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

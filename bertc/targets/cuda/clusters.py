"""Products of few rows by clusters of blocks, with the norms around them: see bertc.kernels.linear_cluster.

A norm is folded where all that reads it are such products and the residuals of such products. Then no kernel takes it:
it is the sum, scaled, and each row's moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertc.graph import UNUSED, Node
from bertc.kernels.hopper import DEPTH
from bertc.kernels.linear_cluster import GRANULE, shared_bytes, warps
from bertc.ops import Array
from bertc.targets.cuda.norms import normed, parameter, two
from bertc.targets.cuda.plan import ELEMENTS, Launch, Place, Size, Tiles
from bertc.targets.cuda.views import Layout, contiguous
from bertc.types import Shape

if TYPE_CHECKING:
    from bertc.targets.cuda.lower import Lowering
    from bertc.targets.cuda.products import Linear

ROWS = (("batch", "seq"), ("tokens",))
"""The sizes that count an encoder's rows."""

SHARED_MEMORY = 227 << 10
"""Bytes of shared memory that a block may have: compute capability 9.0, the only one with these instructions."""

TILES = (
    (64, 64, 1, 4, SHARED_MEMORY),
    (64, 48, 1, 4, SHARED_MEMORY),
    (64, 96, 2, 1, SHARED_MEMORY),
    (64, 64, 4, 1, SHARED_MEMORY),
    (64, 64, 4, 1, SHARED_MEMORY // 2),
    (64, 64, 2, 1, SHARED_MEMORY),
    (128, 64, 2, 1, SHARED_MEMORY),
    (128, 96, 2, 1, SHARED_MEMORY),
    (128, 48, 2, 1, SHARED_MEMORY),
    (128, 64, 4, 1, SHARED_MEMORY),
    (64, 128, 8, 1, SHARED_MEMORY),
)
"""ROWS, COLUMNS, SPLIT, SHARED and the bytes that operands on their way may take: with half of the memory, the blocks
of the next kernel find room beside these."""


@dataclass(frozen=True)
class Folded:
    """scale · (total - mean) / √(var + eps) + shift, as what its readers make it of."""

    scaled: Layout
    """scale · total, [*names, n]."""
    moments: Place
    """float32 [n / GRANULE, rows, 2]: the mean of each granule of a row, and its sum of squares around that."""
    scale: str
    shift: str
    eps: float


def fits(lowering: Lowering, x: str, n: int) -> bool:
    """Whether a product of a value with a weight [n, k] is one that clusters take."""
    *names, k = lowering.shape(x)
    return lowering.folding and not is_small(tuple(names), n) and bool(_tiles(n, int(k), moments=False))


def is_small(names: Shape, n: int) -> bool:
    """Whether a product has too few rows or columns for a library or large tiles: a head's."""
    return names not in ROWS or n < 64


def is_vector(lowering: Lowering, value: str, n: int) -> bool:
    """Whether a value is a constant [n]."""
    return lowering.graph.is_constant(value) and lowering.shape(value) == (n,)


def folds(lowering: Lowering, norm: Node) -> bool:
    """Whether all that reads a norm of a product's sum can make it of the sum."""
    normal, total = norm.results
    graph, n = lowering.graph, int(norm.types[0].shape[-1])
    readers = graph.users(normal)
    unread = total == UNUSED and not graph.is_output(normal)
    return unread and n % GRANULE == 0 and all(_takes(lowering, reader, normal) for reader in readers)


def _takes(lowering: Lowering, reader: Node, value: str) -> bool:
    if reader.op == "skip_norm":
        others = [other for other in reader.values[:2] if other != value]
        return len(others) == 1 and _is_product(lowering, others[0])
    if reader.op in ("matmul", "qkv_projection"):
        return list(reader.values).count(value) == 1 and reader.values[0] == value and _is_cluster(lowering, reader)
    return False


def _is_product(lowering: Lowering, value: str) -> bool:
    """Whether a value is a product that takes the norm behind it along: not computed yet, read by nothing else, with
    one bias at most."""
    graph = lowering.graph
    chain = [graph.producer(value)]
    bias = chain[0].inputs[1] if chain[0].op == "add" else None
    if isinstance(bias, str) and is_vector(lowering, bias, int(chain[0].types[0].shape[-1])):
        chain.append(graph.producer(chain[0].values[0]))
    alone = all(len(graph.users(node.key)) == 1 and not graph.is_output(node.key) for node in chain)
    waits = all(node.key not in lowering.layouts for node in chain)
    return alone and waits and chain[-1].op == "matmul" and _is_cluster(lowering, chain[-1])


def _is_cluster(lowering: Lowering, node: Node) -> bool:
    w = node.values[1]
    weight = lowering.shape(w)
    n = int(weight[0] if node.op == "qkv_projection" else weight[-1])
    return lowering.graph.is_constant(w) and len(weight) == 2 and fits(lowering, node.values[0], n)


def linear(lowering: Lowering, name: str, product: Linear, y: Place) -> None:
    """A step: y = activation(x · wᵀ + bias)."""
    tiles = _tiles(product.n, product.x.width, moments=False)
    lowering.step(name, *([_launch(lowering, product, y, tile)] for tile in tiles))


def linear_and_norm(lowering: Lowering, node: Node, product: Linear, norm: Node, residual: str) -> None:
    """A step: a product and a residual, and their norm, or what it can be made of."""
    _, _, scale, shift = norm.values
    normal = norm.results[0]
    tiles = _tiles(product.n, product.x.width, moments=True)
    added = lowering.norms.get(residual)
    beside = added.scaled.place if added else lowering.dense(residual)
    if not (tiles and folds(lowering, norm)):
        place, total = two(lowering, norm)
        summed = total or lowering.buffer(node.key)
        after = normed(lowering, norm, summed, 1, None, None, scale, shift, place, None)
        tiles = _tiles(product.n, product.x.width, moments=False)
        ways = ([_launch(lowering, product, summed, tile, beside, added), after] for tile in tiles)
        lowering.step(norm.key, *ways)
        return
    shape = norm.types[0].shape
    scaled = contiguous(f"{normal}.scaled", shape)
    lowering.memory(scaled.buffer, lowering.element, shape)
    moments = lowering.memory(f"{normal}.moments", "f32", (2 * (product.n // GRANULE), *shape[:-1]))
    folded = Folded(scaled, moments, scale, shift, float(norm.attribute("eps")))
    ways = ([_launch(lowering, product, scaled.place, tile, beside, added, folded)] for tile in tiles)
    lowering.step(norm.key, *ways)
    lowering.norms[normal] = folded


def _tiles(n: int, k: int, *, moments: bool) -> list[dict[str, int]]:
    """The tiles that a product can be cut into; with moments, those of whole granules."""
    found: list[dict[str, int]] = []
    for rows, columns, split, shared, room in TILES:
        if n % (columns * shared) or k % (split * DEPTH) or k % GRANULE or (moments and columns % GRANULE):
            continue
        boxes = k // split // DEPTH
        tile = {"ROWS": rows, "COLUMNS": columns, "SPLIT": split, "SHARED": shared}
        whole = next(count for count in (4, 3, 2, 1) if count == 1 or (boxes % count == 0 and boxes // count >= 3))
        stages = room // (2 * DEPTH * (rows + columns))
        if boxes <= stages:
            tile |= {"CHUNK": whole, "STAGES": boxes // whole}
        elif shared == 1 and stages >= 3:
            tile |= {"CHUNK": 1, "STAGES": stages}
        if "STAGES" in tile and tile not in found and shared_bytes(tile) <= SHARED_MEMORY:
            found.append(tile)
    return found


def _launch(
    lowering: Lowering,
    product: Linear,
    y: Place,
    tile: dict[str, int],
    residual: Place | None = None,
    added: Folded | None = None,
    norm: Folded | None = None,
) -> Launch:
    """The kernel of a product, of x or of x's norm. `added`: the norm that the residual is made to; `norm`: what the
    product leaves of its own."""
    x, n, folded = product.x, product.n, product.norm
    bias, w_sums = _constants(lowering, product)
    given: dict[str, Any] = {"ELEMENT": lowering.element, "N": n, "K": x.width, **tile}
    given |= {"ACTIVATION": product.activation, "X_NORM": folded is not None, "R_NORM": added is not None}
    given |= {"HAS_RESIDUAL": residual is not None, "HAS_MOMENTS": norm is not None}
    given |= {"X_EPS": folded.eps if folded else 0.0, "R_EPS": added.eps if added else 0.0}
    rows = product.rows
    given["x"] = Tiles(Place(x.buffer, x.offset), rows, x.width, x.row, (tile["ROWS"], DEPTH))
    given["w"] = Tiles(Place(product.w), Size(n), x.width, Size(x.width), (tile["COLUMNS"], DEPTH))
    given |= {"bias": bias, "w_sums": w_sums, "x_moments": folded.moments if folded else bias}
    given["residual"] = residual or y
    given |= {"r_moments": added.moments if added else bias}
    given |= {"r_scale": parameter(lowering, added.scale) if added else bias}
    given |= {"r_shift": parameter(lowering, added.shift) if added else bias}
    given |= {"y": y, "y_moments": norm.moments if norm else bias, "rows": rows}
    given["y_scale"] = parameter(lowering, norm.scale) if norm else bias
    grid = [Size(tile["SPLIT"] * tile["SHARED"]), Size(n // (tile["COLUMNS"] * tile["SHARED"]))]
    grid.append(Size(1, rows.names, tile["ROWS"]))
    writes = [y.name, *([norm.moments.name] if norm else [])]
    return lowering.launch("linear_cluster", "linear_cluster", grid, warps(tile), writes, **given)


def _constants(lowering: Lowering, product: Linear) -> tuple[Place, Place]:
    """The bias in float32, and what the mean of a norm is multiplied by: with x = norm(total),
    bias + w · shift and w · scale."""
    folded, w = product.norm, product.w
    bias = f"{w} + {product.bias}" + (f" + {w} · {folded.shift}" if folded else "")
    sums = f"{w} · {folded.scale}" if folded else bias
    if bias not in lowering.constants:
        own = lowering.float32(product.bias) if product.bias else np.zeros(product.n, np.float32)
        added = _stored(lowering, w) @ lowering.float32(folded.shift) if folded else 0.0
        lowering.constants[bias] = ("f32", own + added)
    if folded and sums not in lowering.constants:
        lowering.constants[sums] = ("f32", _stored(lowering, w) @ lowering.float32(folded.scale))
    return Place(bias), Place(sums)


def _stored(lowering: Lowering, w: str) -> Array:
    """A weight as the kernel reads it, rounded, so that a row's mean goes out of it exactly."""
    element, values = lowering.constants[w]
    return values.astype(ELEMENTS[element]).astype(np.float32)

"""Norms that products take along, by kernels of Hopper's own.

A norm is folded where all that reads it are such products and the residuals of such products. Then no kernel takes it.
Its sum stays, also for residuals that read just that, as where norms stand in front of layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bertc.graph import UNUSED, Node
from bertc.kernels.hopper import GRANULE
from bertc.targets.cuda.hopper import (
    COUNTED,
    FEW,
    Folded,
    cluster_tiles,
    effort,
    launches,
    rounds,
    specialised_tiles,
)
from bertc.targets.cuda.norms import normed, two
from bertc.targets.cuda.plan import Operation, Place
from bertc.targets.cuda.views import contiguous
from bertc.types import Shape

if TYPE_CHECKING:
    from bertc.targets.cuda.lower import Lowering
    from bertc.targets.cuda.products import Linear

ROWS = (("batch", "seq"), ("tokens",))
"""The sizes that count an encoder's rows."""


def fits(lowering: Lowering, x: str, n: int) -> bool:
    """Whether a product of a value with a weight [n, k] is one that takes norms along."""
    *names, k = lowering.shape(x)
    return lowering.folding and not is_small(tuple(names), n) and bool(_tiles(lowering, n, int(k)))


def is_small(names: Shape, n: int) -> bool:
    """Whether a product has too few rows or columns for a library or large tiles: a head's."""
    return names not in ROWS or n < 64


def is_vector(lowering: Lowering, value: str, n: int) -> bool:
    """Whether a value is a constant [n]."""
    return lowering.graph.is_constant(value) and lowering.shape(value) == (n,)


def folds(lowering: Lowering, norm: Node) -> bool:
    """Whether all that reads a norm of a product's sum can make it of the sum."""
    normal, _ = norm.results
    graph, n = lowering.graph, int(norm.types[0].shape[-1])
    is_inside = normal != UNUSED and not graph.is_output(normal)
    return is_inside and n % GRANULE == 0 and all(_takes(lowering, reader, normal) for reader in graph.users(normal))


def _takes(lowering: Lowering, reader: Node, value: str) -> bool:
    if reader.op == "skip_norm":
        others = [other for other in reader.values[:2] if other != value]
        return len(others) == 1 and _is_product(lowering, others[0])
    if reader.op in ("matmul", "qkv_projection"):
        return list(reader.values).count(value) == 1 and reader.values[0] == value and _fits(lowering, reader)
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
    return alone and waits and chain[-1].op == "matmul" and _fits(lowering, chain[-1])


def _fits(lowering: Lowering, node: Node) -> bool:
    w = node.values[1]
    weight = lowering.shape(w)
    n = int(weight[0] if node.op == "qkv_projection" else weight[-1])
    return lowering.graph.is_constant(w) and len(weight) == 2 and fits(lowering, node.values[0], n)


def linear(lowering: Lowering, name: str, product: Linear, y: Place) -> None:
    """A step: y = activation(x · wᵀ + bias)."""
    tiles = _tiles(lowering, product.n, product.x.width)
    _step(lowering, name, product.n, tiles, [launches(lowering, product, y, tile) for tile in tiles])


def linear_and_norm(lowering: Lowering, node: Node, product: Linear, norm: Node, residual: str) -> None:
    """A step: a product and a residual, and their norm, or what it can be made of."""
    _, _, scale, shift = norm.values
    normal = norm.results[0]
    added = lowering.norms.get(residual)
    beside = added.total.place if added else lowering.dense(residual)
    if not (_tiles(lowering, product.n, product.x.width, moments=True) and folds(lowering, norm)):
        place, total = two(lowering, norm)
        summed = total or lowering.buffer(node.key)
        after = normed(lowering, norm, summed, 1, None, None, scale, shift, place, None)
        tiles = _tiles(lowering, product.n, product.x.width)
        ways = [[*launches(lowering, product, summed, tile, beside, added), after] for tile in tiles]
        _step(lowering, norm.key, product.n, tiles, ways)
        return
    read, shape = norm.results[1], norm.types[0].shape
    total = contiguous(f"{normal}.total" if read == UNUSED else read, shape)
    lowering.memory(total.buffer, lowering.element, shape)
    if read != UNUSED:
        lowering.layouts[read] = total
    moments = lowering.memory(f"{normal}.moments", "f32", (2 * (product.n // GRANULE), *shape[:-1]))
    folded = Folded(total, moments, scale, shift, float(norm.attribute("eps")))
    tiles = _tiles(lowering, product.n, product.x.width, moments=True)
    ways = [launches(lowering, product, total.place, tile, beside, added, folded) for tile in tiles]
    _step(lowering, norm.key, product.n, tiles, ways)
    lowering.norms[normal] = folded


def _step(
    lowering: Lowering, name: str, n: int, tiles: Sequence[Mapping[str, int]], ways: Sequence[Sequence[Operation]]
) -> None:
    """A step of one way for each tile, the clusters' in front. Where nothing is timed, the first of few rows; of many
    the large tile that takes least by count, of more than are counted the one of least effort."""
    large = [way for way, tile in enumerate(tiles) if "SPLIT" not in tile]
    of_many: list[tuple[int, int]] = []
    if large:
        of_many = [(rows, min(large, key=lambda way: rounds(tiles[way], n, rows))) for rows in COUNTED]
        of_many.append((0, min(large, key=lambda way: effort(tiles[way], n))))
    lowering.step(name, *ways, choices=((FEW, 0), *of_many), is_frugal=bool(large))


def _tiles(lowering: Lowering, n: int, k: int, *, moments: bool = False) -> list[dict[str, int]]:
    """Those of clusters where there are few rows, and those of warps with roles, but in bf16: they round a product
    before what follows it."""
    few = cluster_tiles(n, k, moments=moments) if lowering.few else []
    return [*few, *(specialised_tiles(n, k) if lowering.element == "f16" else [])]

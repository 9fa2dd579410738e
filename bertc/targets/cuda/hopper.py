"""Products by kernels of Hopper's own: the tiles that they are offered in, their launches, and the norms around them.

A norm that no kernel takes is a sum and each row's moments; products make it of those (linear_cluster.cu).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from bertc.kernels import linear_cluster, linear_specialised
from bertc.kernels.hopper import DEPTH, GRANULE
from bertc.ops import Array
from bertc.targets.cuda.norms import parameter
from bertc.targets.cuda.plan import EIGHT, EIGHTS, ELEMENTS, PAIRS, Operation, Place, Size, Tiles
from bertc.targets.cuda.views import Layout

if TYPE_CHECKING:
    from bertc.targets.cuda.lower import Lowering
    from bertc.targets.cuda.products import Linear

SHARED_MEMORY = 227 << 10
"""Bytes of shared memory that a block may have: compute capability 9.0, the only one with these instructions."""

CLUSTERS = (
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
    (128, 128, 1, 1, SHARED_MEMORY),
    (128, 128, 2, 1, SHARED_MEMORY),
    (128, 128, 4, 1, SHARED_MEMORY),
    (192, 128, 2, 1, SHARED_MEMORY),
    (64, 128, 8, 1, SHARED_MEMORY),
)
"""ROWS, COLUMNS, SPLIT, SHARED and the bytes that operands on their way may take: with half of the memory, the blocks
of the next kernel find room beside these."""


SPECIALISED = (
    (128, 256, 3, 2, 1),
    (128, 256, 3, 1, 1),
    (192, 192, 3, 1, 1),
    (192, 128, 4, 2, 1),
    (192, 128, 4, 1, 1),
    (128, 192, 4, 2, 1),
    (128, 256, 3, 4, 2),
)
"""ROWS, COLUMNS, STAGES, DOWN and OVER of the products for many rows whose warps have roles: those of 192 where tiles
of powers of two would leave multiprocessors idle. Clusters of eight have pairs beside them, on what they leave."""

CLUSTERED = 1024
"""Rows up to which tiles of clusters are offered."""

FEW = 512
"""Rows up to which small tiles are taken where nothing was timed. Up to CLUSTERED some of these may be faster than
large ones, which only timing tells."""

COUNTED = (1024, 2048, 4096, 8192)
"""Rows that large tiles are chosen for by rounds, where nothing was timed; of more, a part of a round costs less than
columns that are not there, and less than what smaller tiles read of the L2 cache."""

CENTRINGS = 3
"""Times that a weight is centred: rounding brings a mean back, of which the second and the third leave a fourth to
a ninth."""

MULTIPROCESSORS = 132
"""Of an H100 or H200 (SXM): how many programs share the tiles."""


@dataclass(frozen=True)
class Folded:
    """scale · (total - mean) / √(var + eps) + shift, as what its readers make it of."""

    total: Layout
    """[*names, n]."""
    moments: Place
    """float32 [n / GRANULE, rows, 2]: the mean of each granule of a row, and its sum of squares around that."""
    scale: str
    shift: str
    eps: float


def cluster_tiles(n: int, k: int, *, moments: bool) -> list[dict[str, int]]:
    """The tiles that a product can be cut into; with moments, those of whole granules."""
    found: list[dict[str, int]] = []
    for rows, columns, split, shared, room in CLUSTERS:
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
        if "STAGES" in tile and tile not in found and linear_cluster.shared_bytes(tile) <= SHARED_MEMORY:
            found.append(tile)
    return found


def specialised_tiles(n: int, k: int) -> list[dict[str, int]]:
    """The large tiles that a product can be cut into for warps with roles: what they have beyond its columns is an
    eighth of these at most."""
    if n % GRANULE or k % DEPTH:
        return []
    names = ("ROWS", "COLUMNS", "STAGES", "DOWN", "OVER")
    tiles: list[dict[str, int]] = [dict(zip(names, tile, strict=True)) for tile in SPECIALISED]
    return [tile for tile in tiles if 8 * (-n % tile["COLUMNS"]) <= n and -(-n // tile["COLUMNS"]) % tile["OVER"] == 0]


def rounds(tile: Mapping[str, int], n: int, rows: int) -> int:
    """What a large tile takes for so many rows by count: rounds of all multiprocessors, times the entries of a tile."""
    tiles = -(-rows // (tile["ROWS"] * tile["DOWN"])) * -(-n // tile["COLUMNS"]) * tile["DOWN"]
    return -(-tiles // MULTIPROCESSORS) * tile["ROWS"] * tile["COLUMNS"]


def effort(tile: Mapping[str, int], n: int) -> tuple[int, float]:
    """What a large tile takes of very many rows by count: the columns that it multiplies, n and those beyond; then what
    it reads of the L2 cache, entries of x and w for each of y over the columns of x. Blocks of a cluster share them."""
    reads = 1 / (tile["ROWS"] * tile["DOWN"]) + 1 / (tile["COLUMNS"] * tile["OVER"])
    return -(-n // tile["COLUMNS"]) * tile["COLUMNS"], reads


def launches(
    lowering: Lowering,
    product: Linear,
    y: Place,
    tile: dict[str, int],
    residual: Place | None = None,
    added: Folded | None = None,
    norm: Folded | None = None,
) -> list[Operation]:
    """The kernel of a product, of x or of x's norm, or the two that share its rows. `added`: the norm that the residual
    is made to; `norm`: what the product leaves of its own."""
    x, n, folded = product.x, product.n, product.norm
    w, bias = weight_and_bias(lowering, product, added)
    given: dict[str, Any] = {"ELEMENT": lowering.element, "N": n, "K": x.width}
    given |= {"ACTIVATION": product.activation, "X_NORM": folded is not None, "R_NORM": added is not None}
    given |= {"HAS_RESIDUAL": residual is not None, "HAS_MOMENTS": norm is not None}
    given |= {"X_EPS": folded.eps if folded else 0.0, "R_EPS": added.eps if added else 0.0}
    rows = product.rows
    given |= {"bias": bias, "x_moments": folded.moments if folded else bias, "residual": residual or y}
    given |= {"r_moments": added.moments if added else bias}
    given |= {"r_scale": parameter(lowering, added.scale) if added else bias}
    given |= {"y": y, "y_moments": norm.moments if norm else bias, "rows": rows}
    writes = [y.name, *([norm.moments.name] if norm else [])]
    found: list[Operation] = []
    for module, grid, more in _kernels(tile, n, rows):
        name = module.__name__.rpartition(".")[2]
        (of_x, _, _), (of_w, _, _) = module.boxes(more)
        given["x"] = Tiles(Place(x.buffer, x.offset), rows, x.width, x.row, (of_x, DEPTH))
        given["w"] = Tiles(w, Size(n), x.width, Size(x.width), (of_w, DEPTH))
        found.append(lowering.launch(name, name, grid, module.warps(tile), writes, **given, **more))
    return found


def _kernels(tile: Mapping[str, int], n: int, rows: Size) -> list[tuple[ModuleType, list[Size], dict[str, Any]]]:
    """The kernels by which a product is cut into tiles, their grids, and what they are given for that."""
    if "SPLIT" in tile:
        grid = [Size(tile["SPLIT"] * tile["SHARED"]), Size(n // (tile["COLUMNS"] * tile["SHARED"]))]
        return [(linear_cluster, [*grid, Size(1, rows.names, tile["ROWS"])], {**tile})]
    if tile["DOWN"] * tile["OVER"] < EIGHT:
        alone = {"LED": 0, "LEADS": False, "leading": Size(0), "following": Size(0)}
        return [(linear_specialised, [Size(MULTIPROCESSORS)], {**tile, **alone})]
    leading, following = Size(EIGHT, (EIGHTS,)), Size(2, (PAIRS,))
    both = {**tile, "LED": tile["ROWS"] * tile["DOWN"], "leading": leading, "following": following}
    return [
        (linear_specialised, [leading], both | {"LEADS": True}),
        (linear_specialised, [following], both | {"LEADS": False, "DOWN": 2, "OVER": 1}),
    ]


def weight_and_bias(lowering: Lowering, product: Linear, added: Folded | None = None) -> tuple[Place, Place]:
    """The weight that a product multiplies by, and in float32 what it adds to every row: the bias, w · shift of x's
    norm, and shift of the norm that is added."""
    w, folded = product.w, product.norm
    name = f"{w} + {product.bias}"
    name += (f" + {w} · {folded.shift}" if folded else "") + (f" + {added.shift}" if added else "")
    if name not in lowering.constants:
        bias = lowering.float32(product.bias) if product.bias else np.zeros(product.n, np.float32)
        if folded:
            bias = bias + lowering.constants[w][1] @ lowering.float32(folded.shift)
        if added:
            bias = bias + lowering.float32(added.shift)
        lowering.constants[name] = ("f32", bias)
    return _centred(lowering, w, folded.scale) if folded else Place(w), Place(name)


def _centred(lowering: Lowering, w: str, scale: str) -> Place:
    """ŵ for a product of a norm with that scale: total · ŵᵀ has nothing of a row's mean."""
    name = f"{w} · {scale}, centred"
    if name not in lowering.constants:
        element, values = lowering.constants[w]
        lowering.constants[name] = (element, centred(values * lowering.float32(scale), element))
    return Place(name)


def centred(values: Array, element: str) -> Array:
    """Each row without its mean, as it will be once it is rounded to the element: what rounding brings back is taken
    away as well."""
    mean = np.zeros((len(values), 1), values.dtype)
    for _ in range(CENTRINGS):
        mean += (values - mean).astype(ELEMENTS[element]).mean(1, dtype=values.dtype, keepdims=True)
    return values - mean

"""Products with a weight for many rows: tiles through the copy engine, programs that stay and take many tiles.

One program a multiprocessor; the end of a tile is done in halves, while the next tile's operands are on their way.
Needs compute capability 9.0 or more; on 9.0 itself linear_specialised is faster.
"""

import triton
import triton.language as tl

from bertc.kernels.activations import activate
from bertc.kernels.launch import release, wait


@triton.jit
def linear_tiles(
    x,
    w,
    bias,
    y,
    rows,
    n: tl.constexpr,
    k: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
    PDL: tl.constexpr,
):
    """y = activation(x · wᵀ + bias); x [rows, k], w [n, k] and y [rows, n] are tensor descriptors, of boxes
    ROWS × DEPTH, COLUMNS × DEPTH and ROWS × COLUMNS / 2; bias [n]. Grid: PROGRAMS.

    Tiles go in groups of GROUP rows of tiles, so that those at work together share operands in the L2 cache.
    """
    release(PDL)
    wait(PDL)
    high = tl.cdiv(rows, ROWS)
    wide: tl.constexpr = n // COLUMNS
    half: tl.constexpr = COLUMNS // 2
    for tile in tl.range(tl.program_id(0), high * wide, PROGRAMS, flatten=True):
        group = tile // (GROUP * wide)
        first = group * GROUP
        size = min(high - first, GROUP)
        row = (first + tile % size) * ROWS
        column = (tile % (GROUP * wide)) // size * COLUMNS
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for depth in range(0, k, DEPTH):
            total = tl.dot(x.load([row, depth]), w.load([column, depth]).T, total)
        halves = tl.permute(tl.reshape(total, (ROWS, 2, half)), (0, 2, 1))
        left, right = tl.split(halves)
        left += tl.load(bias + column + tl.arange(0, half)).to(tl.float32)[None, :]
        y.store([row, column], activate(left, ACTIVATION).to(y.dtype))
        right += tl.load(bias + column + half + tl.arange(0, half)).to(tl.float32)[None, :]
        y.store([row, column + half], activate(right, ACTIVATION).to(y.dtype))

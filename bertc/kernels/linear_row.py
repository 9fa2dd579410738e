"""Products with a weight, y = activation(x · wᵀ + bias), for one row or a few. Weights, which no kernel writes, are
asked for before the kernel in front ends; then a row is read, multiplied and added up.
"""

import triton
import triton.language as tl

from bertc.kernels.activations import activate
from bertc.kernels.launch import release, wait


@triton.jit
def linear_row(
    x,
    w,
    bias,
    y,
    row,
    n: tl.constexpr,
    k: tl.constexpr,
    ACTIVATION: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """x [rows, k], its rows `row` apart; w [n, k]; bias [n]; y [rows, n]. BLOCK: k, rounded up to a power of two.
    Grid: (rows, n / COLUMNS rounded up)."""
    ours = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, BLOCK)
    release(PDL)
    weights = tl.load(
        w + columns[:, None].to(tl.int64) * k + depth[None, :],
        mask=(columns[:, None] < n) & (depth[None, :] < k),
        other=0.0,
    )
    added = tl.load(bias + columns, mask=columns < n, other=0.0).to(tl.float32)
    wait(PDL)
    values = tl.load(x + ours * row + depth, mask=depth < k, other=0.0).to(tl.float32)
    total = tl.sum(values[None, :] * weights.to(tl.float32), 1) + added
    tl.store(y + ours * n + columns, activate(total, ACTIVATION).to(y.dtype.element_ty), mask=columns < n)

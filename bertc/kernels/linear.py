"""Products with a weight, y = activation(x · wᵀ + bias), for few rows: every tile of w is read once, by whole memory.

The sum may be split among programs, whose parts skip_norm adds up: the only way to use all multiprocessors when y is
narrow.
"""

import triton
import triton.language as tl

from bertc.kernels.activations import activate
from bertc.kernels.launch import release, wait


@triton.jit
def linear(
    x,
    w,
    bias,
    y,
    rows,
    row,
    n: tl.constexpr,
    k: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """x [rows, k], its rows `row` apart; w [n, k]; bias [n]; y [rows, n], or with SPLIT > 1 parts [SPLIT, rows, n] that
    add up to x · wᵀ. Grid: (n / COLUMNS, rows / ROWS, SPLIT), rounded up."""
    part = tl.program_id(2)
    share: tl.constexpr = k // SPLIT
    ours = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    even: tl.constexpr = n % COLUMNS == 0
    whole: tl.constexpr = share % DEPTH == 0
    w_pointers = w + columns[None, :].to(tl.int64) * k + (part * share + depth)[:, None]
    x_pointers = x + ours[:, None].to(tl.int64) * row + (part * share + depth)[None, :]
    wait(PDL)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in tl.range(0, share, DEPTH, num_stages=STAGES):
        inside = ours[:, None] < rows
        narrow = columns[None, :] < n
        if not whole:
            inside = inside & ((start + depth)[None, :] < share)
            narrow = narrow & ((start + depth)[:, None] < share)
        a = tl.load(x_pointers + start, mask=inside, other=0.0)
        if even and whole:
            b = tl.load(w_pointers + start)
        else:
            b = tl.load(w_pointers + start, mask=narrow, other=0.0)
        total = tl.dot(a.to(b.dtype), b, total, input_precision=PRECISION)
    release(PDL)
    inside = (ours[:, None] < rows) & (columns[None, :] < n)
    places = ours[:, None].to(tl.int64) * n + columns[None, :]
    if SPLIT == 1:
        total += tl.load(bias + columns, mask=columns < n, other=0.0).to(tl.float32)[None, :]
        tl.store(y + places, activate(total, ACTIVATION).to(y.dtype.element_ty), mask=inside)
    else:
        tl.store(y + part.to(tl.int64) * rows * n + places, total, mask=inside)

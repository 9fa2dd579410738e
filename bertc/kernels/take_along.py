"""take_along: of each row, the entries of some columns."""

import triton
import triton.language as tl

from bertc.kernels.launch import release, wait


@triton.jit
def take_along(
    x,
    row,
    columns,
    columns_0,
    columns_1,
    y,
    rows,
    count,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """y[m, i, j] = x[m, i, columns[i, j]]; x has `row` entries a row, y [matrices, rows, count], and columns[i, j] is
    at i·columns_0 + j·columns_1. Grid: (matrices · rows, count / BLOCK, rounded up)."""
    mine = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    release(PDL)
    wait(PDL)
    column = tl.load(columns + mine % rows * columns_0 + places * columns_1, mask=inside, other=0)
    value = tl.load(x + mine * row + column, mask=inside)
    tl.store(y + mine * count + places, value, mask=inside)

"""Products of two values, such as the scores and the context of attention that is not fused."""

import triton
import triton.language as tl

from bertc.kernels.launch import release, wait


@triton.jit
def batched_product(
    x, x_0, x_1, x_2, x_3,
    y, y_0, y_1, y_2, y_3,
    z,
    size_1,
    rows,
    columns,
    depth,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """z[i, j, r, c] = Σₖ x[i, j, r, k] · y[i, j, k, c]; entry (i, j, r, k) of x at i·x_0 + j·x_1 + r·x_2 + k·x_3.

    z is [size_0, size_1, rows, columns], one row behind the other. Grid: (size_0 · size_1, rows / ROWS,
    columns / COLUMNS), rounded up.
    """
    matrix = tl.program_id(0).to(tl.int64)
    first, second = matrix // size_1, matrix % size_1
    high = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    wide = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    x += first * x_0 + second * x_1
    y += first * y_0 + second * y_1
    release(PDL)
    wait(PDL)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, depth, DEPTH):
        deep = start + tl.arange(0, DEPTH)
        left = (high[:, None] < rows) & (deep[None, :] < depth)
        a = tl.load(x + high[:, None].to(tl.int64) * x_2 + deep[None, :] * x_3, mask=left, other=0.0)
        right = (deep[:, None] < depth) & (wide[None, :] < columns)
        b = tl.load(y + deep[:, None].to(tl.int64) * y_2 + wide[None, :] * y_3, mask=right, other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    places = (matrix * rows + high[:, None]) * columns + wide[None, :]
    tl.store(z + places, total.to(z.dtype.element_ty), mask=(high[:, None] < rows) & (wide[None, :] < columns))

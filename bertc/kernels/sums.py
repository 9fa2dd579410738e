"""sum: along any axis, block after block of what is left."""

import triton
import triton.language as tl

from bertc.kernels.launch import release, wait


@triton.jit
def sum_along(
    x,
    x_0,
    x_1,
    along,
    total,
    size_0,
    size_1,
    count,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """total[i, j] = Σₖ x[i, j, k], in x's order; entry (i, j, k) of x at i·x_0 + j·x_1 + k·along.

    Grid: (size_0, size_1 / BLOCK, rounded up).
    """
    first = tl.program_id(0).to(tl.int64)
    second = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = second < size_1
    release(PDL)
    wait(PDL)
    value = tl.zeros((BLOCK,), tl.float32)
    for index in range(count):
        part = tl.load(x + first * x_0 + second * x_1 + index * along, mask=inside, other=0.0)
        value += part.to(tl.float32)
    tl.store(total + first * size_1 + second, value.to(total.dtype.element_ty), mask=inside)

"""Sums, products and activations entry by entry, of values laid out in any way; also what copies them."""

import triton
import triton.language as tl

from bertc.kernels.activations import activate
from bertc.kernels.launch import release, wait


@triton.jit
def joined(x, y, OP: tl.constexpr):
    """x op y, the op by its name in bertc.ops."""
    if OP == "add":
        return x + y
    elif OP == "subtract":
        return x - y
    elif OP == "multiply":
        return x * y
    elif OP == "divide":
        return x / y
    else:
        return tl.maximum(x, y)


@triton.jit
def pointwise(
    x, x_0, x_1, x_2, x_3,
    y, y_0, y_1, y_2, y_3,
    z, z_0, z_1, z_2, z_3,
    size_1,
    size_2,
    size_3,
    ACTIVATION: tl.constexpr,
    OP: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """z = activation(x) op y; all of four axes, entry (i, j, k, l) of x at i·x_0 + j·x_1 + k·x_2 + l·x_3.

    Without an op z = activation(x). Grid: (product of the first three sizes, size_3 / BLOCK, rounded up).
    """
    row = tl.program_id(0)
    third, second, first = row % size_2, row // size_2 % size_1, (row // size_2 // size_1).to(tl.int64)
    last = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = last < size_3
    release(PDL)
    wait(PDL)
    value = tl.load(x + first * x_0 + second * x_1 + third * x_2 + last * x_3, mask=inside, other=0.0).to(tl.float32)
    value = activate(value, ACTIVATION)
    if OP != "":
        other = tl.load(y + first * y_0 + second * y_1 + third * y_2 + last * y_3, mask=inside, other=1.0)
        value = joined(value, other.to(tl.float32), OP)
    tl.store(z + first * z_0 + second * z_1 + third * z_2 + last * z_3, value.to(z.dtype.element_ty), mask=inside)

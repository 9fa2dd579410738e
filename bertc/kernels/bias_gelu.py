"""bias_gelu, and every other activation of a product with a bias, where the product did not end with it."""

import triton
import triton.language as tl

from bertc.kernels.activations import activate
from bertc.kernels.launch import release, wait


@triton.jit
def bias_activation(
    x,
    bias,
    y,
    count,
    n: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """y = activation(x + bias); x, y [count / n, n], bias [n]. Grid: count / BLOCK, rounded up."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    release(PDL)
    wait(PDL)
    value = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + places % n, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + places, activate(value, ACTIVATION).to(y.dtype.element_ty), mask=inside)

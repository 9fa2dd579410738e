"""Activations on float32 values, as the ends of other kernels."""

import triton
import triton.language as tl

INTERPRETED: tl.constexpr = tl.constexpr(triton.knobs.runtime.interpret)
"""Triton's interpreter has no machine instructions."""


@triton.jit
def power_of_two(x):
    """2ˣ to 2 units in the last place, 0 for results below 2⁻¹²⁶: one instruction, where tl.exp2 takes four."""
    if INTERPRETED:
        return tl.exp2(x)
    else:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)


@triton.jit
def reciprocal(x):
    """1 / x to 1 unit in the last place for 1 ≤ x < 2¹²⁶, 0 above: one instruction, where a division takes four."""
    if INTERPRETED:
        return 1.0 / x
    else:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)


@triton.jit
def gelu_of(x):
    """x · Φ(x) = max(x, 0) - |x| · erfc(|x| / √2) / 2, to 1.5e-7 · |x| (Abramowitz and Stegun 1964, 7.1.26)."""
    size = tl.abs(x)
    t = reciprocal(1.0 + 0.23164189 * size)
    series = 0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145)))
    return tl.maximum(x, 0.0) - series * (t * size) * power_of_two((-0.7213475204444817 * x) * x)


@triton.jit
def sigmoid_of(x):
    return reciprocal(1.0 + power_of_two(-1.4426950408889634 * x))


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """The activation of that name, as bertc.ops defines it."""
    if ACTIVATION == "gelu":
        return gelu_of(x)
    elif ACTIVATION == "gelu_tanh":
        return x * sigmoid_of(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif ACTIVATION == "tanh":
        return 2.0 * sigmoid_of(2.0 * x) - 1.0
    elif ACTIVATION == "relu":
        return tl.maximum(x, 0.0)
    elif ACTIVATION == "silu":
        return x * sigmoid_of(x)
    elif ACTIVATION == "sigmoid":
        return sigmoid_of(x)
    else:
        return x

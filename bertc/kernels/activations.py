"""Activations on float32 values, as the ends of other kernels."""

import triton
import triton.language as tl


@triton.jit
def erfc_of(z):
    """erfc z for z ≥ 0, to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26): a third of the time of the library's erf."""
    t = 1.0 / (1.0 + 0.3275911 * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return series * tl.exp2(-1.4426950408889634 * z * z)


@triton.jit
def sigmoid_of(x):
    return 1.0 / (1.0 + tl.exp2(-1.4426950408889634 * x))


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """The activation of that name, as bertc.ops defines it."""
    if ACTIVATION == "gelu":
        tail = 0.5 * x * erfc_of(tl.abs(x) * 0.7071067811865476)
        return tl.where(x > 0.0, x - tail, tail)
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

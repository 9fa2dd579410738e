"""The bias of a product and its activation."""

from __future__ import annotations

import math

import numpy as np

from bertc.ops import Array, op

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


@op("[*, n], [n] -> [*, n]")
def bias_gelu(x: Array, bias: Array) -> Array:
    """y = z · ½ erfc(-z / √2) with z = x + bias: the error-function form."""
    z = x + bias
    return z * (0.5 * _erfc(-z / math.sqrt(2.0))).astype(z.dtype)


@op("[*, n], [n] -> [*, n]")
def bias_gelu_tanh(x: Array, bias: Array) -> Array:
    """y = z / (1 + exp(-2 √(2/π) (z + 0.044715 z³))) with z = x + bias: the tanh form."""
    z = x + bias
    inner = 2.0 * math.sqrt(2.0 / math.pi) * (z + 0.044715 * z * z * z)
    return z / (1.0 + np.exp(-np.clip(inner, -700.0, None)))

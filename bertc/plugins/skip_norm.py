"""The residual sum and its layer norm."""

from __future__ import annotations

import numpy as np

from bertc.ops import Array, op


@op("[*, n], [*, n], [n], [n] -> [*, n], [*, n]")
def skip_norm(x: Array, residual: Array, scale: Array, bias: Array, *, eps: float) -> tuple[Array, Array]:
    """sum = x + residual; norm = scale · (sum - mean sum) / √(var sum + eps) + bias.

    Two results, the norm and the sum: a post-norm network goes on with the norm alone, a pre-norm network carries the
    sum as its residual.
    """
    total = x + residual
    mean = np.mean(total, axis=-1, keepdims=True)
    variance = np.mean((total - mean) ** 2, axis=-1, keepdims=True)
    return (total - mean) / np.sqrt(variance + eps) * scale + bias, total

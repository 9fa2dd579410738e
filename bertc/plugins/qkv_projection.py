"""The three projections of attention as one product, then one transpose to heads."""

from __future__ import annotations

import numpy as np

from bertc.ops import Array, op
from bertc.types import Shape, TypeMismatch, shape_text


def _shape(x: Shape, weight: Shape, bias: Shape, *, heads: int, size: int) -> tuple[Shape, ...]:
    width = 3 * heads * size
    if len(x) < 2 or weight != (width, x[-1]) or bias != (width,):
        raise TypeMismatch(
            f"qkv_projection of {heads} heads of {size} takes x [..., seq, n], weight [{width}, n] and bias [{width}]"
            f", but {shape_text(x)}, {shape_text(weight)} and {shape_text(bias)} were given"
        )
    return ((*x[:-2], heads, x[-2], size),) * 3


@op("[...], [...], [...] -> [...], [...], [...]", shapes=_shape)
def qkv_projection(x: Array, weight: Array, bias: Array, *, heads: int, size: int) -> tuple[Array, ...]:
    """query, key, value = heads of x·weightᵀ + bias, the rows of weight being query, key, value, each heads · size.

    x [..., seq, n] -> three of [..., heads, seq, size].
    """
    merged = (np.einsum("...n,mn->...m", x, weight, optimize=True) + bias).reshape(*x.shape[:-1], 3, heads, size)
    return tuple(np.swapaxes(merged[..., which, :, :], -3, -2) for which in range(3))

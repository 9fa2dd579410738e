"""The three projections of attention as one product, then one transpose to heads."""

from __future__ import annotations

import numpy as np

from bertc.ops import Array, op
from bertc.types import Shape, TypeMismatch, shape_text


def _shape(x: Shape, weight: Shape, bias: Shape, *, heads: int, size: int) -> tuple[Shape, ...]:
    width = 3 * heads * size
    if len(x) != 3 or weight != (width, x[2]) or bias != (width,):
        raise TypeMismatch(
            f"qkv_projection of {heads} heads of {size} takes x [batch, seq, n], weight [{width}, n] and bias [{width}]"
            f", but {shape_text(x)}, {shape_text(weight)} and {shape_text(bias)} were given"
        )
    return ((x[0], heads, x[1], size),) * 3


@op("[...], [...], [...] -> [...], [...], [...]", shapes=_shape)
def qkv_projection(x: Array, weight: Array, bias: Array, *, heads: int, size: int) -> tuple[Array, ...]:
    """query, key, value = heads of x·weightᵀ + bias, the rows of weight being query, key, value, each heads · size.

    x [batch, seq, n] -> three of [batch, heads, seq, size].
    """
    batch, seq, _ = x.shape
    merged = (np.einsum("bsn,mn->bsm", x, weight, optimize=True) + bias).reshape(batch, seq, 3, heads, size)
    return tuple(np.moveaxis(merged[:, :, which], 1, 2) for which in range(3))

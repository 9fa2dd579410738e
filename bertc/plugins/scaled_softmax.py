"""Scale, mask and softmax of attention scores."""

from __future__ import annotations

import numpy as np

from bertc.ops import Array, op
from bertc.types import Shape, TypeMismatch, broadcast, shape_text


def _shape(scores: Shape, mask: Shape, *, scale: float) -> tuple[Shape, ...]:
    if broadcast(scores, mask) != scores:
        raise TypeMismatch(f"the mask broadcasts to {shape_text(scores)}, but {shape_text(mask)} does not")
    return (scores,)


@op("[...], [...] -> [...]", shapes=_shape)
def scaled_softmax(scores: Array, mask: Array, *, scale: float) -> Array:
    """y = softmax(scale · scores + mask) over the last axis, its sums in float32."""
    logits = scale * scores + mask
    shifted = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return shifted / np.sum(shifted, axis=-1, keepdims=True)

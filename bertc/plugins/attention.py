"""Scores, softmax and context in one pass over the keys."""

from __future__ import annotations

import numpy as np

from bertc.ops import Array, op
from bertc.types import Shape, TypeMismatch, broadcast, shape_text


def _shape(query: Shape, key: Shape, value: Shape, mask: Shape, *, scale: float) -> tuple[Shape, ...]:
    fits = len(query) == len(key) == len(value) == 4 and query[:2] == key[:2] == value[:2]
    if not fits or query[3] != key[3] or key[2] != value[2]:
        raise TypeMismatch(
            "attention takes query [batch, heads, queries, size], key [batch, heads, keys, size] and value "
            f"[batch, heads, keys, out], but {shape_text(query)}, {shape_text(key)} and {shape_text(value)} were given"
        )
    scores = (*query[:3], key[2])
    if broadcast(mask, scores) != scores:
        raise TypeMismatch(f"the mask of attention broadcasts to {shape_text(scores)}, but {shape_text(mask)} does not")
    heads, out = query[1], value[3]
    if isinstance(heads, str) or isinstance(out, str):
        raise TypeMismatch("attention needs the number of heads and their size at build time")
    return ((query[0], query[2], heads * out),)


@op("[...], [...], [...], [...] -> [...]", shapes=_shape)
def attention(query: Array, key: Array, value: Array, mask: Array, *, scale: float) -> Array:
    """context[b, i, h·size + d] = Σⱼ softmaxⱼ(scale · Σₑ query[b,h,i,e]·key[b,h,j,e] + mask[b,h,i,j]) · value[b,h,j,d].

    query, key, value [batch, heads, seq, size] -> [batch, seq, heads·size] (Vaswani et al. 2017). The softmax and its
    sums are float32 in every precision.
    """
    scores = np.einsum("bhie,bhje->bhij", query, key) * scale + mask
    weights = np.exp(scores - np.max(scores, axis=3, keepdims=True))
    context = np.einsum("bhij,bhjd->bihd", weights / np.sum(weights, axis=3, keepdims=True), value)
    return context.reshape(*context.shape[:2], -1)

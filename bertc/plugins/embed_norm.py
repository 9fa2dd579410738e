"""Look-ups, their sum, and its norm: of words, places and types, or of words and places alone."""

from __future__ import annotations

import numpy as np

from bertc.ops import Array, op


@op(
    "[vocab, n], [positions, n], [types, n], i32[batch, seq], i32[batch, seq], [n], [n]"
    " -> [batch, seq, n], [batch, seq, n]"
)
def embed_norm(
    word: Array,
    position: Array,
    type: Array,
    input_ids: Array,
    token_type_ids: Array,
    scale: Array,
    bias: Array,
    *,
    eps: float,
    offset: int,
) -> tuple[Array, Array]:
    """sum[b, s] = word[input_ids[b, s]] + position[offset + s] + type[token_type_ids[b, s]]; norm = layer_norm(sum).

    Two results, the norm and the sum, which a pre-norm network carries on as its residual.
    """
    places = position[offset : offset + input_ids.shape[1]]
    return normed(word[input_ids] + places[None] + type[token_type_ids], scale, bias, eps)


@op("[vocab, n], [positions, n], i32[batch, seq], [n], [n] -> [batch, seq, n], [batch, seq, n]")
def untyped_embed_norm(
    word: Array, position: Array, input_ids: Array, scale: Array, bias: Array, *, eps: float, offset: int
) -> tuple[Array, Array]:
    """sum[b, s] = word[input_ids[b, s]] + position[offset + s]; norm = layer_norm(sum). Both are results."""
    return normed(word[input_ids] + position[None, offset : offset + input_ids.shape[1]], scale, bias, eps)


def normed(total: Array, scale: Array, bias: Array, eps: float) -> tuple[Array, Array]:
    """layer_norm(total), and total."""
    mean = np.mean(total, axis=-1, keepdims=True)
    variance = np.mean((total - mean) ** 2, axis=-1, keepdims=True)
    return (total - mean) / np.sqrt(variance + eps) * scale + bias, total

"""What fused ops become when sequences stand one after the other, with no padding between them: pack_sequences.

`starts` [batch] is where each sequence begins among the tokens, `lengths` [batch] how many it has, `places` [tokens]
where in its own sequence each token stands.
"""

from __future__ import annotations

import numpy as np

from bertc.ops import Array, op
from bertc.plugins.attention import attention
from bertc.types import Shape, TypeMismatch, shape_text


@op(
    "[vocab, n], [positions, n], [types, n], i32[tokens], i32[tokens], i32[tokens], [n], [n]"
    " -> [tokens, n], [tokens, n]"
)
def packed_embed_norm(
    word: Array,
    position: Array,
    type: Array,
    input_ids: Array,
    token_type_ids: Array,
    places: Array,
    scale: Array,
    bias: Array,
    *,
    eps: float,
    offset: int,
) -> tuple[Array, Array]:
    """sum[t] = word[input_ids[t]] + position[offset + places[t]] + type[token_type_ids[t]]; norm = layer_norm(sum)."""
    total = word[input_ids] + position[offset + places] + type[token_type_ids]
    mean = np.mean(total, axis=-1, keepdims=True)
    variance = np.mean((total - mean) ** 2, axis=-1, keepdims=True)
    return (total - mean) / np.sqrt(variance + eps) * scale + bias, total


def _shape(query: Shape, key: Shape, value: Shape, *_: Shape, scale: float) -> tuple[Shape, ...]:
    if not (len(query) == 3 and query == key == value):
        raise TypeMismatch(
            "packed_attention takes query, key and value [heads, tokens, size], "
            f"but {shape_text(query)}, {shape_text(key)} and {shape_text(value)} were given"
        )
    heads, tokens, size = query
    if isinstance(heads, str) or isinstance(size, str):
        raise TypeMismatch("packed_attention needs the number of heads and their size at build time")
    return ((tokens, heads * size),)


@op("[...], [...], [...], i32[batch], i32[batch] -> [...]", shapes=_shape)
def packed_attention(query: Array, key: Array, value: Array, starts: Array, lengths: Array, *, scale: float) -> Array:
    """attention, each sequence by itself: query, key, value [heads, tokens, size] -> [tokens, heads · size]."""
    heads, tokens, size = query.shape
    context = np.zeros((tokens, heads * size), query.dtype)
    for start, length in zip(starts, lengths, strict=True):
        here = slice(start, start + length)
        parts = (array[None, :, here] for array in (query, key, value))
        context[here] = attention.reference(*parts, np.zeros((1, 1, 1, 1)), scale=scale)[0]
    return context


@op("[tokens, n], i32[batch] -> [batch, n]")
def first_tokens(x: Array, starts: Array) -> Array:
    """y[b] = x[starts[b]]: the first token of each sequence."""
    return x[starts]

"""What fused ops become when sequences stand one after the other, with no padding between them: pack_sequences.

`starts` [batch] is where each sequence begins among the tokens, `lengths` [batch] how many it has, `places` [tokens]
where in its own sequence each token stands.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bertc.ops import PRIMITIVES, Array, op
from bertc.plugins.attention import attention
from bertc.plugins.embed_norm import normed
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
    return normed(word[input_ids] + position[offset + places] + type[token_type_ids], scale, bias, eps)


@op("[vocab, n], [positions, n], i32[tokens], i32[tokens], [n], [n] -> [tokens, n], [tokens, n]")
def packed_untyped_embed_norm(
    word: Array,
    position: Array,
    input_ids: Array,
    places: Array,
    scale: Array,
    bias: Array,
    *,
    eps: float,
    offset: int,
) -> tuple[Array, Array]:
    """sum[t] = word[input_ids[t]] + position[offset + places[t]]; norm = layer_norm(sum)."""
    return normed(word[input_ids] + position[offset + places], scale, bias, eps)


def _shape(query: Shape, key: Shape, value: Shape, *_: Shape, scale: float, window: int = 0) -> tuple[Shape, ...]:
    if not (len(query) == 3 and query == key == value):
        raise TypeMismatch(
            "packed attention takes query, key and value [heads, tokens, size], "
            f"but {shape_text(query)}, {shape_text(key)} and {shape_text(value)} were given"
        )
    heads, tokens, size = query
    if isinstance(heads, str) or isinstance(size, str):
        raise TypeMismatch("packed attention needs the number of heads and their size at build time")
    return ((tokens, heads * size),)


@op("[...], [...], [...], i32[batch], i32[batch] -> [...]", shapes=_shape)
def packed_attention(
    query: Array, key: Array, value: Array, starts: Array, lengths: Array, *, scale: float, window: int = 0
) -> Array:
    """attention, each sequence by itself: query, key, value [heads, tokens, size] -> [tokens, heads · size].

    With a window each token looks at those with 2 |i - j| ≤ window, as local_mask says; 0 is everywhere.
    """
    return _each(query, key, value, starts, lengths, scale, lambda length: _nearby(length, window))


@op("[...], [...], [...], i32[batch], i32[batch], [heads, places, places] -> [...]", shapes=_shape)
def packed_biased_attention(
    query: Array, key: Array, value: Array, starts: Array, lengths: Array, bias: Array, *, scale: float
) -> Array:
    """packed_attention, bias[h, i, j] added to the scores of places i and j of a sequence."""
    return _each(query, key, value, starts, lengths, scale, lambda length: bias[None, :, :length, :length])


def _each(
    query: Array, key: Array, value: Array, starts: Array, lengths: Array, scale: float, mask: Callable[[int], Array]
) -> Array:
    """attention of each sequence, with the mask for its length."""
    heads, tokens, size = query.shape
    context = np.zeros((tokens, heads * size), query.dtype)
    for start, length in zip(starts, lengths, strict=True):
        here = slice(start, start + length)
        parts = (array[None, :, here] for array in (query, key, value))
        context[here] = attention.reference(*parts, mask(int(length)), scale=scale)[0]
    return context


def _nearby(length: int, window: int) -> Array:
    nothing = np.zeros((1, 1, 1, length))
    return PRIMITIVES["local_mask"].reference(nothing, window=window) if window else nothing


@op("[heads, tokens, size], i32[tokens] -> [heads, tokens, size]")
def packed_rotary(x: Array, places: Array, *, base: float) -> Array:
    """rotary, the entries of token t turned by the angles of places[t]."""
    all_places = np.broadcast_to(x[:, :, None], (*x.shape[:2], int(places.max()) + 1, x.shape[2]))
    turned = PRIMITIVES["rotary"].reference(all_places, base=base)
    return turned[:, np.arange(x.shape[1]), places]


@op("[tokens, n], i32[batch] -> [batch, n]")
def first_tokens(x: Array, starts: Array) -> Array:
    """y[b] = x[starts[b]]: the first token of each sequence."""
    return x[starts]

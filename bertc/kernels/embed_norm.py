"""embed_norm, and untyped_embed_norm: look-ups, their sum and its norm; one token a program."""

import triton
import triton.language as tl

from bertc.kernels.launch import release, wait
from bertc.kernels.skip_norm import normal, vector


@triton.jit
def embed_norm(
    word,
    position,
    type,
    ids,
    types,
    places,
    scale,
    shift,
    norm,
    total,
    seq,
    n: tl.constexpr,
    eps: tl.constexpr,
    offset: tl.constexpr,
    PACKED: tl.constexpr,
    HAS_TYPES: tl.constexpr,
    HAS_TOTAL: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """total[t] = word[ids[t]] + position[offset + place of t] + type[types[t]]; norm as in skip_norm.

    ids, types [tokens]; a token's place is t mod seq, or when packed `places` [tokens]. Grid: tokens.
    """
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < n
    release(PDL)
    factor, added = vector(scale, columns, inside), vector(shift, columns, inside)
    wait(PDL)
    row = tl.load(ids + token).to(tl.int64)  # what rows are found by is asked for before any row
    if HAS_TYPES:
        kind = tl.load(types + token).to(tl.int64)
    if PACKED:
        place = tl.load(places + token)
    else:
        place = token % seq
    value = tl.load(word + row * n + columns, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(position + (offset + place) * n + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_TYPES:
        value += tl.load(type + kind * n + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_TOTAL:
        tl.store(total + token * n + columns, value.to(total.dtype.element_ty), mask=inside)
    result = normal(value, inside, factor, added, n, eps)
    tl.store(norm + token * n + columns, result.to(norm.dtype.element_ty), mask=inside)

"""rotary: queries or keys turned by their places; one token a program."""

import triton
import triton.language as tl

from bertc.kernels.launch import release, wait


@triton.jit
def rotary(
    x,
    frequencies,
    places,
    y,
    seq,
    x_row,
    y_row,
    heads: tl.constexpr,
    size: tl.constexpr,
    PACKED: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    PDL: tl.constexpr,
):
    """y[t, h] = (left · cos a - right · sin a, right · cos a + left · sin a), (left, right) = halves of x[t, h].

    aᵢ = place of t · frequencies[i], in float32 as elsewhere (error up to place · 2⁻²⁴); frequencies [size / 2]. x has
    x_row columns a token, y has y_row; y may be x. A token's place is t mod seq, or when packed `places` [tokens].
    HEADS and HALF are heads and size / 2, rounded up to powers of two. Grid: tokens.
    """
    token = tl.program_id(0).to(tl.int64)
    head, pair = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside = (head < heads) & (pair < size // 2)
    columns = head * size + pair
    frequency = tl.load(frequencies + pair, mask=pair < size // 2, other=0.0)
    release(PDL)
    wait(PDL)
    if PACKED:
        place = tl.load(places + token)
    else:
        place = (token % seq).to(tl.int32)
    angle = place.to(tl.float32) * frequency
    cosine, sine = tl.cos(angle), tl.sin(angle)
    left = tl.load(x + token * x_row + columns, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(x + token * x_row + columns + size // 2, mask=inside, other=0.0).to(tl.float32)
    to = y + token * y_row + columns
    tl.store(to, (left * cosine - right * sine).to(y.dtype.element_ty), mask=inside)
    tl.store(to + size // 2, (right * cosine + left * sine).to(y.dtype.element_ty), mask=inside)

"""scaled_softmax: the softmax of one row of scores a program, block after block, for rows of any length."""

import triton
import triton.language as tl

from bertc.kernels.activations import power_of_two
from bertc.kernels.launch import release, wait

LOWEST: tl.constexpr = tl.constexpr(-1e30)
"""Below every exponent, and finite, so that the distance to it is a number."""


@triton.jit
def exponents(scores, mask, stride, highest, columns, count, scale: tl.constexpr, HAS_MASK: tl.constexpr):
    """(scale · score + mask - highest) / ln 2 of a block, -∞ behind the last."""
    inside = columns < count
    value = tl.load(scores + columns, mask=inside, other=0.0).to(tl.float32) * scale
    if HAS_MASK:
        value += tl.load(mask + columns * stride, mask=inside, other=0.0).to(tl.float32) - highest
    return tl.where(inside, value * 1.4426950408889634, float("-inf"))


@triton.jit
def scaled_softmax(
    scores,
    mask,
    mask_0,
    mask_1,
    mask_2,
    mask_3,
    weights,
    size_1,
    size_2,
    count,
    scale: tl.constexpr,
    HAS_MASK: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """weights[r, :] = softmax(scale · scores[r, :] + mask[r, :]), its sum in float32; scores, weights [rows, count].

    Row r is (i, j, k) of three axes, and entry l of its mask at i·mask_0 + j·mask_1 + k·mask_2 + l·mask_3. The largest
    entry of the mask is taken off first, so that a row of which everything is masked is the softmax of its scores.
    Grid: rows.
    """
    row = tl.program_id(0)
    third, second, first = row % size_2, row // size_2 % size_1, (row // size_2 // size_1).to(tl.int64)
    block = tl.arange(0, BLOCK)
    scores += row.to(tl.int64) * count
    weights += row.to(tl.int64) * count
    mask += first * mask_0 + second * mask_1 + third * mask_2
    release(PDL)
    wait(PDL)
    highest = 0.0
    if HAS_MASK:
        open = tl.full((BLOCK,), float("-inf"), tl.float32)
        for start in range(0, count, BLOCK):
            columns = start + block
            entries = tl.load(mask + columns * mask_3, mask=columns < count, other=float("-inf"))
            open = tl.maximum(open, entries.to(tl.float32))
        highest = tl.max(open, 0)
    best = tl.full((BLOCK,), LOWEST, tl.float32)
    sums = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, count, BLOCK):
        value = exponents(scores, mask, mask_3, highest, start + block, count, scale, HAS_MASK)
        higher = tl.maximum(best, value)
        sums = sums * power_of_two(best - higher) + power_of_two(value - higher)
        best = higher
    peak = tl.max(best, 0)
    total = tl.sum(sums * power_of_two(best - peak), 0)
    for start in range(0, count, BLOCK):
        value = exponents(scores, mask, mask_3, highest, start + block, count, scale, HAS_MASK)
        result = (power_of_two(value - peak) / total).to(weights.dtype.element_ty)
        tl.store(weights + start + block, result, mask=start + block < count)

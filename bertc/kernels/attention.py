"""Attention in one kernel: scores, softmax and context, the keys' blocks one after another (Dao et al. 2022).

A program has a block of queries of one head of one sequence. Scores stay in registers; the softmax is rescaled as its
maximum grows (Milakov and Gimelshein 2018).
"""

import triton
import triton.language as tl

from bertc.kernels.activations import power_of_two
from bertc.kernels.launch import release, wait

LOWEST: tl.constexpr = tl.constexpr(-1e30)
"""The score of keys outside a window: finite, so that rows whose first keys are all outside stay numbers."""


@triton.jit
def mix(best, sums, mixed, scores, v, PRECISION: tl.constexpr):
    """Take one more block of keys along: the running maximum, sum and context, all to the new maximum's scale."""
    higher = tl.maximum(best, tl.max(scores, 1))
    weights = power_of_two(scores - higher[:, None])
    shrink = power_of_two(best - higher)
    sums = sums * shrink + tl.sum(weights, 1)
    mixed = tl.dot(weights.to(v.dtype), v, mixed * shrink[:, None], input_precision=PRECISION)
    return higher, sums, mixed


@triton.jit
def masked(
    scores,
    tokens,
    others,
    near,
    bias,
    bias_query,
    bias_key,
    HAS_BIAS: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Scores with what is added to them, and LOWEST outside the window, all as exponents of 2; `near` are in bounds."""
    if HAS_BIAS:
        added = tl.load(bias + tokens[:, None] * bias_query + others[None, :] * bias_key, mask=near, other=0.0)
        scores += added.to(tl.float32) * 1.4426950408889634
    if WINDOW > 0:
        scores = tl.where(2 * tl.abs(tokens[:, None] - others[None, :]) <= WINDOW, scores, LOWEST)
    return scores


@triton.jit
def attention(
    query,
    key,
    value,
    starts,
    lengths,
    bias,
    context,
    seq,
    row,
    bias_batch,
    bias_head,
    bias_query,
    bias_key,
    size: tl.constexpr,
    scale: tl.constexpr,
    PACKED: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    GIVEN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WINDOW: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """context[t, h, :] = Σⱼ softmaxⱼ(scale · query[t, h] · key[j, h] + bias[b, h, t, j]) · value[j, h], over the keys
    of t's sequence; with a WINDOW those with 2 |t - j| ≤ WINDOW.

    query, key, value are columns of one matrix of `row` columns, a token a row and a head `size` columns; context
    [tokens, heads · size]. Padded: a sequence has `seq` rows, of which the first lengths[b] are keys, or without
    lengths all. Packed: it has lengths[b] rows, from starts[b] on. GIVEN: no kernel in front computes lengths and
    starts, so that they are read before those have ended. Grid: (blocks of queries, heads, batch).
    """
    block, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    width = tl.num_programs(1) * size
    release(PDL)
    if not GIVEN:
        wait(PDL)
    if HAS_LENGTHS:
        length = tl.load(lengths + batch)
    else:
        length = seq
    if PACKED:
        start = tl.load(starts + batch).to(tl.int64)
        rows = length
    else:
        start = batch * seq
        rows = seq
    if GIVEN:
        wait(PDL)
    if block * QUERIES >= rows:
        return
    columns = head * size + tl.arange(0, size)
    tokens = block * QUERIES + tl.arange(0, QUERIES)
    here = tokens[:, None] < rows
    q = tl.load(query + (start + tokens[:, None]) * row + columns[None, :], mask=here, other=0.0)
    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    sums = tl.zeros((QUERIES,), tl.float32)
    mixed = tl.zeros((QUERIES, size), tl.float32)
    keys = key + start * row + columns[:, None]
    values = value + start * row + columns[None, :]
    bias += batch * bias_batch + head * bias_head
    to_exponent: tl.constexpr = scale * 1.4426950408889634
    begin = 0
    if WINDOW > 0:
        begin = tl.maximum(block * QUERIES - WINDOW // 2, 0) // KEYS * KEYS
        length = tl.minimum(length, (block + 1) * QUERIES + WINDOW // 2)
    whole = length // KEYS * KEYS
    for first in tl.range(begin, whole, KEYS, num_stages=STAGES):
        others = first + tl.arange(0, KEYS)
        k = tl.load(keys + others[None, :] * row)
        scores = tl.dot(q, k, input_precision=PRECISION) * to_exponent
        scores = masked(scores, tokens, others, here, bias, bias_query, bias_key, HAS_BIAS, WINDOW)
        v = tl.load(values + others[:, None] * row)
        best, sums, mixed = mix(best, sums, mixed, scores, v, PRECISION)
    if whole < length:
        others = whole + tl.arange(0, KEYS)
        valid = others < length
        k = tl.load(keys + others[None, :] * row, mask=valid[None, :], other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * to_exponent
        near = here & valid[None, :]
        scores = masked(scores, tokens, others, near, bias, bias_query, bias_key, HAS_BIAS, WINDOW)
        scores = tl.where(valid[None, :], scores, float("-inf"))
        v = tl.load(values + others[:, None] * row, mask=valid[:, None], other=0.0)
        best, sums, mixed = mix(best, sums, mixed, scores, v, PRECISION)
    if WINDOW > 0:  # padding that no token is near
        sums = tl.where(sums > 0.0, sums, 1.0)
    result = (mixed / sums[:, None]).to(context.dtype.element_ty)
    tl.store(context + (start + tokens[:, None]) * width + columns[None, :], result, mask=here)

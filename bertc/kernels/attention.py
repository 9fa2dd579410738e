"""Attention in one kernel: scores, softmax and context, the keys' blocks one after another (Dao et al. 2022).

A program has a block of queries of one head of one sequence. Scores stay in registers; the softmax is rescaled as its
maximum grows (Milakov and Gimelshein 2018).
"""

import triton
import triton.language as tl

from bertc.kernels.activations import power_of_two
from bertc.kernels.launch import release, wait


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
def attention(
    query,
    key,
    value,
    starts,
    lengths,
    context,
    seq,
    row,
    size: tl.constexpr,
    scale: tl.constexpr,
    PACKED: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """context[t, h, :] = Σⱼ softmaxⱼ(scale · query[t, h] · key[j, h]) · value[j, h], over the keys of t's sequence.

    query, key, value are columns of one matrix of `row` columns, a token a row and a head `size` columns; context
    [tokens, heads · size]. Padded: a sequence has `seq` rows, of which the first lengths[b] are keys. Packed: it has
    lengths[b] rows, from starts[b] on. Grid: (blocks of queries, heads, batch).
    """
    block, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    width = tl.num_programs(1) * size
    release(PDL)
    wait(PDL)
    length = tl.load(lengths + batch)
    if PACKED:
        start = tl.load(starts + batch).to(tl.int64)
        rows = length
    else:
        start = batch * seq
        rows = seq
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
    to_exponent: tl.constexpr = scale * 1.4426950408889634
    whole = length // KEYS * KEYS
    for first in tl.range(0, whole, KEYS, num_stages=STAGES):
        others = first + tl.arange(0, KEYS)
        k = tl.load(keys + others[None, :] * row)
        scores = tl.dot(q, k, input_precision=PRECISION) * to_exponent
        v = tl.load(values + others[:, None] * row)
        best, sums, mixed = mix(best, sums, mixed, scores, v, PRECISION)
    if whole < length:
        others = whole + tl.arange(0, KEYS)
        valid = others < length
        k = tl.load(keys + others[None, :] * row, mask=valid[None, :], other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * to_exponent
        scores = tl.where(valid[None, :], scores, float("-inf"))
        v = tl.load(values + others[:, None] * row, mask=valid[:, None], other=0.0)
        best, sums, mixed = mix(best, sums, mixed, scores, v, PRECISION)
    result = (mixed / sums[:, None]).to(context.dtype.element_ty)
    tl.store(context + (start + tokens[:, None]) * width + columns[None, :], result, mask=here)

"""The kernels in the order in which TensorRT passes what they take: inputs, numbers, outputs.

A plugin whose kernel is in an engine has no host code to put its arguments in order, so that each kernel has an entry
here. Attributes and blocks are constants, for TensorRT passes no others.
"""

import triton
import triton.language as tl

from bertc.kernels import attention as attentions
from bertc.kernels import bias_gelu as bias_gelus
from bertc.kernels import embed_norm as embed_norms
from bertc.kernels import skip_norm as skip_norms


@triton.jit
def attention(
    query,
    key,
    value,
    lengths,
    seq,
    context,
    heads: tl.constexpr,
    size: tl.constexpr,
    scale: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """query, key, value [batch, heads, seq, size] -> context [batch, seq, heads · size]. Grid: (blocks of queries,
    heads, batch). The kernel's rows are tokens of all heads, so that each head starts where its own rows would."""
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    shift = (batch * (heads - 1) + head) * seq * size - head * size
    attentions.attention(
        query=query + shift,
        key=key + shift,
        value=value + shift,
        starts=lengths,
        lengths=lengths,
        bias=query,
        context=context,
        seq=seq,
        row=size,
        bias_batch=0,
        bias_head=0,
        bias_query=0,
        bias_key=0,
        size=size,
        scale=scale,
        PACKED=False,
        HAS_LENGTHS=True,
        HAS_BIAS=False,
        WINDOW=0,
        PRECISION=PRECISION,
        QUERIES=QUERIES,
        KEYS=KEYS,
        STAGES=STAGES,
        PDL=False,
    )


@triton.jit
def bias_activation(x, bias, count, y, n: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """x [..., n], bias [n] -> y like x, of `count` entries. Grid: count / BLOCK, rounded up."""
    bias_gelus.bias_activation(
        x=x, bias=bias, y=y, count=count, n=n, ACTIVATION=ACTIVATION, HAS_BIAS=True, BLOCK=BLOCK, PDL=False
    )


@triton.jit
def embed_norm(
    word,
    position,
    type,
    ids,
    types,
    scale,
    shift,
    seq,
    norm,
    total,
    n: tl.constexpr,
    eps: tl.constexpr,
    offset: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ids, types [batch, seq] -> norm and total [batch, seq, n]; `type` and `types`, or `total`, may be None. Grid:
    tokens."""
    embed_norms.embed_norm(
        word=word,
        position=position,
        type=type,
        ids=ids,
        types=types,
        places=ids,
        scale=scale,
        shift=shift,
        norm=norm,
        total=total,
        seq=seq,
        n=n,
        eps=eps,
        offset=offset,
        PACKED=False,
        HAS_TYPES=types is not None,
        HAS_TOTAL=total is not None,
        BLOCK=BLOCK,
        PDL=False,
    )


@triton.jit
def skip_norm(x, residual, scale, shift, norm, total, n: tl.constexpr, eps: tl.constexpr, BLOCK: tl.constexpr):
    """x, residual [rows, n] -> norm and total [rows, n]; `total` may be None. Grid: rows."""
    skip_norms.skip_norm(
        x=x,
        bias=x,
        residual=residual,
        scale=scale,
        shift=shift,
        norm=norm,
        total=total,
        rows=0,
        n=n,
        eps=eps,
        PARTS=1,
        HAS_BIAS=False,
        HAS_RESIDUAL=True,
        HAS_TOTAL=total is not None,
        BLOCK=BLOCK,
        PDL=False,
    )

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
    projected,
    query,
    key,
    value,
    starts,
    lengths,
    bias,
    seq,
    bias_batch,
    bias_head,
    bias_query,
    context,
    heads: tl.constexpr,
    size: tl.constexpr,
    scale: tl.constexpr,
    window: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """query, key, value [batch, heads, seq, size], or [heads, seq, size] where the `seq` tokens of all sequences are
    packed; or side by side in `projected` [batch, seq, 3 · heads · size] or [tokens, 3 · heads · size] -> context
    [batch, seq, heads · size] or [tokens, heads · size]. What is missing is None, `starts` where nothing is packed.
    Grid: (blocks of queries, heads, batch).

    The kernel's rows are tokens of all heads, so that each head of `query` starts where its own rows would.
    """
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    if projected is not None:
        queries, keys, values = projected, projected + heads * size, projected + 2 * heads * size
    else:
        before = head if starts is not None else batch * (heads - 1) + head
        shift = before * seq * size - head * size
        queries, keys, values = query + shift, key + shift, value + shift
    attentions.attention(
        query=queries,
        key=keys,
        value=values,
        starts=starts if starts is not None else context,
        lengths=lengths if lengths is not None else context,
        bias=bias if bias is not None else context,
        context=context,
        seq=seq,
        row=3 * heads * size if projected is not None else size,
        bias_batch=bias_batch if bias is not None else 0,
        bias_head=bias_head if bias is not None else 0,
        bias_query=bias_query if bias is not None else 0,
        bias_key=1,
        size=size,
        scale=scale,
        PACKED=starts is not None,
        HAS_LENGTHS=lengths is not None,
        GIVEN=False,
        HAS_BIAS=bias is not None,
        WINDOW=window,
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
    places,
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
    """ids, types [batch, seq] -> norm and total [batch, seq, n], or [tokens] with places -> [tokens, n]; `type` and
    `types`, `total`, and one of `places` and `seq` may be None. Grid: tokens."""
    embed_norms.embed_norm(
        word=word,
        position=position,
        type=type,
        ids=ids,
        types=types,
        places=places,
        scale=scale,
        shift=shift,
        norm=norm,
        total=total,
        seq=seq,
        n=n,
        eps=eps,
        offset=offset,
        PACKED=places is not None,
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

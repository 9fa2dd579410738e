"""bertc's ops in torch's functions, written for speed as one would by hand. Sizes and axes are numbers here.

Attention is `scaled_dot_product_attention`; sequences of a packed batch are all of one length.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

torch: Any = import_module("torch")
functional: Any = import_module("torch.nn.functional")

ELEMENTS = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i32": torch.int32,
    "i64": torch.int64,
    "bool": torch.bool,
}


def maximum(x: Any, y: Any) -> Any:
    return torch.clamp(x, min=y)


def transpose(x: Any, *, axes: Any) -> Any:
    return x.permute(axes)


def reshape(x: Any, *, shape: Any) -> Any:
    return x.reshape(shape)


def concat(*parts: Any, axis: int) -> Any:
    return torch.cat(parts, axis)


def split(x: Any, *, sizes: Any, axis: int) -> Any:
    return torch.split(x, list(sizes), axis)


def slice_(x: Any, *, start: int, size: int, axis: int) -> Any:
    return x.narrow(axis, start, size)


def select(x: Any, *, index: int, axis: int) -> Any:
    return x.select(axis, index)


def sum_(x: Any, *, axis: int) -> Any:
    return x.sum(axis)


def embedding(table: Any, ids: Any) -> Any:
    return functional.embedding(ids, table)


def take_along(x: Any, columns: Any) -> Any:
    return torch.gather(x, -1, columns.long().expand(*x.shape[:-1], columns.shape[-1]))


def cast(x: Any, *, element: str) -> Any:
    return x.to(ELEMENTS[element])


def softmax(x: Any) -> Any:
    return torch.softmax(x, -1)


def layer_norm(x: Any, scale: Any, bias: Any, *, eps: float) -> Any:
    return functional.layer_norm(x, (x.shape[-1],), scale, bias, eps)


def gelu_tanh(x: Any) -> Any:
    return functional.gelu(x, approximate="tanh")


def padding_mask(lengths: Any, *, size: int, element: str = "f32") -> Any:
    there = torch.arange(size, device=lengths.device) < lengths[:, None, None, None]
    return torch.where(there, 0.0, -10000.0).to(ELEMENTS[element])


def local_mask(mask: Any, *, window: int) -> Any:
    places = torch.arange(mask.shape[-1], device=mask.device)
    near = 2 * (places[:, None] - places).abs() <= window
    return torch.where(near, mask, torch.full_like(mask[..., :1], -10000.0))


def rotary(x: Any, *, base: float) -> Any:
    return packed_rotary(x, torch.arange(x.shape[-2], device=x.device), base=base)


def packed_rotary(x: Any, places: Any, *, base: float) -> Any:
    half = x.shape[-1] // 2
    rates = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = places[:, None].float() * rates
    left, right = x[..., :half], x[..., half:]
    cosines, sines = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat((left * cosines - right * sines, right * cosines + left * sines), -1)


def scaled_softmax(x: Any, mask: Any, *, scale: float) -> Any:
    return torch.softmax(x * scale + mask, -1)


def bias_gelu(x: Any, bias: Any) -> Any:
    return functional.gelu(x + bias)


def bias_gelu_tanh(x: Any, bias: Any) -> Any:
    return gelu_tanh(x + bias)


def skip_norm(x: Any, residual: Any, scale: Any, bias: Any, *, eps: float) -> Any:
    total = x + residual
    return layer_norm(total, scale, bias, eps=eps), total


def embed_norm(
    word: Any, position: Any, type: Any, ids: Any, types: Any, scale: Any, bias: Any, *, eps: float, offset: int
) -> Any:
    total = embedding(word, ids) + position[offset : offset + ids.shape[1]] + embedding(type, types)
    return layer_norm(total, scale, bias, eps=eps), total


def untyped_embed_norm(word: Any, position: Any, ids: Any, scale: Any, bias: Any, *, eps: float, offset: int) -> Any:
    total = embedding(word, ids) + position[offset : offset + ids.shape[1]]
    return layer_norm(total, scale, bias, eps=eps), total


def packed_embed_norm(
    word: Any,
    position: Any,
    type: Any,
    ids: Any,
    types: Any,
    places: Any,
    scale: Any,
    bias: Any,
    *,
    eps: float,
    offset: int,
) -> Any:
    total = embedding(word, ids) + embedding(position, offset + places) + embedding(type, types)
    return layer_norm(total, scale, bias, eps=eps), total


def packed_untyped_embed_norm(
    word: Any, position: Any, ids: Any, places: Any, scale: Any, bias: Any, *, eps: float, offset: int
) -> Any:
    total = embedding(word, ids) + embedding(position, offset + places)
    return layer_norm(total, scale, bias, eps=eps), total


def qkv_projection(x: Any, weight: Any, bias: Any, *, heads: int, size: int) -> Any:
    merged = functional.linear(x, weight, bias).unflatten(-1, (3, heads, size))
    return tuple(merged[..., which, :, :].transpose(-3, -2) for which in range(3))


def attention(query: Any, key: Any, value: Any, mask: Any, *, scale: float) -> Any:
    mask = None if mask is None else mask.to(query.dtype)
    context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return context.transpose(1, 2).flatten(2)


def packed_attention(
    query: Any, key: Any, value: Any, starts: Any, lengths: Any, *, scale: float, window: int = 0
) -> Any:
    nowhere = query.new_zeros(1, query.shape[1] // starts.shape[0])
    mask = local_mask(nowhere, window=window) if window else None
    return _whole_rows(query, key, value, starts.shape[0], mask, scale)


def packed_biased_attention(
    query: Any, key: Any, value: Any, starts: Any, lengths: Any, bias: Any, *, scale: float
) -> Any:
    seq = query.shape[1] // starts.shape[0]
    return _whole_rows(query, key, value, starts.shape[0], bias[:, :seq, :seq], scale)


def _whole_rows(query: Any, key: Any, value: Any, batch: int, mask: Any, scale: float) -> Any:
    """[heads, tokens, size] is [batch, heads, seq, size], since the sequences have one length."""
    query, key, value = (x.unflatten(1, (batch, -1)).transpose(0, 1) for x in (query, key, value))
    return attention(query, key, value, mask, scale=scale).flatten(0, 1)


def first_tokens(x: Any, starts: Any) -> Any:
    return x[starts]


OPS: dict[str, Callable[..., Any]] = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "matmul": torch.matmul,
    "gelu": functional.gelu,
    "relu": torch.relu,
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    **{
        function.__name__.rstrip("_"): function
        for function in (
            maximum, transpose, reshape, concat, split, slice_, select, sum_, embedding, take_along, cast, softmax,
            layer_norm, gelu_tanh, padding_mask, local_mask, rotary, scaled_softmax, bias_gelu, bias_gelu_tanh,
            skip_norm, embed_norm, untyped_embed_norm, packed_embed_norm, qkv_projection, attention, packed_attention,
            first_tokens, packed_untyped_embed_norm, packed_biased_attention, packed_rotary,
        )
    },
}  # fmt: skip

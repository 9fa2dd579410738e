"""Every kernel against the NumPy reference of what it computes: in Triton's interpreter, or on a GPU.

BERTC_TEST_DEVICE=cuda runs the same cases compiled, as benchmarks/gpu.py does.

Bounds are in units in the last place of the element type at the size of the largest result: a kernel sums in float32,
rounds once, and reads operands that are already rounded, so f16 and bf16 differ by their own rounding and no more;
float32 differs by the order of its sums.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pytest

from bertc.kernels.interpreter import interpret

DEVICE = os.environ.get("BERTC_TEST_DEVICE", "cpu")
if DEVICE == "cpu":
    interpret()  # before Triton is imported
triton = pytest.importorskip("triton")
import torch  # noqa: E402
from triton.tools.tensor_descriptor import TensorDescriptor  # noqa: E402

from bertc.kernels.attention import attention  # noqa: E402
from bertc.kernels.bias_gelu import bias_activation  # noqa: E402
from bertc.kernels.embed_norm import embed_norm  # noqa: E402
from bertc.kernels.linear import linear  # noqa: E402
from bertc.kernels.linear_row import linear_row  # noqa: E402
from bertc.kernels.linear_tiles import linear_tiles  # noqa: E402
from bertc.kernels.scaled_softmax import scaled_softmax  # noqa: E402
from bertc.kernels.skip_norm import skip_norm  # noqa: E402
from bertc.ops import PRIMITIVES  # noqa: E402
from bertc.plugins import PLUGINS  # noqa: E402

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
BITS = {"f32": 23, "f16": 10, "bf16": 7}
ULPS = {"f32": 40, "f16": 1.01, "bf16": 1.01}

every_type = pytest.mark.parametrize("element", TYPES)
types_of_products = pytest.mark.parametrize("element", ["f32", "f16"] if DEVICE == "cpu" else TYPES)
"""The interpreter multiplies bf16 by its bits; those products are checked on a GPU only."""


def draw(element: str, *shape: int, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, TYPES[element])


def wide(tensor: Any) -> Any:
    return tensor.cpu().double().numpy()


def assert_close(found: Any, expected: Any, element: str, ulps: float | None = None) -> None:
    assert found.dtype == TYPES[element]
    unit = 2.0 ** (math.floor(math.log2(np.abs(expected).max())) - BITS[element])
    worst = np.abs(wide(found) - expected).max() / unit
    assert worst <= (ULPS[element] if ulps is None else ulps), f"{worst:.2f} units in the last place"


def nothing(element: str, *shape: int) -> Any:
    """Memory that shows where a kernel has not written."""
    return torch.full(shape, float("nan"), dtype=TYPES[element], device=DEVICE)


@every_type
@pytest.mark.parametrize(("rows", "n"), [(1, 1), (3, 24), (5, 100), (2, 312)])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("has_total", [False, True])
def test_skip_norm(element: str, rows: int, n: int, parts: int, has_total: bool) -> None:
    x = draw(element if parts == 1 else "f32", parts, rows, n)
    bias, scale, shift = (draw(element, n, seed=seed) for seed in (1, 2, 3))
    residual = draw(element, rows, n, seed=4)
    norm, total = nothing(element, rows, n), nothing(element, rows, n)
    eps, block = 1e-3, triton.next_power_of_2(n)
    skip_norm[(rows,)](
        x, bias, residual, scale, shift, norm, total, rows, n, eps, parts, True, True, has_total, block, False
    )
    reference = PLUGINS["skip_norm"].reference
    expected = reference(wide(x).sum(0) + wide(bias), wide(residual), wide(scale), wide(shift), eps=eps)
    assert_close(norm, expected[0], element)
    if has_total:
        assert_close(total, expected[1], element)
    else:
        assert torch.isnan(total).all()


@every_type
@pytest.mark.parametrize("n", [24, 100])
@pytest.mark.parametrize("exact", [False, True])
def test_layer_norm(element: str, n: int, exact: bool) -> None:
    """Its parameters are of x's type, or f32."""
    x = draw(element, 3, n)
    scale, shift = (draw("f32" if exact else element, n, seed=seed) for seed in (2, 3))
    norm = nothing(element, 3, n)
    block = triton.next_power_of_2(n)
    skip_norm[(3,)](x, x, x, scale, shift, norm, norm, 3, n, 1e-12, 1, False, False, False, block, False)
    expected = PRIMITIVES["layer_norm"].reference(wide(x), wide(scale), wide(shift), eps=1e-12)
    assert_close(norm, expected, element)


@every_type
@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("typed", [False, True])
def test_embed_norm(element: str, offset: int, packed: bool, typed: bool) -> None:
    batch, seq, n, eps = 2, 5, 24, 1e-5
    word, position, kind = draw(element, 17, n), draw(element, 9, n, seed=1), draw(element, 2, n, seed=2)
    scale, shift = draw(element, n, seed=3), draw(element, n, seed=4)
    generator = np.random.default_rng(0)
    ids, types = generator.integers(0, 17, (batch, seq)), generator.integers(0, 2, (batch, seq))
    tables, given = ((word, position, kind), (ids, types)) if typed else ((word, position), (ids,))
    expected = PLUGINS["embed_norm" if typed else "untyped_embed_norm"].reference(
        *map(wide, tables), *given, wide(scale), wide(shift), eps=eps, offset=offset
    )
    places = torch.arange(batch * seq) % seq
    order = torch.randperm(batch * seq, generator=torch.Generator().manual_seed(0)) if packed else torch.arange(10)
    given = [torch.from_numpy(array).int().reshape(-1)[order].to(DEVICE) for array in (ids, types)]
    norm, total = nothing(element, batch * seq, n), nothing(element, batch * seq, n)
    embed_norm[(batch * seq,)](
        *(word, position, kind, *given, places[order].int().to(DEVICE), scale, shift, norm, total),
        *(seq, n, eps, offset, packed, typed, True, 32, False),
    )
    for found, value in zip((norm, total), expected, strict=True):
        assert_close(found, value.reshape(-1, n)[order.numpy()], element)


@every_type
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "tanh", "relu", "silu", "sigmoid", ""])
def test_activations(element: str, activation: str) -> None:
    """Over the whole range in which they bend; gelu is good to 1.5e-7, which a f32 at 8 tells by a third of a unit."""
    x, bias = torch.linspace(-8, 8, 1210).reshape(10, 121).to(DEVICE, TYPES[element]), draw(element, 121)
    y = nothing(element, 10, 121)
    bias_activation[(5,)](x, bias, y, 1210, 121, activation, True, 256, False)
    total = wide(x) + wide(bias)
    expected = PRIMITIVES[activation].reference(total) if activation else total
    assert_close(y, expected, element)


@types_of_products
@pytest.mark.parametrize("split", [1, 2])
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 2, 64), (5, 40, 128), (19, 64, 96)])
def test_linear(element: str, rows: int, n: int, k: int, split: int) -> None:
    x, w, bias = draw(element, rows, 2 * k), draw(element, n, k, seed=1), draw(element, n, seed=2)
    y = nothing(element if split == 1 else "f32", split, rows, n)
    tile = {"ROWS": 16, "COLUMNS": 32, "DEPTH": 32, "STAGES": 2}
    grid = (triton.cdiv(n, 32), triton.cdiv(rows, 16), split)
    end = "tanh" if split == 1 else ""
    linear[grid](x, w, bias, y, rows, 2 * k, n, k, end, split, "ieee", **tile, PDL=False)
    product = wide(x)[:, :k] @ wide(w).T
    if split == 1:
        assert_close(y[0], np.tanh(product + wide(bias)), element)
    else:
        assert_close(y.sum(0), product, "f32")


@every_type
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 2, 64), (3, 40, 96), (2, 9, 768)])
def test_linear_row(element: str, rows: int, n: int, k: int) -> None:
    x, w, bias = draw(element, rows, 2 * k), draw(element, n, k, seed=1), draw(element, n, seed=2)
    y = nothing(element, rows + 1, n)
    block = triton.next_power_of_2(k)
    linear_row[(rows, triton.cdiv(n, 8))](x, w, bias, y, 2 * k, n, k, "tanh", 8, block, False)
    assert_close(y[:rows], np.tanh(wide(x)[:, :k] @ wide(w).T + wide(bias)), element)
    assert torch.isnan(y[rows]).all(), "written behind the last row"


@pytest.mark.parametrize("element", ["f16"] if DEVICE == "cpu" else ["f16", "bf16"])
@pytest.mark.parametrize(("rows", "n", "k"), [(40, 64, 64), (16, 32, 96)])
def test_linear_tiles(element: str, rows: int, n: int, k: int) -> None:
    x, w, bias = draw(element, rows, k), draw(element, n, k, seed=1), draw(element, n, seed=2)
    y = nothing(element, rows, n)
    boxes = ((x, [16, 32]), (w, [32, 32]), (y, [16, 16]))
    x_boxes, w_boxes, y_boxes = (TensorDescriptor.from_tensor(tensor, box) for tensor, box in boxes)
    linear_tiles[(3,)](x_boxes, w_boxes, bias, y_boxes, rows, n, k, "gelu", 16, 32, 32, 2, 3, False)
    expected = PRIMITIVES["gelu"].reference(wide(x) @ wide(w).T + wide(bias))
    assert_close(y, expected, element)


LENGTHS = [[1], [7, 3], [40, 33, 1], [32, 16]]


ATTENTION_ULPS = {"f32": 40, "f16": 2, "bf16": 2}
"""Weights are rounded to the element type before they meet the values."""


@types_of_products
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("packed", [False, True])
def test_attention(element: str, lengths: list[int], size: int, packed: bool) -> None:
    heads, seq, batch = 2, max(lengths) + 3, len(lengths)
    qkv = draw(element, batch, seq, 3, heads, size)
    query, key, value = (wide(qkv)[:, :, index].transpose(0, 2, 1, 3) for index in range(3))
    mask = PRIMITIVES["padding_mask"].reference(np.array(lengths), size=seq)
    expected = PLUGINS["attention"].reference(query, key, value, mask, scale=size**-0.5)
    rows = qkv.reshape(batch, seq, -1)
    if packed:
        rows = torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])
        expected = np.concatenate([row[:length] for row, length in zip(expected, lengths, strict=True)])
    else:
        rows, expected = rows.reshape(batch * seq, -1), expected.reshape(batch * seq, -1)
    starts = torch.tensor([0, *np.cumsum(lengths)[:-1]], device=DEVICE).int()
    given = torch.tensor(lengths, device=DEVICE).int()
    width = heads * size
    context = nothing(element, len(rows), width)
    columns = rows.reshape(-1)
    tile = {"QUERIES": 16, "KEYS": 16, "STAGES": 1, "PDL": False}
    attention[(triton.cdiv(seq, 16), heads, batch)](
        *(columns, columns[width:], columns[2 * width :], starts, given, columns, context),
        *(seq, 3 * width, 0, 0, 0, 0, size, size**-0.5, packed, True, True, False, 0, "ieee"),
        **tile,
    )
    assert_close(context, expected, element, ATTENTION_ULPS[element])


def attend(qkv: Any, lengths: Any, bias: Any, strides: Any, window: int = 0) -> Any:
    """The kernel on qkv [batch, seq, 3, heads, size]; lengths or None, bias or None with its four strides."""
    batch, seq, _, heads, size = qkv.shape
    columns, width = qkv.reshape(-1), heads * size
    context = nothing({torch.float32: "f32", torch.float16: "f16"}.get(qkv.dtype, "bf16"), batch * seq, width)
    given = columns if lengths is None else torch.tensor(lengths, device=DEVICE).int()
    added = columns if bias is None else bias.reshape(-1)
    attention[(triton.cdiv(seq, 16), heads, batch)](
        *(columns, columns[width:], columns[2 * width :], given, given, added, context, seq, 3 * width, *strides),
        *(size, size**-0.5, False, lengths is not None, False, bias is not None, window, "ieee", 16, 16, 1, False),
    )
    return context


def attention_of(qkv: Any, mask: Any) -> Any:
    """The same by its reference, as rows."""
    query, key, value = (wide(qkv)[:, :, index].transpose(0, 2, 1, 3) for index in range(3))
    expected = PLUGINS["attention"].reference(query, key, value, mask, scale=qkv.shape[-1] ** -0.5)
    return expected.reshape(-1, expected.shape[-1])


@types_of_products
@pytest.mark.parametrize("shape", [(3, 2, 21, 21), (1, 2, 21, 21), (3, 1, 1, 21)], ids=str)
@pytest.mark.parametrize("lengths", [None, [21, 7, 1]], ids=str)
def test_attention_with_a_bias(element: str, shape: tuple[int, ...], lengths: list[int] | None) -> None:
    qkv, bias = draw(element, 3, 21, 3, 2, 16), draw(element, *shape, seed=1)
    strides = [stride if size > 1 else 0 for size, stride in zip(shape, bias.stride(), strict=True)]
    mask = 0.0 if lengths is None else PRIMITIVES["padding_mask"].reference(np.array(lengths), size=21)
    expected = attention_of(qkv, wide(bias) + mask)
    assert_close(attend(qkv, lengths, bias, strides), expected, element, ATTENTION_ULPS[element])


@types_of_products
def test_attention_where_everything_is_masked(element: str) -> None:
    """Beside -10000 a float32 has 2⁻¹⁰ left for a score, so the weights are good to that, of any type."""
    qkv = draw(element, 1, 19, 3, 2, 16)
    bias = torch.full((19,), -10000.0).to(DEVICE, TYPES[element])
    expected = attention_of(qkv, np.zeros((1, 1, 1, 19)))
    assert np.abs(wide(attend(qkv, None, bias, (0, 0, 0, 1))) - expected).max() < 2**-9 + 2.0 ** (1 - BITS[element])


@types_of_products
@pytest.mark.parametrize("window", [1, 6, 40])
@pytest.mark.parametrize("lengths", [[53, 50], [17, 1], [48, 16]], ids=str)
def test_attention_in_a_window(element: str, window: int, lengths: list[int]) -> None:
    """Blocks of keys outside are passed over; padding that no token is near is finite, and nobody's."""
    qkv = draw(element, 2, 53, 3, 2, 16)
    mask = PRIMITIVES["padding_mask"].reference(np.array(lengths), size=53)
    expected = attention_of(qkv, PRIMITIVES["local_mask"].reference(mask, window=window))
    found = attend(qkv, lengths, None, (0, 0, 0, 0), window)
    assert torch.isfinite(found).all()
    there = (np.arange(53) < np.array(lengths)[:, None]).reshape(-1)
    assert_close(found[torch.from_numpy(there)], expected[there], element, ATTENTION_ULPS[element])


@every_type
@pytest.mark.parametrize("count", [1, 20, 1024, 4096])
@pytest.mark.parametrize("masked", ["none", "keys", "all", "each"])
def test_scaled_softmax(element: str, count: int, masked: str) -> None:
    """A row of which everything is masked is the softmax of its scores; rows and their blocks have any length."""
    batch, heads, queries = 2, 2, 1 if count > 20 else 3
    scores = draw(element, batch, heads, queries, count)
    lengths = torch.tensor([count, 0 if masked == "all" else max(1, count // 3)])
    mask = torch.where(torch.arange(count) < lengths[:, None], 0.0, -10000.0).to(DEVICE, TYPES[element])
    strides = (count, 0, 0, 1)
    if masked == "each":
        mask = draw(element, heads, queries, count, seed=1)
        strides = (0, queries * count, count, 1)
    weights, scale = nothing(element, batch, heads, queries, count), 0.125
    scaled_softmax[(batch * heads * queries,)](
        *(scores, mask, *strides, weights, heads, queries, count, scale, masked != "none", 1024, False)
    )
    added = wide(mask)[None] if masked == "each" else wide(mask)[:, None, None]
    expected = PLUGINS["scaled_softmax"].reference(wide(scores), 0.0 if masked == "none" else added, scale=scale)
    assert_close(weights, expected, element)

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

DEVICE = os.environ.get("BERTC_TEST_DEVICE", "cpu")
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is declared
triton = pytest.importorskip("triton")
import torch  # noqa: E402
from triton.runtime import interpreter  # noqa: E402
from triton.tools.tensor_descriptor import TensorDescriptor  # noqa: E402

from bertc.kernels.attention import attention  # noqa: E402
from bertc.kernels.bias_gelu import bias_activation  # noqa: E402
from bertc.kernels.embed_norm import embed_norm  # noqa: E402
from bertc.kernels.linear import linear  # noqa: E402
from bertc.kernels.linear_tiles import linear_tiles  # noqa: E402
from bertc.kernels.skip_norm import skip_norm  # noqa: E402
from bertc.ops import PRIMITIVES  # noqa: E402
from bertc.plugins import PLUGINS  # noqa: E402

_patch = interpreter._patch_lang_tensor


def _patch_with_index(tensor: Any, scope: Any) -> None:
    """Triton 3.6 makes an int of an array of one element, which NumPy 2.4 refuses; `item` does it."""
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = _patch_with_index

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
def test_layer_norm(element: str, n: int) -> None:
    x, scale, shift = draw(element, 3, n), draw(element, n, seed=2), draw(element, n, seed=3)
    norm = nothing(element, 3, n)
    block = triton.next_power_of_2(n)
    skip_norm[(3,)](x, x, x, scale, shift, norm, norm, 3, n, 1e-12, 1, False, False, False, block, False)
    expected = PRIMITIVES["layer_norm"].reference(wide(x), wide(scale), wide(shift), eps=1e-12)
    assert_close(norm, expected, element)


@every_type
@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_embed_norm(element: str, offset: int, packed: bool) -> None:
    batch, seq, n, eps = 2, 5, 24, 1e-5
    word, position, kind = draw(element, 17, n), draw(element, 9, n, seed=1), draw(element, 2, n, seed=2)
    scale, shift = draw(element, n, seed=3), draw(element, n, seed=4)
    generator = np.random.default_rng(0)
    ids, types = generator.integers(0, 17, (batch, seq)), generator.integers(0, 2, (batch, seq))
    expected = PLUGINS["embed_norm"].reference(
        *map(wide, (word, position, kind)), ids, types, wide(scale), wide(shift), eps=eps, offset=offset
    )
    places = torch.arange(batch * seq) % seq
    order = torch.randperm(batch * seq, generator=torch.Generator().manual_seed(0)) if packed else torch.arange(10)
    given = [torch.from_numpy(array).int().reshape(-1)[order].to(DEVICE) for array in (ids, types)]
    norm, total = nothing(element, batch * seq, n), nothing(element, batch * seq, n)
    embed_norm[(batch * seq,)](
        *(word, position, kind, *given, places[order].int().to(DEVICE), scale, shift, norm, total),
        *(seq, n, eps, offset, packed, True, 32, False),
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


if DEVICE != "cpu":  # the interpreter has no Gluon; linear_tiles is the same product
    from triton.experimental.gluon.language import NVMMASharedLayout, bfloat16, float16
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as Boxes

    from bertc.kernels.linear_specialised import linear_specialised
    from bertc.targets.cuda.compile_kernels import SPECIALISED

    @pytest.mark.parametrize("element", ["f16", "bf16"])
    @pytest.mark.parametrize("has_residual", [False, True])
    @pytest.mark.parametrize(("columns", "stages"), [(256, 3), (128, 4)])
    @pytest.mark.parametrize(("rows", "n", "k"), [(1, 256, 64), (1000, 768, 192), (4096, 1024, 1024)])
    def test_linear_specialised(
        element: str, rows: int, n: int, k: int, columns: int, stages: int, has_residual: bool
    ) -> None:
        """Two units: the product is rounded before the bias and the residual are added to it."""
        x, w, bias = draw(element, rows, k), draw(element, n, k, seed=1), draw(element, n, seed=2)
        residual, y = draw(element, rows, n, seed=3), nothing(element, rows, n)
        gluon = {"f16": float16, "bf16": bfloat16}[element]
        x_boxes, w_boxes, y_boxes = (
            Boxes.from_tensor(tensor, box, NVMMASharedLayout.get_default_for(box, gluon))
            for tensor, box in ((x, [128, 64]), (w, [columns, 64]), (y, [128, 64]))
        )
        linear_specialised[(132,)](
            *(x_boxes, w_boxes, bias, residual, y_boxes, rows, n, k, "gelu", has_residual),
            *(128, columns, 64, stages, 8, False),
            num_warps=8,
            maxnreg=SPECIALISED,
        )
        total = wide(x) @ wide(w).T + wide(bias) + (wide(residual) if has_residual else 0.0)
        assert_close(y, PRIMITIVES["gelu"].reference(total), element, ulps=2)


LENGTHS = [[1], [7, 3], [40, 33, 1], [32, 16]]


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
        *(columns, columns[width:], columns[2 * width :], starts, given, context),
        *(seq, 3 * width, size, size**-0.5, packed, "ieee"),
        **tile,
    )
    # weights are rounded to the element type before they meet the values
    assert_close(context, expected, element, {"f32": 40, "f16": 2, "bf16": 2}[element])

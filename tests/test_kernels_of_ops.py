"""The kernels of single ops, which take values as they lie; as in test_kernels.py, in its interpreter or on its GPU."""

from __future__ import annotations

import numpy as np
import pytest
from test_kernels import DEVICE, assert_close, draw, every_type, nothing, triton, types_of_products, wide

torch = pytest.importorskip("torch")

from bertc.kernels.batched_product import batched_product  # noqa: E402
from bertc.kernels.masks import local_mask, padding_mask  # noqa: E402
from bertc.kernels.pointwise import pointwise  # noqa: E402
from bertc.kernels.rotary import rotary  # noqa: E402
from bertc.kernels.sums import sum_along  # noqa: E402
from bertc.kernels.take_along import take_along  # noqa: E402
from bertc.kernels.take_rows import take_rows  # noqa: E402
from bertc.ops import PRIMITIVES, rotary_factors  # noqa: E402


@every_type
@pytest.mark.parametrize("op", ["add", "subtract", "multiply", "divide", "maximum"])
def test_pointwise(element: str, op: str) -> None:
    """x transposed, y broadcast, z a part of what it lies in."""
    x, y, z = draw(element, 2, 5, 3, 19), draw(element, 3, 1, seed=1), nothing(element, 2, 3, 5, 40)
    x_0, x_2, x_1, x_3 = x.stride()
    pointwise[(2 * 3 * 5, 2)](
        *(x, x_0, x_1, x_2, x_3, y, 0, 1, 0, 0, z[..., 7:], *z.stride(), 3, 5, 19, "silu", op, 16, False)
    )
    activated = PRIMITIVES["silu"].reference(wide(x).transpose(0, 2, 1, 3))
    expected = PRIMITIVES[op].reference(activated, wide(y)[None, :, :, None])
    assert_close(z[..., 7:26], expected, element)
    assert torch.isnan(z[..., :7]).all()
    assert torch.isnan(z[..., 26:]).all()


@every_type
def test_pointwise_copies(element: str) -> None:
    """Numbers become any type, with no op and no second value."""
    x, z = torch.arange(-9, 9, device=DEVICE).int().reshape(2, 9), nothing(element, 9, 2)
    pointwise[(9, 1)](x, 0, 0, 1, 9, x, 0, 0, 0, 0, z, 0, 0, 2, 1, 1, 9, 2, "", "", 16, False)
    assert torch.equal(z, x.T.to(z.dtype))


@types_of_products
@pytest.mark.parametrize(("rows", "columns", "depth"), [(1, 1, 1), (21, 19, 40), (16, 32, 16)])
def test_batched_product(element: str, rows: int, columns: int, depth: int) -> None:
    """x by heads beside each other, y transposed and the same for the whole batch."""
    x, y = draw(element, 2, rows, 3, depth), draw(element, 3, columns, depth, seed=1)
    z = nothing(element, 2, 3, rows, columns)
    x_0, x_2, x_1, x_3 = x.stride()
    y_1, y_3, y_2 = y.stride()
    grid = (2 * 3, triton.cdiv(rows, 16), triton.cdiv(columns, 16))
    batched_product[grid](
        *(x, x_0, x_1, x_2, x_3, y, 0, y_1, y_2, y_3, z, 3, rows, columns, depth, "ieee", 16, 16, 16, False)
    )
    expected = np.einsum("brhk,hck->bhrc", wide(x), wide(y))
    assert_close(z, expected, element)


@every_type
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_rotary(element: str, packed: bool, in_place: bool) -> None:
    batch, seq, heads, size, base = 2, 9, 3, 12, 1e4
    x = draw(element, batch, seq, 2, heads, size)
    expected = PRIMITIVES["rotary"].reference(wide(x)[:, :, 1].transpose(0, 2, 1, 3), base=base)
    expected = expected.transpose(0, 2, 1, 3).reshape(batch * seq, -1)
    order = torch.randperm(batch * seq, generator=torch.Generator().manual_seed(0)) if packed else torch.arange(18)
    rows, width = x.reshape(batch * seq, -1)[order.to(DEVICE)].clone(), heads * size
    frequencies = torch.from_numpy(rotary_factors(base, size)[0][: size // 2]).float().to(DEVICE)
    places = (order % seq).int().to(DEVICE)
    y, row = (rows.reshape(-1)[width:], 2 * width) if in_place else (nothing(element, batch * seq, width), width)
    rotary[(batch * seq,)](
        *(rows.reshape(-1)[width:], frequencies, places, y, seq, 2 * width, row, heads, size, packed, 4, 8, False)
    )
    assert_close(rows[:, width:] if in_place else y, expected[order.numpy()], element)
    assert torch.equal(rows[:, :width], x.reshape(batch * seq, -1)[order.to(DEVICE)][:, :width])


@every_type
def test_masks(element: str) -> None:
    lengths, count = torch.tensor([5, 1, 21], device=DEVICE).int(), 21
    mask, local = nothing(element, 3, 1, 1, count), nothing(element, 3, 1, count, count)
    padding_mask[(3, 2)](lengths, mask, count, 16, False)
    local_mask[(3 * count, 2)](mask, local, count, 6, 16, False)
    expected = PRIMITIVES["padding_mask"].reference(wide(lengths), size=count)
    unit = 0.0 if element != "bf16" else 16.0  # 10000 is no bf16
    assert np.abs(wide(mask) - expected).max() <= unit
    assert np.abs(wide(local) - PRIMITIVES["local_mask"].reference(expected, window=6)).max() <= unit


@every_type
def test_sum_along(element: str) -> None:
    """Of the middle axis of three, and of the last of two: float32 whatever they are sums of."""
    x, total = draw(element, 2, 7, 40), nothing("f32", 2, 40)
    sum_along[(2, 3)](x, 280, 1, 40, total, 2, 40, 7, 16, False)
    assert_close(total, wide(x).sum(1), "f32")
    counts = torch.zeros(2, dtype=torch.int32, device=DEVICE)
    sum_along[(1, 1)](torch.ones(2, 7, device=DEVICE).int(), 0, 7, 1, counts, 1, 2, 7, 16, False)
    assert counts.tolist() == [7, 7]


@every_type
def test_look_ups(element: str) -> None:
    """Rows by their numbers, out of wider rows; and columns of rows, by a part of a table."""
    table = draw(element, 9, 40)
    rows, y = torch.tensor([3, 0, 8, 3], device=DEVICE).int(), nothing(element, 4, 24)
    take_rows[(4,)](table, rows, y, 40, 24, 32, False)
    assert torch.equal(y, table[rows.long(), :24])
    x, z = draw(element, 2, 3, 5, 8), nothing(element, 2, 3, 5, 20)
    columns = torch.from_numpy(np.random.default_rng(0).integers(0, 8, (5, 24))).int().to(DEVICE)
    take_along[(30, 2)](x, 8, columns, 24, 1, z, 5, 20, 16, False)
    expected = PRIMITIVES["take_along"].reference(wide(x), columns[:, :20].cpu().numpy())
    assert_close(z, expected, element, 0)

"""padding_mask and local_mask as values, for what has no kernel that takes lengths and windows as they are."""

import triton
import triton.language as tl

from bertc.kernels.launch import release, wait

MASKED: tl.constexpr = tl.constexpr(-10000.0)
"""What bertc.ops has at masked places."""


@triton.jit
def padding_mask(lengths, mask, count, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """mask[b, j] = 0 where j < lengths[b], else -10000; mask [batch, count]. Grid: (batch, count / BLOCK)."""
    batch = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    release(PDL)
    wait(PDL)
    value = tl.where(columns < tl.load(lengths + batch), 0.0, MASKED)
    tl.store(mask + batch * count + columns, value.to(mask.dtype.element_ty), mask=columns < count)


@triton.jit
def local_mask(mask, local, count, window: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """local[b, i, j] = mask[b, j] where 2 |i - j| ≤ window, else -10000; mask [batch, count], local [batch, count,
    count]. Grid: (batch · count, count / BLOCK)."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < count
    release(PDL)
    wait(PDL)
    value = tl.load(mask + row // count * count + columns, mask=inside, other=0.0).to(tl.float32)
    value = tl.where(2 * tl.abs(row % count - columns) <= window, value, MASKED)
    tl.store(local + row * count + columns, value.to(local.dtype.element_ty), mask=inside)

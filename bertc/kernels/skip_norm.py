"""skip_norm, and layer_norm where there is nothing to add: one row a program."""

import triton
import triton.language as tl

from bertc.kernels.launch import release, wait


@triton.jit
def vector(values, columns, inside):
    """One of the vectors [n] of a norm: a constant, so that it may be read before `wait`."""
    return tl.load(values + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def normal(total, inside, factor, added, n: tl.constexpr, eps: tl.constexpr):
    """factor · (total - mean) / √(var + eps) + added over one row, of which `inside` are columns."""
    mean = tl.sum(total, 0) / n
    centred = tl.where(inside, total - mean, 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, 0) / n + eps)
    return centred / deviation * factor + added


@triton.jit
def skip_norm(
    x,
    bias,
    residual,
    scale,
    shift,
    norm,
    total,
    rows,
    n: tl.constexpr,
    eps: tl.constexpr,
    PARTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_TOTAL: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """total = Σ x[part] + bias + residual; norm = scale · (total - mean) / √(var + eps) + shift.

    x [PARTS, rows, n], the parts of a product that was split along its sum; residual, norm, total [rows, n]; the
    vectors [n]. Grid: rows.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < n
    release(PDL)
    factor, added = vector(scale, columns, inside), vector(shift, columns, inside)
    if HAS_BIAS:
        before = vector(bias, columns, inside)
    wait(PDL)
    value = tl.load(x + row * n + columns, mask=inside, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        value += tl.load(x + (part * rows + row) * n + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += before
    if HAS_RESIDUAL:
        value += tl.load(residual + row * n + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_TOTAL:
        tl.store(total + row * n + columns, value.to(total.dtype.element_ty), mask=inside)
    result = normal(value, inside, factor, added, n, eps)
    tl.store(norm + row * n + columns, result.to(norm.dtype.element_ty), mask=inside)

"""embedding, and first_tokens: rows of a table by their numbers; one row a program."""

import triton
import triton.language as tl

from bertc.kernels.launch import release, wait


@triton.jit
def take_rows(x, rows, y, row, n: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """y[i] = x[rows[i]]; x [*, n], its rows `row` apart, rows [count], y [count, n]. Grid: count."""
    index = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    release(PDL)
    wait(PDL)
    taken = tl.load(rows + index).to(tl.int64)
    value = tl.load(x + taken * row + columns, mask=columns < n)
    tl.store(y + index * n + columns, value, mask=columns < n)

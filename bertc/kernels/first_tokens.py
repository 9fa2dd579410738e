"""first_tokens: the rows of a matrix at which sequences start; one sequence a program."""

import triton
import triton.language as tl

from bertc.kernels.launch import release, wait


@triton.jit
def first_tokens(x, starts, y, n: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """y[b] = x[starts[b]]; x [tokens, n], starts [batch], y [batch, n]. Grid: batch."""
    batch = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    release(PDL)
    wait(PDL)
    row = tl.load(starts + batch).to(tl.int64)
    value = tl.load(x + row * n + columns, mask=columns < n)
    tl.store(y + batch * n + columns, value, mask=columns < n)

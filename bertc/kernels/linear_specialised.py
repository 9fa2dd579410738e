"""Products with a weight for many rows: warps that multiply, and warps of their own for what follows a product.

Eight warps take tiles one after another and hand each sum over in shared memory; while they multiply the next tile,
four warps add the bias and the residual, take the activation and store. So the tensor cores never wait for an end.
Written in Gluon, Triton's language for what its compiler otherwise decides; needs compute capability 9.0.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from bertc.kernels.activations import activate
from bertc.kernels.launch import release, wait

STRIPE: gl.constexpr = gl.constexpr(64)
"""Columns that are stored at once: 128 bytes, as far as shared memory is swizzled."""
SLAB: gl.constexpr = gl.constexpr(64)
"""Rows of a stripe that are in registers at once."""


@gluon.jit
def tile_at(tile, rows, n: gl.constexpr, high: gl.constexpr, wide: gl.constexpr, group: gl.constexpr):
    """First row and column of a tile of high × wide. Tiles go in groups of `group` rows of tiles, so that those at work
    together share operands in the L2 cache."""
    across: gl.constexpr = n // wide
    first = tile // (group * across) * group
    size = gl.minimum(gl.cdiv(rows, high) - first, group)
    return (first + tile % size) * high, tile % (group * across) // size * wide


@gluon.jit
def load(step, steps, x, w, x_stages, w_stages, loaded, rows, n: gl.constexpr, k: gl.constexpr, group: gl.constexpr):
    """Ask for the operands of a step, counted over all of this program's tiles."""
    stages: gl.constexpr = x_stages.shape[0]
    deep: gl.constexpr = x_stages.shape[2]
    inner: gl.constexpr = k // deep
    tile = gl.program_id(0) + step // inner * gl.num_programs(0)
    row, column = tile_at(tile, rows, n, x_stages.shape[1], w_stages.shape[1], group)
    depth = step % inner * deep
    stage = step % stages
    arrival = loaded.index(stage)
    more = step < steps
    mbarrier.expect(arrival, x.block_type.nbytes + w.block_type.nbytes, pred=more)
    tma.async_copy_global_to_shared(x, [row, depth], arrival, x_stages.index(stage), pred=more)
    tma.async_copy_global_to_shared(w, [column, depth], arrival, w_stages.index(stage), pred=more)


@gluon.jit
def finish_stripes(
    FIRST: gl.constexpr,
    LAST: gl.constexpr,
    row,
    column,
    bias,
    residual,
    y,
    sums,
    rows,
    n: gl.constexpr,
    ACTIVATION: gl.constexpr,
    HAS_RESIDUAL: gl.constexpr,
):
    """Make results of some columns of a tile's sums, in place, and start to store them."""
    high: gl.constexpr = sums.shape[0]
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [gl.num_warps(), 1], [1, 0])
    for stripe in gl.static_range(FIRST, LAST, STRIPE):
        part = sums.slice(stripe, STRIPE, dim=1)
        columns = column + stripe + gl.arange(0, STRIPE, gl.SliceLayout(0, layout))
        added = gl.load(bias + columns).to(gl.float32)
        for slab in gl.static_range(0, high, SLAB):
            block = part.slice(slab, SLAB, dim=0)
            value = block.load(layout).to(gl.float32) + added[None, :]
            if HAS_RESIDUAL:
                ours = row + slab + gl.arange(0, SLAB, gl.SliceLayout(1, layout))
                places = ours[:, None].to(gl.int64) * n + columns[None, :]
                value += gl.load(residual + places, mask=(ours < rows)[:, None]).to(gl.float32)
            block.store(activate(value, ACTIVATION).to(sums.dtype))
        fence_async_shared()
        gl.thread_barrier()  # the copy engine sees what all warps have written
        tma.async_copy_shared_to_global(y, [row, column + stripe], part)


@gluon.jit
def multiply(
    x,
    w,
    bias,
    residual,
    y,
    x_stages,
    w_stages,
    sums,
    loaded,
    summed,
    stored,
    rows,
    n: gl.constexpr,
    k: gl.constexpr,
    ACTIVATION: gl.constexpr,
    HAS_RESIDUAL: gl.constexpr,
    group: gl.constexpr,
):
    """The warps that load and multiply: `summed` says that a tile's sums are there, `stored` that they are used. Of
    their last tile they finish all but the last stripe themselves, since there is nothing to multiply meanwhile."""
    stages: gl.constexpr = x_stages.shape[0]
    high: gl.constexpr = x_stages.shape[1]
    wide: gl.constexpr = w_stages.shape[1]
    inner: gl.constexpr = k // x_stages.shape[2]
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, wide, 16])
    tiles = gl.cdiv(rows, high) * (n // wide)
    turns = gl.cdiv(tiles - gl.program_id(0), gl.num_programs(0))
    steps = turns * inner
    for ahead in gl.static_range(stages - 1):
        load(ahead, steps, x, w, x_stages, w_stages, loaded, rows, n, k, group)
    step = 0
    for turn in range(turns):
        total = gl.zeros((high, wide), gl.float32, layout)
        for depth in range(inner):
            stage = step % stages
            mbarrier.wait(loaded.index(stage), step // stages & 1)
            right = w_stages.index(stage).permute((1, 0))
            total = warpgroup_mma(x_stages.index(stage), right, total, use_acc=depth > 0, is_async=True)
            total = warpgroup_mma_wait(1, deps=[total])
            gl.thread_barrier()  # all warps are done with the stage before this one
            load(step + stages - 1, steps, x, w, x_stages, w_stages, loaded, rows, n, k, group)
            step += 1
        total = warpgroup_mma_wait(0, deps=[total])
        mbarrier.wait(stored, turn & 1 ^ 1)
        sums.store(total.to(sums.dtype))
        mbarrier.arrive(summed)
    if turns > 0:
        gl.thread_barrier()  # all warps have written their sums
        tile = gl.program_id(0) + (turns - 1) * gl.num_programs(0)
        row, column = tile_at(tile, rows, n, high, wide, group)
        last: gl.constexpr = wide - STRIPE
        finish_stripes(0, last, row, column, bias, residual, y, sums, rows, n, ACTIVATION, HAS_RESIDUAL)
        tma.store_wait(0)


@gluon.jit
def finish(
    bias,
    residual,
    y,
    sums,
    summed,
    stored,
    rows,
    n: gl.constexpr,
    ACTIVATION: gl.constexpr,
    HAS_RESIDUAL: gl.constexpr,
    group: gl.constexpr,
):
    """The warps that finish tiles, and of the last one its last stripe."""
    high: gl.constexpr = sums.shape[0]
    wide: gl.constexpr = sums.shape[1]
    tiles = gl.cdiv(rows, high) * (n // wide)
    turns = gl.cdiv(tiles - gl.program_id(0), gl.num_programs(0))
    for turn in range(turns):
        row, column = tile_at(gl.program_id(0) + turn * gl.num_programs(0), rows, n, high, wide, group)
        last: gl.constexpr = wide - STRIPE
        mbarrier.wait(summed, turn & 1)
        if turn < turns - 1:
            finish_stripes(0, last, row, column, bias, residual, y, sums, rows, n, ACTIVATION, HAS_RESIDUAL)
        finish_stripes(last, wide, row, column, bias, residual, y, sums, rows, n, ACTIVATION, HAS_RESIDUAL)
        tma.store_wait(0)
        mbarrier.arrive(stored)


@gluon.jit
def linear_specialised(
    x,
    w,
    bias,
    residual,
    y,
    rows,
    n: gl.constexpr,
    k: gl.constexpr,
    ACTIVATION: gl.constexpr,
    HAS_RESIDUAL: gl.constexpr,
    ROWS: gl.constexpr,
    COLUMNS: gl.constexpr,
    DEPTH: gl.constexpr,
    STAGES: gl.constexpr,
    GROUP: gl.constexpr,
    PDL: gl.constexpr,
):
    """y = activation(x · wᵀ + bias + residual); x [rows, k], w [n, k] and y [rows, n] are tensor descriptors, of boxes
    ROWS × DEPTH, COLUMNS × DEPTH and ROWS × 64; bias [n]; residual [rows, n]. The product is rounded to y's type
    before anything is added. Grid: any number of programs.
    """
    release(PDL)
    wait(PDL)
    x_stages = gl.allocate_shared_memory(x.dtype, [STAGES, ROWS, DEPTH], x.layout)
    w_stages = gl.allocate_shared_memory(w.dtype, [STAGES, COLUMNS, DEPTH], w.layout)
    sums = gl.allocate_shared_memory(y.dtype, [ROWS, COLUMNS], y.layout)
    loaded = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    summed = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    stored = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(loaded.index(stage), count=1)
    mbarrier.init(summed, count=1)
    mbarrier.init(stored, count=1)
    fence_async_shared()
    gl.warp_specialize(
        [
            (
                multiply,
                (
                    x,
                    w,
                    bias,
                    residual,
                    y,
                    x_stages,
                    w_stages,
                    sums,
                    loaded,
                    summed,
                    stored,
                    rows,
                    n,
                    k,
                    ACTIVATION,
                    HAS_RESIDUAL,
                    GROUP,
                ),
            ),
            (finish, (bias, residual, y, sums, summed, stored, rows, n, ACTIVATION, HAS_RESIDUAL, GROUP)),
        ],
        [4],
        [120],
    )

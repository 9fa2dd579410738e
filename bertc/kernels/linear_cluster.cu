// Products with a weight for few rows: blocks of a cluster share a tile's sum, and the rows of x.
//
//     y = activation(x · wᵀ + bias + residual)        x [rows, K], w [N, K], bias [N], residual and y [rows, N]
//
// Columns are cut into tiles of COLUMNS. SPLIT blocks have a tile, each a part of the sum, and SHARED tiles are a
// cluster's, whose blocks load x once for all of them. A block asks for its weights before the kernels in front have
// ended, and for x behind that; each block of a tile then adds up the parts of its share of the rows.
//
// Norms need no kernel of their own. Where y is only read through norm(y) = (y - mean) / deviation · scale + shift, the
// product stores y and the moments of each row, and readers make up for the rest. For a product the mean goes into the
// weight, since it is linear in y: with v[n, k] = w[n, k] · scale[k], and a weight ŵ whose rows add up to 0,
//     norm(y) · wᵀ = y · ŵᵀ / deviation + w · shift,        ŵ[n, k] = v[n, k] - mean of v[n, :],
// whose last term is in the bias that the kernel is given; so is shift where the norm is the residual, which leaves
// (y - mean) / deviation · scale. In f16 |y| and |ŵ| have to stay below 65520: beyond, they are infinite, and what readers
// make of a row, or all rows of a column, infinite or NaN. y is rounded by up to 2⁻¹¹ · |y|, which they divide by the
// deviation as well; a row of ŵ adds up to 0 as it is stored, so that what its rounding costs does not grow with the mean.
//
// linear_cluster.py says what the compiler is given in front of this. Needs compute capability 9.0. Instructions:
// https://docs.nvidia.com/cuda/parallel-thread-execution/

constexpr int MULTIPLYING = ROWS / 16;    // of WARPS; where there are others, these help behind the sum
constexpr int BOXES = K / SPLIT / DEPTH;  // of DEPTH columns of x and w: a block's part of the sum
constexpr int CHUNKS = BOXES / CHUNK;     // of CHUNK boxes, which are loaded at once
constexpr int SHARE = ROWS / SPLIT;       // rows that a block adds up
constexpr int TURNS = SHARE / WARPS;      // in which a warp adds up a row
constexpr int LANES = COLUMNS / 4;        // of a warp that have columns of the row, four each
constexpr int X_BYTES = ROWS * DEPTH * 2, W_BYTES = COLUMNS * DEPTH * 2;
constexpr int STRIDE = COLUMNS + 8;       // of sums: the four rows of half a warp lie in all banks

static_assert(ROWS % 64 == 0, "a warpgroup multiplies 64 rows");
static_assert(COLUMNS % 16 == 0 && LANES <= 32, "a warp has a row of the tile");
static_assert(SHARE % WARPS == 0, "all warps add up rows in all turns");
static_assert(SHARED == 1 || STAGES == CHUNKS, "chunks that take the place of others are loaded for one block alone");
static_assert(HAS_RESIDUAL || !R_NORM, "a norm is the residual's");
static_assert(COLUMNS % GRANULE == 0 || !HAS_MOMENTS, "a granule is in one tile");

struct Memory {
    union {
        struct {
            unsigned char x[STAGES * CHUNK][X_BYTES];
            unsigned char w[STAGES * CHUNK][W_BYTES];
        };
        float sums[ROWS][STRIDE];
    };
    float2 r_lines[SHARE];   // of the residual's norm, Moments::line
    float x_factors[SHARE];  // 1 / deviation
    u64 loaded[STAGES];
};
static_assert(sizeof(Memory) <= BYTES);

// CHUNK boxes of a matrix, from a row on.
__device__ void load_boxes(void* boxes, const TensorMap& map, int box, int row, u64& barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];"
                 :: "r"(shared(boxes)), "l"(&map), "r"(0), "r"(row), "r"(box), "r"(shared(&barrier)) : "memory");
}

// The same for all blocks of the cluster that have this part of the sum.
__device__ void load_for_all(void* boxes, const TensorMap& map, int box, int row, u64& barrier, int part) {
    if constexpr (SHARED == 1) return load_boxes(boxes, map, box, row, barrier);
    unsigned short blocks = 0;
    for (int i = 0; i < SHARED; i++) blocks |= 1 << (part + i * SPLIT);
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%2, %3, %4}], [%5], %6;"
                 :: "r"(shared(boxes)), "l"(&map), "r"(0), "r"(row), "r"(box), "r"(shared(&barrier)), "h"(blocks)
                 : "memory");
}

// Four entries of a row, as the lanes of a warp have them at the end.
struct Four {
    float at[4];

    __device__ Four(float4 of) : at{of.x, of.y, of.z, of.w} {}
    __device__ explicit Four(uint2 pairs) {
        const float2 low = unpacked(pairs.x), high = unpacked(pairs.y);
        at[0] = low.x, at[1] = low.y, at[2] = high.x, at[3] = high.y;
    }
    __device__ uint2 pairs() const { return {packed(at[0], at[1]), packed(at[2], at[3])}; }
    __device__ float sum() const { return (at[0] + at[1]) + (at[2] + at[3]); }
};

__device__ float4 four(const float* values, bool is_there) {
    return is_there ? *reinterpret_cast<const float4*>(values) : float4{};
}

// Four sums of another block.
__device__ float4 four_of(u32 address) {
    float4 of;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(of.x), "=f"(of.y), "=f"(of.z), "=f"(of.w) : "r"(address) : "memory");
    return of;
}

// Of the lanes that have a granule.
__device__ float sum_of_granule(float value) {
#pragma unroll
    for (int other = GRANULE / 8; other; other /= 2) value += __shfl_xor_sync(~0u, value, other);
    return value;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) linear_cluster(
    const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, const float* bias,
    const float2* x_moments, const Half* residual, const float2* r_moments, const float* r_scale,
    Half* y, float2* y_moments, int rows) {
    extern __shared__ __align__(1024) unsigned char dynamic[];
    Memory& memory = *reinterpret_cast<Memory*>(dynamic);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int part = blockIdx.x % SPLIT, column = (blockIdx.y * SHARED + blockIdx.x / SPLIT) * COLUMNS;
    const int row = blockIdx.z * ROWS, share = row + part * SHARE;  // of the tile; that this block adds up
    const int ours = column + 4 * lane;
    const bool is_column = lane < LANES;

    // what does not depend on the kernels in front
    if (thread == 0) {
        for (int stage = 0; stage < STAGES; stage++) start(memory.loaded[stage], 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (thread == 0) {
        asm volatile("prefetch.tensormap [%0];" :: "l"(&x) : "memory");
#pragma unroll 1
        for (int stage = 0; stage < STAGES; stage++) {
            expect(memory.loaded[stage], CHUNK * (X_BYTES + W_BYTES));
            load_boxes(memory.w[stage * CHUNK], w, part * BOXES + stage * CHUNK, column, memory.loaded[stage]);
        }
    }
    const Four base = four(bias + ours, is_column), scale = four(r_scale + ours, is_column && R_NORM);
    if constexpr (SHARED > 1) {  // all blocks have started their barriers
        arrive_at_cluster();
        wait_for_cluster();
    }
    wait_for_kernel_in_front();

    // what does: all of it is asked for before any is used
    if (thread == 0) {
#pragma unroll 1
        for (int stage = blockIdx.x / SPLIT; stage < STAGES; stage += SHARED)
            load_for_all(memory.x[stage * CHUNK], x, part * BOXES + stage * CHUNK, row, memory.loaded[stage], part);
    }
    uint2 added[HAS_RESIDUAL ? TURNS : 1] = {};
#pragma unroll
    for (int turn = 0; turn < (HAS_RESIDUAL ? TURNS : 0); turn++) {
        const int at = share + turn * WARPS + warp;
        if (is_column && at < rows) added[turn] = *reinterpret_cast<const uint2*>(residual + u64(at) * N + ours);
    }
    Moments<K> x_of;
    Moments<N> r_of;
    const bool has_row = thread < SHARE && share + thread < rows;
    if (X_NORM && has_row) x_of = {x_moments, share + thread, rows};
    if (R_NORM && has_row) r_of = {r_moments, share + thread, rows};

    float sums[COLUMNS / 2] = {};
    const u64 left = matrix(memory.x[0] + (ROWS > 64 ? warp / 4 * 64 * DEPTH * 2 : 0)), right = matrix(memory.w[0]);
#pragma unroll 1
    for (int chunk = 0; chunk < CHUNKS && warp < MULTIPLYING; chunk++) {
        const int stage = chunk % STAGES;
        wait(memory.loaded[stage], chunk / STAGES & 1);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int box = 0; box < CHUNK; box++)
#pragma unroll
            for (int step = 0; step < DEPTH / 16; step++)
                asm volatile(MULTIPLY : SUMS
                             : "l"(left + (stage * CHUNK + box) * (X_BYTES / 16) + 2 * step),
                               "l"(right + (stage * CHUNK + box) * (W_BYTES / 16) + 2 * step), "n"(1));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        if (const int next = chunk - 1 + STAGES; STAGES < CHUNKS && chunk > 0 && next < CHUNKS) {
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            asm volatile("bar.sync 1, %0;" :: "n"(32 * MULTIPLYING) : "memory");  // all have used the chunk in front
            if (thread == 0) {
                const int used = next % STAGES;
                expect(memory.loaded[used], CHUNK * (X_BYTES + W_BYTES));
                load_boxes(memory.w[used * CHUNK], w, part * BOXES + next * CHUNK, column, memory.loaded[used]);
                load_boxes(memory.x[used * CHUNK], x, part * BOXES + next * CHUNK, row, memory.loaded[used]);
            }
        }
    }
    if (warp < MULTIPLYING) asm volatile("wgmma.wait_group.sync.aligned 0;" : SUMS :: "memory");
    // The first of a block's threads here signals for all of it, and where warps help that is one of them: while others
    // multiply, the next kernel may take the room that is left and ask for its weights. It reads ours when this grid has
    // ended.
    release_next_kernel();
    if (X_NORM && has_row) memory.x_factors[thread] = x_of.line(X_EPS).x;
    if (R_NORM && has_row) memory.r_lines[thread] = r_of.line(R_EPS);

    // the parts of each row to the block that adds them up
    __syncthreads();  // the sums take the operands' place
    if (warp < MULTIPLYING) {
        float* const upper = &memory.sums[warp * 16 + lane / 4][lane % 4 * 2];
#pragma unroll
        for (int i = 0; i < COLUMNS / 8; i++) {
            *reinterpret_cast<float2*>(upper + 8 * i) = {sums[4 * i], sums[4 * i + 1]};
            *reinterpret_cast<float2*>(upper + 8 * i + 8 * STRIDE) = {sums[4 * i + 2], sums[4 * i + 3]};
        }
    }
    if constexpr (SPLIT > 1) {
        // The barrier's own release would wait for all of the GPU's memory, 0.4 µs; others read this block's alone.
        asm volatile("fence.release.sync_restrict::shared::cta.cluster;" ::: "memory");
        arrive_at_cluster();
        wait_for_cluster();
    } else
        __syncthreads();
    float4 totals[TURNS];
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
        const float* const mine = &memory.sums[part * SHARE + turn * WARPS + warp][lane % LANES * 4];
        totals[turn] = {};
#pragma unroll
        for (int other = 0; other < SPLIT; other++) {
            const float4 of = SPLIT == 1 ? four(mine, true) : four_of(in_block(shared(mine), blockIdx.x - part + other));
            totals[turn].x += of.x, totals[turn].y += of.y, totals[turn].z += of.z, totals[turn].w += of.w;
        }
    }
    if constexpr (SPLIT > 1) {
        // What is read must have come before others may leave. A release would wait for all of the GPU's memory; this
        // waits for what the warp has asked for, and tests find that in the machine code.
        asm volatile("fence.acquire.sync_restrict::shared::cluster.cluster;" ::: "memory");
        arrive_at_cluster();
    }

    // what stands behind the sum
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
        const int mine = turn * WARPS + warp, at = share + mine;
        Four value(totals[turn]);
        const Four more(added[HAS_RESIDUAL ? turn : 0]);
        const float factor = memory.x_factors[mine];
        const float2 line = memory.r_lines[mine];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float v = (X_NORM ? value.at[i] * factor : value.at[i]) + base.at[i];
            if (R_NORM)
                v += scale.at[i] * (more.at[i] * line.x + line.y);
            else if (HAS_RESIDUAL)
                v += more.at[i];
            value.at[i] = ACTIVATE(v);
        }
        if constexpr (HAS_MOMENTS) {
            const float mean = sum_of_granule(value.sum()) * (1.0f / GRANULE);
            float squares = 0;
#pragma unroll
            for (int i = 0; i < 4; i++) squares += (value.at[i] - mean) * (value.at[i] - mean);
            squares = sum_of_granule(squares);
            if (lane % (GRANULE / 4) == 0 && is_column && at < rows)
                y_moments[(ours / GRANULE) * rows + at] = {mean, squares};
        }
        if (is_column && at < rows) *reinterpret_cast<uint2*>(y + u64(at) * N + ours) = value.pairs();
    }
    if constexpr (SPLIT > 1) wait_for_cluster();  // nobody reads here any more
}

// Products with a weight for many rows: warps that load, warps that multiply, and warps for what stands behind the sum.
//
//     y = activation(x · wᵀ + bias + residual)        x [rows, K], w [N, K], bias [N], residual and y [rows, N]
//
// As many blocks as there is room for take tiles of ROWS × COLUMNS one after another. One warp loads operands, STAGES of
// them ahead. Groups of four warps multiply 64 rows of the tile each and hand their sums over in shared memory, rounded
// to y's type; while they multiply the next tile, three warps add the bias and the residual, take the activation and
// store. So the tensor cores never wait for an end, but for a block's last, which the warps that multiply see to
// themselves. SHARED blocks are a cluster: their tiles lie below one another, and each loads its part of w for all.
// In f16 |x · wᵀ| has to stay below 65520, whatever is added to it: beyond, y is infinite or NaN.
//
// linear_specialised.py says what the compiler is given in front of this and of hopper.cuh. Needs compute capability 9.0.

constexpr int GROUP_ROWS = 64, GROUPS = ROWS / GROUP_ROWS;  // of four warps that multiply; one more helps
constexpr int HELPERS = 3;                                  // warps that finish tiles
constexpr int THREADS = 128 * (GROUPS + 1);
constexpr int STEPS = K / DEPTH;                            // in which a tile is multiplied
constexpr int ACROSS = (N + COLUMNS - 1) / COLUMNS;         // tiles
constexpr int STRIPE = 64;                                  // columns that lie together in shared memory, 128 bytes
constexpr int STRIPES = COLUMNS / STRIPE;
constexpr int X_BYTES = ROWS * DEPTH * 2, W_BYTES = COLUMNS * DEPTH * 2;

// Registers a thread: what all start with, and what is left of that to those that multiply.
constexpr int START = 65536 / THREADS / 8 * 8, HELPING = 80;
constexpr int LEFT = (START * (GROUPS + 1) - HELPING) / GROUPS / 8 * 8, MULTIPLYING = LEFT < 240 ? LEFT : 240;

static_assert(ROWS % GROUP_ROWS == 0 && COLUMNS % STRIPE == 0 && K % DEPTH == 0 && N % 8 == 0);
static_assert(W_BYTES / SHARED % 1024 == 0, "parts of w begin where the swizzle does");

struct Memory {
    unsigned char x[STAGES][X_BYTES], w[STAGES][W_BYTES];
    unsigned char sums[GROUPS][STRIPES][GROUP_ROWS][STRIPE * 2];  // 16 bytes of a row at their number ^ row % 8
    u64 loaded[STAGES], used[STAGES], summed[GROUPS], stored[GROUPS];
};
static_assert(sizeof(Memory) <= BYTES);

struct Eight {
    float at[8];

    __device__ explicit Eight(uint4 pairs) {
        const u32 of[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 both = unpacked(of[i]);
            at[2 * i] = both.x, at[2 * i + 1] = both.y;
        }
    }
    __device__ uint4 pairs() const {
        return {packed(at[0], at[1]), packed(at[2], at[3]), packed(at[4], at[5]), packed(at[6], at[7])};
    }
};

// First row and column of a cluster's tile. Tiles go in bands of BAND rows of them, so that those at work together
// share operands in the L2 cache.
struct Tile {
    int row, column;

    __device__ Tile(int tile, int down) {
        const int first = tile / (BAND * ACROSS) * BAND, high = min(down - first, BAND), place = tile - first * ACROSS;
        row = (first + place % high) * ROWS * SHARED, column = place / high * COLUMNS;
    }
};

__device__ void load(void* box, const TensorMap& map, int column, int row, u64& barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];"
                 :: "r"(shared(box)), "l"(&map), "r"(column), "r"(row), "r"(shared(&barrier)) : "memory");
}

// The same to the same place in all blocks of the cluster.
__device__ void load_for_all(void* box, const TensorMap& map, int column, int row, u64& barrier) {
    if constexpr (SHARED == 1) return load(box, map, column, row, barrier);
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%2, %3}], [%4], %5;"
                 :: "r"(shared(box)), "l"(&map), "r"(column), "r"(row), "r"(shared(&barrier)),
                    "h"(static_cast<unsigned short>((1 << SHARED) - 1)) : "memory");
}

// Says to all blocks that load into this stage that a group is done with it.
__device__ void release(u64& used, int thread) {
    if (thread >= SHARED) return;
    if constexpr (SHARED == 1) return arrive(used);
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" :: "r"(in_block(shared(&used), thread)) : "memory");
}

// Results of 16 rows of a stripe of sums; 8 lanes have a row, 8 columns each.
__device__ void finish(const unsigned char (&sums)[GROUP_ROWS][STRIPE * 2], int part, Half* y, const Half* bias,
                       const Half* residual, int row, int column, int rows, int lane) {
    constexpr int TURNS = 4;
    const int ours = column + lane % 8 * 8, first = part * 16 + lane / 8;
    if (N % COLUMNS != 0 && ours >= N) return;
    const Eight base(*reinterpret_cast<const uint4*>(bias + ours));
    uint4 added[TURNS] = {};
#pragma unroll
    for (int turn = 0; turn < (HAS_RESIDUAL ? TURNS : 0); turn++)
        if (const int at = row + first + turn * 4; at < rows)
            added[turn] = *reinterpret_cast<const uint4*>(residual + u64(at) * N + ours);
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
        const int at = first + turn * 4;
        Eight value(*reinterpret_cast<const uint4*>(&sums[at][(lane % 8 ^ at % 8) * 16]));
        const Eight more(added[turn]);
#pragma unroll
        for (int i = 0; i < 8; i++)
            value.at[i] = ACTIVATE(value.at[i] + base.at[i] + (HAS_RESIDUAL ? more.at[i] : 0));
        if (row + at < rows) *reinterpret_cast<uint4*>(y + u64(row + at) * N + ours) = value.pairs();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) linear_specialised(
    const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, const Half* bias, const Half* residual,
    Half* y, int rows) {
    extern __shared__ __align__(1024) unsigned char dynamic[];
    Memory& memory = *reinterpret_cast<Memory*>(dynamic);
    const int lane = threadIdx.x % 32, thread = threadIdx.x % 128;
    const int group = __shfl_sync(~0u, threadIdx.x / 128, 0), warp = __shfl_sync(~0u, thread / 32, 0);
    const int block = blockIdx.x % SHARED, clusters = gridDim.x / SHARED;
    const int down = (rows + ROWS * SHARED - 1) / (ROWS * SHARED), tiles = down * ACROSS;

    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++)
            start(memory.loaded[stage], 1), start(memory.used[stage], GROUPS * SHARED);
        for (int of = 0; of < GROUPS; of++) start(memory.summed[of], 4), start(memory.stored[of], HELPERS);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if constexpr (SHARED > 1) {
        asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
        asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
    } else
        __syncthreads();
    if constexpr (PDL) {
        asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
        asm volatile("griddepcontrol.wait;" ::: "memory");
    }

    if (group == GROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(HELPING));
        if (warp == HELPERS) {
            if (lane == 0) {
                int step = 0;
                for (int tile = blockIdx.x / SHARED; tile < tiles; tile += clusters) {
                    const Tile at(tile, down);
                    const int row = at.row + block * ROWS, column = at.column + block * (COLUMNS / SHARED);
#pragma unroll 1
                    for (int depth = 0; depth < K; depth += DEPTH, step++) {
                        const int stage = step % STAGES;
                        wait(memory.used[stage], step / STAGES & 1 ^ 1);
                        expect(memory.loaded[stage], X_BYTES + W_BYTES);
                        load(memory.x[stage], x, depth, row, memory.loaded[stage]);
                        load_for_all(memory.w[stage] + block * (W_BYTES / SHARED), w, depth, column,
                                     memory.loaded[stage]);
                    }
                }
            }
        } else {
            int turn = 0;
            for (int tile = blockIdx.x / SHARED; tile + clusters < tiles; tile += clusters, turn++) {
                const Tile at(tile, down);
#pragma unroll 1
                for (int of = 0; of < GROUPS; of++) {
                    const int row = at.row + block * ROWS + of * GROUP_ROWS;
                    wait(memory.summed[of], turn & 1);
#pragma unroll 1
                    for (int part = warp; part < STRIPES * 4; part += HELPERS)
                        finish(memory.sums[of][part / 4], part % 4, y, bias, residual, row,
                               at.column + part / 4 * STRIPE, rows, lane);
                    __syncwarp();
                    if (lane == 0) arrive(memory.stored[of]);
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(MULTIPLYING));
        int step = 0, turn = 0;
        for (int tile = blockIdx.x / SHARED; tile < tiles; tile += clusters, turn++) {
            float sums[COLUMNS / 2];
#pragma unroll 1
            for (int depth = 0; depth < STEPS; depth++, step++) {
                const int stage = step % STAGES;
                wait(memory.loaded[stage], step / STAGES & 1);
                const u64 left = matrix(memory.x[stage] + group * (X_BYTES / GROUPS)), right = matrix(memory.w[stage]);
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
                for (int part = 0; part < DEPTH / 16; part++)
                    asm volatile(MULTIPLY : SUMS : "l"(left + 2 * part), "l"(right + 2 * part), "r"(depth + part));
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
                if (depth > 0) release(memory.used[(step - 1) % STAGES], thread);
            }
            asm volatile("wgmma.wait_group.sync.aligned 0;" : SUMS :: "memory");
            release(memory.used[(step - 1) % STAGES], thread);

            wait(memory.stored[group], turn & 1 ^ 1);
            const int row = warp * 16 + lane % 16;
#pragma unroll
            for (int of = 0; of < COLUMNS / 16; of++) {
                const float* const sixteen = &sums[8 * of];  // columns of two rows
                asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                             :: "r"(shared(&memory.sums[group][of / 4][row][(of % 4 * 2 + lane / 16 ^ row % 8) * 16])),
                                "r"(packed(sixteen[0], sixteen[1])), "r"(packed(sixteen[2], sixteen[3])),
                                "r"(packed(sixteen[4], sixteen[5])), "r"(packed(sixteen[6], sixteen[7])) : "memory");
            }
            __syncwarp();
            if (tile + clusters < tiles) {
                if (lane == 0) arrive(memory.summed[group]);
            } else {
                const Tile at(tile, down);
#pragma unroll 1
                for (int stripe = 0; stripe < STRIPES; stripe++)
                    finish(memory.sums[group][stripe], warp, y, bias, residual,
                           at.row + block * ROWS + group * GROUP_ROWS, at.column + stripe * STRIPE, rows, lane);
            }
        }
    }
    if constexpr (SHARED > 1) {  // nobody loads into what has gone, or arrives at it
        asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
        asm volatile("barrier.cluster.wait;" ::: "memory");
    }
}

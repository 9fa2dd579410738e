// Query, key and value of a head, and its attention, for sequences of up to 128 tokens, padded or packed.
//
//     query, key, value = x · wᵀ / deviation + bias        x [rows, K], w [3 · HIDDEN, K], bias [3 · HIDDEN]
//     context[t] = Σⱼ softmaxⱼ(SCALE · query[t] · key[j]) · value[j]        j: the tokens of t's sequence
//
// Six blocks of a cluster have a head of a sequence: query, key or value of 64 rows each. All of x's boxes stay in
// shared memory, where each of the three blocks with the same rows loads a third of them for all three. Boxes of w go
// through STAGES places; what has room there is asked for before the kernels in front have ended. Keys and values then
// go to the two blocks with queries, which mix them.
//
// Deviations are those of norms that no kernel takes, of which w has the rest: see linear_cluster.cu. A barrier is used
// once, so that each is waited for in phase 0. qkv_attention.py says what the compiler is given in front of this and of
// hopper.cuh. Needs compute capability 9.0.

enum { QUERY, KEY, VALUE };
constexpr int PARTS = 3, BLOCKS = 2 * PARTS;                          // of a cluster
constexpr int WARPS = 4, LOADER = WARPS, THREADS = 32 * (WARPS + 1);  // those that multiply, and one that loads
constexpr int HIDDEN = HEADS * DEPTH, ROWS = 64, KEYS = 2 * ROWS;
constexpr int BOXES = K / DEPTH, LATER = BOXES - STAGES;  // of x, and of w; those of w that take the place of others
constexpr int BOX_BYTES = ROWS * DEPTH * 2, WARP_BYTES = BOX_BYTES / WARPS;  // of x, w, queries, keys and values
constexpr float TO_EXPONENT = SCALE * 1.4426950408889634f;                   // of 2

static_assert(K % DEPTH == 0 && LATER >= 0 && LATER <= STAGES, "a place is taken twice at most");

struct Memory {
    unsigned char x[BOXES][BOX_BYTES];
    unsigned char w[STAGES][BOX_BYTES];
    unsigned char keys[2][BOX_BYTES], values[2][BOX_BYTES];
    u64 loaded[BOXES], used[STAGES];  // boxes of x and w are there, and places free
    u64 keys_there, values_there;
};
static_assert(sizeof(Memory) <= BYTES);

// What a block has: a part of rows from `first` on, of a sequence whose rows start at `start`.
struct Task {
    int part, half, head, start, first, rows, keys;

    __device__ Task(const int* starts, const int* lengths, int seq) {
        part = blockIdx.x % PARTS, half = blockIdx.x / PARTS % 2, head = blockIdx.x / BLOCKS;
        keys = min(lengths[blockIdx.y], seq);
        start = PACKED ? starts[blockIdx.y] : blockIdx.y * seq;
        first = half * ROWS, rows = PACKED ? keys : seq;
    }
    __device__ int column() const { return part * HIDDEN + head * DEPTH; }  // of the product
};

// One thread of a warp. The compiler knows this instruction, and takes its addresses for those of the warp.
__device__ bool elected() {
    u32 is;
    asm volatile("{\n.reg .pred one;\nelect.sync _|one, 0xffffffff;\nselp.u32 %0, 1, 0, one;\n}" : "=r"(is));
    return is;
}

// A box to the cache that all multiprocessors share.
__device__ void load_ahead(const TensorMap& map, int column, int row) {
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];"
                 :: "l"(&map), "r"(column), "r"(row) : "memory");
}

// Bytes of this block to the same place in another, and to its barrier.
__device__ void send(u32 block, const void* bytes, int count, u64& barrier) {
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(in_block(shared(bytes), block)), "r"(shared(bytes)), "r"(count),
                    "r"(in_block(shared(&barrier), block)) : "memory");
}

// By one warp: x and w, as soon as there is room.
__device__ void load_boxes(Memory& memory, const TensorMap& x, const TensorMap& w, const Task& task) {
    const bool is_loader = elected();
    const auto load_w = [&](int box) {
        load(memory.w[box % STAGES], w, box * DEPTH, task.column(), memory.loaded[box]);
    };
    if (is_loader) {
#pragma unroll
        for (int box = 0; box < BOXES; box++) start(memory.loaded[box], 1);
#pragma unroll
        for (int box = 0; box < LATER; box++) start(memory.used[box], WARPS);
        start(memory.keys_there, 1), start(memory.values_there, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#pragma unroll
        for (int box = 0; box < BOXES; box++) expect(memory.loaded[box], 2 * BOX_BYTES);
        expect(memory.keys_there, 2 * BOX_BYTES), expect(memory.values_there, 2 * BOX_BYTES);
    }
    __syncwarp();
    arrive_at_cluster();
    if (is_loader) {
        for (int box = 0; box < STAGES; box++) load_w(box);
        asm volatile("prefetch.tensormap [%0];" :: "l"(&x) : "memory");
        for (int box = STAGES + task.half; box < BOXES; box += 2) load_ahead(w, box * DEPTH, task.column());
    }
    __syncwarp();
    wait_for_cluster();  // all blocks have started their barriers
    if (is_loader) {
        wait_for_kernel_in_front();
        for (int box = task.part; box < BOXES; box += PARTS)
            load_for((1 << PARTS) - 1 << task.half * PARTS, memory.x[box], x, box * DEPTH, task.start + task.first,
                     memory.loaded[box]);
        for (int box = STAGES; box < BOXES; box++) {
            wait(memory.used[box - STAGES], 0);
            load_w(box);
        }
        // For all of the block: the next kernel may take the room that is left and ask for its weights.
        release_next_kernel();
    }
    __syncwarp();
    arrive_at_cluster();
    wait_for_cluster();
}

// The sums x · wᵀ of the block's rows, and what takes a lane's two rows of them to those of the norm.
__device__ void multiply(Memory& memory, float (&sums)[DEPTH / 2], float (&factor)[2], const Moments<K, 2>& x_of,
                         int lane) {
    const u64 left = matrix(memory.x[0]), right = matrix(memory.w[0]);
#pragma unroll 1
    for (int box = 0; box < BOXES; box++) {
        wait(memory.loaded[box], 0);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int step = 0; step < DEPTH / 16; step++)
            asm volatile(MULTIPLY : SUMS
                         : "l"(left + box * (BOX_BYTES / 16) + 2 * step),
                           "l"(right + box % STAGES * (BOX_BYTES / 16) + 2 * step), "n"(1));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        if (X_NORM && box == 0) {  // while the tensor cores are at work
            const float of = x_of.line(X_EPS).x;
            factor[0] = __shfl_sync(~0u, of, lane / 4), factor[1] = __shfl_sync(~0u, of, lane / 4 + 8);
        }
        if (box > 0 && box <= LATER) {
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            if (lane == 0) arrive(memory.used[box - 1]);
        }
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" : SUMS :: "memory");
}

// A warp's 16 rows of keys or values to the blocks with queries, as soon as they are in this block's memory.
__device__ void send_rows(unsigned char* rows, const u32 (&pairs)[DEPTH / 4], u64& there, int lane) {
    store_rows(rows, pairs, lane);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncwarp();
    if (elected()) {
        send(QUERY, rows, WARP_BYTES, there);
        send(PARTS + QUERY, rows, WARP_BYTES, there);
    }
    __syncwarp();
    arrive_at_cluster();
    wait_for_cluster();  // the blocks with queries have what they read here
}

// The context of a warp's 16 queries, from the cluster's keys and values.
__device__ void attend(Memory& memory, const u32 (&queries)[DEPTH / 4], Half* context, const Task& task, int warp,
                       int lane) {
    float scores[KEYS / 2];
    wait(memory.keys_there, 0);
    const u64 keys = matrix(memory.keys[0]), values = matrix(memory.values[0]);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int step = 0; step < DEPTH / 16; step++) {
        const u32* const of = &queries[4 * step];
        asm volatile(SCORE : SCORES
                     : "r"(of[0]), "r"(of[1]), "r"(of[2]), "r"(of[3]), "l"(keys + 2 * step), "r"(step));
    }
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    wait(memory.values_there, 0);
    arrive_at_cluster();  // the others may leave: this block has all that it takes of them
    asm volatile("wgmma.wait_group.sync.aligned 0;" : SCORES :: "memory");
    leave_out(scores, task.keys, lane);
    u32 weights[KEYS / 4];
    float totals[2] = {};
#pragma unroll
    for (int half = 0; half < 2; half++)
        weigh(scores, weights, TO_EXPONENT, most_of_row(scores, half) * TO_EXPONENT, half, totals[half]);

    float mixed[DEPTH / 2] = {};
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
        const u32* const of = &weights[4 * step];
        asm volatile(MIX : MIXED
                     : "r"(of[0]), "r"(of[1]), "r"(of[2]), "r"(of[3]), "l"(values + step * 2 * DEPTH));
    }
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    const float factor[2] = {reciprocal(sum_of_row(totals[0])), reciprocal(sum_of_row(totals[1]))};
    asm volatile("bar.sync 1, %0;" :: "n"(32 * WARPS) : "memory");  // all have used x: the context takes its place
    asm volatile("wgmma.wait_group.sync.aligned 0;" : MIXED :: "memory");
    const int first = task.first + warp * 16;
    Half* const to = context + u64(task.start + first) * HIDDEN + task.head * DEPTH;
    store_rows(memory.x[0] + warp * WARP_BYTES, mixed, factor, to, HIDDEN, task.rows - first, lane);
    wait_for_cluster();
}

extern "C" __global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 1) qkv_attention(
    const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, const float* bias,
    const float2* x_moments, const int* starts, const int* lengths, Half* context, int seq, int rows) {
    extern __shared__ __align__(1024) unsigned char dynamic[];
    Memory& memory = *reinterpret_cast<Memory*>(dynamic);
    const int lane = threadIdx.x % 32, warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    const Task task(starts, lengths, seq);  // which no kernel writes
    if (warp == LOADER) return load_boxes(memory, x, w, task);

    // what stands behind the sum is asked for in front of it
    arrive_at_cluster();
    float2 added[DEPTH / 8];
#pragma unroll
    for (int i = 0; i < DEPTH / 8; i++)
        added[i] = *reinterpret_cast<const float2*>(bias + task.column() + 8 * i + lane % 4 * 2);
    wait_for_cluster();
    wait_for_kernel_in_front();
    const int first = task.first + warp * 16;
    Moments<K, 2> x_of;
    if constexpr (X_NORM) x_of = {x_moments, min(task.start + first + lane % 16, rows - 1), rows, lane};

    float sums[DEPTH / 2] = {}, factor[2] = {1, 1};
    multiply(memory, sums, factor, x_of, lane);
    u32 pairs[DEPTH / 4];  // of both rows in turn
#pragma unroll
    for (int i = 0; i < DEPTH / 4; i++) {
        const float of = factor[i % 2];
        const u32 pair = packed(sums[2 * i] * of + added[i / 2].x, sums[2 * i + 1] * of + added[i / 2].y);
        const bool is_there = task.part != VALUE || first + lane / 4 + i % 2 * 8 < task.keys;
        pairs[i] = is_there ? pair : 0;  // what lies behind may be no number, of which not even 0 makes 0
    }
    if (task.part == QUERY)
        attend(memory, pairs, context, task, warp, lane);
    else if (task.part == KEY)
        send_rows(memory.keys[task.half] + warp * WARP_BYTES, pairs, memory.keys_there, lane);
    else
        send_rows(memory.values[task.half] + warp * WARP_BYTES, pairs, memory.values_there, lane);
}

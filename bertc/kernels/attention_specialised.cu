// Attention of heads of 64, padded or packed, in one kernel whose warps have roles (Shah et al. 2024).
//
//     context[t, h] = Σⱼ softmaxⱼ(scale · query[t, h] · key[j, h]) · value[j, h]        j: the tokens of t's sequence
//
// As many blocks as there are multiprocessors take tiles of 64 · GROUPS queries of a head one after another. One warp
// loads: queries of the next tile, and keys and values STAGES blocks of KEYS ahead. Groups of four warps have 64
// queries each. Scores and context stay in registers; the softmax is rescaled as its maximum grows (Milakov and
// Gimelshein 2018). While one group takes exponentials, the others have the tensor cores.
//
// attention_specialised.py says what the compiler is given in front of this and of hopper.cuh. Needs compute capability
// 9.0.

constexpr int GROUP_ROWS = 64, QUERIES = GROUPS * GROUP_ROWS;
constexpr int THREADS = 128 * (GROUPS + 1);
constexpr int BLOCK_BYTES = KEYS * SIZE * 2;
constexpr float TO_EXPONENT = SCALE * 1.4426950408889634f;  // of 2

// Registers a thread: what all start with, and what is left of that to those that multiply.
constexpr int START = 65536 / THREADS / 8 * 8, LOADING = 24;
constexpr int MULTIPLYING = (START * (GROUPS + 1) - LOADING) / GROUPS / 8 * 8;

static_assert(SIZE == DEPTH && KEYS % 16 == 0, "heads and blocks of keys are what the tensor cores take");
static_assert(MULTIPLYING <= 240);

struct Memory {
    unsigned char queries[2][GROUPS][GROUP_ROWS][SIZE * 2];
    unsigned char context[GROUPS][GROUP_ROWS][SIZE * 2];  // 16 bytes of a row at their number ^ row % 8
    unsigned char keys[STAGES][BLOCK_BYTES], values[STAGES][BLOCK_BYTES];
    u64 asked[2], answered[2];  // queries are there, and their room is free
    u64 keys_loaded[STAGES], keys_used[STAGES], values_loaded[STAGES], values_used[STAGES];
};
static_assert(sizeof(Memory) <= BYTES);

struct Arguments {
    const int *starts, *lengths;
    Half* context;
    int batch, seq;

    __device__ int across() const { return (seq + QUERIES - 1) / QUERIES; }  // tiles of a head
};

// Queries of a head, which is columns from `column` on, of a sequence, which is rows from `start` on: from its row
// `first` on. So many of its `rows` as its length are keys.
struct Tile {
    int column, start, first, rows, length;

    __device__ Tile(int tile, const Arguments& given) {
        const int head = tile / given.across(), sequence = head / HEADS;
        first = tile % given.across() * QUERIES, column = head % HEADS * SIZE;
        length = HAS_LENGTHS ? given.lengths[sequence] : given.seq;
        start = PACKED ? given.starts[sequence] : sequence * given.seq;
        rows = PACKED ? length : given.seq;
    }
    __device__ bool is_there() const { return first < rows; }
};

// What this block does with its tiles, one a round, and how many it has had: the last ones first, which the product in
// front has left in the L2 cache. A head's tiles are neighbours, which read the same keys. Blocks change their places
// from round to round, so that all get as many of a head's last tiles, which short sequences do not have.
template <typename Body>
__device__ void for_each_tile(const Arguments& given, const Body& body) {
    const int tiles = given.across() * HEADS * given.batch;
    int turn = 0;
    for (int round = 0; round * gridDim.x < tiles; round++) {
        const int tile = round * gridDim.x + (blockIdx.x + round) % gridDim.x;
        if (tile >= tiles) continue;
        const Tile at(tiles - 1 - tile, given);
        if (at.is_there()) body(at, turn++);
    }
}

// By one thread: all that this block reads, in order, as soon as there is room.
__device__ void load_tiles(Memory& memory, const TensorMap& query, const TensorMap& key, const TensorMap& value,
                           const Arguments& given) {
    int step = 0;  // blocks of keys until now
    for_each_tile(given, [&](const Tile& at, int turn) {
        wait(memory.answered[turn % 2], turn / 2 & 1 ^ 1);
        expect(memory.asked[turn % 2], QUERIES * SIZE * 2);
        load(memory.queries[turn % 2], query, at.column, at.start + at.first, memory.asked[turn % 2]);
        for (int first = 0; first < at.length; first += KEYS, step++) {
            const int stage = step % STAGES, phase = step / STAGES & 1 ^ 1;
            wait(memory.keys_used[stage], phase);
            expect(memory.keys_loaded[stage], BLOCK_BYTES);
            load(memory.keys[stage], key, at.column, at.start + first, memory.keys_loaded[stage]);
            wait(memory.values_used[stage], phase);
            expect(memory.values_loaded[stage], BLOCK_BYTES);
            load(memory.values[stage], value, at.column, at.start + first, memory.values_loaded[stage]);
        }
    });
}

// Of the two rows that a thread has in a product, lane / 4 and 8 more: pairs of numbers of the one, then of the other.
struct Softmax {
    float best[2] = {MINUS_INFINITY, MINUS_INFINITY}, total[2] = {};  // largest exponent, and sum of this thread's

    // The weights of one more block of scores, by the new maximum; what was there before to its scale.
    __device__ void take(const float (&scores)[KEYS / 2], u32 (&weights)[KEYS / 4], float (&mixed)[SIZE / 2]) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float higher = fmaxf(best[half], most_of_row(scores, half) * TO_EXPONENT);
            const float shrink = power_of_two(best[half] - higher);
            best[half] = higher, total[half] *= shrink;
            weigh(scores, weights, TO_EXPONENT, higher, half, total[half]);
#pragma unroll
            for (int i = 0; i < SIZE / 2; i++)
                if (i / 2 % 2 == half) mixed[i] *= shrink;
        }
    }
};

// By 128 threads: values from a row on are 0. What lies behind a sequence may be no numbers, of which not even 0 makes
// 0. Each group does it for itself before it multiplies; what the others write is the same.
__device__ void clear(unsigned char* values, int row, int group, int thread) {
    for (int byte = row * SIZE * 2 + thread * 16; byte < BLOCK_BYTES; byte += 128 * 16)
        *reinterpret_cast<uint4*>(values + byte) = {};
    asm volatile("fence.proxy.async.shared::cta;\nbar.sync %0, 128;" :: "r"(group + 1) : "memory");
}

// The context of the warp's 16 queries, by way of shared memory.
__device__ void store(unsigned char (&context)[GROUP_ROWS][SIZE * 2], const float (&mixed)[SIZE / 2],
                      const Softmax& softmax, const Tile& at, const Arguments& given, int group, int warp, int lane) {
    const float factor[2] = {reciprocal(sum_of_row(softmax.total[0])), reciprocal(sum_of_row(softmax.total[1]))};
    const int first = at.first + group * GROUP_ROWS + warp * 16;
    Half* const to = given.context + u64(at.start + first) * (HEADS * SIZE) + at.column;
    store_rows(context[warp * 16], mixed, factor, to, HEADS * SIZE, at.rows - first, lane);
    __syncwarp();
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_specialised(
    const __grid_constant__ TensorMap query, const __grid_constant__ TensorMap key,
    const __grid_constant__ TensorMap value, const int* starts, const int* lengths, Half* context, int batch, int seq) {
    const Arguments given{starts, lengths, context, batch, seq};
    extern __shared__ __align__(1024) unsigned char dynamic[];
    Memory& memory = *reinterpret_cast<Memory*>(dynamic);
    const int lane = threadIdx.x % 32, thread = threadIdx.x % 128;
    const int group = __shfl_sync(~0u, threadIdx.x / 128, 0), warp = __shfl_sync(~0u, thread / 32, 0);

    if (threadIdx.x == 0) {
        for (int of = 0; of < 2; of++) start(memory.asked[of], 1), start(memory.answered[of], 4 * GROUPS);
        for (int stage = 0; stage < STAGES; stage++) {
            start(memory.keys_loaded[stage], 1), start(memory.keys_used[stage], GROUPS);
            start(memory.values_loaded[stage], 1), start(memory.values_used[stage], GROUPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    release_next_kernel();
    wait_for_kernel_in_front();

    if (group == GROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(LOADING));
        if (thread == 0) load_tiles(memory, query, key, value, given);
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(MULTIPLYING));
    int step = 0;  // blocks of keys until now
    for_each_tile(given, [&](const Tile& at, int turn) {
        auto& queries = memory.queries[turn % 2][group];
        wait(memory.asked[turn % 2], turn / 2 & 1);
        float mixed[SIZE / 2] = {};
        Softmax softmax;
#pragma unroll 1
        for (int first = 0; first < at.length; first += KEYS, step++) {
            const int stage = step % STAGES, phase = step / STAGES & 1, keys = at.length - first;
            float sums[KEYS / 2];
            wait(memory.keys_loaded[stage], phase);
            const u64 left = matrix(queries[0]), right = matrix(memory.keys[stage]);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int part = 0; part < SIZE / 16; part++)
                asm volatile(MULTIPLY : SUMS : "l"(left + 2 * part), "l"(right + 2 * part), "r"(part));
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            asm volatile("wgmma.wait_group.sync.aligned 0;" : SUMS, MIXED :: "memory");
            if (thread == 0) {
                arrive(memory.keys_used[stage]);
                if (first > 0) arrive(memory.values_used[(step - 1) % STAGES]);
            }
            leave_out(sums, keys, lane);
            u32 weights[KEYS / 4];
            softmax.take(sums, weights, mixed);

            wait(memory.values_loaded[stage], phase);
            if (keys < KEYS) clear(memory.values[stage], keys, group, thread);
            const u64 below = matrix(memory.values[stage]);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int part = 0; part < KEYS / 16; part++) {
                const u32* const of = &weights[4 * part];
                asm volatile(MIX : MIXED
                             : "r"(of[0]), "r"(of[1]), "r"(of[2]), "r"(of[3]), "l"(below + part * 2 * SIZE));
            }
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        }
        asm volatile("wgmma.wait_group.sync.aligned 0;" : MIXED :: "memory");
        if (thread == 0 && at.length > 0) arrive(memory.values_used[(step - 1) % STAGES]);
        if (lane == 0) arrive(memory.answered[turn % 2]);  // each warp: without keys none has waited for the others
        store(memory.context[group], mixed, softmax, at, given, group, warp, lane);
    });
}

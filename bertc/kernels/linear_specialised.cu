// Products with a weight for many rows: warps that load, warps that multiply, and warps for what stands behind the sum.
//
//     y = activation(x · wᵀ + bias + residual)        x [rows, K], w [N, K], bias [N], residual and y [rows, N]
//
// where x and the residual may be norms that no kernel takes, and y may be left for such a norm: see linear_cluster.cu.
//
// As many blocks as there is room for take tiles of ROWS × COLUMNS one after another. One warp loads operands, STAGES of
// them ahead. Groups of four warps multiply 64 rows of the tile each and hand their sums over in shared memory, rounded
// to y's type; while they multiply the next tile, three warps add the bias and the residual, take the activation and
// store. So the tensor cores never wait for an end, but for a block's last, which the warps that multiply see to
// themselves. DOWN × OVER blocks are a cluster, whose tiles lie so many below and beside one another. Each block loads
// part of w for those above and below it, and of x for those beside it: a cluster reads as little as a tile of its size.
// Clusters of eight do not fill a GPU. The kernel that LEADS takes the first rows by as many as fit, LED at a time, and
// starts another beside itself that takes the others in clusters of two, where no larger one fits.
//
// What stands behind the sum is in linear_specialised_ends.cuh. linear_specialised.py says what the compiler is given in
// front of both and of hopper.cuh. Needs compute capability 9.0.

constexpr int GROUP_ROWS = 64, GROUPS = ROWS / GROUP_ROWS;  // of four warps that multiply; one more helps
constexpr int HELPERS = 3;                                  // warps that finish tiles
constexpr int THREADS = 128 * (GROUPS + 1);
constexpr int STEPS = K / DEPTH;                            // in which a tile is multiplied
constexpr int EARLY = STAGES < STEPS ? STAGES : STEPS;      // of which w is loaded before the kernel in front has ended
constexpr int ACROSS = (N + COLUMNS - 1) / COLUMNS / OVER;  // tiles of a cluster
constexpr int CLUSTER = DOWN * OVER, TOGETHER = DOWN + OVER - 1;  // blocks; those that one has operands in common with
constexpr bool FOLLOWS = LED && !LEADS;
constexpr int STRIPES = COLUMNS / STRIPE;
constexpr int X_BYTES = ROWS * DEPTH * 2, W_BYTES = COLUMNS * DEPTH * 2;

// Registers a thread: what all start with, and what is left of that to those that multiply.
constexpr int START = 65536 / THREADS / 8 * 8, HELPING = GROUPS == 2 ? 136 : 104;
constexpr int MULTIPLYING = (START * (GROUPS + 1) - HELPING) / GROUPS / 8 * 8;

static_assert(ROWS % GROUP_ROWS == 0 && COLUMNS % STRIPE == 0 && K % DEPTH == 0 && N % STRIPE == 0);
static_assert(STRIPES >= HELPERS || GROUPS * STRIPES % HELPERS == 0, "a helper has a group's stripes in all tiles");
static_assert(!IS_ACTIVATED || !HAS_RESIDUAL, "a block without tiles asks for a residual that is not there: see Tile");
static_assert((N + COLUMNS - 1) / COLUMNS % OVER == 0, "clusters have all of their tiles");
static_assert(W_BYTES / DOWN % 1024 == 0 && X_BYTES / OVER % 1024 == 0, "parts begin where the swizzle does");
static_assert(LED % (ROWS * DOWN) == 0, "the kernel that leads takes whole tiles of its clusters");

struct Memory {
    unsigned char x[STAGES][X_BYTES], w[STAGES][W_BYTES];
    unsigned char sums[GROUPS][STRIPES][GROUP_ROWS][STRIPE * 2];
    Line lines[GROUPS][GROUP_ROWS];
    u64 loaded[STAGES], used[STAGES], summed[GROUPS], stored[GROUPS];
};
static_assert(sizeof(Memory) <= BYTES);

// This block in its cluster, and the kernel's rows: from `first` on as many tiles of a cluster.
struct Block {
    int down, over, first, tiles;

    // The kernel that leads takes LED rows so many times that its part of them is that of its blocks, rounded up.
    __device__ Block(int rows, int leading, int following)
        : down(blockIdx.x % CLUSTER / OVER), over(blockIdx.x % OVER), first(0) {
        int count = rows;
        if constexpr (LED > 0) {
            const int whole = rows / LED, blocks = leading + following;
            const int led = min(whole, (whole * leading + blocks - 1) / blocks) * LED;
            if (FOLLOWS) first = led;
            count = LEADS ? led : rows - led;
        }
        tiles = (count + ROWS * DOWN - 1) / (ROWS * DOWN) * ACROSS;
    }
};

// First row and column of a block's tile. Clusters' tiles side by side are neighbours: they share rows of x in the L2
// cache. With an activation they go from the last rows to the first, which the kernel in front has left there.
struct Tile {
    int row, column;

    __device__ Tile(int tile, const Block& block) {
        const int at = IS_ACTIVATED ? block.tiles - 1 - tile : tile;
        row = block.first + (at / ACROSS * DOWN + block.down) * ROWS;
        column = (at % ACROSS * OVER + block.over) * COLUMNS;
    }
};

// Until what the kernels in front have written can be read. Where one leads, that is what the one that follows waits
// for before it starts; whoever waits for that one's end waits for both.
__device__ void begin() {
    if (LEADS) wait_for_kernel_in_front();
    release_next_kernel();
    if (!LED) wait_for_kernel_in_front();
}

// A part of an operand, to the same place in so many blocks, a bit of `to` for each.
template <int COUNT>
__device__ void send(int to, void* box, const TensorMap& map, int column, int row, u64& barrier) {
    if constexpr (COUNT == 1) return load(box, map, column, row, barrier);
    load_for(to, box, map, column, row, barrier);
}

// By one thread: all that this block reads, in order, as soon as there is room.
__device__ void load_tiles(Memory& memory, const TensorMap& x, const TensorMap& w, const Block& block, int clusters) {
    constexpr int BELOW = ((1 << CLUSTER) - 1) / ((1 << OVER) - 1), BESIDE = (1 << OVER) - 1;
    const auto load_w = [&](const Tile& at, int depth, int stage) {
        expect(memory.loaded[stage], X_BYTES + W_BYTES);
        send<DOWN>(BELOW << block.over, memory.w[stage] + block.down * (W_BYTES / DOWN), w, depth,
                   at.column + block.down * (COLUMNS / DOWN), memory.loaded[stage]);
    };
    int tile = blockIdx.x / CLUSTER, step = 0;
    if (tile < block.tiles)
        for (int stage = 0; stage < EARLY; stage++) load_w(Tile(tile, block), stage * DEPTH, stage);
    begin();
    for (; tile < block.tiles; tile += clusters) {
        const Tile at(tile, block);
#pragma unroll 1
        for (int depth = 0; depth < K; depth += DEPTH, step++) {
            const int stage = step % STAGES;
            wait(memory.used[stage], step / STAGES & 1 ^ 1);
            if (step >= EARLY) load_w(at, depth, stage);
            send<OVER>(BESIDE << block.down * OVER, memory.x[stage] + block.over * (X_BYTES / OVER), x, depth,
                       at.row + block.over * (ROWS / OVER), memory.loaded[stage]);
        }
    }
    // no block leaves before all have arrived at its barriers
#pragma unroll 1
    for (const int end = step + STAGES; CLUSTER > 1 && step < end; step++)
        wait(memory.used[step % STAGES], step / STAGES & 1 ^ 1);
    if (FOLLOWS) wait_for_kernel_in_front();
}

// Says to all blocks that load into this stage that a group is done with it.
__device__ void release(u64& used, const Block& block, int thread) {
    if (thread >= CLUSTER || (thread / OVER != block.down && thread % OVER != block.over)) return;
    if constexpr (CLUSTER == 1) return arrive(used);
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" :: "r"(in_block(shared(&used), thread)) : "memory");
}

// A stripe of a group of one of a block's tiles. The warps that finish them take them in turn.
struct Stripe {
    int tile;
    u32 of, turn = 0;
    Tile at;

    __device__ Stripe(int tile, int warp, const Block& block) : tile(tile), of(warp), at(tile, block) {}
    __device__ Stripe next(int clusters, const Block& block) const {
        Stripe next = *this;
        next.of += HELPERS;
        if (next.of >= GROUPS * STRIPES)
            next.of -= GROUPS * STRIPES, next.tile += clusters, next.turn++, next.at = Tile(next.tile, block);
        return next;
    }
    __device__ u32 group() const { return of / STRIPES; }
    __device__ u32 stripe() const { return of % STRIPES; }
    __device__ Piece first() const {
        return {at.row + int(group()) * GROUP_ROWS, at.column + int(stripe()) * STRIPE};
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) linear_specialised(
    const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, const float* bias,
    const float2* x_moments, const Half* residual, const float2* r_moments, const float* r_scale,
    Half* y, float2* y_moments, int rows, int leading, int following) {
    const Arguments given{bias, residual, r_scale, y, y_moments, rows};
    extern __shared__ __align__(1024) unsigned char dynamic[];
    Memory& memory = *reinterpret_cast<Memory*>(dynamic);
    const int lane = threadIdx.x % 32, thread = threadIdx.x % 128;
    const int group = __shfl_sync(~0u, threadIdx.x / 128, 0), warp = __shfl_sync(~0u, thread / 32, 0);
    const Block block(rows, leading, following);
    const int clusters = gridDim.x / CLUSTER;

    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++)
            start(memory.loaded[stage], 1), start(memory.used[stage], GROUPS * TOGETHER);
        for (int of = 0; of < GROUPS; of++) start(memory.summed[of], 4), start(memory.stored[of], STRIPES);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if constexpr (CLUSTER > 1) {
        arrive_at_cluster();
        wait_for_cluster();
    } else
        __syncthreads();

    if (group == GROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(HELPING));
        if (warp == HELPERS) {
            if (lane == 0) load_tiles(memory, x, w, block, clusters);
        } else {
            begin();
            Stripe now(blockIdx.x / CLUSTER, warp, block);
            Residual ahead(given, now.first(), lane);
            while (now.tile + clusters < block.tiles) {
                const Stripe next = now.next(clusters, block);
                const Piece first = now.first();
                const u32 of = now.group();
                const Columns columns(given, first.column, lane);
                wait(memory.summed[of], now.turn & 1);
                const Handed handed{memory.sums[of][now.stripe()], memory.lines[of]};
                finish<GROUP_ROWS / PART>(handed, 0, first, next.first(), ahead, columns, given, lane);
                __syncwarp();
                if (lane == 0) arrive(memory.stored[of]);
                now = next;
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(MULTIPLYING));
        begin();
        int step = 0, turn = 0;
        for (int tile = blockIdx.x / CLUSTER; tile < block.tiles; tile += clusters, turn++) {
            const Tile at(tile, block);
            const int first_row = at.row + group * GROUP_ROWS + warp * PART;
            float sums[COLUMNS / 2];
            const auto multiply = [&](int depth) {
                const int stage = step % STAGES;
                wait(memory.loaded[stage], step / STAGES & 1);
                const u64 left = matrix(memory.x[stage] + group * (X_BYTES / GROUPS)), right = matrix(memory.w[stage]);
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
                for (int part = 0; part < DEPTH / 16; part++)
                    asm volatile(MULTIPLY : SUMS : "l"(left + 2 * part), "l"(right + 2 * part), "r"(depth + part));
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
                if (depth > 0) release(memory.used[(step - 1) % STAGES], block, thread);
                step++;
            };
            multiply(0);
            const Lines lines(x_moments, r_moments, first_row, rows, lane);
            if (STEPS > 1) multiply(1);
            wait(memory.loaded[(step - 1) % STAGES], (step - 1) / STAGES & 1);  // is over: nothing is moved across it
            const Line line = lines.line();  // beside the tensor cores, and not while they are asked
#pragma unroll 1
            for (int depth = 2; depth < STEPS; depth++) multiply(depth);
            asm volatile("wgmma.wait_group.sync.aligned 0;" : SUMS :: "memory");
            release(memory.used[(step - 1) % STAGES], block, thread);

            wait(memory.stored[group], turn & 1 ^ 1);
            const int row = warp * 16 + lane % 16;
#pragma unroll
            for (int of = 0; of < COLUMNS / 16; of++) {
                const float* const sixteen = &sums[8 * of];  // columns of two rows
                store_matrices(&memory.sums[group][of / 4][row][(of % 4 * 2 + lane / 16 ^ row % 8) * 16],
                               packed(sixteen[0], sixteen[1]), packed(sixteen[2], sixteen[3]),
                               packed(sixteen[4], sixteen[5]), packed(sixteen[6], sixteen[7]));
            }
            if (X_NORM || R_NORM) memory.lines[group][warp * PART + lane % PART] = line;
            __syncwarp();
            if (tile + clusters < block.tiles) {
                if (lane == 0) arrive(memory.summed[group]);
            } else {
                Piece piece{first_row, at.column};
                Residual ahead(given, piece, lane);
#pragma unroll 1
                for (int stripe = 0; stripe < STRIPES; stripe++) {
                    const Piece now = piece;
                    piece.column += STRIPE;
                    if (stripe + 1 == STRIPES) piece.row = rows;  // nothing comes behind
                    const Columns columns(given, now.column, lane);
                    const Handed handed{memory.sums[group][stripe], memory.lines[group]};
                    finish<1>(handed, warp * PART, now, piece, ahead, columns, given, lane);
                }
            }
        }
    }
}

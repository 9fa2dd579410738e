// What kernels for compute capability 9.0 have in common: barriers in shared memory, how the tensor cores find a matrix
// there, types, softmax and activations. Instructions: https://docs.nvidia.com/cuda/parallel-thread-execution/

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short Half;  // f16 or bf16

struct alignas(64) TensorMap {
    u64 opaque[16];
};

__device__ u32 shared(const void* address) { return static_cast<u32>(__cvta_generic_to_shared(address)); }

// The same place in another block of the cluster.
__device__ u32 in_block(u32 address, u32 block) {
    u32 there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(block));
    return there;
}

__device__ void start(u64& barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared(&barrier)), "r"(arrivals) : "memory");
}

__device__ void arrive(u64& barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared(&barrier)) : "memory");
}

__device__ void expect(u64& barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(shared(&barrier)), "r"(bytes) : "memory");
}

__device__ void wait(u64& barrier, u32 phase) {
    asm volatile("{\n.reg .pred done;\n"
                 "AGAIN: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra AGAIN;\n}" :: "r"(shared(&barrier)), "r"(phase) : "memory");
}

// A box of a matrix, by the copy engine.
__device__ void load(void* box, const TensorMap& map, int column, int row, u64& barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];"
                 :: "r"(shared(box)), "l"(&map), "r"(column), "r"(row), "r"(shared(&barrier)) : "memory");
}

// The same to the same place in some blocks of the cluster, a bit for each, and to their barriers.
__device__ void load_for(unsigned short blocks, void* box, const TensorMap& map, int column, int row, u64& barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%2, %3}], [%4], %5;"
                 :: "r"(shared(box)), "l"(&map), "r"(column), "r"(row), "r"(shared(&barrier)), "h"(blocks) : "memory");
}

// The barrier of a cluster. What was written before it others need not find behind it.
__device__ void arrive_at_cluster() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ void wait_for_cluster() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }

// Where kernels overlap: the next one's blocks may come where there is room, once all of this one's have come here.
__device__ void release_next_kernel() {
    if constexpr (PDL) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// Until what the kernels in front wrote can be read.
__device__ void wait_for_kernel_in_front() {
    if constexpr (PDL) asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Sixteen columns of a warp's 16 rows of a product, in pairs: of a row and the one 8 below, then 8 columns on. A lane's
// place is that of row lane % 16, and of the second eight columns for the second half of the lanes.
__device__ void store_matrices(void* place, u32 one, u32 below, u32 behind, u32 behind_below) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 :: "r"(shared(place)), "r"(one), "r"(below), "r"(behind), "r"(behind_below) : "memory");
}

// How the tensor cores find a matrix of rows of DEPTH elements that the copy engine has swizzled.
__device__ u64 matrix(const unsigned char* address) {
    const u64 swizzle = 1, eight_rows = DEPTH * 16;
    return swizzle << 62 | eight_rows / 16 << 32 | u64(1) << 16 | (shared(address) >> 4 & 0x3fff);
}

__device__ float2 unpacked(u32 pair) {
#if BF16
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000)};
#else
    float2 both;
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\ncvt.f32.f16 %0, low;\ncvt.f32.f16 %1, high;\n}"
        : "=f"(both.x), "=f"(both.y) : "r"(pair));
    return both;
#endif
}

__device__ u32 packed(float low, float high) {
    u32 pair;
    asm("cvt.rn." ELEMENT "x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#define MINUS_INFINITY __int_as_float(0xff800000)

// Attention. A lane has two rows of a product, lane / 4 and 8 more, pairs of columns of the one and of the other in
// turn; four lanes have a row. `half` is which of the two.

// Keys that are not there have no weight.
template <int COUNT>
__device__ void leave_out(float (&scores)[COUNT], int keys, int lane) {
    if (keys >= 2 * COUNT) return;
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        if (i / 4 * 8 + lane % 4 * 2 + i % 2 >= keys) scores[i] = MINUS_INFINITY;
}

// The largest score.
template <int COUNT>
__device__ float most_of_row(const float (&scores)[COUNT], int half) {
    float most = scores[2 * half];
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        if (i / 2 % 2 == half) most = fmaxf(most, scores[i]);
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    return fmaxf(most, __shfl_xor_sync(~0u, most, 2));
}

__device__ float sum_of_row(float value) {
    value += __shfl_xor_sync(~0u, value, 1);
    return value + __shfl_xor_sync(~0u, value, 2);
}

// Weights 2^(scale · score - most), in pairs. This lane's are added to `total`.
template <int COUNT>
__device__ void weigh(const float (&scores)[COUNT], u32 (&weights)[COUNT / 2], float scale, float most, int half,
                      float& total) {
#pragma unroll
    for (int i = half; i < COUNT / 2; i += 2) {
        const float one = power_of_two(scores[2 * i] * scale - most);
        const float other = power_of_two(scores[2 * i + 1] * scale - most);
        total += one + other, weights[i] = packed(one, other);
    }
}

// A warp's 16 rows of DEPTH columns to shared memory, 16 bytes of a row at their number ^ row % 8.
__device__ void store_rows(unsigned char* rows, const u32 (&pairs)[DEPTH / 4], int lane) {
    const int row = lane % 16;
#pragma unroll
    for (int of = 0; of < DEPTH / 16; of++)
        store_matrices(rows + row * DEPTH * 2 + (of * 2 + lane / 16 ^ row % 8) * 16,
                       pairs[4 * of], pairs[4 * of + 1], pairs[4 * of + 2], pairs[4 * of + 3]);
}

// Such rows, each half with its factor, by way of shared memory to a matrix `width` columns wide: the first `count`.
__device__ void store_rows(unsigned char* rows, const float (&mixed)[DEPTH / 2], const float (&factor)[2], Half* to,
                           int width, int count, int lane) {
    u32 pairs[DEPTH / 4];
#pragma unroll
    for (int i = 0; i < DEPTH / 4; i++) {
        const float of = factor[i % 2];
        pairs[i] = packed(mixed[2 * i] * of, mixed[2 * i + 1] * of);
    }
    store_rows(rows, pairs, lane);
    __syncwarp();
#pragma unroll
    for (int of = 0; of < 4; of++) {  // eight lanes have a row
        const int row = of * 4 + lane / 8;
        const uint4 eight = *reinterpret_cast<const uint4*>(rows + row * DEPTH * 2 + (lane % 8 ^ row % 8) * 16);
        if (row < count) *reinterpret_cast<uint4*>(to + u64(row) * width + lane % 8 * 8) = eight;
    }
}

// Activations, as in activations.py, but gelu takes half as many instructions. It is max(x, 0) - |x| · Φ(-|x|), with
// log2 of Φ(-s) as a polynomial of s, least squares with weights that make the largest error of the second term
// smallest: 4.4e-7, a thousandth of what the tanh form is off by. Its highest power is below 0: far out it vanishes.
__device__ float gelu(float x) {
    const float s = fabsf(x);
    const float log = -1.0000376250f + s * (-1.1507878387f + s * (-0.4599924605f + s * (-0.0518273689f
                      + s * (0.0070845535f + s * -0.0004733090f))));
    return fmaxf(x, 0) - s * power_of_two(log);
}

// Two f16: a · b + c, rounded once.
__device__ u32 fused(u32 a, u32 b, u32 c) {
    u32 sum;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
}

__device__ u32 both(float value) { return packed(value, value); }

// Of two f16, in 9 instructions for both. The polynomial has the best coefficients that f16 has for the power of two
// that the hardware takes: no result is off by more than 2.7 half units in the last place of x; of normal x the root mean
// square of that is 1.15 times what rounding leaves of exact results.
__device__ u32 gelu(u32 x) {
    u32 size, minus, positive, power;
    asm("abs.f16x2 %0, %1;" : "=r"(size) : "r"(x));
    asm("neg.f16x2 %0, %1;" : "=r"(minus) : "r"(size));
    asm("max.f16x2 %0, %1, %2;" : "=r"(positive) : "r"(x), "r"(0));
    const u32 quadratic = fused(both(-0.02764892578125f), size, both(-0.488037109375f));
    const u32 log = fused(fused(quadratic, size, both(-1.140625f)), size, both(-1));
    asm("ex2.approx.f16x2 %0, %1;" : "=r"(power) : "r"(log));
    return fused(minus, power, positive);
}

__device__ float sigmoid(float x) { return reciprocal(1 + power_of_two(-1.4426950408889634f * x)); }
__device__ float gelu_tanh(float x) { return x * sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x)); }
__device__ float tanh(float x) { return 2 * sigmoid(2 * x) - 1; }
__device__ float relu(float x) { return fmaxf(x, 0); }
__device__ float silu(float x) { return x * sigmoid(x); }

// The moments of a row's granules, mean and sum of squares, and what they come to (Chan, Golub and LeVeque 1983). Two
// lanes may share them, lane and lane ^ 16: then all of a warp take part.
template <int COUNT, int LANES = 1>
struct Moments {
    static constexpr int PARTS = COUNT / GRANULE, OURS = (PARTS + LANES - 1) / LANES;
    float2 of[OURS];
    int first;

    __device__ Moments() {}
    __device__ Moments(const float2* moments, int row, int rows, int lane = 0) : first(LANES == 2 ? lane / 16 : 0) {
#pragma unroll
        for (int i = 0; i < OURS; i++) of[i] = is_there(i) ? moments[(i * LANES + first) * rows + row] : float2{};
    }
    // What takes a value of the row to (value - mean) / deviation: line.x * value + line.y.
    __device__ float2 line(float eps) const {
        float mean = 0, squares = 0;
#pragma unroll
        for (int i = 0; i < OURS; i++) mean += of[i].x * (1.0f / PARTS);
        mean = sum(mean);
#pragma unroll
        for (int i = 0; i < OURS; i++) {
            const float off = is_there(i) ? of[i].x - mean : 0;
            squares += of[i].y + GRANULE * off * off;
        }
        const float factor = rsqrtf(sum(squares) * (1.0f / COUNT) + eps);
        return {factor, -mean * factor};
    }

private:
    __device__ bool is_there(int i) const { return PARTS % LANES == 0 || i * LANES + first < PARTS; }
    __device__ static float sum(float value) { return LANES == 1 ? value : value + __shfl_xor_sync(~0u, value, 16); }
};

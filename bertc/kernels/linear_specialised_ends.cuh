// Products with a weight for many rows, behind the sum: bias, residual, activation, moments, and the stores.
//
// IN_PAIRS, all that stands behind the sum is GELU, taken of two f16 at once: at the power limit instructions cost time.
// Then 1 / deviation of x's norm is 65504 at most: what is made of rows of a deviation below 2⁻¹⁶ is too small.
// In f16 |x · wᵀ| has to stay below 65520, whatever is added to it: beyond, y is infinite or NaN.

constexpr int STRIPE = 64;        // columns that lie together in shared memory, 128 bytes
constexpr int PART = 16;          // rows that a warp finishes at a time
constexpr int TURNS = PART / 4;   // of four rows

static_assert(STRIPE == GRANULE, "the lanes that have a row of a stripe take its moments");
static_assert(HAS_RESIDUAL || !R_NORM, "a norm is the residual's");
static_assert(!IN_PAIRS || !(BF16 || HAS_RESIDUAL || HAS_MOMENTS), "pairs are of f16, and have gelu alone behind them");

// Of a row's norms: x's multiplies the sum, the residual's makes residual.x * value + residual.y of a value.
struct Line {
    float2 residual;
    float x;
};

struct Eight {
    float at[8];

    __device__ explicit Eight(const float* values, bool is_there = true) : at{} {
        if (!is_there) return;
        const float4 low = reinterpret_cast<const float4*>(values)[0], high = reinterpret_cast<const float4*>(values)[1];
        at[0] = low.x, at[1] = low.y, at[2] = low.z, at[3] = low.w;
        at[4] = high.x, at[5] = high.y, at[6] = high.z, at[7] = high.w;
    }

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
    __device__ float sum() const {
        return ((at[0] + at[1]) + (at[2] + at[3])) + ((at[4] + at[5]) + (at[6] + at[7]));
    }
};

// Mean and sum of squares around it of so many values, and of twice as many (Chan, Golub and LeVeque 1983).
struct Moment {
    float mean, squares;

    __device__ Moment() {}
    __device__ Moment(float mean, float squares) : mean(mean), squares(squares) {}
    __device__ explicit Moment(const Eight& of) : mean(of.sum() * 0.125f), squares(-8 * mean * mean) {
#pragma unroll
        for (int i = 0; i < 8; i++) squares += of.at[i] * of.at[i];
        squares = fmaxf(squares, 0);
    }
    __device__ Moment with_lane(int other) const {
        return {__shfl_xor_sync(~0u, mean, other), __shfl_xor_sync(~0u, squares, other)};
    }
    __device__ Moment with(const Moment& other, float count) const {
        const float off = other.mean - mean;
        return {(mean + other.mean) * 0.5f, squares + other.squares + off * off * (count * 0.5f)};
    }
};

// The moments of four rows that eight lanes have eight values of each: every second lane has those of a row, the fourth
// and the second bit of its number. Each lane gives the rows that it is not to have to the one that is.
__device__ Moment moment_of_row(const Moment (&rows)[4], int lane) {
    const bool low = !(lane & 4), even = !(lane & 2);
    const auto kept = [](bool first, const Moment& one, const Moment& other, int across, float count) {
        const Moment ours{first ? one.mean : other.mean, first ? one.squares : other.squares};
        const Moment theirs{first ? other.mean : one.mean, first ? other.squares : one.squares};
        return ours.with(theirs.with_lane(across), count);
    };
    const Moment one = kept(even, kept(low, rows[0], rows[2], 4, 8), kept(low, rows[1], rows[3], 4, 8), 2, 16);
    return one.with(one.with_lane(1), 32);
}

struct Arguments {
    const float* bias;
    const Half* residual;
    const float* r_scale;
    Half* y;
    float2* y_moments;
    int rows;
};

// The lines of PART rows, two lanes each. Their moments are asked for some time before.
struct Lines {
    Moments<K, 2> x;
    Moments<N, 2> residual;

    __device__ Lines(const float2* x_moments, const float2* r_moments, int row, int rows, int lane) {
        row = min(row + lane % PART, rows - 1);
        if (X_NORM) x = {x_moments, row, rows, lane};
        if (R_NORM) residual = {r_moments, row, rows, lane};
    }
    __device__ Line line() const {
        const float factor = X_NORM ? x.line(X_EPS).x : 0;  // beyond f16 it would make no number of sums of 0
        return {R_NORM ? residual.line(R_EPS) : float2{}, IN_PAIRS ? fminf(factor, 65504) : factor};
    }
};

// PART rows of a stripe, by its first row and column. 8 lanes have a row, 8 columns each, in TURNS turns of four rows.
struct Piece {
    int row, column;

    __device__ u64 first(int lane) const { return u64(row + lane / 8) * N + column + lane % 8 * 8; }
    __device__ bool has(int turn, int rows, int lane) const {
        return (N % COLUMNS == 0 || column < N) && row + lane / 8 + turn * 4 < rows;
    }
};

// The residual of a piece.
struct Residual {
    uint4 of[TURNS];

    __device__ Residual(const Arguments& given, const Piece& piece, int lane) : of{} {
        if (!HAS_RESIDUAL) return;
        const Half* const first = given.residual + piece.first(lane);
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++)
            if (piece.has(turn, given.rows, lane)) of[turn] = *reinterpret_cast<const uint4*>(first + turn * 4 * N);
    }
};

__device__ void store(Half* y, uint4 values, bool is_there) {
    asm volatile("{\n.reg .pred there;\nsetp.ne.b32 there, %5, 0;\n@there st.global.v4.b32 [%0], {%1, %2, %3, %4};\n}"
                 :: "l"(y), "r"(values.x), "r"(values.y), "r"(values.z), "r"(values.w), "r"(int(is_there)));
}

// What belongs to eight columns of a stripe, of each lane.
struct Columns {
    Eight base, r_scale;
    uint4 pairs;  // of base

    __device__ Columns(const Arguments& given, int stripe, int lane)
        : Columns(given, (N % COLUMNS == 0 || stripe < N ? stripe : 0) + lane % 8 * 8) {}
    __device__ Columns(const Arguments& given, int first)
        : base(given.bias + first), r_scale(given.r_scale + first, R_NORM), pairs(base.pairs()) {}
};

// Rows of a stripe as they are handed over, in shared memory: their sums, 16 bytes at their number ^ row % 8, and lines.
struct Handed {
    const unsigned char (*sums)[STRIPE * 2];
    const Line* lines;
};

// Sums of a piece, and the lines of its rows: asked for together, as far as there are registers.
struct Sums {
    uint4 of[TURNS];
    Line lines[TURNS];

    __device__ Sums(const Handed& rows, int lane) : lines{} {
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++) {
            const int row = turn * 4 + lane / 8;
            const u32 sixteen = shared(&rows.sums[row][(lane % 8 ^ row % 8) * 16]);
            asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(of[turn].x), "=r"(of[turn].y), "=r"(of[turn].z), "=r"(of[turn].w) : "r"(sixteen));
            const u32 x = shared(&rows.lines[row].x), residual = shared(&rows.lines[row].residual);
            Line& line = lines[turn];
            if (X_NORM) asm volatile("ld.shared.f32 %0, [%1];" : "=f"(line.x) : "r"(x));
            if (R_NORM)
                asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                             : "=f"(line.residual.x), "=f"(line.residual.y) : "r"(residual));
        }
    }
};

__device__ uint4 gelu_of(const uint4& sums, float factor, const uint4& base) {
    const u32 of = both(factor);
    return {gelu(fused(sums.x, of, base.x)), gelu(fused(sums.y, of, base.y)), gelu(fused(sums.z, of, base.z)),
            gelu(fused(sums.w, of, base.w))};
}

// Results of a piece.
__device__ void finish(const Sums& sums, const Residual& residual, const Columns& columns, const Arguments& given,
                       const Piece& piece, int lane) {
    Half* const y = given.y + piece.first(lane);
    Moment moments[TURNS];
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
        const Line& line = sums.lines[turn];
        const bool is_there = piece.has(turn, given.rows, lane);
        if constexpr (IN_PAIRS) {
            store(y + turn * 4 * N, gelu_of(sums.of[turn], X_NORM ? line.x : 1, columns.pairs), is_there);
        } else {
            Eight value(sums.of[turn]);
            const Eight more(residual.of[turn]);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float v = (X_NORM ? value.at[i] * line.x : value.at[i]) + columns.base.at[i];
                if (R_NORM)
                    v += columns.r_scale.at[i] * (more.at[i] * line.residual.x + line.residual.y);
                else if (HAS_RESIDUAL)
                    v += more.at[i];
                value.at[i] = ACTIVATE(v);
            }
            if constexpr (HAS_MOMENTS) moments[turn] = Moment(value);
            store(y + turn * 4 * N, value.pairs(), is_there);
        }
    }
    if constexpr (HAS_MOMENTS) {
        const Moment of = moment_of_row(moments, lane);
        const int turn = lane % 8 / 2, rows = given.rows;
        if (lane % 2 == 0 && piece.has(turn, rows, lane))
            given.y_moments[u64(piece.column / GRANULE) * rows + piece.row + lane / 8 + turn * 4] = {of.mean, of.squares};
    }
}

// So many pieces one below the other, from `row` of those handed over on. The residual of each is loaded
// while the one before it is finished: `ahead` is that of the `first`, then that of the `next` to come.
template <int PIECES>
__device__ void finish(const Handed& rows, u32 row, const Piece& first, const Piece& next, Residual& ahead,
                       const Columns& columns, const Arguments& given, int lane) {
    Piece piece = first;
#pragma unroll 1
    for (int of = 0; of < PIECES; of++, row += PART) {
        const Residual residual = ahead;
        const Piece now = piece;
        piece.row += PART;
        ahead = Residual(given, of + 1 < PIECES ? piece : next, lane);
        const Sums sums({&rows.sums[row], &rows.lines[row]}, lane);
        finish(sums, residual, columns, given, now, lane);
    }
}

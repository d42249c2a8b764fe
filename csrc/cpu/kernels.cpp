// SPDX-License-Identifier: Apache-2.0
// The micro-kernels, one source for every instruction set. Each output element is one accumulator,
// its products added in ascending k; tile shapes only choose which elements are computed together.
// So results do not depend on batch, slab, thread count or tile, bit for bit.
#include "kernels.h"

#include "vector.h"

namespace pyrel {
namespace {

constexpr int kPanelVectors = 2;
constexpr int64_t kPanel = kPanelVectors * kLanes;

inline Vector load(const float* p, int64_t count, bool partial) {
    return partial ? load(p, count) : load(p);
}

inline int64_t valid_lanes(int64_t columns, int64_t column) {
    const int64_t left = columns - column;
    return left < 0 ? 0 : (left > kLanes ? kLanes : left);
}

struct Tile {
    const float* a[kMaxSegments][kTileRows];
    float* out[kTileRows];
    const float* scale[kTileRows];
    const float* post[kTileRows];
};

// Walks the rows of a view, samples outer and steps inner.
struct RowCursor {
    int64_t sample;
    int64_t step;
    int64_t steps;
    void next() {
        if (++step == steps) {
            step = 0;
            ++sample;
        }
    }
    template <typename Pointer>
    Pointer row(const View& view) const {
        return view.base + sample * view.stride + view.offsets[step];
    }
};

void fill_operands(Tile& tile, int row, const View& out, const Epilogue& e,
                   const RowCursor& cursor) {
    tile.out[row] = cursor.row<float*>(out);
    if (e.scale >= Scale::operand) tile.scale[row] = cursor.row<const float*>(e.scale_operand);
    if (e.post_operand.offsets) tile.post[row] = cursor.row<const float*>(e.post_operand);
}

// The epilogue on Rows × Vectors registers. Each stage is one uniform branch around an unrolled
// loop, so the accumulators never leave their registers.
template <int Rows, int Vectors, bool Partial>
inline void finish(Vector (&v)[Rows][Vectors], const Tile& tile, const Epilogue& e, int64_t column,
                   int64_t columns) {
    int64_t count[Vectors];
    for (int j = 0; j < Vectors; ++j)
        count[j] = Partial ? valid_lanes(columns, column + j * kLanes) : kLanes;
    const auto at = [&](const float* p, int j) {
        return load(p + column + j * kLanes, count[j], Partial);
    };
    const auto each = [&](auto&& f) {
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
            for (int j = 0; j < Vectors; ++j) v[r][j] = f(v[r][j], r, j);
    };
    if (e.bias) each([&](Vector x, int, int j) { return x + at(e.bias, j); });
    switch (e.scale) {
        case Scale::none:
            break;
        case Scale::vector:
            each([&](Vector x, int, int j) { return x * at(e.scale_vector, j); });
            break;
        case Scale::operand:
            each([&](Vector x, int r, int j) { return x * at(tile.scale[r], j); });
            break;
        case Scale::operand_minus_vector:
            each([&](Vector x, int r, int j) {
                return x * (at(tile.scale[r], j) - at(e.scale_vector, j));
            });
            break;
    }
    if (e.accumulate) each([&](Vector x, int r, int j) { return x + at(tile.out[r], j); });
    switch (e.post) {
        case Post::none:
            break;
        case Post::relu:
            each([&](Vector x, int, int) { return relu(x); });
            break;
        case Post::divide:
            if (e.post_vector)
                each([&](Vector x, int r, int j) {
                    return safe_divide(x, at(tile.post[r], j) + at(e.post_vector, j));
                });
            else
                each([&](Vector x, int r, int j) { return safe_divide(x, at(tile.post[r], j)); });
            break;
        case Post::mask:
            each([&](Vector x, int r, int j) { return where_positive(at(tile.post[r], j), x); });
            break;
        case Post::guided:
            each([&](Vector x, int r, int j) {
                return where_positive(at(tile.post[r], j), relu(x));
            });
            break;
        case Post::square:
            each([&](Vector x, int, int) { return x * x; });
            break;
        case Post::multiply:
            each([&](Vector x, int r, int j) { return x * at(tile.post[r], j); });
            break;
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) {
            float* p = tile.out[r] + column + j * kLanes;
            if (Partial)
                store(p, v[r][j], count[j]);
            else
                store(p, v[r][j]);
        }
}

// Rows × Vectors outputs from consecutive panels of PanelVectors each: the accumulators stay in
// registers over the whole depth. Unrolled twice: the loop's own instructions and the reloads of
// row pointers that found no register cost 7 % of the peak otherwise (12 rows, AVX-512, Zen 4).
template <int Rows, int Vectors, int PanelVectors, bool Partial>
void gemm_tile(const GemmTask& task, const Tile& tile, int64_t column) {
    constexpr int64_t Width = PanelVectors * kLanes;
    Vector sum[Rows][Vectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) sum[r][j] = zero();
    const int64_t panel_size = task.depth * Width;
    const float* b = task.packed + task.depth * column;
    for (int s = 0; s < task.segments; ++s) {
        const float* a[Rows];
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) a[r] = tile.a[s][r];
        const int64_t depth = task.segment_depth[s];
#pragma GCC unroll 2
        for (int64_t k = 0; k < depth; ++k, b += Width) {
            Vector w[Vectors];
#pragma GCC unroll 8
            for (int j = 0; j < Vectors; ++j)
                w[j] = load(b + (j / PanelVectors) * panel_size + (j % PanelVectors) * kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) {
                const Vector x = broadcast(a[r] + k);
#pragma GCC unroll 8
                for (int j = 0; j < Vectors; ++j) sum[r][j] = multiply_add(x, w[j], sum[r][j]);
            }
        }
    }
    finish<Rows, Vectors, Partial>(sum, tile, task.epilogue, column, task.columns);
}

// A single row is bound by reading the weights. Where an activation is zero, as half of them are
// after a ReLU, and all relevance below them, its weights need not be read: adding zero changes no
// sum. Deeper products than this are not compressed.
constexpr int64_t kSparseDepth = 2048;

struct NonZeros {
    int32_t count[kMaxSegments];
    int32_t index[kSparseDepth];  // of all segments, one after the other
};

// Lists where a row is not zero; false where too few are to be worth it.
bool find_non_zeros(const GemmTask& task, const Tile& tile, NonZeros& found) {
    if (task.depth > kSparseDepth) return false;
    int32_t total = 0;
    for (int s = 0; s < task.segments; ++s) {
        const float* a = tile.a[s][0];
        const int32_t before = total;
        for (int32_t k = 0; k < task.segment_depth[s]; ++k) {
            found.index[total] = k;
            total += a[k] != 0.0f;
        }
        found.count[s] = total - before;
    }
    return 4 * total <= 3 * task.depth;
}

template <int Vectors, int PanelVectors, bool Partial>
void gemm_sparse_row(const GemmTask& task, const Tile& tile, const NonZeros& found,
                     int64_t column) {
    constexpr int64_t Width = PanelVectors * kLanes;
    Vector sum[1][Vectors];
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) sum[0][j] = zero();
    const int64_t panel_size = task.depth * Width;
    const float* b = task.packed + task.depth * column;
    const int32_t* index = found.index;
    for (int s = 0; s < task.segments; ++s) {
        const float* a = tile.a[s][0];
        const int32_t* end = index + found.count[s];
#pragma GCC unroll 2
        for (; index < end; ++index) {
            const Vector x = broadcast(a + *index);
            const float* row = b + *index * Width;
#pragma GCC unroll 8
            for (int j = 0; j < Vectors; ++j) {
                const float* w =
                    row + (j / PanelVectors) * panel_size + (j % PanelVectors) * kLanes;
                sum[0][j] = multiply_add(x, load(w), sum[0][j]);
            }
        }
        b += task.segment_depth[s] * Width;
    }
    finish<1, Vectors, Partial>(sum, tile, task.epilogue, column, task.columns);
}

// Few rows leave registers free: several panels at once keep enough independent chains to hide the
// latency of an FMA.
template <int Rows>
void gemm_rows(const GemmTask& task, const Tile& tile) {
    constexpr int Panels = 4 * Rows <= kTileRows ? 4 : (2 * Rows <= kTileRows ? 2 : 1);
    NonZeros found;
    const bool sparse = Rows == 1 && find_non_zeros(task, tile, found);
    // Columns from `column` on, in Vectors registers a row.
    const auto columns = [&]<int Vectors, int PanelVectors, bool Partial>(int64_t column) {
        if (sparse)
            gemm_sparse_row<Vectors, PanelVectors, Partial>(task, tile, found, column);
        else
            gemm_tile<Rows, Vectors, PanelVectors, Partial>(task, tile, column);
    };
    constexpr int Vectors = Panels * kPanelVectors;
    const int64_t whole = task.columns / kPanel * kPanel;
    int64_t column = 0;
    for (; column + Panels * kPanel <= whole; column += Panels * kPanel)
        columns.template operator()<Vectors, kPanelVectors, false>(column);
    for (; column < whole; column += kPanel)
        columns.template operator()<kPanelVectors, kPanelVectors, false>(column);
    // The last columns' panel is as narrow as they allow.
    if (task.columns - whole > kLanes)
        columns.template operator()<kPanelVectors, kPanelVectors, true>(whole);
    else if (task.columns > whole)
        columns.template operator()<1, 1, true>(whole);
}

using RowsKernel = void (*)(const GemmTask&, const Tile&);
constexpr RowsKernel kRowsKernels[] = {
    gemm_rows<1>, gemm_rows<2>, gemm_rows<3>, gemm_rows<4>,  gemm_rows<5>,  gemm_rows<6>,
#if defined(PYREL_ISA_AVX512)
    gemm_rows<7>, gemm_rows<8>, gemm_rows<9>, gemm_rows<10>, gemm_rows<11>, gemm_rows<12>,
#endif
};

void gemm(const GemmTask& task) {
    const int64_t rows = task.samples * task.steps;
    const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t t = 0; t < tiles; ++t) {
        // Tiles of nearly equal height: 13 rows are 7 + 6, not 12 and a slow 1.
        const int height = static_cast<int>(rows * (t + 1) / tiles - rows * t / tiles);
        Tile tile;
        for (int r = 0; r < height; ++r, cursor.next()) {
            for (int s = 0; s < task.segments; ++s)
                tile.a[s][r] = cursor.row<const float*>(task.a[s]);
            fill_operands(tile, r, task.out, task.epilogue, cursor);
        }
        kRowsKernels[height - 1](task, tile);
    }
}

void map(const MapTask& task) {
    const int64_t rows = task.samples * task.steps;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next()) {
        Tile tile{};
        fill_operands(tile, 0, task.out, task.epilogue, cursor);
        const float* source = task.has_source ? cursor.row<const float*>(task.source) : nullptr;
        for (int64_t column = 0; column < task.columns; column += kLanes) {
            const int64_t count = valid_lanes(task.columns, column);
            Vector v[1][1] = {{source ? load(source + column, count, count < kLanes) : zero()}};
            if (count < kLanes)
                finish<1, 1, true>(v, tile, task.epilogue, column, task.columns);
            else
                finish<1, 1, false>(v, tile, task.epilogue, column, task.columns);
        }
    }
}

bool inside(const float* x, const float* low, const float* high, int64_t size) {
    const float largest = 3.402823466e+38f, smallest = -largest;
    const Vector top = broadcast(&largest), bottom = broadcast(&smallest);
    bool good = true;
    for (int64_t i = 0; i < size; i += kLanes) {
        const int64_t count = valid_lanes(size, i);
        const bool partial = count < kLanes;  // lanes beyond the end are zero in all three
        const Vector v = load(x + i, count, partial);
        good &= inside(v, load(low + i, count, partial), load(high + i, count, partial)) &
                inside(v, bottom, top);
    }
    return good;
}

double peak(int64_t repetitions) {
    constexpr int kChains = kTileRows * kPanelVectors;
    float seed[kLanes];
    for (int i = 0; i < kLanes; ++i) seed[i] = 1.0f;
    Vector sum[kChains];
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) {
        sum[i] = zero();
        asm volatile("" : "+x"(sum[i]));  // else the chains are equal and the compiler keeps one
    }
    Vector x = load(seed);
    for (int64_t n = 0; n < repetitions; ++n) {
        asm volatile(
            ""
            : "+x"(x));  // a new value as far as the compiler knows: the loop cannot be folded
#pragma GCC unroll 32
        for (int i = 0; i < kChains; ++i) sum[i] = multiply_add(x, x, sum[i]);
    }
    Vector total = zero();
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) total = total + sum[i];
    asm volatile("" : : "x"(total));
    return static_cast<double>(repetitions) * kChains * kLanes * 2.0;
}

}  // namespace

#if defined(PYREL_ISA_AVX512)
const Kernels* kernels_avx512() {
    static constexpr Kernels kernels = {"avx512", kPanel, kLanes, kTileRows,
                                        gemm,     map,    inside, peak};
#elif defined(PYREL_ISA_AVX2)
const Kernels* kernels_avx2() {
    static constexpr Kernels kernels = {"avx2", kPanel, kLanes, kTileRows, gemm, map, inside, peak};
#else
const Kernels* kernels_baseline() {
    static constexpr Kernels kernels = {"baseline", kPanel, kLanes, kTileRows,
                                        gemm,       map,    inside, peak};
#endif
    return &kernels;
}

}  // namespace pyrel

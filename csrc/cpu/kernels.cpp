// SPDX-License-Identifier: Apache-2.0
// The micro-kernels, one source for every instruction set. Each output element is one accumulator,
// its products added in ascending k; tile shapes only choose which elements are computed together.
// So results do not depend on batch, slab, thread count or tile, bit for bit.
#include "kernels.h"

#include "dense.h"
#include "in_lanes.h"
#include "matmul.h"
#include "pools.h"
#include "sparse.h"
#include "sums.h"

// Elementwise functions of the vectors that the headers before have.
#include "../shared/functions.h"

namespace pyrel {
namespace {

template <typename Element>
void multiply(const GemmTask& task, const Block& block, NonZeros& found) {
    if (is_sparse<Element>(task, block, found))
        gemm_sparse<Element>(task, block, found);
    else
        gemm_dense<Element>(task, block);
}

// All rows with some columns, whose weights stay in a cache, before others: take(block).
template <typename Take>
void for_columns(const GemmTask& task, Take&& take) {
    for (int64_t begin = 0; begin < task.columns; begin += task.together) {
        const int64_t left = task.columns - begin;
        const int64_t end = begin + (left < task.together ? left : task.together);
        for_blocks(task, [&](Block& block) {
            block.begin = begin;
            block.end = end;
            take(block);
        });
    }
}

void gemm(const GemmTask& task) {
    NonZeros found;
    for_columns(task, [&](Block& block) { multiply<Single>(task, block, found); });
}

#if defined(PYREL_ISA_AVX512_BF16)
// The rows of a block are rounded once, their segments joined, and then multiplied as rows of half
// as many elements.
void gemm_bf16(const GemmTask& task) {
    NonZeros found;
    GemmTask pairs = task;
    pairs.segments = 1;
    pairs.depth = pairs.segment_depth[0] = (task.depth + 1) / 2;
    const int64_t stride = bf16_row(task.depth);
    for_columns(task, [&](Block& block) {
        for (int r = 0; r < block.rows; ++r) {
            float* row = task.scratch + r * stride;
            row[pairs.depth - 1] = 0.0f;  // an odd depth leaves half of the last pair
            int64_t k = 0;
            for (int s = 0; s < task.segments; k += task.segment_depth[s++])
                round_to_bf16(block.a[s][r], task.segment_depth[s],
                              reinterpret_cast<char*>(row) + 2 * k);
            block.a[0][r] = row;
        }
        multiply<Bf16Pair>(pairs, block, found);
    });
}
#endif

void map(const MapTask& task) {
    const int64_t rows = task.samples * task.steps;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next()) {
        Block block;
        fill_operands(block, 0, 1, task.out, task.epilogue, cursor);
        const float* source = task.has_source ? cursor.row<const float*>(task.source) : nullptr;
        for (int64_t column = 0; column < task.columns; column += kLanes) {
            const int64_t count = valid_lanes(task.columns, column);
            Vector v[1][1] = {{source ? load(source + column, count, count < kLanes) : zero()}};
            if (count < kLanes)
                finish(v, block, 0, task.epilogue, InColumns<1, true>(column, task.columns));
            else
                finish(v, block, 0, task.epilogue, InColumns<1, false>(column, task.columns));
        }
    }
}

// Each row's columns in vectors: take(row, column, how many lanes).
template <typename Task, typename Take>
inline void for_vectors(const Task& task, Take&& take) {
    const int64_t rows = task.samples * task.steps;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next())
        for (int64_t column = 0; column < task.columns; column += kLanes)
            take(cursor, column, valid_lanes(task.columns, column));
}

template <Function F>
void activate_by(const FunctionTask& task) {
    const Vector parameter = constant(task.parameter);
    for_vectors(task, [&](const RowCursor& cursor, int64_t column, int64_t count) {
        const float* source = cursor.row<const float*>(task.source) + column;
        float* out = cursor.row<float*>(task.out) + column;
        if (count == kLanes)
            store(out, apply<F>(load(source), parameter));
        else
            store(out, apply<F>(load(source, count), parameter), count);
    });
}

template <Function F>
void slope_by(const FunctionTask& task) {
    const Vector parameter = constant(task.parameter);
    for_vectors(task, [&](const RowCursor& cursor, int64_t column, int64_t count) {
        const bool partial = count < kLanes;
        const float* source = cursor.row<const float*>(task.source) + column;
        const float* value = cursor.row<const float*>(task.value) + column;
        float* out = cursor.row<float*>(task.out) + column;
        Vector v = load(source, count, partial) * slope<F>(load(value, count, partial), parameter);
        if (task.accumulate) v = v + load(out, count, partial);
        if (partial)
            store(out, v, count);
        else
            store(out, v);
    });
}

using FunctionKernel = void (*)(const FunctionTask&);
// In the order of Function.
constexpr FunctionKernel kActivate[] = {
    activate_by<Function::sigmoid>,    activate_by<Function::tanh>,
    activate_by<Function::softplus>,   activate_by<Function::leaky_relu>,
    activate_by<Function::elu>,        activate_by<Function::gelu>,
    activate_by<Function::gelu_tanh>,  activate_by<Function::silu>,
    activate_by<Function::reciprocal>, activate_by<Function::power>,
    activate_by<Function::exp>,        activate_by<Function::log>,
    activate_by<Function::log1p>,      activate_by<Function::sqrt>,
    activate_by<Function::sin>,        activate_by<Function::cos>,
    activate_by<Function::erf>,        activate_by<Function::absolute>,
    activate_by<Function::square>,     activate_by<Function::pow>,
    activate_by<Function::at_least>,   activate_by<Function::above>,
    activate_by<Function::at_most>,    activate_by<Function::below>,
    activate_by<Function::step>};
constexpr FunctionKernel kSlope[] = {
    slope_by<Function::sigmoid>,    slope_by<Function::tanh>,    slope_by<Function::softplus>,
    slope_by<Function::leaky_relu>, slope_by<Function::elu>,     slope_by<Function::gelu>,
    slope_by<Function::gelu_tanh>,  slope_by<Function::silu>,    slope_by<Function::reciprocal>,
    slope_by<Function::power>,      slope_by<Function::exp>,     slope_by<Function::log>,
    slope_by<Function::log1p>,      slope_by<Function::sqrt>,    slope_by<Function::sin>,
    slope_by<Function::cos>,        slope_by<Function::erf>,     slope_by<Function::absolute>,
    slope_by<Function::square>,     slope_by<Function::pow>,     slope_by<Function::at_least>,
    slope_by<Function::above>,      slope_by<Function::at_most>, slope_by<Function::below>,
    slope_by<Function::step>};

void activate(const FunctionTask& task) { kActivate[static_cast<int>(task.function)](task); }
void slope(const FunctionTask& task) { kSlope[static_cast<int>(task.function)](task); }

// So many vectors of a row's columns together: one sum would wait for each addition's latency.
template <int Vectors, bool Partial>
inline void reduce_columns(const ReduceTask& task, const float* source, float* out,
                           const InColumns<Vectors, Partial>& at) {
    Vector sum[Vectors];
    for (int j = 0; j < Vectors; ++j) sum[j] = task.accumulate ? at.row(out, j) : zero();
    for (int64_t i = 0; i < task.count; ++i, source += task.stride)
        for (int j = 0; j < Vectors; ++j) sum[j] = sum[j] + at.row(source, j);
    for (int j = 0; j < Vectors; ++j) at.put(out, j, sum[j]);
}

void reduce(const ReduceTask& task) {
    constexpr int kTogether = 4;
    const int64_t rows = task.samples * task.steps;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next()) {
        const float* source = cursor.row<const float*>(task.source);
        float* out = cursor.row<float*>(task.out);
        int64_t column = 0;
        for (; column + kTogether * kLanes <= task.columns; column += kTogether * kLanes)
            reduce_columns(task, source, out, InColumns<kTogether, false>(column, task.columns));
        for (; column + kLanes <= task.columns; column += kLanes)
            reduce_columns(task, source, out, InColumns<1, false>(column, task.columns));
        if (column < task.columns)
            reduce_columns(task, source, out, InColumns<1, true>(column, task.columns));
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
        good &= inside(v, load(low + i, count, partial), load(high + i, count, partial));
        good &= inside(v, bottom, top);
    }
    return good;
}

template <typename Element>
double peak(int64_t repetitions) {
    constexpr int kChains = kTileRows * kPanelVectors;
    float seed[kLanes];
    for (int i = 0; i < kLanes; ++i) seed[i] = 1.0f;
    Vector sum[kChains];
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) {
        sum[i] = zero();
        hide(sum[i]);  // else the chains are equal and the compiler keeps one
    }
    Vector x = load(seed);
    for (int64_t n = 0; n < repetitions; ++n) {
        hide(x);  // else the loop could be folded
#pragma GCC unroll 32
        for (int i = 0; i < kChains; ++i) sum[i] = Element::multiply_add(x, x, sum[i]);
    }
    Vector total = zero();
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) total = total + sum[i];
    hide(total);
    return static_cast<double>(repetitions) * kChains * kLanes * 2.0 * Element::kProducts;
}

constexpr Kernels table(const char* isa) {
    Kernels kernels{};
    kernels.isa = isa;
    kernels.panel = kPanel;
    kernels.tile_rows = kTileRows;
    kernels.block_rows = kBlockRows;
    kernels.lanes = kLanes;
    kernels.lane_columns = kLaneColumns;
    kernels.lane_rows = kLaneRows;
    kernels.gemm = gemm;
    kernels.gemm_in_lanes = gemm_in_lanes;
    kernels.map = map;
    kernels.map_in_lanes = map_in_lanes;
    kernels.activate = activate;
    kernels.slope = slope;
    kernels.reduce = reduce;
    kernels.matmul = matmul;
    kernels.matmul_in_lanes = matmul_in_lanes;
    kernels.max_pool = max_pool;
    kernels.pool_route = pool_route;
    kernels.absorb = absorb;
    kernels.absorb_in_lanes = absorb_in_lanes;
    kernels.totals = totals;
    kernels.inside = inside;
    kernels.peak = peak<Single>;
#if defined(PYREL_ISA_AVX512_BF16)
    kernels.gemm_bf16 = gemm_bf16;
    kernels.peak_bf16 = peak<Bf16Pair>;
#endif
    return kernels;
}

}  // namespace

#if defined(PYREL_ISA_AVX512_BF16)
const Kernels* kernels_avx512_bf16() {
    static constexpr Kernels kernels = table("avx512_bf16");
#elif defined(PYREL_ISA_AVX512)
const Kernels* kernels_avx512() {
    static constexpr Kernels kernels = table("avx512");
#elif defined(PYREL_ISA_AVX2)
const Kernels* kernels_avx2() {
    static constexpr Kernels kernels = table("avx2");
#elif defined(PYREL_ISA_NEON)
const Kernels* kernels_neon() {
    static constexpr Kernels kernels = table("neon");
#else
const Kernels* kernels_baseline() {
    static constexpr Kernels kernels = table("baseline");
#endif
    return &kernels;
}

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// Products of rows without looking for zeros. A part of kernels.cpp.
#pragma once

#include "rows.h"

namespace pyrel {
namespace {

constexpr int kPanelVectors = 2;
constexpr int64_t kPanel = kPanelVectors * kLanes;

// What the elements of a product's operands are: floats, or pairs of bfloat16 in a float's bits.
struct Single {
    static constexpr int kProducts = 1;
    static Vector multiply_add(Vector a, Vector b, Vector c) {
        return pyrel::multiply_add(a, b, c);
    }
    static unsigned non_zero_lanes(Vector v) { return pyrel::non_zero_lanes(v); }
};

#if defined(PYREL_ISA_AVX512_BF16)
struct Bf16Pair {
    static constexpr int kProducts = 2;
    static Vector multiply_add(Vector a, Vector b, Vector c) { return multiply_add_bf16(a, b, c); }
    static unsigned non_zero_lanes(Vector v) { return non_zero_lanes_bf16(v); }
};
#endif

// Where vector j, counted over panels, of the row of weights lies that starts at `row` in the first
// of them.
inline const float* weights(const GemmTask& task, const float* row, int j) {
    return row + j / kPanelVectors * task.panel_stride + j % kPanelVectors * kLanes;
}

// Rows × Vectors outputs from consecutive panels: the accumulators stay in registers over the whole
// depth. Unrolled twice: the loop's own instructions and the reloads of row pointers that found no
// register cost 7 % of the peak otherwise (12 rows, AVX-512, Zen 4).
template <typename Element, int Rows, int Vectors, bool Partial>
void gemm_tile(const GemmTask& task, const Block& block, int first, int64_t column) {
    Vector sum[Rows][Vectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) sum[r][j] = zero();
    const float* b = task.packed + column / kPanel * task.panel_stride;
    for (int s = 0; s < task.segments; ++s) {
        const float* a[Rows];
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) a[r] = block.a[s][first + r];
        const int64_t depth = task.segment_depth[s];
#pragma GCC unroll 2
        for (int64_t k = 0; k < depth; ++k, b += kPanel) {
            // Whichever operand has fewer vectors is held, the other one passes by.
            if constexpr (Vectors > Rows) {
                Vector x[Rows];
#pragma GCC unroll 8
                for (int r = 0; r < Rows; ++r) x[r] = broadcast(a[r] + k);
#pragma GCC unroll 8
                for (int j = 0; j < Vectors; ++j) {
                    const Vector w = load(weights(task, b, j));
#pragma GCC unroll 8
                    for (int r = 0; r < Rows; ++r)
                        sum[r][j] = Element::multiply_add(x[r], w, sum[r][j]);
                }
            } else {
                Vector w[Vectors];
#pragma GCC unroll 8
                for (int j = 0; j < Vectors; ++j) w[j] = load(weights(task, b, j));
#pragma GCC unroll 16
                for (int r = 0; r < Rows; ++r) {
                    const Vector x = broadcast(a[r] + k);
#pragma GCC unroll 8
                    for (int j = 0; j < Vectors; ++j)
                        sum[r][j] = Element::multiply_add(x, w[j], sum[r][j]);
                }
            }
        }
    }
    // A sum whose products were flushed may be −0, and what a row's zeros add to that depends on
    // whether they are skipped: −0 + 0 is 0.
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) sum[r][j] = sum[r][j] + zero();
    finish(sum, block, first, task.epilogue, InColumns<Vectors, Partial>(column, task.columns));
}

// Few rows leave registers free: several panels at once keep enough independent chains to hide the
// latency of an FMA.
template <typename Element, int Rows>
void gemm_rows(const GemmTask& task, const Block& block, int first) {
    constexpr int Panels = 4 * Rows <= kTileRows ? 4 : (2 * Rows <= kTileRows ? 2 : 1);
    const int64_t whole = block.end / kPanel * kPanel;
    int64_t column = block.begin;
    for (; column + Panels * kPanel <= whole; column += Panels * kPanel)
        gemm_tile<Element, Rows, Panels * kPanelVectors, false>(task, block, first, column);
    for (; column < whole; column += kPanel)
        gemm_tile<Element, Rows, kPanelVectors, false>(task, block, first, column);
    if (block.end - whole > kLanes)
        gemm_tile<Element, Rows, kPanelVectors, true>(task, block, first, whole);
    else if (block.end > whole)
        gemm_tile<Element, Rows, 1, true>(task, block, first, whole);
}

using RowsKernel = void (*)(const GemmTask&, const Block&, int);
template <typename Element>
constexpr RowsKernel kRowsKernels[] = {
    gemm_rows<Element, 1>,  gemm_rows<Element, 2>,  gemm_rows<Element, 3>,
    gemm_rows<Element, 4>,  gemm_rows<Element, 5>,  gemm_rows<Element, 6>,
#if defined(PYREL_ISA_AVX512) || defined(PYREL_ISA_NEON)
    gemm_rows<Element, 7>,  gemm_rows<Element, 8>,  gemm_rows<Element, 9>,
    gemm_rows<Element, 10>, gemm_rows<Element, 11>, gemm_rows<Element, 12>,
#endif
};

template <typename Element>
void gemm_dense(const GemmTask& task, const Block& block) {
    // Tiles of nearly equal height: 13 rows are 7 + 6, not 12 and a slow 1.
    const int tiles = (block.rows + kTileRows - 1) / kTileRows;
    for (int t = 0; t < tiles; ++t) {
        const int first = block.rows * t / tiles;
        kRowsKernels<Element>[block.rows * (t + 1) / tiles - first - 1](task, block, first);
    }
}

}  // namespace
}  // namespace pyrel

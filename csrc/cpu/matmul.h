// SPDX-License-Identifier: Apache-2.0
// Products of two matrices of a sample, neither of which is known before. A part of kernels.cpp.
#pragma once

#include "dense.h"

namespace pyrel {
namespace {

// A part of one row's product: `count` columns, from a depth on, of a right matrix whose rows lie
// `stride` floats apart.
struct MatmulPart {
    const float* left;
    const float* right;
    float* out;
    int64_t stride;
    int64_t depth;
    int64_t count;
    bool adds;
};

// Rows × Vectors outputs, whose sums stay in registers. What is there already is where the sum
// begins, so a product whose depth is cut into parts has the bits of a whole one.
template <int Rows, int Vectors, bool Partial, bool Transposed>
void matmul_tile(const MatmulTask& task, const MatmulPart& part, int64_t first) {
    const InColumns<Vectors, Partial> at(0, part.count);
    float* out[Rows];
    const float* left[Transposed ? 1 : Rows];
    const int64_t step = Transposed ? task.rows : 1;
    left[0] = part.left + (Transposed ? first : first * task.depth);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
        out[r] = part.out + (first + r) * task.columns;
        if constexpr (!Transposed) left[r] = part.left + (first + r) * task.depth;
    }
    Vector sum[Rows][Vectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) sum[r][j] = part.adds ? at.row(out[r], j) : zero();
    const float* right = part.right;
#pragma GCC unroll 2
    for (int64_t k = 0; k < part.depth; ++k, right += part.stride) {
        Vector w[Vectors];
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) w[j] = at.row(right, j);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
            const Vector x = broadcast(Transposed ? left[0] + k * step + r : left[r] + k);
#pragma GCC unroll 8
            for (int j = 0; j < Vectors; ++j) sum[r][j] = multiply_add(x, w[j], sum[r][j]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) at.put(out[r], j, sum[r][j]);
}

template <int Rows, bool Transposed>
void matmul_rows(const MatmulTask& task, const MatmulPart& part, int64_t first) {
    if (part.count == kPanel)
        matmul_tile<Rows, kPanelVectors, false, Transposed>(task, part, first);
    else if (part.count > kLanes)
        matmul_tile<Rows, kPanelVectors, true, Transposed>(task, part, first);
    else if (part.count == kLanes)
        matmul_tile<Rows, 1, false, Transposed>(task, part, first);
    else
        matmul_tile<Rows, 1, true, Transposed>(task, part, first);
}

using MatmulRows = void (*)(const MatmulTask&, const MatmulPart&, int64_t);
template <bool Transposed>
constexpr MatmulRows kMatmulRows[] = {
    matmul_rows<1, Transposed>,  matmul_rows<2, Transposed>,  matmul_rows<3, Transposed>,
    matmul_rows<4, Transposed>,  matmul_rows<5, Transposed>,  matmul_rows<6, Transposed>,
#if defined(PYREL_ISA_AVX512) || defined(PYREL_ISA_NEON)
    matmul_rows<7, Transposed>,  matmul_rows<8, Transposed>,  matmul_rows<9, Transposed>,
    matmul_rows<10, Transposed>, matmul_rows<11, Transposed>, matmul_rows<12, Transposed>,
#endif
};
static_assert(sizeof(kMatmulRows<true>) / sizeof(MatmulRows) == kTileRows);

// All rows with one panel of columns, in tiles of nearly equal height.
void matmul_panel(const MatmulTask& task, const MatmulPart& part) {
    const MatmulRows* const kernels = task.left_transposed ? kMatmulRows<true> : kMatmulRows<false>;
    const int64_t tiles = (task.rows + kTileRows - 1) / kTileRows;
    for (int64_t t = 0; t < tiles; ++t) {
        const int64_t first = task.rows * t / tiles;
        kernels[task.rows * (t + 1) / tiles - first - 1](task, part, first);
    }
}

// So many depths of a panel that lies column by column are laid out row by row at once: they stay
// in the first-level cache while all rows are multiplied.
constexpr int64_t kTurned = 128;

void matmul(const MatmulTask& task) {
    float turned[kTurned * kPanel];
    const int64_t rows = task.samples * task.steps;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next()) {
        const float* const left = cursor.row<const float*>(task.left);
        const float* const right = cursor.row<const float*>(task.right);
        float* const out = cursor.row<float*>(task.out);
        for (int64_t column = 0; column < task.columns; column += kPanel) {
            const int64_t rest = task.columns - column;
            MatmulPart part{left,           right + column, out + column,
                            task.columns,   task.depth,     rest < kPanel ? rest : kPanel,
                            task.accumulate};
            if (!task.right_transposed) {
                matmul_panel(task, part);
                continue;
            }
            part.right = turned;
            part.stride = kPanel;
            for (int64_t begin = 0; begin < task.depth; begin += kTurned) {
                const int64_t deep = task.depth - begin;
                part.depth = deep < kTurned ? deep : kTurned;
                part.left = left + begin * (task.left_transposed ? task.rows : 1);
                for (int64_t c = 0; c < part.count; ++c) {
                    const float* const from = right + (column + c) * task.depth + begin;
                    for (int64_t k = 0; k < part.depth; ++k) turned[k * kPanel + c] = from[k];
                }
                matmul_panel(task, part);
                part.adds = true;
            }
        }
    }
}

// Rows × Columns outputs of as many samples as there are lanes.
template <int Rows, int Columns>
void matmul_lanes_tile(const MatmulTask& task, const float* left, const float* right, float* out,
                       int64_t row, int64_t column) {
    const int64_t of_row = (task.left_transposed ? 1 : task.depth) * kLanes;
    const int64_t along_left = (task.left_transposed ? task.rows : 1) * kLanes;
    const int64_t of_column = (task.right_transposed ? task.depth : 1) * kLanes;
    const int64_t along_right = (task.right_transposed ? 1 : task.columns) * kLanes;
    left += row * of_row;
    right += column * of_column;
    out += (row * task.columns + column) * kLanes;
    Vector sum[Rows][Columns];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < Columns; ++c)
            sum[r][c] = task.accumulate ? load(out + (r * task.columns + c) * kLanes) : zero();
    for (int64_t k = 0; k < task.depth; ++k, left += along_left, right += along_right) {
        Vector x[Rows];
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) x[r] = load(left + r * of_row);
#pragma GCC unroll 8
        for (int c = 0; c < Columns; ++c) {
            const Vector w = load(right + c * of_column);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) sum[r][c] = multiply_add(x[r], w, sum[r][c]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < Columns; ++c) store(out + (r * task.columns + c) * kLanes, sum[r][c]);
}

template <int Rows>
void matmul_lanes_rows(const MatmulTask& task, const float* left, const float* right, float* out,
                       int64_t row) {
    int64_t column = 0;
    for (; column + 4 <= task.columns; column += 4)
        matmul_lanes_tile<Rows, 4>(task, left, right, out, row, column);
    for (; column < task.columns; ++column)
        matmul_lanes_tile<Rows, 1>(task, left, right, out, row, column);
}

void matmul_in_lanes(const MatmulTask& task) {
    const int64_t rows = task.samples * task.steps;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t n = 0; n < rows; ++n, cursor.next()) {
        const float* const left = cursor.row<const float*>(task.left);
        const float* const right = cursor.row<const float*>(task.right);
        float* const out = cursor.row<float*>(task.out);
        int64_t row = 0;
        for (; row + 2 <= task.rows; row += 2) matmul_lanes_rows<2>(task, left, right, out, row);
        if (row < task.rows) matmul_lanes_rows<1>(task, left, right, out, row);
    }
}

}  // namespace
}  // namespace pyrel

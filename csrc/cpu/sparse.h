// SPDX-License-Identifier: Apache-2.0
// Products of rows with zeros. A part of kernels.cpp.
#pragma once

#include "dense.h"

namespace pyrel {
namespace {

// Rows with zeros. Half of all activations are zero after a ReLU, and so is all relevance below
// them; where an activation is zero its products need not be formed, since adding zero changes no
// sum. A dense tile cannot skip them, as its rows have their zeros in different places. So each row
// is multiplied alone, walking the set bits of a mask of its non-zeros, its accumulators in
// registers and the weights as operands from memory. That runs at the first-level cache's
// bandwidth, one vector a multiply-add, if the weights are there: the depth is cut into parts, of
// which a group of panels stays in that cache while all rows of the block use it. A single row
// reads its weights once anyhow, and skips reading those that it does not need.
constexpr int kPartDepth = 64;  // bits of a mask; × 4 panels × 128 bytes = 32 KiB at most
constexpr int kGroupPanels = 4;
constexpr int64_t kSparseDepth = 4096;  // deeper products do not skip
constexpr int kMaxParts = kSparseDepth / kPartDepth + kMaxSegments;

struct Part {
    int32_t segment;
    int32_t depth;
    int64_t start;  // within the segment
    int64_t k;      // within the whole depth
};

struct NonZeros {
    int32_t parts;
    Part part[kMaxParts];
    uint64_t mask[kMaxParts][kBlockRows];  // bit k: whether element k of the part is not zero
};

void cut_into_parts(const GemmTask& task, NonZeros& found) {
    found.parts = 0;
    int64_t k = 0;
    for (int s = 0; s < task.segments; ++s) {
        const int64_t depth = task.segment_depth[s];
        for (int64_t start = 0; start < depth; start += kPartDepth) {
            const int64_t left = depth - start;
            const auto size = static_cast<int32_t>(left < kPartDepth ? left : kPartDepth);
            found.part[found.parts++] = {s, size, start, k + start};
        }
        k += depth;
    }
}

// Returns how many elements of the row are not zero.
template <typename Element>
int64_t find_non_zeros(const Block& block, int row, NonZeros& found) {
    int64_t total = 0;
    for (int p = 0; p < found.parts; ++p) {
        const Part& part = found.part[p];
        const float* a = block.a[part.segment][row] + part.start;
        uint64_t mask = 0;
        for (int k = 0; k < part.depth; k += kLanes) {
            const int64_t count = valid_lanes(part.depth, k);
            mask |= uint64_t{Element::non_zero_lanes(load(a + k, count, count < kLanes))} << k;
        }
        found.mask[p][row] = mask;
        total += __builtin_popcountll(mask);
    }
    return total;
}

// Whether enough is zero for it to pay. A single row gains sooner: it reads weights for nothing
// else. Of more rows the first tells whether to look at the others.
template <typename Element>
bool is_sparse(const GemmTask& task, const Block& block, NonZeros& found) {
    if (task.depth > kSparseDepth || task.depth * task.columns < kSparseWeights) return false;
    if (block.rows > 1 && task.columns < kSparseVectors * kLanes) return false;
    cut_into_parts(task, found);
    const auto depth = static_cast<double>(task.depth);
    auto total = static_cast<double>(find_non_zeros<Element>(block, 0, found));
    if (block.rows == 1) return total <= 0.9 * depth;
    if (total > 1.2 * kSparseShare * depth) return false;
    for (int r = 1; r < block.rows; ++r)
        total += static_cast<double>(find_non_zeros<Element>(block, r, found));
    return total <= kSparseShare * depth * block.rows;
}

// One row over the parts from `begin` to `end`; between calls the sums are kept in `carried`.
template <typename Element, int Vectors, bool Partial>
void sparse_row(const GemmTask& task, const Block& block, const NonZeros& found, int row, int begin,
                int end, int64_t column, float* carried) {
    Vector sum[Vectors];
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) sum[j] = begin == 0 ? zero() : load(carried + j * kLanes);
    const float* panels = task.packed + column / kPanel * task.panel_stride;
    for (int p = begin; p < end; ++p) {
        const Part& part = found.part[p];
        const float* a = block.a[part.segment][row] + part.start;
        const float* b = panels + part.k * kPanel;
        for (uint64_t left = found.mask[p][row]; left; left &= left - 1) {
            const int k = __builtin_ctzll(left);
            const Vector x = broadcast(a + k);
#pragma GCC unroll 8
            for (int j = 0; j < Vectors; ++j)
                sum[j] = Element::multiply_add(x, load(weights(task, b + k * kPanel, j)), sum[j]);
        }
    }
    if (end < found.parts) {
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) store(carried + j * kLanes, sum[j]);
        return;
    }
    // −0 becomes 0, as in a dense tile. A copy: of an array that is passed on by reference GCC
    // keeps every change in memory.
    Vector result[1][Vectors];
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) result[0][j] = sum[j] + zero();
    finish(result, block, row, task.epilogue, InColumns<Vectors, Partial>(column, task.columns));
}

template <typename Element, int Vectors, bool Partial>
void sparse_columns(const GemmTask& task, const Block& block, const NonZeros& found,
                    int64_t column) {
    alignas(64) float carried[kBlockRows][Vectors * kLanes];
    const int step = block.rows == 1 ? found.parts : 1;
    for (int p = 0; p < found.parts; p += step)
        for (int r = 0; r < block.rows; ++r)
            sparse_row<Element, Vectors, Partial>(task, block, found, r, p, p + step, column,
                                                  carried[r]);
}

using ColumnsKernel = void (*)(const GemmTask&, const Block&, const NonZeros&, int64_t);
template <typename Element, bool Partial>
constexpr ColumnsKernel kColumnsKernels[kGroupPanels * kPanelVectors] = {
    sparse_columns<Element, 1, Partial>, sparse_columns<Element, 2, Partial>,
    sparse_columns<Element, 3, Partial>, sparse_columns<Element, 4, Partial>,
    sparse_columns<Element, 5, Partial>, sparse_columns<Element, 6, Partial>,
    sparse_columns<Element, 7, Partial>, sparse_columns<Element, 8, Partial>};

template <typename Element>
void gemm_sparse(const GemmTask& task, const Block& block, const NonZeros& found) {
    // Groups of nearly equal width, as each reads all lists once.
    const int64_t panels = (block.end - block.begin + kPanel - 1) / kPanel;
    const int64_t groups = (panels + kGroupPanels - 1) / kGroupPanels;
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t column = block.begin + panels * g / groups * kPanel;
        const int64_t next = block.begin + panels * (g + 1) / groups * kPanel;
        const int64_t width = (next < block.end ? next : block.end) - column;
        const int64_t vectors = (width + kLanes - 1) / kLanes;
        const ColumnsKernel* kernels =
            width % kLanes ? kColumnsKernels<Element, true> : kColumnsKernels<Element, false>;
        kernels[vectors - 1](task, block, found, column);
    }
}

}  // namespace
}  // namespace pyrel

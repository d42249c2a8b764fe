// SPDX-License-Identifier: Apache-2.0
// The kernels for samples in lanes: side by side lie the same elements of as many samples as a
// vector has lanes. Each sample gets the same sums, in the same order, as alone. A part of
// kernels.cpp.
#pragma once

#include "rows.h"

namespace pyrel {
namespace {

// Samples in lanes. A tile is Rows rows of Columns columns: one weight is broadcast and multiplies
// a vector of samples of each row. No lane is empty however few the columns are, and depths at
// which all weights of a group are zero are left out.
template <int Rows, int Columns>
void lanes_tile(const GemmTask& task, const Block& block, int first, const LaneColumns& group) {
    Vector sum[Rows][Columns];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < Columns; ++c) sum[r][c] = zero();
    const float* w = group.weights;
    int s = 0;
    int64_t begin = 0;  // of the segment, in the whole depth
    for (int64_t n = group.first_range; n < group.stop_range; ++n) {
        for (int64_t k = task.lane_ranges[n].first; k < task.lane_ranges[n].stop;) {
            while (k >= begin + task.segment_depth[s]) begin += task.segment_depth[s++];
            const int64_t end = begin + task.segment_depth[s];
            const int64_t stop = task.lane_ranges[n].stop < end ? task.lane_ranges[n].stop : end;
            const float* a[Rows];
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) a[r] = block.a[s][first + r] + (k - begin) * kLanes;
#pragma GCC unroll 2
            for (int64_t i = 0; i < stop - k; ++i, w += Columns) {
                Vector x[Rows];
#pragma GCC unroll 8
                for (int r = 0; r < Rows; ++r) x[r] = load(a[r] + i * kLanes);
#pragma GCC unroll 8
                for (int c = 0; c < Columns; ++c) {
                    const Vector weight = broadcast(w + c);
#pragma GCC unroll 8
                    for (int r = 0; r < Rows; ++r)
                        sum[r][c] = multiply_add(x[r], weight, sum[r][c]);
                }
            }
            k = stop;
        }
    }
    // −0 becomes 0, as in a dense tile.
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < Columns; ++c) sum[r][c] = sum[r][c] + zero();
    finish(sum, block, first, task.epilogue, InLanes{group.column});
}

// Rows × columns sums that leave registers for the rows' vectors and a weight; without fused
// multiply-adds for a product, too.
#if defined(PYREL_ISA_AVX512) || defined(PYREL_ISA_NEON)
constexpr int kLaneRows = 3, kLaneColumns = 8;
#elif defined(PYREL_ISA_AVX2)
constexpr int kLaneRows = 3, kLaneColumns = 4;
#else
constexpr int kLaneRows = 2, kLaneColumns = 4;
#endif

using LanesKernel = void (*)(const GemmTask&, const Block&, int, const LaneColumns&);
template <int Rows>
constexpr LanesKernel kLanesKernels[] = {
    lanes_tile<Rows, 1>, lanes_tile<Rows, 2>, lanes_tile<Rows, 3>,
    lanes_tile<Rows, 4>,
#if defined(PYREL_ISA_AVX512) || defined(PYREL_ISA_NEON)
    lanes_tile<Rows, 5>, lanes_tile<Rows, 6>, lanes_tile<Rows, 7>,
    lanes_tile<Rows, 8>
#endif
};
static_assert(sizeof(kLanesKernels<1>) / sizeof(LanesKernel) == kLaneColumns);

void gemm_in_lanes(const GemmTask& task) {
    for_blocks(task, [&](const Block& block) {
        for (int first = 0; first < block.rows; first += kLaneRows) {
            const int left = block.rows - first;
            const LanesKernel* kernels = left >= kLaneRows ? kLanesKernels<kLaneRows>
                                         : left == 2       ? kLanesKernels<2>
                                                           : kLanesKernels<1>;
            for (int64_t g = 0; g < task.lane_groups; ++g) {
                const LaneColumns& group = task.lane_columns[g];
                kernels[group.count - 1](task, block, first, group);
            }
        }
    });
}

void map_in_lanes(const MapTask& task) {
    constexpr int kTogether = 4;
    const int64_t rows = task.samples * task.steps;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next()) {
        Block block;
        fill_operands(block, 0, 1, task.out, task.epilogue, cursor);
        const float* source = task.has_source ? cursor.row<const float*>(task.source) : nullptr;
        int64_t column = 0;
        for (; column + kTogether <= task.columns; column += kTogether) {
            Vector v[1][kTogether];
            for (int j = 0; j < kTogether; ++j)
                v[0][j] = source ? load(source + (column + j) * kLanes) : zero();
            finish(v, block, 0, task.epilogue, InLanes{column});
        }
        for (; column < task.columns; ++column) {
            Vector v[1][1] = {{source ? load(source + column * kLanes) : zero()}};
            finish(v, block, 0, task.epilogue, InLanes{column});
        }
    }
}

// Sums over columns of each lane's sample: the same as of single samples, by the same eight parts,
// in the same order.
class LaneSums {
  public:
    LaneSums() {
        for (WideDoubles(&half)[kParts] : parts_)
            for (WideDoubles& part : half) part = WideDoubles{};
    }
    void add(int64_t column, const Doubles& terms) {
        for (int h = 0; h < 2; ++h) parts_[h][column % kParts] += terms.part[h];
    }
    void get(double (&sums)[kLanes]) const {
        for (int h = 0; h < 2; ++h) {
            const WideDoubles sum = sum_of(parts_[h]);
            __builtin_memcpy(sums + h * kWide, &sum, sizeof sum);
        }
    }

  private:
    WideDoubles parts_[2][kParts];
};

void absorb_in_lanes(const AbsorbTask& task) {
    const int64_t rows = task.samples * task.steps;
    const bool stabilises = task.share == Share::stabiliser;
    const Vector epsilon = broadcast(&task.epsilon);
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next()) {
        const float* source = cursor.row<const float*>(task.source);
        const float* operand =
            task.operand.offsets ? cursor.row<const float*>(task.operand) : nullptr;
        LaneSums shares, sizes;
        for (int64_t column = 0; column < task.columns; ++column) {
            const Vector v = load(source + column * kLanes);
            Doubles terms, size;
            if (task.share == Share::weighted) {
                widen(v, terms);
                for (WideDoubles& part : terms.part) part *= double{task.vector[column]};
            } else {
                Vector d = load(operand + column * kLanes);
                if (task.vector) d = d + broadcast(task.vector + column);
                const Vector share = absorbed_of(task.share, v, d);
                widen(share, terms);
                if (stabilises) {
                    widen(divided_by_stabilised(share, d, epsilon), size);
                    sizes.add(column, size);
                }
            }
            shares.add(column, terms);
        }
        const double factor = stabilises ? double{task.epsilon} : 1.0;
        double sums[kLanes];
        shares.get(sums);
        for (int i = 0; i < kLanes; ++i)
            task.absorbed[cursor.sample * kLanes + i] += factor * sums[i];
        if (!stabilises) continue;
        sizes.get(sums);
        for (int i = 0; i < kLanes; ++i)
            raise_to(task.largest[cursor.sample * kLanes + i], sums[i]);
    }
}

}  // namespace
}  // namespace pyrel

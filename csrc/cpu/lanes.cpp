// SPDX-License-Identifier: Apache-2.0
// Whether, and how, a program runs with samples in lanes: side by side lie the same elements of as
// many samples as a vector has lanes, instead of the elements of one sample. Then no lane is empty
// however short the rows are, and the weights of zero of joined rows cost nothing; but a sample's
// own zeros cannot be skipped. Each sample's sums are the same, in the same order.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "caches.h"
#include "engine.h"

namespace pyrel {
namespace {

// The depths from which one of `count` columns takes anything, as ranges; by whether each weight is
// not zero.
std::vector<LaneRange> ranges_of(const std::vector<char>& non_zero, int64_t columns, int64_t column,
                                 int64_t count) {
    std::vector<LaneRange> ranges;
    const auto depth = static_cast<int64_t>(non_zero.size()) / columns;
    for (int64_t k = 0; k < depth; ++k) {
        const char* const row = non_zero.data() + k * columns + column;
        if (std::none_of(row, row + count, [](char here) { return here; })) continue;
        if (!ranges.empty() && ranges.back().stop == k)
            ++ranges.back().stop;
        else
            ranges.push_back({k, k + 1});
    }
    return ranges;
}

// Cycles that a tile takes for one depth: for two multiply-adds or two loads each, and no less than
// a sum waits for itself.
double cycles_of(int64_t rows, int64_t columns) {
    const auto r = static_cast<double>(rows), c = static_cast<double>(columns);
    return std::max({r * c / 2.0, (r + c) / 2.0, 4.0});
}

// Groups of columns of nearly equal width: of all widths the one with which the tiles take the
// fewest cycles. Narrow ones leave out more zeros.
LaneMatrix grouped(const PackedMatrix& matrix, const Kernels& kernels) {
    constexpr double kRange = 10.0, kResult = 4.0;  // cycles of each beside the products
    std::vector<char> non_zero;
    for (int64_t k = 0; k < matrix.depth; ++k)
        for (int64_t c = 0; c < matrix.columns; ++c) non_zero.push_back(matrix.at(k, c) != 0.0f);
    LaneMatrix best;
    double least = std::numeric_limits<double>::infinity();
    for (int64_t widest = kernels.lane_columns; widest > 0; --widest) {
        LaneMatrix tried;
        double cycles = kResult * static_cast<double>(matrix.columns * kernels.lane_rows);
        const int64_t groups = (matrix.columns + widest - 1) / widest;
        for (int64_t g = 0; g < groups && cycles < least; ++g) {
            const int64_t column = matrix.columns * g / groups;
            const int64_t count = matrix.columns * (g + 1) / groups - column;
            const auto first = static_cast<int64_t>(tried.ranges.size());
            for (const LaneRange& range : ranges_of(non_zero, matrix.columns, column, count)) {
                tried.ranges.push_back(range);
                cycles += kRange + static_cast<double>(range.stop - range.first) *
                                       cycles_of(kernels.lane_rows, count);
            }
            const auto stop = static_cast<int64_t>(tried.ranges.size());
            tried.groups.push_back({column, count, first, stop, nullptr});
        }
        if (cycles >= least) continue;
        least = cycles;
        best = std::move(tried);
    }
    return best;
}

LaneMatrix pack(const PackedMatrix& matrix, const Kernels& kernels) {
    LaneMatrix packed = grouped(matrix, kernels);
    std::vector<size_t> starts;
    for (const LaneColumns& group : packed.groups) {
        starts.push_back(packed.weights.size());
        for (int64_t n = group.first_range; n < group.stop_range; ++n) {
            const LaneRange& range = packed.ranges[static_cast<size_t>(n)];
            for (int64_t k = range.first; k < range.stop; ++k)
                for (int64_t c = 0; c < group.count; ++c)
                    packed.weights.push_back(matrix.at(k, group.column + c));
        }
    }
    for (size_t g = 0; g < starts.size(); ++g)
        packed.groups[g].weights = packed.weights.data() + starts[g];
    return packed;
}

// Whether activations or relevance are zero in many places, as ReLUs leave them.
bool leaves_zeros(const Code& code) {
    bool has_zeros = false;
    for_each(code.instructions, [&](const auto& i) {
        if constexpr (requires { i.epilogue.post; })
            has_zeros |= i.epilogue.post == Post::relu || i.epilogue.post == Post::mask ||
                         i.epilogue.post == Post::guided;
    });
    return has_zeros;
}

}  // namespace

void PackedMatrix::pack_in_lanes(const Kernels& kernels) const {
    std::call_once(once_, [&] { in_lanes_ = pack(*this, kernels); });
}

void Engine::pack_in_lanes() const {
    for (const auto& [plain, bf16] : matrices_)
        if (plain) plain->pack_in_lanes(kernels_);
}

// By a rough count of the multiply-adds of vectors that a sample takes either way.
double Engine::compare_with_lanes(int64_t rows_apart) const {
    // What a row, and a vector of results, cost beside the products; what a vector costs that is
    // only moved; and what a number costs that is normalised, twice that where it must be copied.
    constexpr auto kRow = static_cast<double>(kRowCost), kResult = static_cast<double>(kResultCost);
    constexpr double kMoved = 4.0, kAlone = 8.0;
    // What is left of large products where rows skip the zeros that ReLUs leave.
    constexpr double kSkipping = 0.6;
    // What a vector of weights costs that is not in the second-level cache, for so many rows.
    constexpr double kFar = 2.0;
    const auto rows_together = static_cast<double>(2 * kernels_.lanes);
    const double far = weight_bytes_ > kCacheBytes ? kFar : 0.0;
    const bool has_zeros = leaves_zeros(*code_);
    bool runs = lane_group_bytes() <= kMostLaneBytes;
    double apart = 0.0, together = 0.0;
    const auto vectors = [&](int64_t columns) {
        return static_cast<double>((columns + kernels_.lanes - 1) / kernels_.lanes);
    };
    const auto share = [&](double all) { return all / static_cast<double>(kernels_.lanes); };
    const auto count = [&](const auto& i) {
        using Kind = std::decay_t<decltype(i)>;
        const auto rows = static_cast<double>(rows_of(i));
        if constexpr (std::is_same_v<Kind, Gemm>) {
            const PackedMatrix& w = matrix(i);
            runs &= !w.bf16;
            const auto taken = static_cast<double>(w.lane_products);
            const bool skips = has_zeros && w.columns >= kSparseVectors * kernels_.lanes &&
                               w.depth * w.columns >= kSparseWeights;
            const double depth =
                static_cast<double>(w.depth) *
                ((skips ? kSkipping : 1.0) + far / static_cast<double>(rows_apart));
            apart += rows * (vectors(w.columns) * (depth + kResult) + kRow);
            together += rows * share(taken * (1.0 + far / rows_together) +
                                     static_cast<double>(w.columns) * kResult + kRow);
        } else if constexpr (std::is_same_v<Kind, Embed>) {
            const double floats = rows * static_cast<double>(code_->table(i.table).columns);
            apart += floats * kMoved / static_cast<double>(kernels_.lanes);
            together += floats;
        } else if constexpr (std::is_same_v<Kind, Normalise> ||
                             std::is_same_v<Kind, NormaliseBack>) {
            apart += rows * kAlone * static_cast<double>(i.columns);
            together += 2.0 * rows * kAlone * static_cast<double>(i.columns);
        } else if constexpr (std::is_same_v<Kind, Reduce>) {
            const double moved = kMoved * static_cast<double>(i.count);
            apart += rows * (vectors(i.columns) * moved + kRow);
            together += rows * share(static_cast<double>(i.columns) * moved + kRow);
        } else if constexpr (std::is_same_v<Kind, Matmul>) {
            const auto lines = rows * static_cast<double>(i.rows);
            const auto depth = static_cast<double>(i.depth) + kResult;
            apart += lines * vectors(i.columns) * depth + rows * kRow;
            together += share(lines * static_cast<double>(i.columns) * depth + rows * kRow);
        } else if constexpr (requires { i.columns; }) {
            apart += rows * (vectors(i.columns) * kMoved + kRow);
            together += rows * share(static_cast<double>(i.columns) * kMoved + kRow);
        }
    };
    for_each(code_->instructions, count);
    return runs && together > 0.0 ? apart / together : 0.0;
}

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// Whether, and how, a program runs with samples in lanes: side by side lie the same elements of as
// many samples as a vector has lanes, instead of the elements of one sample. Then no lane is empty
// however short the rows are, and the weights of zero of joined rows cost nothing; but a sample's
// own zeros cannot be skipped. Each sample's sums are the same, in the same order.
#include <algorithm>
#include <limits>
#include <numeric>
#include <type_traits>

#include "program.h"
#include "touched.h"

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
LaneMatrix grouped(const Matrix& matrix, const Kernels& kernels) {
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

LaneMatrix pack(const Matrix& matrix, const Kernels& kernels) {
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

// All instructions, those of repeats too: take(instruction).
template <typename Take>
void for_each(const std::vector<Instruction>& instructions, Take&& take) {
    for (const Instruction& instruction : instructions)
        std::visit(
            [&](const auto& i) {
                if constexpr (std::is_same_v<std::decay_t<decltype(i)>, Repeat>)
                    for (const Repeatable& each : i.body) std::visit(take, each);
                else
                    take(i);
            },
            instruction);
}

}  // namespace

void Matrix::pack_in_lanes(const Kernels& kernels) const {
    std::call_once(once_, [&] { in_lanes_ = pack(*this, kernels); });
}

void Program::pack_in_lanes() const {
    for_each(instructions_, [this](const auto& i) {
        if constexpr (std::is_same_v<std::decay_t<decltype(i)>, Gemm>)
            matrix(i.matrix).pack_in_lanes(kernels_);
    });
}

// By a rough count of the multiply-adds of vectors that a sample takes either way.
double Program::compare_with_lanes() const {
    // What a row, and a vector of results, cost beside the products (as in join_positions.py); what
    // a vector costs that is only moved; and what a number costs that is normalised, twice that
    // where it must be copied.
    constexpr double kRow = 12.0, kResult = 8.0, kMoved = 4.0, kAlone = 8.0;
    // What is left of large products where rows skip the zeros that ReLUs leave; large as the
    // kernels have it.
    constexpr double kSkipping = 0.6;
    constexpr int64_t kLargeProduct = 6144, kLargeColumns = 6;
    // What a vector of weights costs that is not in the second-level cache, for so many rows.
    constexpr double kFar = 2.0, kRowsApart = 12.0;
    const auto rows_together = static_cast<double>(2 * kernels_.lanes);
    constexpr int64_t kCacheFloats = int64_t{256} << 10;
    int64_t weights = 0;
    for (const auto& matrix : matrices_) weights += matrix->depth * matrix->columns;
    const double far = weights > kCacheFloats ? kFar : 0.0;
    bool has_zeros = false;
    for_each(instructions_, [&](const auto& i) {
        if constexpr (requires { i.epilogue.post; })
            has_zeros |= i.epilogue.post == Post::relu || i.epilogue.post == Post::mask ||
                         i.epilogue.post == Post::guided;
    });
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
            const Matrix& w = matrix(i.matrix);
            runs &= !w.bf16;
            const auto taken = static_cast<double>(w.lane_products);
            const bool skips = has_zeros && w.columns >= kLargeColumns * kernels_.lanes &&
                               w.depth * w.columns >= kLargeProduct;
            const double depth =
                static_cast<double>(w.depth) * ((skips ? kSkipping : 1.0) + far / kRowsApart);
            apart += rows * (vectors(w.columns) * (depth + kResult) + kRow);
            together += rows * share(taken * (1.0 + far / rows_together) +
                                     static_cast<double>(w.columns) * kResult + kRow);
        } else if constexpr (std::is_same_v<Kind, Embed>) {
            const double floats = rows * static_cast<double>(table(i.table).columns);
            apart += floats * kMoved / static_cast<double>(kernels_.lanes);
            together += floats;
        } else if constexpr (std::is_same_v<Kind, Normalise> ||
                             std::is_same_v<Kind, NormaliseBack>) {
            apart += rows * kAlone * static_cast<double>(i.columns);
            together += 2.0 * rows * kAlone * static_cast<double>(i.columns);
        } else if constexpr (requires { i.columns; }) {
            apart += rows * (vectors(i.columns) * kMoved + kRow);
            together += rows * share(static_cast<double>(i.columns) * kMoved + kRow);
        }
    };
    for_each(instructions_, count);
    return runs && together > 0.0 ? apart / together : 0.0;
}

// Touches what an instruction does, in `parts` parts of its rows; all in the first one if they
// cannot be divided.
void Program::touch(const Instruction& instruction, int64_t parts, Touched& touched) {
    const double flops = flops_;
    touched_ = &touched;
    std::visit(
        [&](const auto& i) {
            const int64_t rows = rows_of(i), count = rows % parts == 0 ? rows / parts : rows;
            for (int64_t part = 0; part < rows / count; ++part) {
                touched.start(part);
                steps_ = {rows, part * count, count};
                check(i);
            }
        },
        instruction);
    touched_ = nullptr;
    flops_ = flops;
}

// Where what many instructions touch is more than a cache holds, they run part by part: a part of
// their rows, such as those of one step of the model, is handed through all of them before the next
// one is. That is another order; it is taken only where no instruction touches what a later part of
// an earlier one does.
std::vector<Stretch> Program::find_stretches() {
    // Products of so many rows repay reading the weights once for a part of them; and so few
    // weights stay in a cache.
    constexpr int64_t kManyRows = 96, kFewWeights = int64_t{16} << 10;
    // Of what a part touches: the second-level cache of a core holds it.
    constexpr int64_t kCacheBytes = int64_t{512} << 10;
    const auto rows_here = [](const Instruction& i) {
        return std::visit([](const auto& each) { return rows_of(each); }, i);
    };
    Touched touched(input_size_, arena_size_);
    const auto divides = [&](const Instruction& i) {
        if (std::holds_alternative<Repeat>(i) || std::holds_alternative<Seed>(i)) return false;
        const auto* gemm = std::get_if<Gemm>(&i);
        if (!gemm || rows_here(i) >= kManyRows) return true;
        const Matrix& w = matrix(gemm->matrix);
        return w.depth * w.columns <= kFewWeights;
    };
    const int64_t bytes = kernels_.lanes * static_cast<int64_t>(sizeof(float));
    std::vector<Stretch> stretches;
    for (size_t first = 0, end; first < instructions_.size(); first = end) {
        int64_t divisor = 0;
        touched.forget();
        for (end = first; end < instructions_.size() && divides(instructions_[end]); ++end) {
            if (touched.spent()) continue;
            const int64_t rows = rows_here(instructions_[end]);
            if (rows > 1) divisor = std::gcd(divisor, rows);
            touch(instructions_[end], 1, touched);
        }
        end = std::max(end, first + 1);
        int64_t parts = 1;
        const int64_t floats = touched.floats();
        while (parts < divisor && (divisor % parts != 0 || floats * bytes / parts > kCacheBytes))
            ++parts;
        if (parts > 1 && !touched.spent()) {
            touched.forget();
            for (size_t i = first; i < end && touched.in_order(); ++i) {
                touch(instructions_[i], parts, touched);
                if (!touched.in_order()) end = std::max(i, first + 1);
            }
        }
        stretches.push_back({first, end, touched.spent() ? 1 : parts});
    }
    return stretches;
}

}  // namespace pyrel

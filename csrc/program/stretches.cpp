// SPDX-License-Identifier: Apache-2.0
#include "stretches.h"

#include <algorithm>
#include <numeric>
#include <type_traits>

#include "touched.h"

namespace pyrel {
namespace {

// Touches what an instruction does, in `parts` parts of its rows; all in the first one if they
// cannot be divided.
void touch(const Code& code, const Instruction& instruction, int64_t parts,
           TouchedByParts& touched) {
    std::visit(
        [&](const auto& i) {
            using Kind = std::decay_t<decltype(i)>;
            if constexpr (!std::is_same_v<Kind, Repeat>) {
                const int64_t rows = rows_of(i), count = rows % parts == 0 ? rows / parts : rows;
                for (int64_t part = 0; part < rows / count; ++part) {
                    touched.start(part, part * count, count);
                    operands(code, i, touched);
                    if constexpr (std::is_same_v<Kind, Absorb>) touched.absorbed();
                }
            }
        },
        instruction);
}

}  // namespace

// Where what many instructions touch is more than a cache holds, they run part by part: a part of
// their rows, such as those of one step of the model, goes through all of them before the next
// one is. That is another order; it is taken only where no instruction touches what a later part of
// an earlier one does.
std::vector<Stretch> find_stretches(const Code& code, const PartLimits& limits) {
    constexpr int64_t kFewWeights = int64_t{16} << 10;  // stay in a cache
    const auto rows_here = [](const Instruction& i) {
        return std::visit([](const auto& each) { return rows_of(each); }, i);
    };
    const std::vector<Instruction>& all = code.instructions;
    TouchedByParts touched(code.input_size, code.arena_size);
    const auto divides = [&](const Instruction& i) {
        if (std::holds_alternative<Repeat>(i) || std::holds_alternative<Seed>(i)) return false;
        const auto* gemm = std::get_if<Gemm>(&i);
        if (!gemm || rows_here(i) >= limits.many_rows) return true;
        const Shape& w = code.matrix(gemm->matrix);
        return w.depth * w.columns <= kFewWeights;
    };
    std::vector<Stretch> stretches;
    for (size_t first = 0, end; first < all.size(); first = end) {
        int64_t divisor = 0;
        touched.forget();
        for (end = first; end < all.size() && divides(all[end]); ++end) {
            if (touched.spent()) continue;
            const int64_t rows = rows_here(all[end]);
            if (rows > 1) divisor = std::gcd(divisor, rows);
            touch(code, all[end], 1, touched);
        }
        end = std::max(end, first + 1);
        int64_t parts = 1;
        const int64_t floats = touched.floats();
        while (parts < divisor &&
               (divisor % parts != 0 || floats * limits.float_bytes / parts > limits.bytes))
            ++parts;
        if (parts > 1 && !touched.spent()) {
            touched.forget();
            for (size_t i = first; i < end && touched.in_order(); ++i) {
                touch(code, all[i], parts, touched);
                if (!touched.in_order()) end = std::max(i, first + 1);
            }
        }
        stretches.push_back({first, end, touched.spent() ? 1 : parts});
    }
    return stretches;
}

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// What is checked of each instruction before it becomes part of a program.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "operands.h"
#include "program.h"
#include "runs.h"

namespace pyrel {
namespace {

// Stabilisers are smaller than what they stabilise.
constexpr float kLargestEpsilon = 1e30f;

void require_epsilon(float epsilon) {
    require(epsilon >= 0.0f && epsilon <= kLargestEpsilon,
            "an operand's epsilon is below 0 or not finite");
}

void require_function(Function function, float parameter) {
    require(function >= Function::sigmoid && function <= Function::step,
            "an operand has no such function");
    require(std::isfinite(parameter), "an operand's function has a parameter that is not finite");
}

}  // namespace

// Called for so many numbers that are looked at: Ctrl-C is heard soon, however many there are.
void Program::looks(int64_t numbers) {
    constexpr int64_t kBetweenPolls = int64_t{1} << 16;
    looks_ += numbers;
    if (looks_ < kBetweenPolls) return;
    looks_ = 0;
    if (!interrupted_ || !interrupted_()) return;
    stopped_ = true;
    throw Interruption();
}

void Program::count_work(int64_t rows, int64_t columns, int64_t depth) {
    work_ += static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(depth);
    require(work_ <= most_.work, "its operands take more work for each sample than they may");
}

bool Program::written(Space space, int64_t first, int64_t count) const {
    return space == Space::input || written_[static_cast<size_t>(space)].all(first, count);
}

// Those of `steps_`: take(offset). In order, many at a time: where rows are scattered, each would
// else be looked for in another place of memory.
template <typename Take>
void Program::for_offsets(const Rows& rows, Take&& take) {
    constexpr int64_t kTogether = int64_t{1} << 20;
    std::vector<int64_t> sorted;
    for (int64_t first = 0; first < steps_.count; first += kTogether) {
        const int64_t together = std::min(kTogether, steps_.count - first);
        const int64_t* offsets = rows.offsets.data() + steps_.first + first;
        if (!std::is_sorted(offsets, offsets + together)) {
            sorted.assign(offsets, offsets + together);
            std::sort(sorted.begin(), sorted.end());
            offsets = sorted.data();
        }
        for (int64_t n = 0; n < together; ++n) {
            looks(1);
            take(offsets[n]);
        }
    }
}

Program::Reach& Program::reach_of(const std::vector<int64_t>& index) {
    const auto found = reaches_.find(&index);
    if (found != reaches_.end()) return found->second;
    looks(static_cast<int64_t>(index.size()));
    const auto [least, largest] = std::minmax_element(index.begin(), index.end());
    return reaches_[&index] = {*least, *largest, {}};
}

struct Program::Operands {
    Program& program;

    void require_steps(const Rows& rows) const {
        const int64_t all = program.steps_.all;
        require(all > 0 && rows.offsets.size() == static_cast<size_t>(all),
                "every operand of an instruction must have one offset per step");
    }

    void rows(const Rows& rows, int64_t columns, Access access) {
        require_steps(rows);
        require(access == Access::read || rows.space != Space::input,
                "an instruction writes to the input");
        // A run for the outputs alone ends with the seed, and has no memory for relevance.
        require(access == Access::read || rows.space != Space::relevance || program.seeds_ > 0,
                "an instruction writes relevance before the seed");
        program.count_work(program.steps_.count, columns, 1);
        const int64_t last = program.code_->size_of(rows.space) - columns;
        program.for_offsets(rows, [&](int64_t offset) {
            require(offset >= 0 && offset <= last, "an operand reaches beyond its space");
            require(access == Access::write || program.written(rows.space, offset, columns),
                    "an operand is read before it is written");
        });
        if (access == Access::read) return;
        program.code_->explains |= rows.space == Space::relevance;
        Spans& space = program.written_[static_cast<size_t>(rows.space)];
        program.for_offsets(rows, [&](int64_t offset) { space.add(offset, columns); });
    }

    // Rows of which `count` runs of columns are read, a stride apart.
    void apart(const Rows& rows, int64_t count, int64_t stride, int64_t columns) {
        require_steps(rows);
        const Steps& steps = program.steps_;
        program.count_work(steps.count, columns, count);
        const int64_t span = (count - 1) * stride + columns;
        const int64_t last = program.code_->size_of(rows.space) - span;
        for (int64_t step = steps.first; step < steps.first + steps.count; ++step) {
            const int64_t offset = rows.offsets[static_cast<size_t>(step)];
            program.looks(1);
            require(offset >= 0 && offset <= last, "an operand reaches beyond its space");
            if (program.written(rows.space, offset, span)) continue;
            program.looked_up_ += count;
            require(program.looked_up_ <= program.most_.looked_up,
                    "a reduce reads scattered places for more rows than it may");
            program.looks(count);
            for (int64_t i = 0; i < count; ++i)
                require(program.written(rows.space, offset + i * stride, columns),
                        "an operand is read before it is written");
        }
    }

    // The rows of a gather's source or a scatter's result, of which only some elements are touched.
    void elements(const std::vector<int64_t>& index, const Rows& rows, bool writes) {
        require(!index.empty(), "an index must not be empty");
        require_steps(rows);
        require(!writes || rows.space != Space::input, "an instruction writes to the input");
        const int64_t size = program.code_->size_of(rows.space);
        auto& [least, largest, runs] = program.reach_of(index);
        require(least >= 0 && largest < size, "an index reaches beyond its space");
        const Steps& steps = program.steps_;
        program.count_work(steps.count, static_cast<int64_t>(index.size()), 1);
        for (int64_t step = steps.first; step < steps.first + steps.count; ++step) {
            const int64_t offset = rows.offsets[static_cast<size_t>(step)];
            program.looks(1);
            require(offset >= 0, "an operand reaches beyond its space");
            require(largest < size - offset, "an index reaches beyond its space");
            if (program.written(rows.space, offset + least, largest - least + 1)) continue;
            if (runs.empty()) {
                std::vector<int64_t> sorted = index;
                std::sort(sorted.begin(), sorted.end());
                sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
                runs = all_runs_of(sorted);
            }
            program.looked_up_ += static_cast<int64_t>(runs.size());
            require(program.looked_up_ <= program.most_.looked_up,
                    "an index reaches scattered places for more rows than it may");
            program.looks(static_cast<int64_t>(runs.size()));
            for (const Run& run : runs)
                require(program.written(rows.space, offset + run.start, run.size),
                        "an operand is read before it is written");
        }
    }
};

// The instruction's own conditions, then its operands in some of its steps.
template <typename Plain>
void Program::check_steps(const Plain& instruction, const Steps& steps) {
    steps_ = steps;
    check(instruction);
    Operands visitor{*this};
    operands(*code_, instruction, visitor);
    note(instruction);
}

// What is known of the program once an instruction is good.
template <typename Plain>
void Program::note(const Plain& i) {
    const auto raise = [](int64_t& most, auto value) {
        most = std::max(most, static_cast<int64_t>(value));
    };
    if constexpr (std::is_same_v<Plain, Seed>) ++seeds_;
    if constexpr (std::is_same_v<Plain, MaxPool>) raise(code_->most_listed, i.sources.size());
    if constexpr (std::is_same_v<Plain, PoolRoute>) raise(code_->most_listed, i.values.size());
    if constexpr (std::is_same_v<Plain, Normalise> || std::is_same_v<Plain, NormaliseBack>)
        raise(code_->most_normalised, i.columns);
    if constexpr (std::is_same_v<Plain, Matmul>) {
        count_work(steps_.count * i.rows, i.columns, i.depth);
        code_->flops += 2.0 * static_cast<double>(steps_.count) * static_cast<double>(i.rows) *
                        static_cast<double>(i.depth) * static_cast<double>(i.columns);
    }
    if constexpr (std::is_same_v<Plain, Gemm>) {
        const Shape& w = code_->matrix(i.matrix);
        count_work(steps_.count, w.columns, w.depth);
        code_->multiplies_bf16 |= i.bf16;
        code_->flops += 2.0 * static_cast<double>(steps_.count) * static_cast<double>(w.depth) *
                        static_cast<double>(w.columns);
    }
}

void Program::check_all(const Instruction& instruction) {
    reaches_.clear();
    std::visit(
        [this](const auto& i) {
            if constexpr (std::is_same_v<std::decay_t<decltype(i)>, Repeat>)
                check(i);
            else
                check_steps(i, {rows_of(i), 0, rows_of(i)});
        },
        instruction);
}

void Program::check_vector(int index, int64_t columns) const {
    require(index >= 0 && index < static_cast<int>(code_->vectors.size()), "no such vector");
    require(code_->vector_size(index) == columns, "a vector does not have one value per column");
}

void Program::check_epilogue(const EpilogueSpec& e, int64_t columns) const {
    for (const int vector : {e.bias, e.scale_vector, e.post_vector})
        if (vector >= 0) check_vector(vector, columns);
    require(
        e.scale_vector >= 0 || (e.scale != Scale::vector && e.scale != Scale::operand_minus_vector),
        "no such vector");
    require_epsilon(e.epsilon);
}

bool Program::fits_bf16(int matrix) {
    std::optional<bool>& known = fits_bf16_[static_cast<size_t>(matrix)];
    if (!known) {
        // bfloat16 itself goes no further.
        constexpr float kLargestBf16 = 0x1.fep+127f;
        const Matrix& w = *matrices_[static_cast<size_t>(matrix)];
        known = true;
        for (int64_t k = 0; *known && k < w.depth; ++k)
            for (int64_t c = 0; *known && c < w.columns; ++c)
                known = std::fabs(w.at(k, c)) <= kLargestBf16;
    }
    return *known;
}

void Program::check(const Gemm& gemm) {
    require(gemm.matrix >= 0 && gemm.matrix < static_cast<int>(matrices_.size()), "no such matrix");
    const Shape& w = code_->matrix(gemm.matrix);
    require(!gemm.segments.empty() && gemm.segments.size() <= kMaxSegments,
            "a gemm has 1 to 8 segments");
    int64_t depth = 0;
    for (const Segment& segment : gemm.segments) {
        require(segment.depth > 0, "a segment must have a depth above 0");
        require(segment.depth <= w.depth - depth,
                "the segments' depths do not add up to the matrix's");
        depth += segment.depth;
    }
    require(depth == w.depth, "the segments' depths do not add up to the matrix's");
    require(!gemm.bf16 || fits_bf16(gemm.matrix), "a weight is too large for bfloat16");
    check_epilogue(gemm.epilogue, w.columns);
}

void Program::check(const Map& map) {
    require(map.columns > 0, "a map must have at least one column");
    check_epilogue(map.epilogue, map.columns);
}

void Program::check(const Gather&) {}

void Program::check(const Scatter&) {}

void Program::check(const Seed& seed) {
    const auto is_one = [](const Rows& rows) {
        return rows.space == Space::arena && rows.offsets.size() == 1;
    };
    require(is_one(seed.source) && is_one(seed.out), "a seed's operands are rows of the arena");
}

void Program::check(const Absorb& absorb) {
    require(absorb.columns > 0, "an absorb must have at least one column");
    require(absorb.share != Share::weighted || absorb.vector >= 0, "no such vector");
    require(absorb.share == Share::weighted || !absorb.operand.offsets.empty(),
            "every operand of an instruction must have one offset per step");
    require_epsilon(absorb.epsilon);
    if (absorb.vector >= 0) check_vector(absorb.vector, absorb.columns);
}

void Program::check(const Activate& activate) {
    require(activate.columns > 0, "an activate must have at least one column");
    require_function(activate.function, activate.parameter);
}

void Program::check(const Slope& slope) {
    require(slope.columns > 0, "a slope must have at least one column");
    require_function(slope.function, slope.parameter);
}

void Program::check(const Reduce& reduce) {
    require(reduce.columns > 0 && reduce.count > 0 && reduce.stride > 0,
            "a reduce must have a count, a stride and columns above 0");
    require(std::max({reduce.columns, reduce.count, reduce.stride}) <= kLargestSpace,
            "an operand reaches beyond its space");
}

void Program::check(const Matmul& matmul) {
    require(matmul.rows > 0 && matmul.depth > 0 && matmul.columns > 0,
            "a matmul must have rows, a depth and columns above 0");
    require(std::max({matmul.rows, matmul.depth, matmul.columns}) <= kLargestSpace,
            "an operand reaches beyond its space");
}

void Program::check(const MaxPool& pool) {
    require(pool.columns > 0 && !pool.sources.empty(),
            "a max pool must have at least one column and one operand");
}

void Program::check(const PoolRoute& route) {
    require(route.columns > 0 && !route.values.empty(),
            "a pool route must have at least one column and one operand");
    require(route.values.size() == route.outs.size(),
            "a pool route must have one operand to write to for each one that it compares");
}

void Program::check(const Normalise& normalise) {
    require(normalise.columns > 0, "a normalise must have at least one column");
    require_epsilon(normalise.epsilon);
}

void Program::check(const NormaliseBack& back) {
    require(back.columns > 0, "a normalise back must have at least one column");
    require_epsilon(back.epsilon);
}

void Program::check(const Embed& embed) {
    require(embed.table >= 0 && embed.table < static_cast<int>(code_->tables.size()),
            "an operand names no such table");
}

// In the order in which the iterations run.
void Program::check(const Repeat& repeat) {
    require(!repeat.body.empty(), "a repeat has no operands");
    for (int64_t iteration = 0; iteration < repeat.count; ++iteration)
        for (const Repeatable& instruction : repeat.body)
            std::visit(
                [&](const auto& i) {
                    const int64_t all = rows_of(i), count = all / repeat.count;
                    require(all > 0 && all % repeat.count == 0,
                            "an operand in a repeat must have as many offsets for each iteration");
                    check_steps(i, {all, iteration * count, count});
                },
                instruction);
}

}  // namespace pyrel

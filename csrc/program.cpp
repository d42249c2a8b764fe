// SPDX-License-Identifier: Apache-2.0
#include "program.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "touched.h"

namespace pyrel {
namespace {

// A cache line, and the widest vector.
constexpr size_t kAlignment = 64;

// A float counts up to here.
constexpr int64_t kLargestTable = int64_t{1} << 24;
// Stabilisers are smaller than what they stabilise.
constexpr float kLargestEpsilon = 1e30f;

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

void require_epsilon(float epsilon) {
    require(epsilon >= 0.0f && epsilon <= kLargestEpsilon,
            "an operand's epsilon is below 0 or not finite");
}

void require_function(Function function, float parameter) {
    require(function >= Function::sigmoid && function <= Function::reciprocal,
            "an operand has no such function");
    require(std::isfinite(parameter), "an operand's function has a parameter that is not finite");
}

std::vector<Run> all_runs_of(const std::vector<int64_t>& index) {
    std::vector<Run> runs;
    for (size_t i = 0; i < index.size(); ++i) {
        if (i > 0 && index[i] > 0 && index[i] - 1 == index[i - 1])
            ++runs.back().size;
        else
            runs.push_back({index[i], static_cast<int64_t>(i), 1});
    }
    return runs;
}

// The index in runs; none where these are too short to gain by it.
std::vector<Run> runs_of(const std::vector<int64_t>& index) {
    constexpr size_t kShortest = 8;  // on average
    std::vector<Run> runs = all_runs_of(index);
    if (index.size() < kShortest * runs.size()) runs.clear();
    return runs;
}

// Floats from one panel to the next: the kernel for rows with zeros reads a few rows of four panels
// again and again, and these must not fall on the same sets of the first-level cache.
int64_t panel_stride(int64_t depth, int64_t panel) {
    constexpr int64_t kPage = 1024, kQuarter = 256;
    return (depth * panel + kPage - 1) / kPage * kPage + kQuarter;
}

// Rounds to the nearest bfloat16, ties to even. Of finite values only.
uint32_t to_bf16(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Rows 2k and 2k + 1 of a matrix as one row of pairs; see GemmTask.
std::vector<float> paired(const float* data, int64_t depth, int64_t columns) {
    std::vector<float> pairs(static_cast<size_t>((depth + 1) / 2 * columns));
    for (int64_t k = 0; k < depth; k += 2)
        for (int64_t c = 0; c < columns; ++c) {
            const uint32_t low = to_bf16(data[k * columns + c]);
            const uint32_t high = k + 1 < depth ? to_bf16(data[(k + 1) * columns + c]) : 0;
            pairs[static_cast<size_t>(k / 2 * columns + c)] =
                std::bit_cast<float>(high << 16 | low);
        }
    return pairs;
}

int64_t packed_bytes(int64_t depth, int64_t columns, const Kernels& kernels) {
    const int64_t panels = (columns + kernels.panel - 1) / kernels.panel;
    return panels * panel_stride(depth, kernels.panel) * static_cast<int64_t>(sizeof(float));
}

// Columns are cut into panels; a panel is contiguous, its rows in ascending k. The last one is
// padded by zeros.
void pack(Matrix& matrix, const float* data, int64_t depth, int64_t columns,
          const Kernels& kernels) {
    const int64_t width = kernels.panel;
    const int64_t panels = (columns + width - 1) / width;
    const int64_t stride = panel_stride(depth, width);
    const size_t bytes = static_cast<size_t>(panels * stride) * sizeof(float);
    void* memory = std::aligned_alloc(kAlignment, bytes);
    if (!memory) throw std::bad_alloc();
    matrix.packed = {static_cast<float*>(memory), &std::free};
    matrix.depth = depth;
    matrix.columns = columns;
    matrix.panel = width;
    matrix.panel_stride = stride;
    const int64_t groups = (columns + kernels.lane_columns - 1) / kernels.lane_columns;
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t column = columns * g / groups, next = columns * (g + 1) / groups;
        for (int64_t k = 0; k < depth; ++k) {
            const float* const row = data + k * columns;
            if (std::any_of(row + column, row + next, [](float w) { return w != 0.0f; }))
                matrix.lane_products += next - column;
        }
    }
    for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t column = panel * width;
        const int64_t filled = std::min(width, columns - column);
        float* out = matrix.packed.get() + panel * stride;
        for (int64_t k = 0; k < depth; ++k, out += width) {
            std::copy_n(data + k * columns + column, filled, out);
            std::fill(out + filled, out + width, 0.0f);
        }
    }
}

}  // namespace

Program::Program(int64_t input_size, int64_t arena_size, int64_t classes, bool conserves,
                 const Kernels& kernels, const Program* weights, const Most& most,
                 Interrupted interrupted)
    : input_size_(input_size),
      arena_size_(arena_size),
      classes_(classes),
      conserves_(conserves),
      kernels_(kernels),
      most_(most),
      interrupted_(interrupted) {
    require(input_size > 0 && arena_size > 0 && classes > 0,
            "input, arena and classes must each have a size above 0");
    require(std::max({input_size, arena_size, classes}) <= kLargestSpace,
            "input, arena or classes are larger than 2^31 floats a sample");
    if (weights) {
        require(&weights->kernels_ == &kernels,
                "the matrices are packed for another instruction set");
        matrices_ = weights->matrices_;
        vectors_ = weights->vectors_;
        tables_ = weights->tables_;
        scratch_size_ = weights->scratch_size_;
        keys_ = weights->keys_;
    }
}

int Program::add_matrix(const float* data, int64_t depth, int64_t columns, bool bf16, int64_t key) {
    require(depth > 0 && columns > 0, "a matrix must have at least one row and one column");
    require_open();
    packed_ += packed_bytes(bf16 ? (depth + 1) / 2 : depth, columns, kernels_);
    require(packed_ <= most_.packed, "its matrices take more memory than it may, as packed");
    require(!bf16 || kernels_.gemm_bf16, "this instruction set has no products of bfloat16");
    // bfloat16 itself goes no further.
    constexpr float kLargestBf16 = 0x1.fep+127f;
    const auto fits = [](float v) { return std::fabs(v) <= kLargestBf16; };
    require(!bf16 || std::all_of(data, data + depth * columns, fits),
            "a weight is too large for bfloat16");
    const auto matrix = std::make_shared<Matrix>();
    if (bf16) {
        const std::vector<float> pairs = paired(data, depth, columns);
        pack(*matrix, pairs.data(), (depth + 1) / 2, columns, kernels_);
        matrix->depth = depth;
        matrix->bf16 = true;
        scratch_size_ = std::max(scratch_size_, kernels_.block_rows * bf16_row(depth));
    } else {
        pack(*matrix, data, depth, columns, kernels_);
    }
    matrix->key = key;
    matrices_.push_back(matrix);
    if (key >= 0) keys_.try_emplace({key, bf16}, static_cast<int>(matrices_.size()) - 1);
    return static_cast<int>(matrices_.size()) - 1;
}

int Program::find_matrix(int64_t key, bool bf16) const {
    const auto found = keys_.find({key, bf16});
    return found == keys_.end() ? -1 : found->second;
}

int Program::add_vector(std::vector<float> data) {
    require_open();
    vectors_.push_back(std::make_shared<const std::vector<float>>(std::move(data)));
    return static_cast<int>(vectors_.size()) - 1;
}

int Program::add_table(const float* data, int64_t rows, int64_t columns) {
    require_open();
    require(rows > 0 && columns > 0, "a table must have at least one row and one column");
    require(rows <= kLargestTable, "a table has more rows than a float32 can number");
    tables_.push_back(
        std::make_shared<const Table>(Table{rows, columns, {data, data + rows * columns}}));
    return static_cast<int>(tables_.size()) - 1;
}

void Program::require_open() const {
    require(!finished_, "the program is finished");
    require(!stopped_, "the building of the program was interrupted");
}

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

void Program::add(Instruction instruction) {
    require_open();
    std::visit(
        [](auto& i) {
            if constexpr (requires { i.runs; }) i.runs = runs_of(i.index);
        },
        instruction);
    if (open_) {
        std::visit(
            [this](auto&& i) {
                if constexpr (std::is_constructible_v<Repeatable, decltype(i)>)
                    open_->body.emplace_back(std::move(i));
                else
                    require(false, "no seed and no repeat may stand in a repeat's operands");
            },
            std::move(instruction));
        return;
    }
    check_all(instruction);
    instructions_.push_back(std::move(instruction));
}

void Program::begin_repeat(int64_t count) {
    require_open();
    require(!open_, "no seed and no repeat may stand in a repeat's operands");
    require(count > 0, "a repeat must have an operand for at least one iteration");
    open_ = Repeat{count, {}};
}

void Program::end_repeat() {
    require(open_.has_value(), "no repeat's operands are being added");
    Repeat repeat = std::move(*open_);
    open_.reset();
    try {
        add(std::move(repeat));
    } catch (const Interruption&) {
        throw;
    } catch (...) {
        forget_refused();
        throw;
    }
}

// Looks at all that was added once more, for what a refused repeat's first iterations did is
// counted in.
void Program::forget_refused() {
    written_ = {};
    explains_ = false;
    flops_ = work_ = 0.0;
    looked_up_ = 0;
    seeds_ = 0;
    for (const Instruction& instruction : instructions_) check_all(instruction);
}

void Program::check_all(const Instruction& instruction) {
    reaches_.clear();
    std::visit(
        [this](const auto& i) {
            steps_ = {rows_of(i), 0, rows_of(i)};
            check(i);
        },
        instruction);
}

void Program::finish() {
    require_open();
    require(!open_, "a repeat has no end");
    require(seeds_ == 1, "a program must have one seed");
    require(!explains_ || written(Space::relevance, 0, input_size_),
            "the instructions leave elements of the relevance unwritten");
    gain_in_lanes_ = compare_with_lanes();
    if (gain_in_lanes_ > 1.0) stretches_ = find_stretches();
    written_ = {};
    reaches_.clear();
    finished_ = true;
}

int64_t Program::space_size(Space space) const {
    return space == Space::arena ? arena_size_ : input_size_;
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

void Program::check_rows(const Rows& rows, int64_t columns, Access access) {
    if (touched_) return touched_->rows(rows, steps_, columns, access);
    require(steps_.all > 0 && rows.offsets.size() == static_cast<size_t>(steps_.all),
            "every operand of an instruction must have one offset per step");
    require(access == Access::read || rows.space != Space::input,
            "an instruction writes to the input");
    count_work(steps_.count, columns, 1);
    const int64_t last = space_size(rows.space) - columns;
    for_offsets(rows, [&](int64_t offset) {
        require(offset >= 0 && offset <= last, "an operand reaches beyond its space");
        require(access == Access::write || written(rows.space, offset, columns),
                "an operand is read before it is written");
    });
    if (access == Access::read) return;
    explains_ |= rows.space == Space::relevance;
    Spans& space = written_[static_cast<size_t>(rows.space)];
    for_offsets(rows, [&](int64_t offset) { space.add(offset, columns); });
}

Program::Reach& Program::reach_of(const std::vector<int64_t>& index) {
    const auto found = reaches_.find(&index);
    if (found != reaches_.end()) return found->second;
    looks(static_cast<int64_t>(index.size()));
    const auto [least, largest] = std::minmax_element(index.begin(), index.end());
    return reaches_[&index] = {*least, *largest, {}};
}

// The rows of a gather's source or a scatter's result, of which only some elements are touched.
void Program::check_index(const std::vector<int64_t>& index, const Rows& rows, bool writes) {
    if (touched_) return touched_->elements(index, rows, steps_, writes);
    require(!index.empty(), "an index must not be empty");
    require(steps_.all > 0 && rows.offsets.size() == static_cast<size_t>(steps_.all),
            "every operand of an instruction must have one offset per step");
    require(!writes || rows.space != Space::input, "an instruction writes to the input");
    const int64_t size = space_size(rows.space);
    auto& [least, largest, runs] = reach_of(index);
    require(least >= 0 && largest < size, "an index reaches beyond its space");
    count_work(steps_.count, static_cast<int64_t>(index.size()), 1);
    for (int64_t step = steps_.first; step < steps_.first + steps_.count; ++step) {
        const int64_t offset = rows.offsets[static_cast<size_t>(step)];
        looks(1);
        require(offset >= 0, "an operand reaches beyond its space");
        require(largest < size - offset, "an index reaches beyond its space");
        if (written(rows.space, offset + least, largest - least + 1)) continue;
        if (runs.empty()) {
            std::vector<int64_t> sorted = index;
            std::sort(sorted.begin(), sorted.end());
            sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
            runs = all_runs_of(sorted);
        }
        looked_up_ += static_cast<int64_t>(runs.size());
        require(looked_up_ <= most_.looked_up,
                "an index reaches scattered places for more rows than it may");
        looks(static_cast<int64_t>(runs.size()));
        for (const Run& run : runs)
            require(written(rows.space, offset + run.start, run.size),
                    "an operand is read before it is written");
    }
}

void Program::check_vector(int index, int64_t columns) const {
    require(index >= 0 && index < static_cast<int>(vectors_.size()), "no such vector");
    require(vector_size(index) == columns, "a vector does not have one value per column");
}

// Whatever is given is checked, whether it is used or not: kernels form addresses of all of it.
void Program::check_epilogue(const EpilogueSpec& e, int64_t columns) {
    for (const int vector : {e.bias, e.scale_vector, e.post_vector})
        if (vector >= 0) check_vector(vector, columns);
    require(
        e.scale_vector >= 0 || (e.scale != Scale::vector && e.scale != Scale::operand_minus_vector),
        "no such vector");
    require_epsilon(e.epsilon);
    const bool scales = e.scale >= Scale::operand;
    if (scales || !e.scale_rows.offsets.empty()) check_rows(e.scale_rows, columns, Access::read);
    const bool reads = e.post == Post::divide || e.post == Post::mask || e.post == Post::guided ||
                       e.post == Post::multiply || e.post == Post::divide_stabilised ||
                       e.post == Post::divide_operand;
    if (reads || !e.post_rows.offsets.empty()) check_rows(e.post_rows, columns, Access::read);
}

void Program::check(const Gemm& gemm) {
    require(gemm.matrix >= 0 && gemm.matrix < static_cast<int>(matrices_.size()), "no such matrix");
    const Matrix& w = matrix(gemm.matrix);
    require(!gemm.segments.empty() && gemm.segments.size() <= kMaxSegments,
            "a gemm has 1 to 16 segments");
    int64_t depth = 0;
    for (const Segment& segment : gemm.segments) {
        require(segment.depth > 0, "a segment must have a depth above 0");
        check_rows(segment.rows, segment.depth, Access::read);
        depth += segment.depth;
    }
    require(depth == w.depth, "the segments' depths do not add up to the matrix's");
    check_epilogue(gemm.epilogue, w.columns);
    check_rows(gemm.out, w.columns, gemm.epilogue.accumulate ? Access::update : Access::write);
    multiplies_bf16_ |= w.bf16;
    if (!touched_) count_work(steps_.count, w.columns, depth);
    flops_ += 2.0 * static_cast<double>(steps_.count) * static_cast<double>(depth) *
              static_cast<double>(w.columns);
}

void Program::check(const Map& map) {
    require(map.columns > 0, "a map must have at least one column");
    if (!map.source.offsets.empty()) check_rows(map.source, map.columns, Access::read);
    check_epilogue(map.epilogue, map.columns);
    check_rows(map.out, map.columns, map.epilogue.accumulate ? Access::update : Access::write);
}

void Program::check(const Gather& gather) {
    check_index(gather.index, gather.source, false);
    check_rows(gather.out, static_cast<int64_t>(gather.index.size()), Access::write);
}

void Program::check(const Scatter& scatter) {
    check_index(scatter.index, scatter.out, true);
    check_rows(scatter.source, static_cast<int64_t>(scatter.index.size()), Access::read);
}

void Program::check(const Seed& seed) {
    check_rows({Space::arena, {seed.source}}, classes_, Access::read);
    check_rows({Space::arena, {seed.out}}, classes_, Access::write);
    ++seeds_;
}

void Program::check(const Absorb& absorb) {
    require(absorb.columns > 0, "an absorb must have at least one column");
    require(absorb.share != Share::weighted || absorb.vector >= 0, "no such vector");
    require(absorb.share == Share::weighted || !absorb.operand.offsets.empty(),
            "every operand of an instruction must have one offset per step");
    require_epsilon(absorb.epsilon);
    if (absorb.vector >= 0) check_vector(absorb.vector, absorb.columns);
    if (!absorb.operand.offsets.empty()) check_rows(absorb.operand, absorb.columns, Access::read);
    check_rows(absorb.source, absorb.columns, Access::read);
    if (touched_) touched_->absorbed();
}

void Program::check(const Activate& activate) {
    require(activate.columns > 0, "an activate must have at least one column");
    require_function(activate.function, activate.parameter);
    check_rows(activate.source, activate.columns, Access::read);
    check_rows(activate.out, activate.columns, Access::write);
}

void Program::check(const Slope& slope) {
    require(slope.columns > 0, "a slope must have at least one column");
    require_function(slope.function, slope.parameter);
    check_rows(slope.source, slope.columns, Access::read);
    check_rows(slope.value, slope.columns, Access::read);
    check_rows(slope.out, slope.columns, slope.accumulate ? Access::update : Access::write);
}

void Program::check(const MaxPool& pool) {
    require(pool.columns > 0 && !pool.sources.empty(),
            "a max pool must have at least one column and one operand");
    for (const Rows& source : pool.sources) check_rows(source, pool.columns, Access::read);
    check_rows(pool.out, pool.columns, Access::write);
    most_listed_ = std::max(most_listed_, static_cast<int64_t>(pool.sources.size()));
}

void Program::check(const PoolRoute& route) {
    require(route.columns > 0 && !route.values.empty(),
            "a pool route must have at least one column and one operand");
    require(route.values.size() == route.outs.size(),
            "a pool route must have one operand to write to for each one that it compares");
    for (const Rows& value : route.values) check_rows(value, route.columns, Access::read);
    check_rows(route.relevance, route.columns, Access::read);
    const Access access = route.accumulate ? Access::update : Access::write;
    for (const Rows& out : route.outs) check_rows(out, route.columns, access);
    most_listed_ = std::max(most_listed_, static_cast<int64_t>(route.values.size()));
}

void Program::check(const Normalise& normalise) {
    require(normalise.columns > 0, "a normalise must have at least one column");
    require_epsilon(normalise.epsilon);
    check_rows(normalise.source, normalise.columns, Access::read);
    check_rows(normalise.out, normalise.columns, Access::write);
    most_normalised_ = std::max(most_normalised_, normalise.columns);
}

void Program::check(const NormaliseBack& back) {
    require(back.columns > 0, "a normalise back must have at least one column");
    require_epsilon(back.epsilon);
    check_rows(back.source, back.columns, Access::read);
    check_rows(back.value, back.columns, Access::read);
    check_rows(back.out, back.columns, back.accumulate ? Access::update : Access::write);
    most_normalised_ = std::max(most_normalised_, back.columns);
}

void Program::check(const Embed& embed) {
    require(embed.table >= 0 && embed.table < static_cast<int>(tables_.size()),
            "an operand names no such table");
    check_rows(embed.source, 1, Access::read);
    check_rows(embed.out, table(embed.table).columns, Access::write);
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
                    steps_ = {all, iteration * count, count};
                    check(i);
                },
                instruction);
}

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
#include "program.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <stdexcept>

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
    require(function >= Function::sigmoid && function <= Function::silu,
            "an operand has no such function");
    require(std::isfinite(parameter), "an operand's function has a parameter that is not finite");
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

// Columns are cut into panels; a panel is contiguous, its rows in ascending k. The last one is
// padded by zeros.
Matrix pack(const float* data, int64_t depth, int64_t columns, const Kernels& kernels) {
    const int64_t width = kernels.panel;
    const int64_t panels = (columns + width - 1) / width;
    const int64_t stride = panel_stride(depth, width);
    const size_t bytes = static_cast<size_t>(panels * stride) * sizeof(float);
    void* memory = std::aligned_alloc(kAlignment, bytes);
    if (!memory) throw std::bad_alloc();
    Matrix matrix{depth, columns, stride, false, {static_cast<float*>(memory), &std::free}};
    for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t column = panel * width;
        const int64_t filled = std::min(width, columns - column);
        float* out = matrix.packed.get() + panel * stride;
        for (int64_t k = 0; k < depth; ++k, out += width) {
            std::copy_n(data + k * columns + column, filled, out);
            std::fill(out + filled, out + width, 0.0f);
        }
    }
    return matrix;
}

}  // namespace

Program::Program(int64_t input_size, int64_t arena_size, int64_t classes, bool conserves,
                 const Kernels& kernels)
    : input_size_(input_size),
      arena_size_(arena_size),
      classes_(classes),
      conserves_(conserves),
      kernels_(kernels) {
    require(input_size > 0 && arena_size > 0 && classes > 0,
            "input, arena and classes must each have a size above 0");
    require(std::max({input_size, arena_size, classes}) <= kLargestSpace,
            "input, arena or classes are larger than 2^31 floats a sample");
    for (const Space space : {Space::arena, Space::relevance})
        written_[static_cast<size_t>(space)].resize(static_cast<size_t>(space_size(space)));
}

int Program::add_matrix(const float* data, int64_t depth, int64_t columns, bool bf16) {
    require(depth > 0 && columns > 0, "a matrix must have at least one row and one column");
    require(!finished_, "the program is finished");
    require(!bf16 || kernels_.gemm_bf16, "this instruction set has no products of bfloat16");
    // bfloat16 itself goes no further.
    constexpr float kLargestBf16 = 0x1.fep+127f;
    const auto fits = [](float v) { return std::fabs(v) <= kLargestBf16; };
    require(!bf16 || std::all_of(data, data + depth * columns, fits),
            "a weight is too large for bfloat16");
    if (bf16) {
        const std::vector<float> pairs = paired(data, depth, columns);
        matrices_.push_back(pack(pairs.data(), (depth + 1) / 2, columns, kernels_));
        matrices_.back().depth = depth;
        matrices_.back().bf16 = true;
        scratch_size_ = std::max(scratch_size_, kernels_.block_rows * bf16_row(depth));
    } else {
        matrices_.push_back(pack(data, depth, columns, kernels_));
    }
    return static_cast<int>(matrices_.size()) - 1;
}

int Program::add_vector(std::vector<float> data) {
    require(!finished_, "the program is finished");
    vectors_.push_back(std::move(data));
    return static_cast<int>(vectors_.size()) - 1;
}

int Program::add_table(const float* data, int64_t rows, int64_t columns) {
    require(!finished_, "the program is finished");
    require(rows > 0 && columns > 0, "a table must have at least one row and one column");
    require(rows <= kLargestTable, "a table has more rows than a float32 can number");
    tables_.push_back({rows, columns, {data, data + rows * columns}});
    return static_cast<int>(tables_.size()) - 1;
}

void Program::add(Instruction instruction) {
    require(!finished_, "the program is finished");
    std::visit([this](const auto& i) { check(i); }, instruction);
    instructions_.push_back(std::move(instruction));
}

void Program::finish() {
    require(seeds_ == 1, "a program must have one seed");
    require(!explains_ || written(Space::relevance, 0, input_size_),
            "the instructions leave elements of the relevance unwritten");
    written_ = {};
    finished_ = true;
}

int64_t Program::space_size(Space space) const {
    return space == Space::arena ? arena_size_ : input_size_;
}

bool Program::written(Space space, int64_t first, int64_t count) const {
    if (space == Space::input) return true;
    const auto begin = written_[static_cast<size_t>(space)].begin() + first;
    return std::find(begin, begin + count, false) == begin + count;
}

void Program::check_rows(const Rows& rows, size_t steps, int64_t columns, Access access) {
    require(rows.offsets.size() == steps && steps > 0,
            "every operand of an instruction must have one offset per step");
    require(access == Access::read || rows.space != Space::input,
            "an instruction writes to the input");
    for (const int64_t offset : rows.offsets) {
        require(offset >= 0 && offset <= space_size(rows.space) - columns,
                "an operand reaches beyond its space");
        require(access == Access::write || written(rows.space, offset, columns),
                "an operand is read before it is written");
    }
    if (access == Access::read) return;
    explains_ |= rows.space == Space::relevance;
    std::vector<bool>& space = written_[static_cast<size_t>(rows.space)];
    for (const int64_t offset : rows.offsets) std::fill_n(space.begin() + offset, columns, true);
}

// The rows of a gather's source or a scatter's result, of which only some elements are touched.
void Program::check_index(const std::vector<int64_t>& index, const Rows& rows, bool writes) {
    require(!index.empty(), "an index must not be empty");
    require(!rows.offsets.empty(), "every operand must have an offset");
    require(!writes || rows.space != Space::input, "an instruction writes to the input");
    const int64_t size = space_size(rows.space);
    for (const int64_t offset : rows.offsets) {
        require(offset >= 0, "an operand reaches beyond its space");
        for (const int64_t i : index) {
            require(i >= 0 && i < size - offset, "an index reaches beyond its space");
            require(written(rows.space, offset + i, 1), "an operand is read before it is written");
        }
    }
}

void Program::check_vector(int index, int64_t columns) const {
    require(index >= 0 && index < static_cast<int>(vectors_.size()), "no such vector");
    require(vector_size(index) == columns, "a vector does not have one value per column");
}

// Whatever is given is checked, whether it is used or not: kernels form addresses of all of it.
void Program::check_epilogue(const EpilogueSpec& e, size_t steps, int64_t columns) {
    for (const int vector : {e.bias, e.scale_vector, e.post_vector})
        if (vector >= 0) check_vector(vector, columns);
    require(
        e.scale_vector >= 0 || (e.scale != Scale::vector && e.scale != Scale::operand_minus_vector),
        "no such vector");
    require_epsilon(e.epsilon);
    const bool scales = e.scale >= Scale::operand;
    if (scales || !e.scale_rows.offsets.empty())
        check_rows(e.scale_rows, steps, columns, Access::read);
    const bool reads = e.post == Post::divide || e.post == Post::mask || e.post == Post::guided ||
                       e.post == Post::multiply || e.post == Post::divide_stabilised;
    if (reads || !e.post_rows.offsets.empty())
        check_rows(e.post_rows, steps, columns, Access::read);
}

void Program::check(const Gemm& gemm) {
    require(gemm.matrix >= 0 && gemm.matrix < static_cast<int>(matrices_.size()), "no such matrix");
    const Matrix& w = matrix(gemm.matrix);
    const size_t steps = gemm.out.offsets.size();
    require(!gemm.segments.empty() && gemm.segments.size() <= kMaxSegments,
            "a gemm has 1 to 16 segments");
    int64_t depth = 0;
    for (const Segment& segment : gemm.segments) {
        require(segment.depth > 0, "a segment must have a depth above 0");
        check_rows(segment.rows, steps, segment.depth, Access::read);
        depth += segment.depth;
    }
    require(depth == w.depth, "the segments' depths do not add up to the matrix's");
    check_epilogue(gemm.epilogue, steps, w.columns);
    check_rows(gemm.out, steps, w.columns,
               gemm.epilogue.accumulate ? Access::update : Access::write);
    flops_ += 2.0 * static_cast<double>(steps) * static_cast<double>(depth) *
              static_cast<double>(w.columns);
}

void Program::check(const Map& map) {
    const size_t steps = map.out.offsets.size();
    require(map.columns > 0, "a map must have at least one column");
    if (!map.source.offsets.empty()) check_rows(map.source, steps, map.columns, Access::read);
    check_epilogue(map.epilogue, steps, map.columns);
    check_rows(map.out, steps, map.columns,
               map.epilogue.accumulate ? Access::update : Access::write);
}

void Program::check(const Gather& gather) {
    check_index(gather.index, gather.source, false);
    check_rows(gather.out, gather.source.offsets.size(), static_cast<int64_t>(gather.index.size()),
               Access::write);
}

void Program::check(const Scatter& scatter) {
    check_index(scatter.index, scatter.out, true);
    check_rows(scatter.source, scatter.out.offsets.size(),
               static_cast<int64_t>(scatter.index.size()), Access::read);
}

void Program::check(const Seed& seed) {
    check_rows({Space::arena, {seed.source}}, 1, classes_, Access::read);
    check_rows({Space::arena, {seed.out}}, 1, classes_, Access::write);
    ++seeds_;
}

void Program::check(const Absorb& absorb) {
    const size_t steps = absorb.source.offsets.size();
    require(absorb.columns > 0, "an absorb must have at least one column");
    require(absorb.share != Share::weighted || absorb.vector >= 0, "no such vector");
    require(absorb.share == Share::weighted || !absorb.operand.offsets.empty(),
            "every operand of an instruction must have one offset per step");
    require_epsilon(absorb.epsilon);
    if (absorb.vector >= 0) check_vector(absorb.vector, absorb.columns);
    if (!absorb.operand.offsets.empty())
        check_rows(absorb.operand, steps, absorb.columns, Access::read);
    check_rows(absorb.source, steps, absorb.columns, Access::read);
}

void Program::check(const Activate& activate) {
    const size_t steps = activate.out.offsets.size();
    require(activate.columns > 0, "an activate must have at least one column");
    require_function(activate.function, activate.parameter);
    check_rows(activate.source, steps, activate.columns, Access::read);
    check_rows(activate.out, steps, activate.columns, Access::write);
}

void Program::check(const Slope& slope) {
    const size_t steps = slope.out.offsets.size();
    require(slope.columns > 0, "a slope must have at least one column");
    require_function(slope.function, slope.parameter);
    check_rows(slope.source, steps, slope.columns, Access::read);
    check_rows(slope.value, steps, slope.columns, Access::read);
    check_rows(slope.out, steps, slope.columns, slope.accumulate ? Access::update : Access::write);
}

void Program::check(const MaxPool& pool) {
    const size_t steps = pool.out.offsets.size();
    require(pool.columns > 0 && !pool.sources.empty(),
            "a max pool must have at least one column and one operand");
    for (const Rows& source : pool.sources) check_rows(source, steps, pool.columns, Access::read);
    check_rows(pool.out, steps, pool.columns, Access::write);
    most_listed_ = std::max(most_listed_, static_cast<int64_t>(pool.sources.size()));
}

void Program::check(const MaxRoute& route) {
    const size_t steps = route.relevance.offsets.size();
    require(route.columns > 0 && !route.values.empty(),
            "a max route must have at least one column and one operand");
    require(route.values.size() == route.outs.size(),
            "a max route must have one operand to write to for each one that it compares");
    for (const Rows& value : route.values) check_rows(value, steps, route.columns, Access::read);
    check_rows(route.relevance, steps, route.columns, Access::read);
    for (const Rows& out : route.outs) check_rows(out, steps, route.columns, Access::update);
    most_listed_ = std::max(most_listed_, static_cast<int64_t>(route.values.size()));
}

void Program::check(const Normalise& normalise) {
    const size_t steps = normalise.out.offsets.size();
    require(normalise.columns > 0, "a normalise must have at least one column");
    require_epsilon(normalise.epsilon);
    check_rows(normalise.source, steps, normalise.columns, Access::read);
    check_rows(normalise.out, steps, normalise.columns, Access::write);
}

void Program::check(const NormaliseBack& back) {
    const size_t steps = back.out.offsets.size();
    require(back.columns > 0, "a normalise back must have at least one column");
    require_epsilon(back.epsilon);
    check_rows(back.source, steps, back.columns, Access::read);
    check_rows(back.value, steps, back.columns, Access::read);
    check_rows(back.out, steps, back.columns, back.accumulate ? Access::update : Access::write);
}

void Program::check(const Embed& embed) {
    require(embed.table >= 0 && embed.table < static_cast<int>(tables_.size()),
            "an operand names no such table");
    const size_t steps = embed.out.offsets.size();
    check_rows(embed.source, steps, 1, Access::read);
    check_rows(embed.out, steps, table(embed.table).columns, Access::write);
}

}  // namespace pyrel

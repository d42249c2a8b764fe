// SPDX-License-Identifier: Apache-2.0
#include "program.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <new>
#include <stdexcept>

namespace pyrel {
namespace {

// A cache line, and the widest vector.
constexpr size_t kAlignment = 64;

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

// Columns are cut into panels; a panel is contiguous, its rows in ascending k. The last one is a
// single vector wide where that is enough, and padded by zeros.
Matrix pack(const float* data, int64_t depth, int64_t columns, const Kernels& kernels) {
    const int64_t lanes = kernels.lanes;
    const int64_t padded = (columns + lanes - 1) / lanes * lanes;
    const size_t bytes = static_cast<size_t>(padded * depth) * sizeof(float);
    void* memory =
        std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    if (!memory) throw std::bad_alloc();
    Matrix matrix{depth, columns, {static_cast<float*>(memory), &std::free}};
    float* out = matrix.packed.get();
    for (int64_t column = 0; column < columns; column += kernels.panel) {
        const int64_t panel = std::min(kernels.panel, padded - column);
        const int64_t filled = std::min(panel, columns - column);
        for (int64_t k = 0; k < depth; ++k, out += panel) {
            std::copy_n(data + k * columns + column, filled, out);
            std::fill(out + filled, out + panel, 0.0f);
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
}

int Program::add_matrix(const float* data, int64_t depth, int64_t columns) {
    require(depth > 0 && columns > 0, "a matrix must have at least one row and one column");
    matrices_.push_back(pack(data, depth, columns, kernels_));
    return static_cast<int>(matrices_.size()) - 1;
}

int Program::add_vector(std::vector<float> data) {
    vectors_.push_back(std::move(data));
    return static_cast<int>(vectors_.size()) - 1;
}

void Program::add(Instruction instruction) {
    std::visit([this](const auto& i) { check(i); }, instruction);
    instructions_.push_back(std::move(instruction));
}

void Program::check_rows(const Rows& rows, size_t steps, int64_t columns, bool written) const {
    const int64_t size = rows.space == Space::arena ? arena_size_ : input_size_;
    require(rows.offsets.size() == steps && steps > 0,
            "every operand of an instruction must have one offset per step");
    require(!written || rows.space != Space::input, "an instruction writes to the input");
    for (const int64_t offset : rows.offsets)
        require(offset >= 0 && offset + columns <= size, "an operand reaches beyond its space");
}

void Program::check_index(const std::vector<int64_t>& index, const Rows& rows, bool written) const {
    require(!index.empty(), "an index must not be empty");
    const auto [low, high] = std::minmax_element(index.begin(), index.end());
    require(*low >= 0, "an index must not be negative");
    check_rows(rows, rows.offsets.size(), *high + 1, written);
}

void Program::check_vector(int index, int64_t columns) const {
    require(index >= 0 && index < static_cast<int>(vectors_.size()), "no such vector");
    require(vector_size(index) == columns, "a vector does not have one value per column");
}

void Program::check_epilogue(const EpilogueSpec& e, size_t steps, int64_t columns) const {
    if (e.bias >= 0) check_vector(e.bias, columns);
    if (e.scale == Scale::vector || e.scale == Scale::operand_minus_vector)
        check_vector(e.scale_vector, columns);
    if (e.scale >= Scale::operand) check_rows(e.scale_rows, steps, columns, false);
    if (e.post_vector >= 0) check_vector(e.post_vector, columns);
    const bool reads = e.post == Post::divide || e.post == Post::mask || e.post == Post::guided ||
                       e.post == Post::multiply;
    if (reads) check_rows(e.post_rows, steps, columns, false);
}

void Program::check(const Gemm& gemm) {
    require(gemm.matrix >= 0 && gemm.matrix < static_cast<int>(matrices_.size()), "no such matrix");
    const Matrix& w = matrix(gemm.matrix);
    const size_t steps = gemm.out.offsets.size();
    require(!gemm.segments.empty() && gemm.segments.size() <= kMaxSegments,
            "a gemm has 1 to 8 segments");
    int64_t depth = 0;
    for (const Segment& segment : gemm.segments) {
        require(segment.depth > 0, "a segment must have a depth above 0");
        check_rows(segment.rows, steps, segment.depth, false);
        depth += segment.depth;
    }
    require(depth == w.depth, "the segments' depths do not add up to the matrix's");
    check_rows(gemm.out, steps, w.columns, true);
    check_epilogue(gemm.epilogue, steps, w.columns);
    flops_ += 2.0 * static_cast<double>(steps) * static_cast<double>(depth) *
              static_cast<double>(w.columns);
}

void Program::check(const Map& map) const {
    const size_t steps = map.out.offsets.size();
    require(map.columns > 0, "a map must have at least one column");
    if (!map.source.offsets.empty()) check_rows(map.source, steps, map.columns, false);
    check_rows(map.out, steps, map.columns, true);
    check_epilogue(map.epilogue, steps, map.columns);
}

void Program::check(const Gather& gather) const {
    check_index(gather.index, gather.source, false);
    check_rows(gather.out, gather.source.offsets.size(), static_cast<int64_t>(gather.index.size()),
               true);
}

void Program::check(const Scatter& scatter) const {
    check_index(scatter.index, scatter.out, true);
    check_rows(scatter.source, scatter.out.offsets.size(),
               static_cast<int64_t>(scatter.index.size()), false);
}

void Program::check(const Seed& seed) const {
    check_rows({Space::arena, {seed.source}}, 1, classes_, false);
    check_rows({Space::arena, {seed.out}}, 1, classes_, true);
}

void Program::check(const Absorb& absorb) const {
    require(absorb.vector >= 0 && absorb.vector < static_cast<int>(vectors_.size()),
            "no such vector");
    check_rows(absorb.source, absorb.source.offsets.size(), vector_size(absorb.vector), false);
}

}  // namespace pyrel

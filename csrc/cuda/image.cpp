// SPDX-License-Identifier: Apache-2.0
#include "image.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <type_traits>

#include "../program/way_back.h"
#include "hazards.h"
#include "make_image.h"
#include "operations.h"

namespace pyrel::cuda {
namespace {

// Kinds whose threads take an element of a row, and may take it of all rows: operands that lie at
// the same floats are the same thread's.
template <typename Plain>
constexpr bool kByElement =
    std::is_same_v<Plain, Map> || std::is_same_v<Plain, Activate> || std::is_same_v<Plain, Slope> ||
    std::is_same_v<Plain, MaxPool> || std::is_same_v<Plain, PoolRoute>;

// Kinds of which eight threads take a row of a sample.
template <typename Plain>
constexpr bool kByPart = std::is_same_v<Plain, Absorb> || std::is_same_v<Plain, Normalise> ||
                         std::is_same_v<Plain, NormaliseBack>;

// Kinds whose threads take an element of a row's results, but read others of its operands.
template <typename Plain>
constexpr bool kByResult = std::is_same_v<Plain, Gather> || std::is_same_v<Plain, Reduce> ||
                           std::is_same_v<Plain, Matmul> || std::is_same_v<Plain, Embed>;

// Of what a row touches, how many operands at the beginning are read by other threads than those
// that write the row's results.
template <typename Plain>
size_t read_by_others(const Plain& instruction, size_t all) {
    if constexpr (std::is_same_v<Plain, Gemm>) return instruction.segments.size();
    if constexpr (std::is_same_v<Plain, Scatter>) return all;
    return kByResult<Plain> ? all - 1 : 0;
}

class Maker {
  public:
    explicit Maker(const Program& program)
        : code_(*program.code()), pools_(program), hazards_(code_.input_size, code_.arena_size) {}

    std::vector<char> make() {
        for (const Instruction& instruction : code_.instructions)
            std::visit([this](const auto& i) { add(i); }, instruction);
        return laid_out();
    }

  private:
    void add(const Repeat& repeat) {
        const auto first = std::ssize(operations_);
        for (const Repeatable& each : repeat.body)
            std::visit([this](const auto& i) { operations_.push_back(operation_of(i, pools_)); },
                       each);
        for (int64_t iteration = 0; iteration < repeat.count; ++iteration)
            for (int64_t n = 0; n < std::ssize(repeat.body); ++n)
                std::visit(
                    [&](const auto& i) {
                        const int64_t rows = rows_of(i) / repeat.count;
                        add_steps(i, first + n, iteration * rows, rows);
                    },
                    repeat.body[static_cast<size_t>(n)]);
    }

    template <typename Plain>
    void add(const Plain& instruction) {
        if constexpr (std::is_same_v<Plain, Seed>) seed_ = small(std::ssize(steps_));
        operations_.push_back(operation_of(instruction, pools_));
        add_steps(instruction, std::ssize(operations_) - 1, 0, rows_of(instruction));
    }

    // Rows that touch each other's memory are steps of their own, behind barriers; but where they
    // touch the same elements or none in common, a thread takes an element of all of them.
    template <typename Plain>
    void add_steps(const Plain& instruction, int64_t operation, int64_t first, int64_t rows) {
        std::vector<Touches> touched;
        for (int64_t row = first; row < first + rows; ++row) {
            RowTouches visitor(row);
            operands(code_, instruction, visitor);
            const size_t others = read_by_others(instruction, visitor.found.size());
            for (size_t n = 0; n < others; ++n) visitor.found[n].read_by_others = true;
            require(owns_results(visitor.found),
                    "the CUDA engine runs no instruction that writes over what it reads");
            touched.push_back(std::move(visitor.found));
        }
        // The CPU multiplies several rows before it writes the first.
        if constexpr (std::is_same_v<Plain, Gemm>)
            require(!meet_each_other(touched),
                    "the CUDA engine runs no product whose rows read what others of it write");
        bool in_order = false;
        if constexpr (kByElement<Plain>)
            in_order = rows > 1 && meet_each_other(touched) && same_or_apart(touched);
        if (in_order) {
            for (size_t n = 1; n < touched.size(); ++n)
                touched[0].insert(touched[0].end(), touched[n].begin(), touched[n].end());
            touched.resize(1);
        }
        if constexpr (kByElement<Plain> || kByResult<Plain> || std::is_same_v<Plain, Scatter>)
            require(rows * elements_of(instruction) <= kMostItems,
                    "the CUDA engine runs no instruction with so many elements");
        for (size_t n = 0; n < touched.size(); ++n) {
            ++unknown_;
            const bool joins =
                n > 0 && !hazards_.meets(touched[n], owner(instruction, steps_.back().rows));
            if (!joins) {
                const bool meets = hazards_.meets(touched[n], owner(instruction, 0));
                if (meets) hazards_.barrier();
                const int64_t row = first + static_cast<int64_t>(n);
                steps_.push_back({small(operation), small(row), 0, meets, in_order});
            }
            hazards_.note(touched[n], owner(instruction, steps_.back().rows));
            steps_.back().rows += in_order ? small(rows) : 1;
        }
    }

    // Of a row behind so many others of its step. The threads of two steps are the same, element by
    // element, where their rows have equally many columns (for_items in memory.h), or where eight
    // share out a row of each sample (for_parts in sums.h).
    template <typename Plain>
    Owner owner(const Plain& instruction, int32_t rows) const {
        constexpr int32_t kByParts = 0;
        if constexpr (kByPart<Plain>) return {-unknown_, kByParts, 0, kParts};
        if constexpr (kByElement<Plain> || kByResult<Plain>) {
            const int32_t columns = elements_of(instruction);
            return {-unknown_, columns, small(int64_t{rows} * columns), kAllElements};
        }
        return {-unknown_};
    }

    // How many elements for_items is given for a row.
    template <typename Plain>
    int32_t elements_of(const Plain& instruction) const {
        if constexpr (std::is_same_v<Plain, Gather> || std::is_same_v<Plain, Scatter>)
            return small(std::ssize(instruction.index));
        else if constexpr (std::is_same_v<Plain, Matmul>)
            return small(instruction.rows * instruction.columns);
        else if constexpr (std::is_same_v<Plain, Embed>)
            return small(code_.table(instruction.table).columns);
        else
            return small(instruction.columns);
    }

    std::vector<char> laid_out() {
        Header header;
        header.steps = small(std::ssize(steps_));
        header.seed = seed_;
        header.input_size = small(code_.input_size);
        header.arena_size = small(code_.arena_size);
        header.classes = small(code_.classes);
        header.explains = code_.explains;
        header.conserves = code_.conserves;
        header.multiplies_bf16 = code_.multiplies_bf16;
        header.keeps_forward = way_back_of(code_).keeps_forward;
        std::vector<char> image(static_cast<size_t>(rounded_up(sizeof header, 16)));
        const auto append = [&](const auto& values) {
            const int64_t at = std::ssize(image);
            const size_t bytes = values.size() * sizeof values[0];
            image.resize(static_cast<size_t>(rounded_up(at + static_cast<int64_t>(bytes), 16)));
            if (bytes > 0) std::memcpy(image.data() + at, values.data(), bytes);
            return at;
        };
        header.steps_at = append(steps_);
        header.operations_at = append(operations_);
        header.listed_at = append(pools_.all_listed());
        header.offsets_at = append(pools_.offsets());
        header.index_at = append(pools_.indices());
        header.floats_at = append(pools_.floats());
        header.bytes = std::ssize(image);
        std::memcpy(image.data(), &header, sizeof header);
        return image;
    }

    const Code& code_;
    Pools pools_;
    Hazards hazards_;
    int32_t unknown_ = 0;
    int32_t seed_ = 0;
    std::vector<Step> steps_;
    std::vector<Operation> operations_;
};

}  // namespace

std::vector<char> image_of(const Program& program) {
    require(program.finished(), "the program is not finished");
    const Code& code = *program.code();
    require(std::max(code.arena_size, code.input_size) <= kMostFloats,
            "the CUDA engine runs no program with so much memory a sample");
    return Maker(program).make();
}

}  // namespace pyrel::cuda

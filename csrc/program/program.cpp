// SPDX-License-Identifier: Apache-2.0
#include "program.h"

#include <algorithm>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "runs.h"

namespace pyrel {

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

Program::Program(int64_t input_size, int64_t arena_size, int64_t classes, bool conserves,
                 const Program* weights, const Most& most, Interrupted interrupted)
    : code_(std::make_shared<Code>()), shared_(code_), most_(most), interrupted_(interrupted) {
    require(input_size > 0 && arena_size > 0 && classes > 0,
            "input, arena and classes must each have a size above 0");
    require(std::max({input_size, arena_size, classes}) <= kLargestSpace,
            "input, arena or classes are larger than 2^31 floats a sample");
    code_->input_size = input_size;
    code_->arena_size = arena_size;
    code_->classes = classes;
    code_->conserves = conserves;
    if (weights) {
        matrices_ = weights->matrices_;
        fits_bf16_ = weights->fits_bf16_;
        code_->matrices = weights->code_->matrices;
        code_->vectors = weights->code_->vectors;
        code_->tables = weights->code_->tables;
    }
}

int Program::add_matrix(Matrix matrix) {
    require(matrix.depth > 0 && matrix.columns > 0,
            "a matrix must have at least one row and one column");
    require_open();
    code_->matrices.push_back({matrix.depth, matrix.columns});
    matrices_.push_back(std::make_shared<const Matrix>(std::move(matrix)));
    fits_bf16_.emplace_back();
    return static_cast<int>(matrices_.size()) - 1;
}

int Program::add_vector(std::vector<float> data) {
    require_open();
    code_->vectors.push_back(std::make_shared<const std::vector<float>>(std::move(data)));
    return static_cast<int>(code_->vectors.size()) - 1;
}

int Program::add_table(const float* data, int64_t rows, int64_t columns) {
    require_open();
    require(rows > 0 && columns > 0, "a table must have at least one row and one column");
    require(rows <= kLargestExact, "a table has more rows than a float32 can number");
    code_->tables.push_back(
        std::make_shared<const Table>(Table{rows, columns, {data, data + rows * columns}}));
    return static_cast<int>(code_->tables.size()) - 1;
}

void Program::require_open() const {
    require(!finished_, "the program is finished");
    require(!stopped_, "the building of the program was interrupted");
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
    code_->instructions.push_back(std::move(instruction));
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
    code_->explains = false;
    code_->flops = work_ = 0.0;
    looked_up_ = 0;
    seeds_ = 0;
    for (const Instruction& instruction : code_->instructions) check_all(instruction);
}

void Program::finish() {
    require_open();
    require(!open_, "a repeat has no end");
    require(seeds_ == 1, "a program must have one seed");
    require(!code_->explains || written(Space::relevance, 0, code_->input_size),
            "the instructions leave elements of the relevance unwritten");
    written_ = {};
    reaches_.clear();
    finished_ = true;
}

}  // namespace pyrel

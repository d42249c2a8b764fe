// SPDX-License-Identifier: Apache-2.0
// A program: the instructions that explain one sample, the matrices and vectors that they use, and
// the sizes of the memory that they address. Built once, checked while it is built, immutable
// afterwards and shared between threads. It knows no processor: an engine binds it, and packs the
// matrices as it needs them. No Python types below this line.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "instructions.h"
#include "limits.h"
#include "spans.h"

namespace pyrel {

// (depth, columns), where whoever made it keeps it: so far apart, in floats, lie rows and columns.
struct Matrix {
    int64_t depth = 0;
    int64_t columns = 0;
    int64_t row_stride = 0;
    int64_t column_stride = 0;
    std::shared_ptr<const float> values;

    float at(int64_t k, int64_t column) const {
        return values.get()[k * row_stride + column * column_stride];
    }
};

struct Shape {
    int64_t depth, columns;
};

struct Table {
    int64_t rows = 0;
    int64_t columns = 0;
    std::vector<float> values;
};

// What an engine keeps of a program: all but the values of the matrices. Sizes are in floats per
// sample.
struct Code {
    int64_t input_size = 0;
    int64_t arena_size = 0;
    int64_t classes = 0;
    bool conserves = false;
    bool explains = false;  // it writes relevance; else it only runs forward
    bool multiplies_bf16 = false;
    double flops = 0.0;  // multiply-adds of the gemms count twice
    std::vector<Instruction> instructions;
    std::vector<Shape> matrices;
    std::vector<std::shared_ptr<const std::vector<float>>> vectors;
    std::vector<std::shared_ptr<const Table>> tables;
    int64_t most_listed = 0;      // operands that one instruction has a list of
    int64_t most_normalised = 0;  // columns of one instruction

    int64_t size_of(Space space) const { return space == Space::arena ? arena_size : input_size; }
    const Shape& matrix(int index) const { return matrices[static_cast<size_t>(index)]; }
    const Table& table(int index) const { return *tables[static_cast<size_t>(index)]; }
    const float* vector(int index) const {
        return index < 0 ? nullptr : vectors[static_cast<size_t>(index)]->data();
    }
    int64_t vector_size(int index) const {
        return static_cast<int64_t>(vectors[static_cast<size_t>(index)]->size());
    }
};

// What grows faster than the file that a program comes from: bounded where that is a stranger's.
struct Most {
    // Elements of gathers and scatters, times their rows, that are looked at one by one.
    int64_t looked_up = std::numeric_limits<int64_t>::max();
    double work = std::numeric_limits<double>::infinity();  // multiply-adds and moves of a sample
};

// Polled where something takes long; returns true to stop.
using Interrupted = bool (*)();

// What building a program throws where it was interrupted.
struct Interruption {};

// Throws std::invalid_argument where a condition does not hold.
void require(bool condition, const char* message);

// Programs come from files of strangers too. What is not checked while a program is built is not
// checked at all: a finished one reads and writes only what is its own.
class Program {
  public:
    // Begins with the matrices, vectors and tables of `weights`, if that is given, without a copy.
    // `most` is what a program of a stranger may take; see Most. Throws std::invalid_argument, as
    // every member that adds something does; and those that look through instructions throw
    // Interruption, after which nothing can be added.
    Program(int64_t input_size, int64_t arena_size, int64_t classes, bool conserves,
            const Program* weights = nullptr, const Most& most = {},
            Interrupted interrupted = nullptr);

    // Each returns the index of what is added.
    int add_matrix(Matrix matrix);
    int add_vector(std::vector<float> data);
    // Copies a row-major (rows, columns) table.
    int add_table(const float* data, int64_t rows, int64_t columns);
    void add(Instruction instruction);
    // Instructions that are added in between are the body of one `Repeat`.
    void begin_repeat(int64_t count);
    void end_repeat();
    // Ends the building: there is one seed, and every element of the relevance is written.
    void finish();

    bool finished() const { return finished_; }
    const std::shared_ptr<const Code>& code() const { return shared_; }
    const std::vector<std::shared_ptr<const Matrix>>& matrices() const { return matrices_; }

  private:
    // The rows that are looked at, of all that an instruction has.
    struct Steps {
        int64_t all = 0, first = 0, count = 0;
    };
    // What an index reaches in a row.
    struct Reach {
        int64_t least, largest;
        std::vector<Run> runs;  // without what lies between; made where it is needed
    };
    // Checks each operand of an instruction; see operands.h.
    struct Operands;

    void require_open() const;
    void forget_refused();
    void check_all(const Instruction& instruction);
    template <typename Plain>
    void check_steps(const Plain& instruction, const Steps& steps);
    template <typename Plain>
    void note(const Plain& instruction);
    void count_work(int64_t rows, int64_t columns, int64_t depth);
    void looks(int64_t numbers);
    Reach& reach_of(const std::vector<int64_t>& index);
    template <typename Take>
    void for_offsets(const Rows& rows, Take&& take);
    // What is wrong with an instruction beside its operands.
    void check(const Gemm& gemm);
    void check(const Map& map);
    void check(const Gather& gather);
    void check(const Scatter& scatter);
    void check(const Absorb& absorb);
    void check(const Activate& activate);
    void check(const Slope& slope);
    void check(const Reduce& reduce);
    void check(const Matmul& matmul);
    void check(const MaxPool& pool);
    void check(const PoolRoute& route);
    void check(const Normalise& normalise);
    void check(const NormaliseBack& back);
    void check(const Embed& embed);
    void check(const Seed& seed);
    void check(const Repeat& repeat);
    void check_vector(int index, int64_t columns) const;
    void check_epilogue(const EpilogueSpec& epilogue, int64_t columns) const;
    bool fits_bf16(int matrix);
    bool written(Space space, int64_t first, int64_t count) const;

    const std::shared_ptr<Code> code_;
    const std::shared_ptr<const Code> shared_;
    std::vector<std::shared_ptr<const Matrix>> matrices_;
    std::vector<std::optional<bool>> fits_bf16_;  // of each matrix, where that was asked for
    std::optional<Repeat> open_;
    Steps steps_;
    // By space: the floats that the instructions so far write. Given back by finish().
    std::array<Spans, kSpaces> written_;
    Most most_;
    Interrupted interrupted_;
    bool stopped_ = false;
    int64_t looks_ = 0;  // since it was last polled
    // Of the instruction that is looked through, whatever its iterations.
    std::map<const std::vector<int64_t>*, Reach> reaches_;
    int64_t looked_up_ = 0;
    double work_ = 0.0;
    int seeds_ = 0;
    bool finished_ = false;
};

}  // namespace pyrel

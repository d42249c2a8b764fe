// SPDX-License-Identifier: Apache-2.0
// A program: the instructions that explain one sample, the matrices and vectors that they use, and
// the sizes of the memory that they address. Built once, checked while it is built, immutable
// afterwards and shared between threads. No Python types below this line.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cpu/kernels.h"
#include "spans.h"

namespace pyrel {

// Where an operand lives. Every space holds one block per sample.
enum class Space : int { input = 0, arena = 1, relevance = 2 };
constexpr int kSpaces = 3;
// Most floats that a block has: keeps every product of sizes far from overflow.
constexpr int64_t kLargestSpace = int64_t{1} << 31;
// A slab's memory is kept below this where that leaves at least one sample.
constexpr int64_t kMostSlabBytes = int64_t{64} << 20;
// A group of samples in lanes takes at most this: more leaves the caches, and is mapped anew at
// every call.
constexpr int64_t kMostLaneBytes = int64_t{24} << 20;

// One address per row (step) of an instruction: step t starts at offsets[t] in the sample's block
// of `space`.
struct Rows {
    Space space = Space::arena;
    std::vector<int64_t> offsets;
};

struct Segment {
    Rows rows;
    int64_t depth = 0;
};

// See kernels.h for the order in which the parts act. Indices are -1 where a part is absent.
struct EpilogueSpec {
    int bias = -1;
    Scale scale = Scale::none;
    Rows scale_rows;
    int scale_vector = -1;
    bool accumulate = false;
    Post post = Post::none;
    Rows post_rows;
    int post_vector = -1;
    float epsilon = 0.0f;
};

// out = epilogue(Σ_segments a · W), W being (Σ depth, columns).
struct Gemm {
    std::vector<Segment> segments;
    int matrix = -1;
    Rows out;
    EpilogueSpec epilogue;
};

// out = epilogue(source), or epilogue(0) where the source has no rows.
struct Map {
    Rows source;
    int64_t columns = 0;
    Rows out;
    EpilogueSpec epilogue;
};

// `size` entries of an index from the one at `place` on: `start`, start + 1, …
struct Run {
    int64_t start, place, size;
};

// out[i] = source[index[i]]
struct Gather {
    Rows source;
    std::vector<int64_t> index;
    Rows out;
    std::vector<Run> runs{};  // Program::add cuts the index into these where that is faster
};

// out[index[i]] += source[i]
struct Scatter {
    Rows source;
    std::vector<int64_t> index;
    Rows out;
    std::vector<Run> runs{};
};

// What the relevance of the explained output starts from.
enum class Start : int { one = 0, output = 1, positive_output = 2 };

// Reads the outputs at `source`, chooses the target, writes the initial relevance (zero but at the
// target) to `out`.
struct Seed {
    int64_t source = 0;
    int64_t out = 0;
    Start start = Start::one;
};

// absorbed += a share of the source, in double precision.
struct Absorb {
    Rows source;
    int64_t columns = 0;
    Share share = Share::weighted;
    Rows operand;
    int vector = -1;
    float epsilon = 0.0f;
};

// out = f(source)
struct Activate {
    Rows source;
    int64_t columns = 0;
    Rows out;
    Function function = Function::sigmoid;
    float parameter = 0.0f;
};

// out = source · f'(value), added to what is there already if `accumulate`.
struct Slope {
    Rows source;
    Rows value;
    int64_t columns = 0;
    Rows out;
    Function function = Function::sigmoid;
    float parameter = 0.0f;
    bool accumulate = false;
};

// out[n] = max_i sources[i][n]
struct MaxPool {
    std::vector<Rows> sources;
    int64_t columns = 0;
    Rows out;
};

// outs[i][n] = relevance[n] for the first i with the largest values[i][n], and 0 for the others; or
// relevance[n] shared out in proportion to the values above 0. Added if `accumulate`.
struct PoolRoute {
    std::vector<Rows> values;
    int64_t columns = 0;
    Rows relevance;
    std::vector<Rows> outs;
    bool shares = false;
    bool accumulate = false;
};

// out = (source − mean) / σ over a row, σ² = variance + ε, in double precision.
struct Normalise {
    Rows source;
    int64_t columns = 0;
    Rows out;
    float epsilon = 0.0f;
};

// The way back, of gradients g = source: (g − mean g − y · mean(g y)) / σ with y = (value − mean) /
// σ; or, with σ `detached`, of relevance: value · (s − mean s) / σ with s = source.
struct NormaliseBack {
    Rows source;
    Rows value;
    int64_t columns = 0;
    Rows out;
    float epsilon = 0.0f;
    bool detached = false;
    bool accumulate = false;
};

// out = the table's row whose number is the source's one float: without its fraction, and no less
// than the first nor more than the last one. NaN gives a row of NaN.
struct Embed {
    Rows source;
    int table = -1;
    Rows out;
};

// What may stand in the body of a repeat.
using Repeatable = std::variant<Gemm, Map, Gather, Scatter, Absorb, Activate, Slope, MaxPool,
                                PoolRoute, Normalise, NormaliseBack, Embed>;

// Runs its body `count` times. Of an instruction with count · k rows, iteration i takes the k rows
// from i · k on.
struct Repeat {
    int64_t count = 0;
    std::vector<Repeatable> body;
};

using Instruction = std::variant<Gemm, Map, Gather, Scatter, Absorb, Activate, Slope, MaxPool,
                                 PoolRoute, Normalise, NormaliseBack, Embed, Seed, Repeat>;

// How many rows an instruction has for each sample: the offsets of each of its operands.
template <typename Plain>
int64_t rows_of(const Plain& instruction) {
    if constexpr (requires { instruction.out.offsets; })
        return static_cast<int64_t>(instruction.out.offsets.size());
    else if constexpr (requires { instruction.relevance.offsets; })
        return static_cast<int64_t>(instruction.relevance.offsets.size());
    else if constexpr (requires { instruction.source.offsets; })
        return static_cast<int64_t>(instruction.source.offsets.size());
    else
        return 1;
}

// A matrix as products of samples in lanes take it; see kernels.h.
struct LaneMatrix {
    std::vector<LaneColumns> groups;
    std::vector<LaneRange> ranges;
    std::vector<float> weights;
};

struct Matrix {
    int64_t depth = 0;
    int64_t columns = 0;
    int64_t panel = 0;  // columns of one
    int64_t panel_stride = 0;
    int64_t lane_products = 0;  // of a row, with the widest groups of columns
    bool bf16 = false;          // pairs of bfloat16; see GemmTask
    int64_t key = -1;           // what the caller calls it; see Program::find_matrix
    std::unique_ptr<float[], void (*)(void*)> packed{nullptr, nullptr};

    float at(int64_t k, int64_t column) const {
        return packed[static_cast<size_t>(column / panel * panel_stride + k * panel +
                                          column % panel)];
    }
    // Once for all programs that share it, whichever thread comes first.
    void pack_in_lanes(const Kernels& kernels) const;
    const LaneMatrix& in_lanes() const { return in_lanes_; }

  private:
    mutable std::once_flag once_;
    mutable LaneMatrix in_lanes_;
};

// Instructions that run one after the other for the same group of samples in lanes, in `parts`
// equal parts of their rows: what one writes is still in the cache when another reads it.
struct Stretch {
    size_t first, end;
    int64_t parts;
};

struct Table {
    int64_t rows = 0;
    int64_t columns = 0;
    std::vector<float> values;
};

// What grows faster than the file that a program comes from: bounded where that is a stranger's.
struct Most {
    int64_t packed = std::numeric_limits<int64_t>::max();  // bytes of matrices, as they are packed
    // Elements of gathers and scatters, times their rows, that are looked at one by one.
    int64_t looked_up = std::numeric_limits<int64_t>::max();
    double work = std::numeric_limits<double>::infinity();  // multiply-adds and moves of a sample
};

// Polled where something takes long; returns true to stop.
using Interrupted = bool (*)();

// What building a program throws where it was interrupted.
struct Interruption {};

// Programs come from files of strangers too. What is not checked while a program is built is not
// checked at all: a finished one reads and writes only what is its own.
class Program {
  public:
    // Sizes in floats per sample. Begins with the matrices, vectors and tables of `weights`, if
    // that is given, without a copy. `most` is what a program of a stranger may take; see Most.
    // Throws std::invalid_argument, as every member that adds something does; and those that look
    // through instructions throw Interruption, after which nothing can be added.
    Program(int64_t input_size, int64_t arena_size, int64_t classes, bool conserves,
            const Kernels& kernels, const Program* weights = nullptr, const Most& most = {},
            Interrupted interrupted = nullptr);

    // Copies and packs a row-major (depth, columns) matrix for the kernels' panels, rounded to
    // bfloat16 where the products with it shall be of that; returns its index.
    int add_matrix(const float* data, int64_t depth, int64_t columns, bool bf16 = false,
                   int64_t key = -1);
    // The index of the matrix that was added with this key, which is 0 or more; or −1.
    int find_matrix(int64_t key, bool bf16) const;
    int add_vector(std::vector<float> data);
    // Copies a row-major (rows, columns) table.
    int add_table(const float* data, int64_t rows, int64_t columns);
    void add(Instruction instruction);
    // Instructions that are added in between are the body of one `Repeat`.
    void begin_repeat(int64_t count);
    void end_repeat();
    // Ends the building: there is one seed, and every element of the relevance is written.
    void finish();
    // About how many times as fast it runs with samples in lanes, as many as there are lanes, with
    // the same results; or 0 where it does not run so, as products of bfloat16 do not, and what
    // would take more than kMostLaneBytes.
    double gain_in_lanes() const { return gain_in_lanes_; }
    // Makes what the matrices are in lanes, where it is not made yet. Throws std::bad_alloc.
    void pack_in_lanes() const;
    // How the instructions run in lanes; none where each runs on its own.
    const std::vector<Stretch>& stretches() const { return stretches_; }

    bool finished() const { return finished_; }
    // Whether it writes relevance; else it only runs forward.
    bool explains() const { return explains_; }
    int64_t input_size() const { return input_size_; }
    int64_t arena_size() const { return arena_size_; }
    // Bytes of a group of samples in lanes.
    int64_t lane_group_bytes() const {
        return (arena_size_ + 2 * input_size_) * kernels_.lanes *
               static_cast<int64_t>(sizeof(float));
    }
    int64_t scratch_size() const { return scratch_size_; }  // floats, whatever the samples
    int64_t classes() const { return classes_; }
    bool conserves() const { return conserves_; }
    bool multiplies_bf16() const { return multiplies_bf16_; }
    double flops() const { return flops_; }
    const Kernels& kernels() const { return kernels_; }
    const std::vector<Instruction>& instructions() const { return instructions_; }
    const Matrix& matrix(int index) const { return *matrices_[static_cast<size_t>(index)]; }
    const Table& table(int index) const { return *tables_[static_cast<size_t>(index)]; }
    int64_t vectors() const { return static_cast<int64_t>(vectors_.size()); }
    int64_t tables() const { return static_cast<int64_t>(tables_.size()); }
    // Most operands that one instruction has a list of.
    int64_t most_listed() const { return most_listed_; }
    // Most columns that one instruction normalises.
    int64_t most_normalised() const { return most_normalised_; }
    const float* vector(int index) const {
        return index < 0 ? nullptr : vectors_[static_cast<size_t>(index)]->data();
    }
    int64_t vector_size(int index) const {
        return static_cast<int64_t>(vectors_[static_cast<size_t>(index)]->size());
    }

  private:
    // What an instruction does with an operand.
    enum class Access { read, write, update };
    // The rows that are looked at, of all that an instruction has.
    struct Steps {
        int64_t all = 0, first = 0, count = 0;
    };
    class Touched;
    // What an index reaches in a row.
    struct Reach {
        int64_t least, largest;
        std::vector<Run> runs;  // without what lies between; made where it is needed
    };

    void require_open() const;
    void forget_refused();
    void check_all(const Instruction& instruction);
    void count_work(int64_t rows, int64_t columns, int64_t depth);
    void looks(int64_t numbers);
    Reach& reach_of(const std::vector<int64_t>& index);
    template <typename Take>
    void for_offsets(const Rows& rows, Take&& take);
    void check(const Gemm& gemm);
    void check(const Map& map);
    void check(const Gather& gather);
    void check(const Scatter& scatter);
    void check(const Absorb& absorb);
    void check(const Activate& activate);
    void check(const Slope& slope);
    void check(const MaxPool& pool);
    void check(const PoolRoute& route);
    void check(const Normalise& normalise);
    void check(const NormaliseBack& back);
    void check(const Embed& embed);
    void check(const Seed& seed);
    void check(const Repeat& repeat);
    // Check what an instruction does in `steps_`.
    void check_rows(const Rows& rows, int64_t columns, Access access);
    void check_index(const std::vector<int64_t>& index, const Rows& rows, bool writes);
    void check_vector(int index, int64_t columns) const;
    void check_epilogue(const EpilogueSpec& epilogue, int64_t columns);
    int64_t space_size(Space space) const;
    double compare_with_lanes() const;
    std::vector<Stretch> find_stretches();
    void touch(const Instruction& instruction, int64_t parts, Touched& touched);
    bool written(Space space, int64_t first, int64_t count) const;

    int64_t input_size_;
    int64_t arena_size_;
    int64_t scratch_size_ = 0;
    int64_t classes_;
    bool conserves_;
    bool multiplies_bf16_ = false;
    double flops_ = 0.0;  // multiply-adds of the gemms count twice
    const Kernels& kernels_;
    std::vector<Instruction> instructions_;
    std::vector<std::shared_ptr<const Matrix>> matrices_;
    std::map<std::pair<int64_t, bool>, int> keys_;  // of matrices: key and bf16
    std::vector<std::shared_ptr<const std::vector<float>>> vectors_;
    std::vector<std::shared_ptr<const Table>> tables_;
    std::optional<Repeat> open_;
    Steps steps_;
    Touched* touched_ = nullptr;  // instead of a check, is told what would be checked
    int64_t most_listed_ = 0;
    int64_t most_normalised_ = 0;
    // By space: the floats that the instructions so far write. Given back by finish().
    std::array<Spans, kSpaces> written_;
    Most most_;
    Interrupted interrupted_;
    bool stopped_ = false;
    int64_t looks_ = 0;  // since it was last polled
    // Of the instruction that is looked through, whatever its iterations.
    std::map<const std::vector<int64_t>*, Reach> reaches_;
    int64_t packed_ = 0;
    int64_t looked_up_ = 0;
    double work_ = 0.0;
    int seeds_ = 0;
    bool finished_ = false;
    bool explains_ = false;
    double gain_in_lanes_ = 0.0;
    std::vector<Stretch> stretches_;
};

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// The instructions of a program. Each is edited in five places: its template in Python
// (pyrel/compiler/program/instructions.py); its struct here, whose `fields` have the template's
// names, so that the binding and the loading follow; its checks and what it touches (checks.cpp,
// operands.h); how an engine runs it (cpu/execute_*.cpp); and a kernel, where it needs one
// (cpu/kernels.h).
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "operations.h"

namespace pyrel {

// Where an operand lives. Every space holds one block per sample.
enum class Space : int { input = 0, arena = 1, relevance = 2 };
constexpr int kSpaces = 3;

// One address per row (step) of an instruction: step t starts at offsets[t] in the sample's block
// of `space`. An operand that is absent has none.
struct Rows {
    Space space = Space::arena;
    std::vector<int64_t> offsets;
};

struct Segment {
    Rows rows;
    int64_t depth = 0;
};

// What happens to a result before it is stored, in this order: v += bias[n]; v = scale(v);
// v += out[row, n] if accumulate; v = post(v). Indices are −1 where a part is absent.
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

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("bias", self.bias);
        take("scale", self.scale);
        take("scale_space", self.scale_rows);
        take("scale_vector", self.scale_vector);
        take("accumulate", self.accumulate);
        take("post", self.post);
        take("post_space", self.post_rows);
        take("post_vector", self.post_vector);
        take("epsilon", self.epsilon);
    }
};

// out = epilogue(Σ_segments a · W), W being (Σ depth, columns).
struct Gemm {
    static constexpr const char* kName = "Gemm";
    std::vector<Segment> segments;
    int matrix = -1;
    Rows out;
    EpilogueSpec epilogue;
    bool bf16 = false;  // segments and W are rounded to bfloat16, and summed in float32

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("segments", self.segments);
        take("matrix", self.matrix);
        take("out", self.out);
        take("epilogue", self.epilogue);
        take("bf16", self.bf16);
    }
};

// out = epilogue(source), or epilogue(0) where the source has no rows.
struct Map {
    static constexpr const char* kName = "Map";
    Rows source;
    int64_t columns = 0;
    Rows out;
    EpilogueSpec epilogue;

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("source", self.source);
        take("columns", self.columns);
        take("out", self.out);
        take("epilogue", self.epilogue);
    }
};

// `size` entries of an index from the one at `place` on: `start`, start + 1, …
struct Run {
    int64_t start, place, size;
};

// out[i] = source[index[i]]
struct Gather {
    static constexpr const char* kName = "Gather";
    Rows source;
    std::vector<int64_t> index;
    Rows out;
    std::vector<Run> runs{};  // Program::add cuts the index into these where that is faster

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("source", self.source);
        take("index", self.index);
        take("out", self.out);
    }
};

// out[index[i]] += source[i]
struct Scatter {
    static constexpr const char* kName = "Scatter";
    Rows source;
    std::vector<int64_t> index;
    Rows out;
    std::vector<Run> runs{};

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("source", self.source);
        take("index", self.index);
        take("out", self.out);
    }
};

// Reads the outputs at `source`, chooses the target, writes the initial relevance (zero but at the
// target) to `out`. One row each, in the arena.
struct Seed {
    static constexpr const char* kName = "Seed";
    Rows source;
    Rows out;
    Start start = Start::one;

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("source", self.source);
        take("out", self.out);
        take("start", self.start);
    }
};

// absorbed += a share of the source, in double precision.
struct Absorb {
    static constexpr const char* kName = "Absorb";
    Rows source;
    int64_t columns = 0;
    Share share = Share::weighted;
    Rows operand;
    int vector = -1;
    float epsilon = 0.0f;

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("source", self.source);
        take("columns", self.columns);
        take("share", self.share);
        take("operand", self.operand);
        take("vector", self.vector);
        take("epsilon", self.epsilon);
    }
};

// out = f(source)
struct Activate {
    static constexpr const char* kName = "Activate";
    Rows source;
    int64_t columns = 0;
    Rows out;
    Function function = Function::sigmoid;
    float parameter = 0.0f;

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("source", self.source);
        take("columns", self.columns);
        take("out", self.out);
        take("function", self.function);
        take("parameter", self.parameter);
    }
};

// out = source · f'(value), added to what is there already if `accumulate`.
struct Slope {
    static constexpr const char* kName = "Slope";
    Rows source;
    Rows value;
    int64_t columns = 0;
    Rows out;
    Function function = Function::sigmoid;
    float parameter = 0.0f;
    bool accumulate = false;

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("source", self.source);
        take("value", self.value);
        take("columns", self.columns);
        take("out", self.out);
        take("function", self.function);
        take("parameter", self.parameter);
        take("accumulate", self.accumulate);
    }
};

// out[n] = Σ_i source[i · stride + n] for i below `count`, added one after the other to 0, or to
// what is there already if `accumulate`.
struct Reduce {
    static constexpr const char* kName = "Reduce";
    Rows source;
    int64_t count = 0;
    int64_t stride = 0;
    int64_t columns = 0;
    Rows out;
    bool accumulate = false;

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("source", self.source);
        take("count", self.count);
        take("stride", self.stride);
        take("columns", self.columns);
        take("out", self.out);
        take("accumulate", self.accumulate);
    }
};

// out = L · R, L being (rows, depth) and R (depth, columns), row by row in one run each; what is
// `transposed` lies column by column. Element by element the products are added in the order of
// the depth, to 0 or to what is there already if `accumulate`.
struct Matmul {
    static constexpr const char* kName = "Matmul";
    Rows left;
    Rows right;
    int64_t rows = 0;
    int64_t depth = 0;
    int64_t columns = 0;
    Rows out;
    bool left_transposed = false;
    bool right_transposed = false;
    bool accumulate = false;

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("left", self.left);
        take("right", self.right);
        take("rows", self.rows);
        take("depth", self.depth);
        take("columns", self.columns);
        take("out", self.out);
        take("left_transposed", self.left_transposed);
        take("right_transposed", self.right_transposed);
        take("accumulate", self.accumulate);
    }
};

// out[n] = max_i sources[i][n]
struct MaxPool {
    static constexpr const char* kName = "MaxPool";
    std::vector<Rows> sources;
    int64_t columns = 0;
    Rows out;

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("sources", self.sources);
        take("columns", self.columns);
        take("out", self.out);
    }
};

// outs[i][n] = relevance[n] for the first i with the largest values[i][n], and 0 for the others; or
// relevance[n] shared out in proportion to the values above 0. Added if `accumulate`.
struct PoolRoute {
    static constexpr const char* kName = "PoolRoute";
    std::vector<Rows> values;
    int64_t columns = 0;
    Rows relevance;
    std::vector<Rows> outs;
    bool shares = false;
    bool accumulate = false;

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("values", self.values);
        take("columns", self.columns);
        take("relevance", self.relevance);
        take("outs", self.outs);
        take("shares", self.shares);
        take("accumulate", self.accumulate);
    }
};

// out = (source − mean) / σ over a row, σ² = variance + ε, in double precision.
struct Normalise {
    static constexpr const char* kName = "Normalise";
    Rows source;
    int64_t columns = 0;
    Rows out;
    float epsilon = 0.0f;

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("source", self.source);
        take("columns", self.columns);
        take("out", self.out);
        take("epsilon", self.epsilon);
    }
};

// The way back, of gradients g = source: (g − mean g − y · mean(g y)) / σ with y = (value − mean) /
// σ; or, with σ `detached`, of relevance: value · (s − mean s) / σ with s = source.
struct NormaliseBack {
    static constexpr const char* kName = "NormaliseBack";
    Rows source;
    Rows value;
    int64_t columns = 0;
    Rows out;
    float epsilon = 0.0f;
    bool detached = false;
    bool accumulate = false;

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("source", self.source);
        take("value", self.value);
        take("columns", self.columns);
        take("out", self.out);
        take("epsilon", self.epsilon);
        take("detached", self.detached);
        take("accumulate", self.accumulate);
    }
};

// out = the table's row whose number is the source's one float: without its fraction, and no less
// than the first nor more than the last one. NaN gives a row of NaN.
struct Embed {
    static constexpr const char* kName = "Embed";
    Rows source;
    int table = -1;
    Rows out;

    template <typename Self, typename Take>
    static void fields(Self& self, Take&& take) {
        take("source", self.source);
        take("table", self.table);
        take("out", self.out);
    }
};

// What may stand in the body of a repeat.
using Repeatable = std::variant<Gemm, Map, Gather, Scatter, Absorb, Activate, Slope, Reduce, Matmul,
                                MaxPool, PoolRoute, Normalise, NormaliseBack, Embed>;

// Runs its body `count` times. Of an instruction with count · k rows, iteration i takes the k rows
// from i · k on.
struct Repeat {
    int64_t count = 0;
    std::vector<Repeatable> body;
};

using Instruction =
    std::variant<Gemm, Map, Gather, Scatter, Absorb, Activate, Slope, Reduce, Matmul, MaxPool,
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

// All instructions, those of repeats too: take(instruction).
template <typename Take>
void for_each(const std::vector<Instruction>& instructions, Take&& take) {
    for (const Instruction& instruction : instructions)
        std::visit(
            [&](const auto& i) {
                if constexpr (requires { i.body; })
                    for (const Repeatable& each : i.body) std::visit(take, each);
                else
                    take(i);
            },
            instruction);
}

}  // namespace pyrel

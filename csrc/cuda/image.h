// SPDX-License-Identifier: Apache-2.0
// A program as the device reads it: one block of plain memory, made by the host without CUDA
// (image.cpp), copied to the device as it is, and walked there (walk.h). Numbers of floats and rows
// are 32 bits wide; addresses are formed with 64.
#pragma once

#include <stdint.h>

#include "../program/operations.h"

#if defined(__CUDACC__)
#define PYREL_HOST_DEVICE __host__ __device__
#else
#define PYREL_HOST_DEVICE
#endif

namespace pyrel::cuda {

// Samples lie side by side in groups of this many: element e of sample s of a slab is float
// (s / 8 · arena_size + e) · 8 + s % 8 of its arena.
constexpr int kGroup = 8;
// Of a tensor-core product: a tile has so many columns, and takes so many depths at once.
constexpr int kTileColumns = 16;
constexpr int kTileDepth = 8;
constexpr int kWarp = 32;
// Of a slab; those for which a warp forms a product at once; and those that walk through a stretch
// together.
constexpr int kMostGroups = 16;
constexpr int kTileGroups = 8;
constexpr int kStretchGroups = 2;

enum class Kind : int32_t {
    gemm,
    map,
    gather,
    scatter,
    absorb,
    activate,
    slope,
    reduce,
    matmul,
    max_pool,
    pool_route,
    normalise,
    normalise_back,
    embed,
    seed
};

enum class Memory : int32_t { input, arena, relevance, none };

// Row t of an operand begins at float offsets[first + t] of a sample's block of `memory`.
struct Operand {
    Memory memory = Memory::none;
    int32_t first = 0;
};

// A segment of a product's rows, or one operand of a list.
struct Listed {
    Operand operand;
    int32_t depth = 0;
};

// Floats of a sample, so that those of a slab of so many groups can be counted in 32 bits; and
// elements of an operation's rows, so that threads can count them for all samples. Programs with
// more than slabs of kTileGroups allow are refused.
constexpr int64_t most_floats(int groups) { return (int64_t{1} << 32) / (groups * kGroup) - 1; }
constexpr int64_t most_items(int groups) { return (int64_t{1} << 31) / (groups * kGroup) - 1; }
constexpr int64_t kMostFloats = most_floats(kTileGroups);
constexpr int64_t kMostItems = most_items(kTileGroups);

// An instruction; what a kind does not need is 0, −1 or none. Names are those of
// ../program/instructions.h.
struct Operation {
    Kind kind = Kind::map;
    int32_t columns = 0;
    Operand source, value, out, scale_operand, post_operand;
    Scale scale = Scale::none;
    Post post = Post::none;
    Function function = Function::sigmoid;
    Share share = Share::weighted;
    Start start = Start::one;
    int32_t accumulate = 0;
    int32_t in_bf16 = 0;   // a product of numbers that are rounded to bfloat16
    int32_t shares = 0;    // of a pool's relevance
    int32_t detached = 0;  // of a normalisation's way back
    float parameter = 0.0f;
    float epsilon = 0.0f;
    // Places in the image's floats.
    int32_t bias = -1, scale_vector = -1, post_vector = -1, vector = -1, table = -1, weights = -1;
    int32_t table_rows = 0;
    int32_t first_listed = 0, listed = 0;  // segments, or a pool's values
    int32_t first_listed_out = 0;          // a pool's outs, as many
    int32_t first_index = 0, indices = 0;  // of gathers and scatters
    int32_t repeated_index = 0;            // a scatter adds to one element more than once
    int32_t count = 0, stride = 0;         // of a reduction
    int32_t rows = 0, depth = 0;           // of a matmul's left operand
    int32_t left_transposed = 0, right_transposed = 0;
};

// Of a product, for a row.
PYREL_HOST_DEVICE inline int32_t tiles_of(const Operation& op) {
    return (op.columns + kTileColumns - 1) / kTileColumns;
}

// Rows of an operation that run at once. Behind a barrier, where they touch what others wrote since
// the last one, or write what others read.
struct Step {
    int32_t operation = 0;
    int32_t first_row = 0;
    int32_t rows = 0;
    int16_t barrier = 0;
    int16_t in_order = 0;  // rows touch the same elements: a thread takes its column of all rows
    // Products from that one on that read the same rows: a warp takes a tile of one after the
    // other.
    int32_t products = 1;
    // Steps from one that begins a stretch, behind a barrier, to the one that ends it are walked by
    // some groups of a slab after the others, which have barriers of their own.
    int16_t begins = 0;
    int16_t ends = 0;
};

// The steps of a program in an order: from `steps_at` on, a byte of the image.
struct Order {
    int64_t steps_at = 0;
    int32_t steps = 0;
    int32_t seed = 0;  // the step with which relevance begins

    bool operator==(const Order&) const = default;
};

// The beginning of an image. Each `*_at` is the byte, from the beginning of the image, at which an
// array begins; all are multiples of 16.
struct Header {
    int64_t bytes = 0;
    int64_t operations_at = 0, listed_at = 0, offsets_at = 0, index_at = 0, floats_at = 0;
    Order whole;     // each instruction with all of its rows
    Order in_parts;  // with stretches that run part by part; none if no part would fit a cache
    int32_t input_size = 0;
    int32_t arena_size = 0;
    int32_t classes = 0;
    int32_t explains = 0;
    int32_t conserves = 0;
    int32_t multiplies_bf16 = 0;
    int32_t keeps_forward = 0;  // a sample may go back several times after one forward pass
    int32_t most_items = 0;     // of a step

    bool operator==(const Header&) const = default;
};

// Of a run with relevance, or of one that stops at the outputs.
PYREL_HOST_DEVICE inline int32_t steps_of(const Order& order, bool relevance) {
    return relevance ? order.steps : order.seed + 1;
}

// What happened to a sample: an Outcome of ../shared/batch.h, and the element that it is of.
struct Verdict {
    int32_t outcome = 0;
    int32_t element = -1;
};

// Not an Outcome: where the host has the targets it looks at them before.
constexpr int32_t kNoClass = 100;

// How products are formed that are not of bfloat16: in float32 in the order of the CPU, or by
// tensor cores from numbers rounded to TF32, three products or one.
enum class Precision : int32_t { float32, tf32x3, tf32 };

// What a launch works on; pointers are the device's.
struct Launch {
    Header header;  // the image's
    Order order;    // one of its
    const char* image = nullptr;
    const float* x = nullptr;         // (samples, input_size)
    const int64_t* target = nullptr;  // (samples, ways) or null: the predicted class
    const float* low = nullptr;       // (input_size,) or null
    const float* high = nullptr;
    float* relevance = nullptr;    // (samples, ways, input_size), or null for outputs alone
    float* output = nullptr;       // (samples, classes)
    int64_t* explained = nullptr;  // (samples, ways), as the three of floats
    float* absorbed = nullptr;
    float* conservation = nullptr;
    float* amplification = nullptr;
    Verdict* verdicts = nullptr;  // (samples,)
    float* arena = nullptr;       // teams · groups · arena_size · kGroup floats
    double* scratch = nullptr;    // teams · 3 · groups · kGroup: absorbed, largest, put in
    int64_t samples = 0;
    // Those of a launch: one may walk all steps of all slabs, or one step after the other be a
    // launch of its own. The step behind the last one is what ends a sample.
    int64_t first_slab = 0, end_slab = 0;
    int32_t first_step = 0, end_step = 0;
    // Of the ways back of each sample; all but the first begin at the seed.
    int32_t ways = 1, first_way = 0, end_way = 1;
    int32_t groups = 0;  // of a slab: 1, 2, 4, 8 or 16
    int32_t team = 1;    // blocks that share a slab: a cluster where they meet at barriers
    int32_t check_finite = 1;
    Precision precision = Precision::float32;
    double lost = 0.0;  // the share of conserved relevance that rounding may lose

    bool operator==(const Launch&) const = default;
};

}  // namespace pyrel::cuda

// SPDX-License-Identifier: Apache-2.0
// Products of rows and weights. A part of walk.h.
//
// A warp takes sixteen columns of a row for several groups of samples. What it reads comes from the
// second-level cache, some hundred cycles away, and a sum has one order, so that the loads of the
// next depths are made before the present ones are added (add_by_stages). Values lie in the arena
// as the lanes take them, and so do weights in the image: nothing is staged in shared memory, and a
// product needs no barrier of its own.
#pragma once

#include "epilogue.h"

namespace pyrel::cuda {

// A segment of a product, as a lane reads it for the groups of a tile. Places are counted in 32
// bits, so that few registers hold them; image.cpp has looked that these are enough. Loads are
// under no condition of their own, which would part those that can wait together: in place of a
// sample that is missing another one is read, and nobody reads what comes of it.
template <int Groups>
struct Segment {
    const float* values;       // of the row's first element, of the first sample
    uint32_t samples[Groups];  // where the lane's sample of each group is from there
    uint32_t element;
    int depth;
    // Of eight depths and sixteen columns; `stride` floats further are those of the next depths.
    // Lane 4g + t of a tensor core takes four: columns g, g + 8 of depth 2t, then of depth 2t + 1.
    const float* weights;
    uint32_t stride;

    // The stand-in of missing samples is one that exists, of the groups at work: those of others
    // may be at another step of a stretch.
    PYREL_DEVICE void point_to(const Row& row, int first_group, int sample, int stand_in) {
        values = row.base;
        element = static_cast<uint32_t>(row.element);
        for (int g = 0; g < Groups; ++g) {
            const int number = (first_group + g) * kGroup + sample;
            const int64_t place = (first_group + g) * row.group + sample * row.sample;
            const int64_t other = stand_in * row.group;
            samples[g] = static_cast<uint32_t>(number < row.samples ? place : other);
        }
    }
    PYREL_DEVICE const float* place(int g, int k) const {
        return values + (samples[g] + static_cast<uint32_t>(k) * element);
    }
    PYREL_DEVICE float value_or_zero(int g, int k) const {
        const float v = read(place(g, k < depth ? k : 0));
        return k < depth ? v : 0.0f;
    }
    // Of two depths, the first one even.
    PYREL_DEVICE Four weights_of(int column, int k) const {
        const auto at = static_cast<uint32_t>(k);
        return four_at(weights +
                       (at / kTileDepth * stride + (column * 4 + at % kTileDepth / 2) * 4));
    }
};

// A segment as a warp multiplies it in float32: one product after the other in the order of the
// depths, as every engine does, so that the bits are the CPU's. Lane 8q + s has of sample s the
// columns 2q, 2q + 8, 2q + 1 and 2q + 9.
template <int Groups>
struct InFloat32 {
    static constexpr int kDepths = Groups <= 2 ? 4 : 2, kAhead = Groups % 4 == 0 ? 3 : 2;
    struct Stage {
        Four weights[kDepths / 2][2];
        float values[kDepths][Groups];
    };
    Segment<Groups> segment;
    int lane;

    PYREL_DEVICE int sample() const { return lane % kGroup; }
    PYREL_DEVICE void load_weights(Stage& stage, int first) const {
        PYREL_UNROLL
        for (int d = 0; d < kDepths / 2; ++d) PYREL_UNROLL
        for (int n = 0; n < 2; ++n)
            stage.weights[d][n] = segment.weights_of(lane / kGroup * 2 + n, first + 2 * d);
    }
    template <int Element>
    PYREL_DEVICE void load_values(Stage& stage, int first) const {
        PYREL_UNROLL
        for (int g = 0; g < Groups; ++g) {
            const float* const place = segment.place(g, first);
            PYREL_UNROLL
            for (int d = 0; d < kDepths; ++d) stage.values[d][g] = read(place + d * Element);
        }
    }
    PYREL_DEVICE void load_last_values(Stage& stage, int first) const {
        PYREL_UNROLL
        for (int d = 0; d < kDepths; ++d) PYREL_UNROLL
        for (int g = 0; g < Groups; ++g) stage.values[d][g] = segment.value_or_zero(g, first + d);
    }
    PYREL_DEVICE void add(float (&sums)[Groups][4], const Stage& stage) const {
        PYREL_UNROLL
        for (int d = 0; d < kDepths; ++d) PYREL_UNROLL
        for (int g = 0; g < Groups; ++g) PYREL_UNROLL
        for (int n = 0; n < 4; ++n)
            sums[g][n] = fused(stage.values[d][g],
                               stage.weights[d / 2][n / 2].value[d % 2 * 2 + n % 2], sums[g][n]);
    }
    // Of one of four numbers: its column, and its value.
    PYREL_DEVICE int column(int number) const {
        return lane / kGroup * 2 + number / 2 + number % 2 * 8;
    }
    PYREL_DEVICE float sum(const float (&own)[4], int number) const {
        return number < 2 ? (number == 0 ? own[0] : own[1]) : (number == 2 ? own[2] : own[3]);
    }
};

// What a product of two numbers is made of: three products of TF32, or one, or one of bfloat16.
enum class Of { three_tf32, one_tf32, one_bf16 };

// A number as two of TF32, of eleven significant bits each; of one product the second is not
// needed.
struct Split {
    uint32_t high, low;
};

template <Of of>
PYREL_DEVICE Split split(float value) {
    if constexpr (of == Of::one_bf16) return {to_bf16(value), 0u};
    const uint32_t high = to_tf32(value);
    return {high, of == Of::three_tf32 ? to_tf32(value - float_of(high)) : 0u};
}

// The same by tensor cores, of eight depths. With three products a number is the sum of two, the
// second of what the first has lost; the product of the second ones is below float32's rounding.
// Numbers that round to infinity, within 2⁻¹² of the largest float32, give NaN. Numbers of bfloat16
// are numbers of TF32, too: their products are exact, and nothing else has to lie otherwise.
template <int Groups, Of of>
struct ByTensorCores {
    static constexpr int kDepths = kTileDepth, kAhead = Groups == 8 ? 2 : 4;
    struct Stage {
        Four weights;
        float values[Groups][2];
    };
    Segment<Groups> segment;
    int lane;

    PYREL_DEVICE int sample() const { return lane / 4; }
    PYREL_DEVICE void load_weights(Stage& stage, int first) const {
        stage.weights = segment.weights_of(lane / 4, first + lane % 4 * 2);
    }
    template <int Element>
    PYREL_DEVICE void load_values(Stage& stage, int first) const {
        PYREL_UNROLL
        for (int g = 0; g < Groups; ++g) {
            const float* const place = segment.place(g, first + lane % 4 * 2);
            PYREL_UNROLL
            for (int n = 0; n < 2; ++n) stage.values[g][n] = read(place + n * Element);
        }
    }
    PYREL_DEVICE void load_last_values(Stage& stage, int first) const {
        PYREL_UNROLL
        for (int g = 0; g < Groups; ++g) PYREL_UNROLL
        for (int n = 0; n < 2; ++n)
            stage.values[g][n] = segment.value_or_zero(g, first + lane % 4 * 2 + n);
    }
    PYREL_DEVICE void add(float (&sums)[Groups][4], const Stage& stage) const {
        uint32_t high[4], low[4];
        PYREL_UNROLL
        for (int n = 0; n < 4; ++n) {
            const Split both = split<of>(stage.weights.value[n]);
            high[n] = both.high;
            low[n] = both.low;
        }
        PYREL_UNROLL
        for (int g = 0; g < Groups; ++g) {
            const Split first = split<of>(stage.values[g][0]);
            const Split second = split<of>(stage.values[g][1]);
            const uint32_t top[2] = {first.high, second.high}, rest[2] = {first.low, second.low};
            if constexpr (of == Of::three_tf32) {
                multiply_tf32(sums[g], low, top);
                multiply_tf32(sums[g], high, rest);
            }
            multiply_tf32(sums[g], high, top);
        }
    }
    // Lane 8q + s gets of sample s the columns q, q + 4, q + 8 and q + 12, so that lanes write side
    // by side; the tensor cores leave sums of samples 2t and 2t + 1 in lane 4g + t.
    PYREL_DEVICE int column(int number) const { return lane / kGroup + 4 * number; }
    PYREL_DEVICE float sum(const float (&own)[4], int number) const {
        const int sample = lane % kGroup, from = column(number) % 8 * 4 + sample / 2;
        const float even = from_lane(number < 2 ? own[0] : own[2], from);
        const float odd = from_lane(number < 2 ? own[1] : own[3], from);
        return sample % 2 == 0 ? even : odd;
    }
};

template <int Groups>
using InThreeOfTf32 = ByTensorCores<Groups, Of::three_tf32>;
template <int Groups>
using InOneOfTf32 = ByTensorCores<Groups, Of::one_tf32>;
template <int Groups>
using InOneOfBf16 = ByTensorCores<Groups, Of::one_bf16>;

// Each stage is loaded some stages before it is added; behind the last whole one the last is loaded
// again. Of depths that fill no stage those that are missing count as 0.
template <int Element, typename Way, int Groups>
PYREL_DEVICE void add_by_stages(float (&sums)[Groups][4], const Way& way) {
    const int whole = way.segment.depth / Way::kDepths, rest = way.segment.depth % Way::kDepths;
    const auto load = [&](typename Way::Stage& stage, int number) {
        const int first = (number < whole ? number : whole - 1) * Way::kDepths;
        way.load_weights(stage, first);
        way.template load_values<Element>(stage, first);
    };
    // By numbers that the compiler knows: stages[n] shall be registers.
    typename Way::Stage stages[Way::kAhead];
    if (whole > 0) {
        PYREL_UNROLL
        for (int n = 0; n < Way::kAhead; ++n) load(stages[n], n);
        int first = 0;
        PYREL_ROLLED
        for (; first + Way::kAhead <= whole; first += Way::kAhead) {
            PYREL_UNROLL
            for (int n = 0; n < Way::kAhead; ++n) {
                way.add(sums, stages[n]);
                load(stages[n], first + n + Way::kAhead);
            }
        }
        PYREL_UNROLL
        for (int n = 0; n < Way::kAhead - 1; ++n)
            if (first + n < whole) way.add(sums, stages[n]);
    }
    if (rest > 0) {
        way.load_weights(stages[0], whole * Way::kDepths);
        way.load_last_values(stages[0], whole * Way::kDepths);
        way.add(sums, stages[0]);
    }
}

// Neighbouring elements lie at distances that the compiler knows, so that loads share an address.
template <typename Way, int Groups>
PYREL_DEVICE void add(float (&sums)[Groups][4], const Way& way) {
    if (way.segment.element == kGroup)
        add_by_stages<kGroup>(sums, way);
    else
        add_by_stages<1>(sums, way);
}

// What a warp computes: sixteen columns of a row, for some groups of samples.
struct Tile {
    int row, number, first_group;
};

template <typename Way, int Groups>
PYREL_DEVICE void store(const Walk& walk, const Operation& op, const Tile& tile, const Way& way,
                        const float (&sums)[Groups][4]) {
    const Epilogue epilogue = epilogue_of(walk, op, tile.row);
    PYREL_ROLLED
    for (int g = 0; g < Groups; ++g) {
        float own[4] = {};
        // Values are chosen, not places: a place that is not known is no register.
        PYREL_UNROLL
        for (int other = 0; other < Groups; ++other) PYREL_UNROLL
        for (int n = 0; n < 4; ++n) own[n] = other == g ? sums[other][n] : own[n];
        PYREL_ROLLED
        for (int n = 0; n < 4; ++n) {
            const float sum = way.sum(own, n);
            const int column = tile.number * kTileColumns + way.column(n);
            // −0 of products that were flushed becomes 0, as on the CPU.
            if (column < op.columns)
                finish(walk, epilogue, {tile.row, tile.first_group + g, way.lane % kGroup, column},
                       sum + 0.0f);
        }
    }
}

template <template <int> typename Way, int Groups>
PYREL_DEVICE void multiply_tile(const Walk& walk, const Operation& op, const Tile& tile) {
    Way<Groups> way{};
    way.lane = walk.team.thread % kWarp;
    Segment<Groups>& segment = way.segment;
    segment.stride = static_cast<uint32_t>(tiles_of(op) * kWarp * 4);
    segment.weights = walk.floats() + op.weights + int64_t{tile.number} * kWarp * 4;
    float sums[Groups][4] = {};
    for (int s = 0; s < op.listed; ++s) {
        const Listed listed = walk.listed()[op.first_listed + s];
        segment.point_to(row_of(walk, listed.operand, tile.row), tile.first_group, way.sample(),
                         walk.first_group);
        segment.depth = listed.depth;
        add(sums, way);
        segment.weights += (segment.depth + kTileDepth - 1) / kTileDepth * segment.stride;
    }
    store(walk, op, tile, way, sums);
}

// All tiles of a step, each of as many parts of the slab as its groups make. Of several products
// that read the same rows a warp takes the same tile, one after the other: the rows come from the
// second-level cache for the first one, and what the others add to is in the first-level cache.
template <template <int> typename Way, int Groups>
PYREL_DEVICE void multiply_tiles(const Walk& walk, const Operation& op, const Step& step) {
    const int tiles = tiles_of(op), parts = walk.groups / Groups;
    for (int item = walk.team.thread / kWarp; item < step.rows * tiles * parts;
         item += walk.team.threads / kWarp) {
        const int rest = item / parts;
        const Tile tile{step.first_row + rest / tiles, rest % tiles,
                        walk.first_group + item % parts * Groups};
        PYREL_ROLLED
        for (int n = 0; n < step.products; ++n)
            multiply_tile<Way, Groups>(walk, walk.operations()[step.operation + n], tile);
    }
}

// Weights are read once for all groups that a warp takes; but where there are fewer tiles than
// warps, several share the groups.
template <template <int> typename Way>
PYREL_DEVICE void multiply_by(const Walk& walk, const Operation& op, const Step& step) {
    const int warps = walk.team.threads / kWarp, all = walk.groups;
    int groups = all < kTileGroups ? all : kTileGroups;
    int items = step.rows * tiles_of(op) * (all / groups);
    for (; groups > 1 && items < warps; groups /= 2) items *= 2;
    switch (groups) {
        case kTileGroups:
            return multiply_tiles<Way, kTileGroups>(walk, op, step);
        case 4:
            return multiply_tiles<Way, 4>(walk, op, step);
        case 2:
            return multiply_tiles<Way, 2>(walk, op, step);
        default:
            return multiply_tiles<Way, 1>(walk, op, step);
    }
}

PYREL_DEVICE void multiply(const Walk& walk, const Operation& op, const Step& step) {
    if (op.in_bf16) return multiply_by<InOneOfBf16>(walk, op, step);
    switch (walk.launch.precision) {
        case Precision::float32:
            return multiply_by<InFloat32>(walk, op, step);
        case Precision::tf32x3:
            return multiply_by<InThreeOfTf32>(walk, op, step);
        case Precision::tf32:
            return multiply_by<InOneOfTf32>(walk, op, step);
    }
}

}  // namespace pyrel::cuda

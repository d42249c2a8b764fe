// SPDX-License-Identifier: Apache-2.0
// Products, and what happens to a result before it is stored. A part of walk.h.
#pragma once

#include "memory.h"
#include "one_lane.h"

// The CPU's elementwise functions, of one float a thread.
#define PYREL_INLINE PYREL_DEVICE
#include "../shared/functions.h"

namespace pyrel::cuda {

// v += bias[n]; v = scale(v); v += out[row, n]; v = post(v); as cpu/rows.h, in the same order.
PYREL_DEVICE void finish(const Walk& walk, const Operation& op, const Item& item, float v) {
    const auto operand = [&](const Operand& of) {
        return at(row_of(walk, of, item.row), item.group, item.sample, item.column);
    };
    const auto constant = [&](int32_t vector) { return constant_of(walk, vector, item.column); };
    const Row out = row_of(walk, op.out, item.row);
    if (op.bias >= 0) v = v + constant(op.bias);
    switch (op.scale) {
        case Scale::none:
            break;
        case Scale::vector:
            v = v * constant(op.scale_vector);
            break;
        case Scale::operand:
            v = v * operand(op.scale_operand);
            break;
        case Scale::operand_minus_vector:
            v = v * (operand(op.scale_operand) - constant(op.scale_vector));
            break;
    }
    if (op.accumulate) v = v + at(out, item.group, item.sample, item.column);
    switch (op.post) {
        case Post::none:
            break;
        case Post::relu:
            v = relu(v);
            break;
        case Post::divide: {
            const float d = operand(op.post_operand);
            v = safe_divide(v, op.post_vector >= 0 ? d + constant(op.post_vector) : d);
            break;
        }
        case Post::mask:
            v = where_positive(operand(op.post_operand), v);
            break;
        case Post::guided:
            v = where_positive(operand(op.post_operand), relu(v));
            break;
        case Post::square:
            v = v * v;
            break;
        case Post::multiply:
            v = v * operand(op.post_operand);
            break;
        case Post::divide_operand:
            v = safe_divide(operand(op.post_operand), v);
            break;
        case Post::divide_stabilised: {
            float d = operand(op.post_operand);
            if (op.post_vector >= 0) d = d + constant(op.post_vector);
            const float negative = where_positive(0.0f - d, op.epsilon);
            v = v / (d + (op.epsilon - negative - negative));
            break;
        }
    }
    put(out, item.group, item.sample, item.column, v);
}

// Which of a tile's sums a lane holds; see multiply_tf32.
struct Lane {
    int outer, inner;  // lane / 4 and lane % 4

    PYREL_DEVICE int column(int sum) const { return outer + (sum < 2 ? 0 : 8); }
    PYREL_DEVICE int sample(int sum) const { return 2 * inner + sum % 2; }
};

// The weights of eight depths and sixteen columns lie as the lanes of a tensor core take them: lane
// by lane, four each.
PYREL_DEVICE const float* weights_of(const Walk& walk, const Operation& op, int tiles, int block,
                                     int tile) {
    return walk.floats + op.weights + (int64_t{block} * tiles + tile) * kWarp * 4;
}

// Adds up to eight depths of a segment in float32, one product after the other in the order of the
// depths, as every engine does: so the bits are the CPU's.
template <int Groups>
PYREL_DEVICE void add_float32(float (&sums)[Groups][4], const Row& row, int first, int depths,
                              const float* weights, const Lane& lane) {
    for (int k = 0; k < depths; ++k) {
        const Four w = four_at(weights + (lane.outer * 4 + k % 4) * 4);
        // Values are chosen, not places: a place that is not known is no register.
        const float left[2] = {k < 4 ? w.value[0] : w.value[2], k < 4 ? w.value[1] : w.value[3]};
        PYREL_UNROLL
        for (int g = 0; g < Groups; ++g) PYREL_UNROLL
        for (int n = 0; n < 4; ++n)
            sums[g][n] = fused(at(row, g, lane.sample(n), first + k), left[n / 2], sums[g][n]);
    }
}

// The same by tensor cores. A number is the sum of two of eleven significant bits each, the second
// of what the first has lost; the product of the second ones is below float32's rounding. Numbers
// that round to infinity, within 2⁻¹² of the largest float32, give NaN.
template <int Groups>
PYREL_DEVICE void add_tf32(float (&sums)[Groups][4], const Row& row, int first, int depths,
                           const float* weights, const Lane& lane) {
    const Four w = four_at(weights + (lane.outer * 4 + lane.inner) * 4);
    uint32_t high[4], low[4];
    PYREL_UNROLL
    for (int n = 0; n < 4; ++n) {
        high[n] = to_tf32(w.value[n]);
        low[n] = to_tf32(w.value[n] - float_of(high[n]));
    }
    PYREL_UNROLL
    for (int g = 0; g < Groups; ++g) {
        uint32_t top[2], rest[2];
        PYREL_UNROLL
        for (int n = 0; n < 2; ++n) {
            const int k = lane.inner + 4 * n;
            const float x = k < depths ? at(row, g, lane.outer, first + k) : 0.0f;
            top[n] = to_tf32(x);
            rest[n] = to_tf32(x - float_of(top[n]));
        }
        multiply_tf32(sums[g], low, top);
        multiply_tf32(sums[g], high, rest);
        multiply_tf32(sums[g], high, top);
    }
}

PYREL_DEVICE int tiles_of(const Operation& op) {
    return (op.columns + kTileColumns - 1) / kTileColumns;
}

// Sixteen columns of one row, for so many groups of samples: all of a slab.
template <int Groups>
PYREL_DEVICE void multiply_tile(const Walk& walk, const Operation& op, int row, int tile) {
    const int number = thread() % kWarp, tiles = tiles_of(op);
    const Lane lane{number / 4, number % 4};
    float sums[Groups][4] = {};
    int block = 0;
    for (int s = 0; s < op.listed; ++s) {
        const Listed segment = walk.listed[op.first_listed + s];
        const Row from = row_of(walk, segment.operand, row);
        for (int first = 0; first < segment.depth; first += kTileDepth, ++block) {
            const int left = segment.depth - first, depths = left < kTileDepth ? left : kTileDepth;
            const float* const weights = weights_of(walk, op, tiles, block, tile);
            if (walk.launch.precision == Precision::tf32x3)
                add_tf32<Groups>(sums, from, first, depths, weights, lane);
            else
                add_float32<Groups>(sums, from, first, depths, weights, lane);
        }
    }
    PYREL_UNROLL
    for (int g = 0; g < Groups; ++g) PYREL_UNROLL
    for (int n = 0; n < 4; ++n) {
        const int column = tile * kTileColumns + lane.column(n);
        // −0 of products that were flushed becomes 0, as on the CPU.
        if (column < op.columns)
            finish(walk, op, {row, g, lane.sample(n), column}, sums[g][n] + 0.0f);
    }
}

// A warp takes a tile of columns of one row for all groups of samples, so that weights are read
// once for these.
PYREL_DEVICE void multiply(const Walk& walk, const Operation& op, const Step& step) {
    const int tiles = tiles_of(op);
    for (int item = thread() / kWarp; item < step.rows * tiles; item += threads() / kWarp) {
        const int row = step.first_row + item / tiles, tile = item % tiles;
        switch (walk.launch.groups) {
            case 8:
                multiply_tile<8>(walk, op, row, tile);
                break;
            case 4:
                multiply_tile<4>(walk, op, row, tile);
                break;
            case 2:
                multiply_tile<2>(walk, op, row, tile);
                break;
            default:
                multiply_tile<1>(walk, op, row, tile);
        }
    }
}

// A product of two matrices of a sample: an element's products are added in the order of the depth.
PYREL_DEVICE void multiply_values(const Walk& walk, const Operation& op, const Step& step) {
    for_items(walk, step, int64_t{op.rows} * op.columns, [&](const Item& item) {
        const Row left = row_of(walk, op.source, item.row);
        const Row right = row_of(walk, op.value, item.row);
        const Row out = row_of(walk, op.out, item.row);
        const int64_t i = item.column / op.columns, j = item.column % op.columns;
        const int64_t depth = op.depth;
        float sum = op.accumulate ? at(out, item.group, item.sample, item.column) : 0.0f;
        for (int64_t k = 0; k < depth; ++k) {
            const int64_t l = op.left_transposed ? k * op.rows + i : i * depth + k;
            const int64_t r = op.right_transposed ? j * depth + k : k * op.columns + j;
            sum = fused(at(left, item.group, item.sample, l), at(right, item.group, item.sample, r),
                        sum);
        }
        put(out, item.group, item.sample, item.column, sum);
    });
}

}  // namespace pyrel::cuda

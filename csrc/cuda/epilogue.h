// SPDX-License-Identifier: Apache-2.0
// What happens to a result before it is stored. A part of walk.h.
#pragma once

#include "memory.h"
#include "one_lane.h"

// The CPU's elementwise functions, of one float a thread.
#define PYREL_INLINE PYREL_DEVICE
#include "../shared/functions.h"

namespace pyrel::cuda {

// An operation's epilogue, and the operands that it has in a row.
struct Epilogue {
    const Operation& op;
    Row out, scale, post;
};

PYREL_DEVICE Epilogue epilogue_of(const Walk& walk, const Operation& op, int row) {
    const auto operand = [&](const Operand& of) {
        return of.memory == Memory::none ? Row{} : row_of(walk, of, row);
    };
    return {op, row_of(walk, op.out, row), operand(op.scale_operand), operand(op.post_operand)};
}

// v += bias[n]; v = scale(v); v += out[row, n]; v = post(v); as cpu/rows.h, in the same order.
PYREL_DEVICE void finish(const Walk& walk, const Epilogue& epilogue, const Item& item, float v) {
    const Operation& op = epilogue.op;
    const auto operand = [&](const Row& of) {
        return at(of, item.group, item.sample, item.column);
    };
    const auto constant = [&](int32_t vector) { return constant_of(walk, vector, item.column); };
    const Row& out = epilogue.out;
    if (op.bias >= 0) v = v + constant(op.bias);
    switch (op.scale) {
        case Scale::none:
            break;
        case Scale::vector:
            v = v * constant(op.scale_vector);
            break;
        case Scale::operand:
            v = v * operand(epilogue.scale);
            break;
        case Scale::operand_minus_vector:
            v = v * (operand(epilogue.scale) - constant(op.scale_vector));
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
            const float d = operand(epilogue.post);
            v = safe_divide(v, op.post_vector >= 0 ? d + constant(op.post_vector) : d);
            break;
        }
        case Post::mask:
            v = where_positive(operand(epilogue.post), v);
            break;
        case Post::guided:
            v = where_positive(operand(epilogue.post), relu(v));
            break;
        case Post::square:
            v = v * v;
            break;
        case Post::multiply:
            v = v * operand(epilogue.post);
            break;
        case Post::divide_operand:
            v = safe_divide(operand(epilogue.post), v);
            break;
        case Post::divide_stabilised: {
            float d = operand(epilogue.post);
            if (op.post_vector >= 0) d = d + constant(op.post_vector);
            const float negative = where_positive(0.0f - d, op.epsilon);
            v = v / (d + (op.epsilon - negative - negative));
            break;
        }
    }
    put(out, item.group, item.sample, item.column, v);
}

}  // namespace pyrel::cuda

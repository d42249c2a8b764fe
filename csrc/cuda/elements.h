// SPDX-License-Identifier: Apache-2.0
// What is moved, and what is computed element by element. A part of walk.h.
#pragma once

#include "epilogue.h"

namespace pyrel::cuda {

// f(x), or its derivative, by a function's number.
template <bool Slope, int Number = 0>
PYREL_DEVICE float by_function(Function function, float x, float parameter) {
    constexpr auto here = static_cast<Function>(Number);
    if (function == here) {
        if constexpr (Slope)
            return slope<here>(x, parameter);
        else
            return apply<here>(x, parameter);
    }
    if constexpr (here != Function::step)
        return by_function<Slope, Number + 1>(function, x, parameter);
    return 0.0f;
}

PYREL_DEVICE void map(const Walk& walk, const Operation& op, const Step& step) {
    const bool reads = op.source.memory != Memory::none;
    for_items(walk, step, op.columns, [&](const Item& item) {
        const float v =
            reads ? at(row_of(walk, op.source, item.row), item.group, item.sample, item.column)
                  : 0.0f;
        finish(walk, epilogue_of(walk, op, item.row), item, v);
    });
}

PYREL_DEVICE void activate(const Walk& walk, const Operation& op, const Step& step) {
    for_items(walk, step, op.columns, [&](const Item& item) {
        const float x = at(row_of(walk, op.source, item.row), item.group, item.sample, item.column);
        put(row_of(walk, op.out, item.row), item.group, item.sample, item.column,
            by_function<false>(op.function, x, op.parameter));
    });
}

PYREL_DEVICE void slopes(const Walk& walk, const Operation& op, const Step& step) {
    for_items(walk, step, op.columns, [&](const Item& item) {
        const Row out = row_of(walk, op.out, item.row);
        const float x = at(row_of(walk, op.value, item.row), item.group, item.sample, item.column);
        float v = at(row_of(walk, op.source, item.row), item.group, item.sample, item.column) *
                  by_function<true>(op.function, x, op.parameter);
        if (op.accumulate) v = v + at(out, item.group, item.sample, item.column);
        put(out, item.group, item.sample, item.column, v);
    });
}

PYREL_DEVICE void gather(const Walk& walk, const Operation& op, const Step& step) {
    for_items(walk, step, op.indices, [&](const Item& item) {
        const int32_t from = constant_at(walk.index() + op.first_index + item.column);
        const float v = at(row_of(walk, op.source, item.row), item.group, item.sample, from);
        put(row_of(walk, op.out, item.row), item.group, item.sample, item.column, v);
    });
}

// Where several elements are added to one, a thread adds all of a row, in their order.
PYREL_DEVICE void scatter(const Walk& walk, const Operation& op, const Step& step) {
    const auto add = [&](const Item& item, int i) {
        const Row out = row_of(walk, op.out, item.row);
        const int32_t to = constant_at(walk.index() + op.first_index + i);
        const float v = at(row_of(walk, op.source, item.row), item.group, item.sample, i);
        put(out, item.group, item.sample, to, at(out, item.group, item.sample, to) + v);
    };
    if (op.repeated_index)
        for_items(walk, step, 1, [&](const Item& item) {
            for (int i = 0; i < op.indices; ++i) add(item, i);
        });
    else
        for_items(walk, step, op.indices, [&](const Item& item) { add(item, item.column); });
}

PYREL_DEVICE void reduce(const Walk& walk, const Operation& op, const Step& step) {
    for_items(walk, step, op.columns, [&](const Item& item) {
        const Row source = row_of(walk, op.source, item.row), out = row_of(walk, op.out, item.row);
        float sum = op.accumulate ? at(out, item.group, item.sample, item.column) : 0.0f;
        for (int64_t i = 0; i < op.count; ++i)
            sum = sum + at(source, item.group, item.sample, i * op.stride + item.column);
        put(out, item.group, item.sample, item.column, sum);
    });
}

// One element of one of a pool's values.
PYREL_DEVICE float value_of(const Walk& walk, const Operation& op, const Item& item, int i) {
    const Operand operand = walk.listed()[op.first_listed + i].operand;
    return at(row_of(walk, operand, item.row), item.group, item.sample, item.column);
}

PYREL_DEVICE float largest_of(const Walk& walk, const Operation& op, const Item& item) {
    float most = value_of(walk, op, item, 0);
    for (int i = 1; i < op.listed; ++i) {
        const float v = value_of(walk, op, item, i);
        most = is_nan(v) ? v : (most < v ? v : most);
    }
    return most;
}

PYREL_DEVICE void max_pool(const Walk& walk, const Operation& op, const Step& step) {
    for_items(walk, step, op.columns, [&](const Item& item) {
        put(row_of(walk, op.out, item.row), item.group, item.sample, item.column,
            largest_of(walk, op, item));
    });
}

// Relevance goes to the first of the largest values, or is shared out by what they are above 0.
PYREL_DEVICE void pool_route(const Walk& walk, const Operation& op, const Step& step) {
    for_items(walk, step, op.columns, [&](const Item& item) {
        float left = at(row_of(walk, op.source, item.row), item.group, item.sample, item.column);
        float most = 0.0f, ratio = 0.0f;
        if (op.shares) {
            float sum = 0.0f;
            for (int i = 0; i < op.listed; ++i) sum = sum + relu(value_of(walk, op, item, i));
            ratio = safe_divide(left, sum);
        } else {
            most = largest_of(walk, op, item);
        }
        for (int i = 0; i < op.listed; ++i) {
            const float value = value_of(walk, op, item, i);
            float v = relu(value) * ratio;
            if (!op.shares) {
                const bool smaller = value < most;
                v = smaller ? 0.0f : left;
                left = smaller ? left : 0.0f;
            }
            const Operand to = walk.listed()[op.first_listed_out + i].operand;
            const Row out = row_of(walk, to, item.row);
            if (op.accumulate) v = v + at(out, item.group, item.sample, item.column);
            put(out, item.group, item.sample, item.column, v);
        }
    });
}

PYREL_DEVICE void embed(const Walk& walk, const Operation& op, const Step& step) {
    const float last = static_cast<float>(op.table_rows - 1);
    for_items(walk, step, op.columns, [&](const Item& item) {
        const float id = at(row_of(walk, op.source, item.row), item.group, item.sample, 0);
        float v = id;
        if (!is_nan(id)) {
            const float within = id < 0.0f ? 0.0f : (last < id ? last : id);
            v = constant_of(walk, op.table,
                            static_cast<int64_t>(within) * op.columns + item.column);
        }
        put(row_of(walk, op.out, item.row), item.group, item.sample, item.column, v);
    });
}

// A product of two matrices of a sample: an element's products are added in the order of the depth.
PYREL_DEVICE void multiply_values(const Walk& walk, const Operation& op, const Step& step) {
    for_items(walk, step, op.rows * op.columns, [&](const Item& item) {
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

// SPDX-License-Identifier: Apache-2.0
// Sums of rows, and values handed back to all of them, in either layout. A part of kernels.cpp.
#pragma once

#include "rows.h"

namespace pyrel {
namespace {

// Σ of one vector of all rows, by kParts partial sums: one would wait for each addition's latency.
inline Vector sum_of_rows(const ReduceTask& task, const float* first, int64_t left) {
    const bool partial = left < kLanes;
    const auto at = [&](int64_t i) {
        return load(first + (task.places[i] << task.source.shift), left, partial);
    };
    Vector parts[kParts];
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) parts[p] = zero();
    int64_t i = 0;
    for (; i + kParts <= task.count; i += kParts)
#pragma GCC unroll 8
        for (int p = 0; p < kParts; ++p) parts[p] = parts[p] + at(i + p);
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p)
        if (i + p < task.count) parts[p] = parts[p] + at(i + p);
    return sum_of(parts);
}

void reduce(const ReduceTask& task) {
    const int64_t rows = task.samples * task.steps;
    const Vector factor = broadcast(&task.factor);
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next()) {
        const float* source = cursor.row<const float*>(task.source);
        float* out = cursor.row<float*>(task.out);
        for (int64_t column = 0; column < task.columns; column += kLanes) {
            const int64_t count = valid_lanes(task.columns, column);
            const Vector v = factor * sum_of_rows(task, source + column, count);
            if (count < kLanes)
                store(out + column, v, count);
            else
                store(out + column, v);
        }
    }
}

void spread(const ReduceTask& task) {
    const int64_t rows = task.samples * task.steps;
    const Vector factor = broadcast(&task.factor);
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next()) {
        const float* source = cursor.row<const float*>(task.source);
        float* const first = cursor.row<float*>(task.out);
        for (int64_t i = 0; i < task.count; ++i) {
            float* const out = first + (task.places[i] << task.out.shift);
            for (int64_t column = 0; column < task.columns; column += kLanes) {
                const int64_t count = valid_lanes(task.columns, column);
                const bool partial = count < kLanes;
                Vector v = factor * load(source + column, count, partial);
                if (task.accumulate) v = v + load(out + column, count, partial);
                if (partial)
                    store(out + column, v, count);
                else
                    store(out + column, v);
            }
        }
    }
}

}  // namespace
}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// Maxima of windows, and relevance routed to them. A part of kernels.cpp.
#pragma once

#include "rows.h"

namespace pyrel {
namespace {

// The rows that a window's elements lie in. With a Count above 0 that many, found once for a row;
// else as many as the task says.
template <int Count>
class Window {
  public:
    Window(const PoolTask& task, const RowCursor& cursor) : task_(task), cursor_(cursor) {
        for (int i = 0; i < Count; ++i) {
            values_[i] = cursor.row<const float*>(task.values[i]);
            if (task.outs) outs_[i] = cursor.row<float*>(task.outs[i]);
        }
    }
    int64_t count() const { return Count ? Count : task_.count; }
    const float* value(int64_t i) const {
        return Count ? values_[i] : cursor_.row<const float*>(task_.values[i]);
    }
    float* out(int64_t i) const { return Count ? outs_[i] : cursor_.row<float*>(task_.outs[i]); }

  private:
    const PoolTask& task_;
    const RowCursor& cursor_;
    const float* values_[Count ? Count : 1];
    float* outs_[Count ? Count : 1];
};

// Each row's window, and what its one row for all elements is, in vectors:
// take(window, row, column, how many lanes).
template <int Count, typename Take>
inline void for_windows(const PoolTask& task, Take&& take) {
    const int64_t rows = task.samples * task.steps;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next()) {
        const Window<Count> window(task, cursor);
        float* const out = cursor.row<float*>(task.out);
        for (int64_t column = 0; column < task.columns; column += kLanes)
            take(window, out + column, column, valid_lanes(task.columns, column));
    }
}

template <int Count>
inline Vector largest(const Window<Count>& window, int64_t column, int64_t count) {
    const bool partial = count < kLanes;
    Vector most = load(window.value(0) + column, count, partial);
    for (int64_t i = 1; i < window.count(); ++i) {
        const Vector v = load(window.value(i) + column, count, partial);
        most = select(is_nan(v), v, select(less(most, v), v, most));
    }
    return most;
}

template <int Count>
void max_pool_of(const PoolTask& task) {
    for_windows<Count>(task, [&](const auto& window, float* out, int64_t column, int64_t count) {
        const Vector most = largest(window, column, count);
        if (count == kLanes)
            store(out, most);
        else
            store(out, most, count);
    });
}

// Hands each value what `share` says, given the value.
template <int Count, typename Share>
inline void hand_out(const Window<Count>& window, bool accumulate, int64_t column, int64_t count,
                     Share&& share) {
    const bool partial = count < kLanes;
    for (int64_t i = 0; i < window.count(); ++i) {
        float* out = window.out(i) + column;
        Vector v = share(load(window.value(i) + column, count, partial));
        if (accumulate) v = v + load(out, count, partial);
        if (partial)
            store(out, v, count);
        else
            store(out, v);
    }
}

template <int Count>
void route_to_largest(const PoolTask& task) {
    for_windows<Count>(
        task, [&](const auto& window, const float* relevance, int64_t column, int64_t count) {
            const Vector most = largest(window, column, count);
            Vector left = load(relevance, count, count < kLanes);
            hand_out(window, task.accumulate, column, count, [&](Vector value) {
                const Mask smaller = less(value, most);
                const Vector v = select(smaller, zero(), left);
                left = select(smaller, left, zero());
                return v;
            });
        });
}

template <int Count>
void route_by_share(const PoolTask& task) {
    for_windows<Count>(
        task, [&](const auto& window, const float* relevance, int64_t column, int64_t count) {
            const bool partial = count < kLanes;
            Vector sum = zero();
            for (int64_t i = 0; i < window.count(); ++i)
                sum = sum + relu(load(window.value(i) + column, count, partial));
            const Vector ratio = safe_divide(load(relevance, count, partial), sum);
            hand_out(window, task.accumulate, column, count,
                     [&](Vector value) { return relu(value) * ratio; });
        });
}

constexpr int kCommonWindow = 4;  // 2 × 2

void max_pool(const PoolTask& task) {
    if (task.count == kCommonWindow)
        max_pool_of<kCommonWindow>(task);
    else
        max_pool_of<0>(task);
}

template <int Count>
void route(const PoolTask& task) {
    if (task.shares)
        route_by_share<Count>(task);
    else
        route_to_largest<Count>(task);
}

void pool_route(const PoolTask& task) {
    if (task.count == kCommonWindow)
        route<kCommonWindow>(task);
    else
        route<0>(task);
}

}  // namespace
}  // namespace pyrel

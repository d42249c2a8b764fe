// SPDX-License-Identifier: Apache-2.0
// Sums over rows: what is absorbed, and totals. A part of kernels.cpp.
#pragma once

#include "rows.h"

namespace pyrel {
namespace {

// Sums over the columns of a row, in double precision and by eight partial sums, whatever the set's
// width: term(column, lanes there are, terms) makes of a vector the terms of each sum.
template <int Sums, typename Term>
inline void sum_over(int64_t columns, double (&sums)[Sums], Term&& term) {
    constexpr int kStep = kLanes < kParts ? kParts : kLanes;
    WideDoubles parts[Sums][kParts / kWide] = {};
    Doubles terms[Sums];
    const auto add = [&](int first) {  // lanes of the terms, the first one of column `first`
        for (int n = 0; n < Sums; ++n)
            for (int h = 0; h < 2; ++h)
                parts[n][(first / kWide + h) % (kParts / kWide)] += terms[n].part[h];
    };
    int64_t column = 0;
    for (; column + kStep <= columns; column += kStep)
        for (int first = 0; first < kStep; first += kLanes) {
            term(column + first, int64_t{kLanes}, terms);
            add(first);
        }
    for (int first = 0; column < columns; column += kLanes, first += kLanes) {
        term(column, valid_lanes(columns, column), terms);
        add(first);
    }
    for (int n = 0; n < Sums; ++n) {
        double all[kParts];
        __builtin_memcpy(all, parts[n], sizeof all);
        sums[n] = sum_of(all);
    }
}

// Adds the part of a row that is absorbed; lanes beyond the end are zero.
void absorb_row(const AbsorbTask& task, const float* source, const float* operand, double& absorbed,
                double& largest) {
    const float* const vector = task.vector;
    const auto value = [](const float* p, int64_t column, int64_t count) {
        return load(p + column, count, count < kLanes);
    };
    const auto denominator = [&](int64_t column, int64_t count) {
        const Vector d = value(operand, column, count);
        return vector ? d + value(vector, column, count) : d;
    };
    if (task.share == Share::stabiliser) {
        const Vector epsilon = broadcast(&task.epsilon);
        double sums[2];
        sum_over(task.columns, sums, [&](int64_t column, int64_t count, auto& terms) {
            const Vector d = denominator(column, count);
            const Vector share = absorbed_of(Share::stabiliser, value(source, column, count), d);
            widen(share, terms[0]);
            widen(divided_by_stabilised(share, d, epsilon), terms[1]);
        });
        absorbed += double{task.epsilon} * sums[0];
        raise_to(largest, sums[1]);
        return;
    }
    double sum[1];
    if (task.share == Share::weighted)
        sum_over(task.columns, sum, [&](int64_t column, int64_t count, auto& terms) {
            Doubles weights;
            widen(value(vector, column, count), weights);
            widen(value(source, column, count), terms[0]);
            for (int h = 0; h < 2; ++h) terms[0].part[h] *= weights.part[h];
        });
    else
        sum_over(task.columns, sum, [&](int64_t column, int64_t count, auto& terms) {
            const Vector d = denominator(column, count);
            widen(absorbed_of(task.share, value(source, column, count), d), terms[0]);
        });
    absorbed += sum[0];
}

void absorb(const AbsorbTask& task) {
    const int64_t rows = task.samples * task.steps;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next()) {
        const float* operand =
            task.operand.offsets ? cursor.row<const float*>(task.operand) : nullptr;
        absorb_row(task, cursor.row<const float*>(task.source), operand,
                   task.absorbed[cursor.sample], task.largest[cursor.sample]);
    }
}

Totals totals(const float* x, int64_t size) {
    double sums[2];
    sum_over(size, sums, [&](int64_t column, int64_t count, auto& terms) {
        const Vector v = load(x + column, count, count < kLanes);
        widen(v, terms[0]);
        widen(absolute(v), terms[1]);
    });
    return {sums[0], sums[1]};
}

}  // namespace
}  // namespace pyrel

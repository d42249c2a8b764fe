// SPDX-License-Identifier: Apache-2.0
#include "ends.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "../shared/ends.h"

namespace pyrel {
namespace {

// Written without a branch in the loop, so that the compiler vectorises it. Comparisons with
// NaN are false.
bool finite(const float* x, int64_t size) {
    int good = 1;
    for (int64_t i = 0; i < size; ++i) good &= std::fabs(x[i]) <= FLT_MAX;
    return good;
}

}  // namespace

Status check_input(const Slab& slab) {
    const Batch& batch = slab.batch();
    const int64_t size = slab.code().input_size;
    const bool bounded = batch.low != nullptr;
    if (!bounded && !batch.check_finite) return {};
    for (int64_t s = 0; s < slab.size(); ++s) {
        const float* x = batch.x + (slab.first() + s) * size;
        if (bounded ? slab.kernels().inside(x, batch.low, batch.high, size) : finite(x, size))
            continue;
        for (int64_t i = 0; i < size; ++i) {
            if (batch.check_finite && !std::isfinite(x[i]))
                return {Outcome::input_not_finite, slab.first() + s, i};
            if (bounded && (x[i] < batch.low[i] || x[i] > batch.high[i]))
                return {Outcome::input_out_of_bounds, slab.first() + s, i};
        }
    }
    return {};
}

Status finish(const Slab& slab) {
    const Batch& batch = slab.batch();
    const double lost = slab.code().multiplies_bf16 ? kLostInBf16 : kLost;
    const int64_t size = slab.code().input_size;
    for (int64_t s = 0; s < slab.size(); ++s) {
        const int64_t sample = slab.first() + s, result = slab.result(s);
        Ends ends{slab.put_in()[s], slab.absorbed()[s], slab.largest()[s]};
        batch.absorbed[result] = static_cast<float>(ends.absorbed);
        if (batch.relevance) {
            const Totals totals = slab.kernels().totals(batch.relevance + result * size, size);
            ends.sum = totals.sum;
            ends.passed = totals.size;
        }
        batch.amplification[result] = amplification(ends);
        if (!batch.relevance) continue;
        const bool conserves = slab.code().conserves;
        batch.conservation[result] = conserves ? static_cast<float>(ends.sum - ends.put_in)
                                               : std::numeric_limits<float>::quiet_NaN();
        if (!batch.check_finite) continue;
        const Outcome outcome = outcome_of(ends, conserves, lost);
        if (outcome == Outcome::relevance_lost) return {outcome, sample, slab.way()};
        if (outcome != Outcome::done) return {outcome, sample, -1};
    }
    return {};
}

}  // namespace pyrel

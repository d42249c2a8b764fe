// SPDX-License-Identifier: Apache-2.0
#include "ends.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

namespace pyrel {
namespace {

// What rounding may make of Σ relevance + absorbed, of the most relevance that passed: thousands of
// errors of float32 in a row, and far more than a few layers of bfloat16. Numbers near the ends of
// the range of float32 lose more: R / d is 0 where d is infinite, or 1e38 times as large.
constexpr double kLost = 1e-3, kLostInBf16 = 0.5;

// Written without a branch in the loop, so that the compiler vectorises it. Comparisons with
// NaN are false.
bool finite(const float* x, int64_t size) {
    int good = 1;
    for (int64_t i = 0; i < size; ++i) good &= std::fabs(x[i]) <= FLT_MAX;
    return good;
}

// The largest of Σ|relevance| put in, on the way and at the end, over the first.
float amplification(double put_in, double on_the_way, double end) {
    const double start = std::fabs(put_in);
    if (start == 0.0) return 0.0f;
    if (std::isnan(on_the_way) || std::isnan(end)) return std::numeric_limits<float>::quiet_NaN();
    return static_cast<float>(std::max({start, on_the_way, end}) / start);
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
        const double put_in = slab.put_in()[s];
        const double largest = slab.largest()[s];
        batch.absorbed[result] = static_cast<float>(slab.absorbed()[s]);
        batch.amplification[result] = amplification(put_in, largest, 0.0);
        if (!batch.relevance) continue;
        const float* relevance = batch.relevance + result * size;
        const auto [sum, end] = slab.kernels().totals(relevance, size);
        batch.conservation[result] = slab.code().conserves
                                         ? static_cast<float>(sum - put_in)
                                         : std::numeric_limits<float>::quiet_NaN();
        batch.amplification[result] = amplification(put_in, largest, end);
        if (!batch.check_finite) continue;
        if (!std::isfinite(sum) || (put_in != 0.0 && !std::isfinite(largest)))
            return {Outcome::relevance_not_finite, sample, -1};
        const double gap = sum + slab.absorbed()[s] - put_in;
        const double passed = std::max({std::fabs(put_in), largest, end});
        if (slab.code().conserves && !(std::fabs(gap) <= lost * passed))
            return {Outcome::relevance_lost, sample, slab.way()};
    }
    return {};
}

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// Layer normalisation, forward and back, in double precision.
#include <cmath>

#include "execute.h"

namespace pyrel {
namespace {

// Σ term(i) for i below `size`, in double precision and by eight partial sums: one would wait
// for each addition's latency.
template <typename Term>
double sum_over(int64_t size, Term&& term) {
    double parts[kParts] = {};
    int64_t i = 0;
    for (; i + kParts <= size; i += kParts)
        for (int p = 0; p < kParts; ++p) parts[p] += term(i + p);
    for (int p = 0; i < size; ++i, ++p) parts[p] += term(i);
    double sum = 0.0;
    for (const double part : parts) sum += part;
    return sum;
}

// Mean and 1/σ of a row.
struct Moments {
    double mean, scale;
};

Moments moments(const float* x, int64_t columns, float epsilon) {
    const auto size = static_cast<double>(columns);
    const double mean = sum_over(columns, [&](int64_t n) { return double{x[n]}; }) / size;
    const double variance = sum_over(columns,
                                     [&](int64_t n) {
                                         const double centred = double{x[n]} - mean;
                                         return centred * centred;
                                     }) /
                            size;
    return {mean, 1.0 / std::sqrt(variance + double{epsilon})};
}

}  // namespace

void execute(const Normalise& normalise, Slab& slab) {
    const View source = slab.view(normalise.source), out = slab.view(normalise.out);
    const int64_t columns = normalise.columns;
    slab.for_samples(source, out, columns, [&](const float* from, float* to, int64_t, int64_t) {
        const Moments m = moments(from, columns, normalise.epsilon);
        for (int64_t n = 0; n < columns; ++n)
            to[n] = static_cast<float>((double{from[n]} - m.mean) * m.scale);
    });
}

void execute(const NormaliseBack& back, Slab& slab) {
    const View source = slab.view(back.source), value = slab.view(back.value),
               out = slab.view(back.out);
    const auto size = static_cast<double>(back.columns);
    slab.for_samples(
        source, out, back.columns, [&](const float* g, float* to, int64_t s, int64_t t) {
            const float* x = slab.one_sample(value, s, t, back.columns, 2);
            const Moments m = moments(x, back.columns, back.epsilon);
            const auto normal = [&](int64_t n) { return (double{x[n]} - m.mean) * m.scale; };
            const double mean =
                sum_over(back.columns, [&](int64_t n) { return double{g[n]}; }) / size;
            const double along = back.detached ? 0.0 : sum_over(back.columns, [&](int64_t n) {
                                                           return double{g[n]} * normal(n);
                                                       }) / size;
            for (int64_t n = 0; n < back.columns; ++n) {
                const double centred = double{g[n]} - mean;
                const double v = back.detached ? double{x[n]} * centred * m.scale
                                               : (centred - normal(n) * along) * m.scale;
                to[n] = static_cast<float>(back.accumulate ? v + double{to[n]} : v);
            }
        });
}

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// What is summed over a row in double precision, and what begins and ends a sample. A part of
// walk.h. Eight neighbouring threads take a sample, each the elements whose numbers have the same
// remainder by eight: the eight parts of which the CPU's sums are, too (program/limits.h).
#pragma once

#include "../program/limits.h"
#include "elements.h"
#include "products.h"

// In the device's words, which elements.h has.
#include "../shared/ends.h"

namespace pyrel::cuda {

// The sample of a slab that a thread works on, and its part of the sums. A sample is always the
// same threads', so what they keep of it needs no barrier.
struct Part {
    int sample;  // of the slab
    int number;
    bool there;  // the sample is not missing

    PYREL_DEVICE int group() const { return sample / kGroup; }
    PYREL_DEVICE int within() const { return sample % kGroup; }
    PYREL_DEVICE bool first() const { return number == 0; }
};

// Each sample that the thread takes part in: take(part). All threads of a warp come equally often.
template <typename Take>
PYREL_DEVICE void for_parts(const Walk& walk, Take&& take) {
    const int at_once = walk.team.threads / kParts;
    const int first = walk.first_group * kGroup, end = first + walk.groups * kGroup;
    for (int begin = first; begin < end; begin += at_once) {
        const int sample = begin + walk.team.thread / kParts;
        const bool there = sample < end && sample < walk.samples;
        take(Part{there ? sample : first, walk.team.thread % kParts, there});
    }
}

// Σ term(i) for i below `size`, the parts added pair by pair; each of the threads gets it.
template <typename Term>
PYREL_DEVICE double sum_over(const Part& part, int64_t size, Term&& term) {
    double sum = 0.0;
    if (part.there)
        for (int64_t i = part.number; i < size; i += kParts) sum += term(i);
    for (int mask = kParts / 2; mask > 0; mask /= 2) sum += exchanged(sum, mask);
    return sum;
}

// The same, the parts added one after the other, as the CPU does for normalisation.
template <typename Term>
PYREL_DEVICE double sum_in_order(const Part& part, int64_t size, Term&& term) {
    double own = 0.0;
    if (part.there)
        for (int64_t i = part.number; i < size; i += kParts) own += term(i);
    double sum = 0.0 + own;  // of the first thread; the others get it from there
    for (int number = 1; number < kParts; ++number) sum += exchanged(own, number);
    sum = part.first() ? sum : 0.0;
    for (int mask = kParts / 2; mask > 0; mask /= 2) sum += exchanged(sum, mask);
    return sum;
}

PYREL_DEVICE void raise_to(double* largest, double sum) {
    const double before = read(largest);
    if (sum > before || sum != sum) write(largest, sum);
}

PYREL_DEVICE void absorb(const Walk& walk, const Operation& op, const Step& step) {
    for_parts(walk, [&](const Part& part) {
        for (int row = step.first_row; row < step.first_row + step.rows; ++row) {
            const Row source = row_of(walk, op.source, row);
            const auto value = [&](int64_t n) {
                return at(source, part.group(), part.within(), n);
            };
            const auto denominator = [&](int64_t n) {
                const float d = at(row_of(walk, op.value, row), part.group(), part.within(), n);
                return op.vector >= 0 ? d + constant_of(walk, op.vector, n) : d;
            };
            double amount = 0.0, arrived = 0.0;
            if (op.share == Share::stabiliser) {
                const auto share = [&](int64_t n) {
                    return denominator(n) < 0.0f ? 0.0f - value(n) : value(n);
                };
                amount = sum_over(part, op.columns, [&](int64_t n) { return double{share(n)}; });
                amount *= double{op.epsilon};
                arrived = sum_over(part, op.columns, [&](int64_t n) {
                    return double{absolute(share(n) * (absolute(denominator(n)) + op.epsilon))};
                });
            } else if (op.share == Share::weighted) {
                amount = sum_over(part, op.columns, [&](int64_t n) {
                    return double{value(n)} * double{constant_of(walk, op.vector, n)};
                });
            } else {
                amount = sum_over(part, op.columns, [&](int64_t n) {
                    const float d = denominator(n);
                    return double{d < 0.0f || 0.0f < d || is_nan(d) ? 0.0f : value(n)};
                });
            }
            if (!part.there || !part.first()) continue;
            write(walk.absorbed + part.sample, read(walk.absorbed + part.sample) + amount);
            if (op.share == Share::stabiliser) raise_to(walk.largest + part.sample, arrived);
        }
    });
}

// Mean and 1/σ of a row.
struct Moments {
    double mean, scale;
};

PYREL_DEVICE Moments moments_of(const Part& part, const Row& row, int columns, float epsilon) {
    const auto x = [&](int64_t n) { return double{at(row, part.group(), part.within(), n)}; };
    const double mean = sum_in_order(part, columns, x) / columns;
    const double variance = sum_in_order(part, columns,
                                         [&](int64_t n) {
                                             const double centred = x(n) - mean;
                                             return centred * centred;
                                         }) /
                            columns;
    return {mean, 1.0 / sqrt(variance + double{epsilon})};
}

PYREL_DEVICE void normalise(const Walk& walk, const Operation& op, const Step& step) {
    for_parts(walk, [&](const Part& part) {
        for (int r = step.first_row; r < step.first_row + step.rows; ++r) {
            const Row source = row_of(walk, op.source, r), out = row_of(walk, op.out, r);
            const Moments m = moments_of(part, source, op.columns, op.epsilon);
            for (int64_t n = part.number; part.there && n < op.columns; n += kParts) {
                const double x = at(source, part.group(), part.within(), n);
                put(out, part.group(), part.within(), n,
                    static_cast<float>((x - m.mean) * m.scale));
            }
        }
    });
}

// See NormaliseBack in ../program/instructions.h.
PYREL_DEVICE void normalise_back(const Walk& walk, const Operation& op, const Step& step) {
    for_parts(walk, [&](const Part& part) {
        for (int r = step.first_row; r < step.first_row + step.rows; ++r) {
            const Row source = row_of(walk, op.source, r), value = row_of(walk, op.value, r),
                      out = row_of(walk, op.out, r);
            const auto element = [&](const Row& row, int64_t n) {
                return double{at(row, part.group(), part.within(), n)};
            };
            const Moments m = moments_of(part, value, op.columns, op.epsilon);
            const auto normal = [&](int64_t n) { return (element(value, n) - m.mean) * m.scale; };
            const double mean =
                sum_in_order(part, op.columns, [&](int64_t n) { return element(source, n); }) /
                op.columns;
            double along = 0.0;
            if (!op.detached)
                along = sum_in_order(part, op.columns,
                                     [&](int64_t n) { return element(source, n) * normal(n); }) /
                        op.columns;
            for (int64_t n = part.number; part.there && n < op.columns; n += kParts) {
                const double centred = element(source, n) - mean;
                const double v = op.detached ? element(value, n) * centred * m.scale
                                             : (centred - normal(n) * along) * m.scale;
                put(out, part.group(), part.within(), n,
                    static_cast<float>(op.accumulate ? v + element(out, n) : v));
            }
        }
    });
}

PYREL_DEVICE void judge(const Walk& walk, const Part& part, int32_t outcome, int64_t element) {
    Verdict* const verdict = walk.launch.verdicts + walk.first + part.sample;
    if (read(&verdict->outcome) != 0) return;
    write(&verdict->outcome, outcome);
    write(&verdict->element, static_cast<int32_t>(element));
}

PYREL_DEVICE void judge(const Walk& walk, const Part& part, Outcome outcome, int64_t element) {
    judge(walk, part, static_cast<int32_t>(outcome), element);
}

// What is wrong with an element of the input.
PYREL_DEVICE Outcome offence_of(const Walk& walk, const float* x, int i) {
    const Launch& launch = walk.launch;
    const float v = constant_at(x + i);
    if (launch.check_finite && !(absolute(v) <= FLT_MAX)) return Outcome::input_not_finite;
    if (!launch.low) return Outcome::done;
    const bool outside = v < constant_at(launch.low + i) || v > constant_at(launch.high + i);
    return outside ? Outcome::input_out_of_bounds : Outcome::done;
}

// Nothing is absorbed yet on this way back.
PYREL_DEVICE void begin_way(const Walk& walk) {
    for_parts(walk, [&](const Part& part) {
        if (!part.there || !part.first()) return;
        write(walk.absorbed + part.sample, 0.0);
        write(walk.largest + part.sample, 0.0);
        write(walk.put_in + part.sample, 0.0);
    });
}

// The input is as a method needs it.
PYREL_DEVICE void begin(const Walk& walk) {
    const Launch& launch = walk.launch;
    const int size = walk.launch.header.input_size;
    const bool looks = launch.check_finite || launch.low;
    for_parts(walk, [&](const Part& part) {
        const float* const x = launch.x + (walk.first + part.sample) * size;
        int wrong = size;  // the first element that is
        for (int i = part.number; looks && part.there && i < size && wrong == size; i += kParts)
            if (offence_of(walk, x, i) != Outcome::done) wrong = i;
        for (int mask = kParts / 2; mask > 0; mask /= 2) {
            const int other = exchanged(wrong, mask);
            wrong = other < wrong ? other : wrong;
        }
        if (!part.there || !part.first()) return;
        Verdict* const verdict = launch.verdicts + walk.first + part.sample;
        write(&verdict->outcome, int32_t{0});
        write(&verdict->element, int32_t{-1});
        if (wrong < size) judge(walk, part, offence_of(walk, x, wrong), wrong);
    });
}

// One thread of a sample writes its outputs, chooses the target and starts relevance there.
PYREL_DEVICE void seed(const Walk& walk, const Operation& op, const Step& step) {
    const Launch& launch = walk.launch;
    const int classes = walk.launch.header.classes;
    const Row source = row_of(walk, op.source, step.first_row);
    const Row out = row_of(walk, op.out, step.first_row);
    for_parts(walk, [&](const Part& part) {
        if (!part.there || !part.first()) return;
        const int64_t sample = walk.first + part.sample, result = result_of(walk, part.sample);
        int64_t target = 0;
        float best = 0.0f, started = 1.0f;
        for (int c = 0; c < classes; ++c) {
            const float v = at(source, part.group(), part.within(), c);
            if (walk.way == 0) write(launch.output + sample * classes + c, v);
            if (launch.check_finite && !(absolute(v) <= FLT_MAX))
                judge(walk, part, Outcome::output_not_finite, c);
            if (c == 0 || best < v) {
                best = v;
                target = c;
            }
        }
        if (launch.target) target = constant_at(launch.target + result);
        if (target < 0 || target >= classes) {
            judge(walk, part, kNoClass, 0);
            target = 0;
        }
        const float explained = at(source, part.group(), part.within(), target);
        if (op.start == Start::output) started = explained;
        if (op.start == Start::positive_output) started = 0.0f < explained ? explained : 0.0f;
        write(launch.explained + result, target);
        write(walk.put_in + part.sample, double{started});
        for (int c = 0; c < classes; ++c)
            put(out, part.group(), part.within(), c, c == target ? started : 0.0f);
    });
}

// What is known of each sample at its end.
PYREL_DEVICE void end(const Walk& walk) {
    const Launch& launch = walk.launch;
    const int64_t size = walk.launch.header.input_size;
    for_parts(walk, [&](const Part& part) {
        const int64_t result = result_of(walk, part.sample);
        const float* const relevance = launch.relevance + result * size;
        Ends ends{};
        if (launch.relevance) {
            ends.sum = sum_over(part, size, [&](int64_t i) { return double{read(relevance + i)}; });
            ends.passed = sum_over(
                part, size, [&](int64_t i) { return double{absolute(read(relevance + i))}; });
        }
        if (!part.there || !part.first()) return;
        ends.put_in = read(walk.put_in + part.sample);
        ends.absorbed = read(walk.absorbed + part.sample);
        ends.largest = read(walk.largest + part.sample);
        write(launch.absorbed + result, static_cast<float>(ends.absorbed));
        write(launch.amplification + result, amplification(ends));
        if (!launch.relevance) return;
        const bool conserves = walk.launch.header.conserves;
        write(launch.conservation + result,
              conserves ? static_cast<float>(ends.sum - ends.put_in) : __builtin_nanf(""));
        if (!launch.check_finite) return;
        const Outcome outcome = outcome_of(ends, conserves, launch.lost);
        const int64_t element = outcome == Outcome::relevance_lost ? walk.way : -1;
        if (outcome != Outcome::done) judge(walk, part, outcome, element);
    });
}

}  // namespace pyrel::cuda

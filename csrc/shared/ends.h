// SPDX-License-Identifier: Apache-2.0
// What the sums of a sample say of it at its end, on every engine.
#pragma once

#include <float.h>
#include <math.h>

#include "batch.h"

#if !defined(PYREL_INLINE)
#define PYREL_INLINE inline
#endif

namespace pyrel {

// Of one sample: the relevance put in, what was absorbed, the largest Σ|relevance| that arrived at
// a stabilised division, and Σ relevance and Σ|relevance| of the result.
struct Ends {
    double put_in, absorbed, largest;
    double sum = 0.0, passed = 0.0;
};

PYREL_INLINE double larger(double a, double b) { return a < b ? b : a; }

// The largest of Σ|relevance| put in, on the way and at the end, over the first.
PYREL_INLINE float amplification(const Ends& ends) {
    const double start = fabs(ends.put_in);
    if (start == 0.0) return 0.0f;
    if (ends.largest != ends.largest || ends.passed != ends.passed) return __builtin_nanf("");
    return static_cast<float>(larger(larger(start, ends.largest), ends.passed) / start);
}

// Whether relevance is finite and, where it is conserved, no more than such a share of it lost.
PYREL_INLINE Outcome outcome_of(const Ends& ends, bool conserves, double lost) {
    const bool finite = fabs(ends.sum) <= DBL_MAX;
    if (!finite || (ends.put_in != 0.0 && !(fabs(ends.largest) <= DBL_MAX)))
        return Outcome::relevance_not_finite;
    const double gap = ends.sum + ends.absorbed - ends.put_in;
    const double most = larger(larger(fabs(ends.put_in), ends.largest), ends.passed);
    return conserves && !(fabs(gap) <= lost * most) ? Outcome::relevance_lost : Outcome::done;
}

}  // namespace pyrel

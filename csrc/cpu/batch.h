// SPDX-License-Identifier: Apache-2.0
// What a call hands to an engine, and what comes of it.
#pragma once

#include <cstdint>

namespace pyrel {

struct Batch {
    int64_t samples = 0;
    const float* x = nullptr;  // (samples, input_size)
    const int64_t* target =
        nullptr;  // (samples,) or null: the predicted class, ties to the lowest index
    const float* low = nullptr;   // (input_size,) or null
    const float* high = nullptr;  // with low
    bool check_finite = true;
    float* relevance = nullptr;     // (samples, input_size), or null for the outputs alone
    float* output = nullptr;        // (samples, classes)
    int64_t* explained = nullptr;   // (samples,)
    float* absorbed = nullptr;      // (samples,)
    float* conservation = nullptr;  // (samples,) Σ relevance − relevance put in, or NaN
    // (samples,) the largest Σ|relevance| on the way over |relevance put in|: of what is put in, of
    // the result, and of each row that arrives at a stabilised division. 0 where nothing is put in.
    float* amplification = nullptr;
};

enum class Outcome {
    done,
    input_not_finite,
    input_out_of_bounds,
    output_not_finite,
    relevance_not_finite,
    relevance_lost,  // Σ relevance + absorbed is not what was put in, by more than rounding does
    interrupted,
    out_of_memory
};

struct Status {
    Outcome outcome = Outcome::done;
    int64_t sample = -1;   // of the first offence found
    int64_t element = -1;  // within the sample
};

}  // namespace pyrel

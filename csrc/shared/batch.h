// SPDX-License-Identifier: Apache-2.0
// What a call hands to an engine, and what comes of it.
#pragma once

#include <cstdint>

namespace pyrel {

struct Batch {
    int64_t samples = 0;
    // How often each sample goes back after one forward pass, each time for a target of its own;
    // more than once by an engine that keeps what the forward pass wrote.
    int64_t ways_back = 1;
    const float* x = nullptr;  // (samples, input_size)
    // (samples, ways_back) or null: the predicted class, ties to the lowest index
    const int64_t* target = nullptr;
    const float* low = nullptr;   // (input_size,) or null
    const float* high = nullptr;  // with low
    bool check_finite = true;
    float* relevance = nullptr;  // (samples, ways_back, input_size), or null for the outputs alone
    float* output = nullptr;     // (samples, classes)
    // All of what follows is (samples, ways_back).
    int64_t* explained = nullptr;
    float* absorbed = nullptr;
    float* conservation = nullptr;  // Σ relevance − relevance put in, or NaN
    // The largest Σ|relevance| on the way over |relevance put in|: of what is put in, of
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
    int64_t element = -1;  // within the sample; of lost relevance, which way back
};

// What rounding may make of Σ relevance + absorbed, of the most relevance that passed: thousands of
// errors of float32 in a row, and far more than a few layers of bfloat16. Numbers near the ends of
// the range of float32 lose more: R / d is 0 where d is infinite, or 1e38 times as large.
constexpr double kLost = 1e-3, kLostInBf16 = 0.5;

}  // namespace pyrel

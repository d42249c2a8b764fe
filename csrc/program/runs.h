// SPDX-License-Identifier: Apache-2.0
// An index in runs of neighbours.
#pragma once

#include <cstdint>
#include <vector>

#include "instructions.h"

namespace pyrel {

inline std::vector<Run> all_runs_of(const std::vector<int64_t>& index) {
    std::vector<Run> runs;
    for (size_t i = 0; i < index.size(); ++i) {
        if (i > 0 && index[i] > 0 && index[i] - 1 == index[i - 1])
            ++runs.back().size;
        else
            runs.push_back({index[i], static_cast<int64_t>(i), 1});
    }
    return runs;
}

// The index in runs; none where these are too short to gain by it.
inline std::vector<Run> runs_of(const std::vector<int64_t>& index) {
    constexpr size_t kShortest = 8;  // on average
    std::vector<Run> runs = all_runs_of(index);
    if (index.size() < kShortest * runs.size()) runs.clear();
    return runs;
}

}  // namespace pyrel

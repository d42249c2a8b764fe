// SPDX-License-Identifier: Apache-2.0
// What of a program's way back runs again after the same forward pass, for another target.
#pragma once

#include <cstdint>
#include <vector>

#include "program.h"

namespace pyrel {

// A loop of the way back. Relevance that starts at an output reaches it from some iteration on:
// those before multiply zeros, and write zeros.
struct Loop {
    // The outputs whose relevance reaches an iteration, those between others included.
    struct Reached {
        int32_t first, last;
    };
    // What an iteration writes, and no earlier one does.
    struct Written {
        Space space;
        int64_t first, count;
    };
    std::vector<Reached> reached;             // by iteration
    std::vector<std::vector<Written>> fresh;  // likewise

    // The first iteration that relevance from an output reaches.
    int64_t entry(int64_t output) const;
};

struct WayBack {
    // Whether it writes to no place of the arena whose value it reads from before the seed.
    bool keeps_forward = true;
    std::vector<Loop> loops;  // by instruction; without iterations for what is none of its loops
};

// Looks at every place that the way back touches.
WayBack way_back_of(const Code& code);

}  // namespace pyrel

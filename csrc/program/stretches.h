// SPDX-License-Identifier: Apache-2.0
// Which of a program's instructions may run part by part of their rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "program.h"

namespace pyrel {

// Instructions that run one after the other for the same samples, in `parts` equal parts of their
// rows: what one writes is still in the cache when another reads it.
struct Stretch {
    size_t first, end;
    int64_t parts;
};

// What a processor has for the parts of a stretch.
struct PartLimits {
    int64_t bytes;        // that a part may touch
    int64_t float_bytes;  // of a float of all samples that run together
    // Of a product with more weights than stay in a cache: so many rows repay reading these once
    // for the samples of a stretch alone. None do where weights are read for each row.
    int64_t many_rows;
};

std::vector<Stretch> find_stretches(const Code& code, const PartLimits& limits);

}  // namespace pyrel

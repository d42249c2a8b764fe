// SPDX-License-Identifier: Apache-2.0
// How a program's instructions are grouped where samples lie in lanes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../program/program.h"
#include "kernels.h"

namespace pyrel {

// Instructions that run one after the other for the same group of samples in lanes, in `parts`
// equal parts of their rows: what one writes is still in the cache when another reads it.
struct Stretch {
    size_t first, end;
    int64_t parts;
};

std::vector<Stretch> find_stretches(const Code& code, const Kernels& kernels);

}  // namespace pyrel

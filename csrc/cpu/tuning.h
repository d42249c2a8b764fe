// SPDX-License-Identifier: Apache-2.0
// Sizes from which the engine does something another way. Plain numbers, as the kernel units
// include this too.
#pragma once

#include <stdint.h>

namespace pyrel {

// Products with fewer weights, such as a small kernel's, do not skip the zeros of rows: looking for
// them costs more than is saved. Nor do blocks of rows with fewer columns than this many vectors:
// the sums of a single row would be too few chains to hide the latency of an FMA.
constexpr int64_t kSparseWeights = 6144;
constexpr int64_t kSparseVectors = 6;
// So many rows of a sample repay reading the weights once for these samples alone.
constexpr int64_t kManyRows = 96;

}  // namespace pyrel

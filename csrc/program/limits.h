// SPDX-License-Identifier: Apache-2.0
// What every engine allows, and costs that the compiler and engines count by. Plain numbers, as the
// kernel units include this too; Python reads them as `_core.limits`.
#pragma once

#include <stdint.h>

namespace pyrel {

// A product's reduction dimension is a list of at most this many segments, each with its own row
// addresses.
constexpr int kMaxSegments = 8;
// Most floats that a block of memory of one sample has: keeps every product of sizes far from
// overflow.
constexpr int64_t kLargestSpace = int64_t{1} << 31;
// A float counts up to here, so a table has no more rows.
constexpr int64_t kLargestExact = int64_t{1} << 24;
// Floats of a cache line, and of the widest vector: values start on one.
constexpr int64_t kLineFloats = 16;
// What a row of an instruction, and a vector of its results, cost beside the products: as much as
// this many multiply-adds of vectors (AVX-512, Zen 5).
constexpr int64_t kRowCost = 12, kResultCost = 8;
// Long sums are those of eight parts, element i being of part i % 8, in every layout.
constexpr int kParts = 8;

}  // namespace pyrel

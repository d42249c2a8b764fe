// SPDX-License-Identifier: Apache-2.0
// How a call runs: how many samples at a time, and how they lie in memory.
#pragma once

#include <cstdint>
#include <optional>

#include "../shared/batch.h"
#include "engine.h"

namespace pyrel {

// A slab of so many samples at a time, and with so many side by side in lanes; 1 where each
// sample's floats lie side by side instead.
struct Plan {
    int64_t slab;
    int64_t lanes;
};

Plan plan_of(const Engine& engine, const Batch& batch, int threads, std::optional<bool> in_lanes);

// Slabs of this many samples fill the widest tile at every step of a recurrence; larger ones leave
// the caches.
constexpr int64_t kSlabSamples = 12;

// The most samples of a slab out of lanes, where so many threads have one each.
int64_t most_apart(const Engine& engine, int threads);

// Floats from one sample of a slab to the next, out of lanes.
int64_t arena_stride(int64_t arena_size);

}  // namespace pyrel

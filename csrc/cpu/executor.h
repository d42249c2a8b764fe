// SPDX-License-Identifier: Apache-2.0
// Runs a program over a batch, a slab of samples at a time: forward and backward, before the next
// slab starts.
#pragma once

#include <optional>

#include "../shared/batch.h"
#include "engine.h"

namespace pyrel {

// Starts at most `threads` − 1 threads for the call, fewer where the work would not repay them.
// `interrupted` is polled by the calling thread between slabs. Never throws.
Status run(const Engine& engine, const Batch& batch, int threads, std::optional<bool> in_lanes,
           Interrupted interrupted) noexcept;

}  // namespace pyrel

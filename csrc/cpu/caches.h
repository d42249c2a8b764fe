// SPDX-License-Identifier: Apache-2.0
// The caches of this machine, which decide how much runs together and never what comes out.
#pragma once

#include <cstdint>

namespace pyrel {

// What a core's second-level cache holds on most machines, and on some twice that: programs whose
// weights fit are laid out by it, so that they run the same instructions everywhere. Larger ones
// follow the cache that there is.
constexpr int64_t kCacheBytes = int64_t{1} << 20;

// Bytes of a core's second-level cache; 1 MiB where the system does not tell.
int64_t second_level_cache();

}  // namespace pyrel

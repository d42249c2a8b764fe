// SPDX-License-Identifier: Apache-2.0
// Plain types of device.h, for the GPU and for the emulator.
#pragma once

namespace pyrel::cuda {

// The blocks that work on a slab together, as a thread sees them.
struct Team {
    int thread, threads;  // its number among those of the team
    int number, count;    // the team's among all
};

struct alignas(16) Four {
    float value[4];
};

}  // namespace pyrel::cuda

// SPDX-License-Identifier: Apache-2.0
// Launches of parts of a walk: as nodes of a graph, or one by one, so that an error has a place.
#pragma once

#include <vector>

#include "loaded.h"

namespace pyrel::cuda {

// A launch divided at all barriers: for as many slabs as there are teams, then for the next ones.
std::vector<Launch> divided_at_barriers(const Launch& whole, const Loaded& loaded, int64_t teams);

// Whether CUDA is asked to run each launch to its end before the next one begins, by the variable
// of the environment that it has for this.
bool is_blocking();

// Runs a launch step by step and waits for each. An error of the device names the instruction: one
// of a walk that runs whole only names the walk.
void run_step_by_step(const Launch& whole, const Loaded& loaded, int teams, void* stream);

// The same error with what was launched.
DeviceError within_walk(const DeviceError& error, const Workspace& workspace);

// Does something of the last walk, so that an error of the device names the walk.
template <typename Work>
void name_walk_in_errors(const Workspace& workspace, Work&& work) {
    try {
        work();
    } catch (const DeviceError& error) {
        throw within_walk(error, workspace);
    }
}

}  // namespace pyrel::cuda

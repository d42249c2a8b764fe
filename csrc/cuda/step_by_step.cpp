// SPDX-License-Identifier: Apache-2.0
#include "step_by_step.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>

namespace pyrel::cuda {
namespace {

constexpr const char* kVariable = "CUDA_LAUNCH_BLOCKING";

// In the order of Kind.
constexpr const char* kNames[] = {"Gemm",      "Map",       "Gather",        "Scatter", "Absorb",
                                  "Activate",  "Slope",     "Reduce",        "Matmul",  "MaxPool",
                                  "PoolRoute", "Normalise", "NormaliseBack", "Embed",   "Seed"};
static_assert(std::size(kNames) == static_cast<size_t>(Kind::seed) + 1);

// Divides a launch, slab by slab as by teams, before each of the steps `at`, which rise.
std::vector<Launch> divided_at(const Launch& whole, const std::vector<int32_t>& at, int64_t teams) {
    std::vector<Launch> all;
    const int32_t count = whole.end_step - 1;
    for (int64_t slab = 0; slab < whole.end_slab; slab += teams) {
        Launch launch = whole;
        launch.first_slab = slab;
        launch.end_slab = std::min(slab + teams, whole.end_slab);
        const auto add = [&](int32_t end) {
            launch.end_step = end;
            all.push_back(launch);
            launch.first_step = end;
        };
        for (int32_t way = 0; way < whole.ways; ++way) {
            launch.first_way = way;
            launch.end_way = way + 1;
            launch.first_step = way == 0 ? 0 : launch.order.seed;
            for (const int32_t step : at)
                if (step > launch.first_step && step < count) add(step);
            add(count);
            add(count + 1);
        }
    }
    return all;
}

}  // namespace

std::vector<Launch> divided_at_barriers(const Launch& whole, const Loaded& loaded, int64_t teams) {
    return divided_at(whole, loaded.barriers, teams);
}

bool is_blocking() {
    const char* const given = std::getenv(kVariable);
    return given && std::string_view(given) == "1";
}

void run_step_by_step(const Launch& whole, const Loaded& loaded, int teams, void* stream) {
    std::vector<int32_t> all_steps;
    for (int32_t step = 0; step < loaded.header.whole.steps; ++step) all_steps.push_back(step);
    for (const Launch& launch : divided_at(whole, all_steps, teams)) {
        try {
            launch_walk(launch, teams, stream);
            synchronise(stream);
        } catch (const DeviceError& error) {
            const auto step = static_cast<size_t>(launch.first_step);
            const std::string name = step < loaded.kinds.size()
                                         ? kNames[static_cast<size_t>(loaded.kinds[step])]
                                         : "the end of the samples";
            throw DeviceError(std::string(error.what()) + ", in step " + std::to_string(step) +
                              ", " + name);
        }
    }
}

DeviceError within_walk(const DeviceError& error, const Workspace& workspace) {
    return DeviceError(std::string(error.what()) + ", in a walk of " +
                       std::to_string(workspace.samples) + " samples by " +
                       std::to_string(workspace.teams) + " teams of " +
                       std::to_string(workspace.team) + " blocks; with " + kVariable +
                       "=1 the error names the instruction");
}

}  // namespace pyrel::cuda

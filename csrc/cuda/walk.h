// SPDX-License-Identifier: Apache-2.0
// The kernel: a team of blocks walks a whole program, forward and back, for one slab of samples
// after the other. Its threads share out the elements of each step; the host has found where they
// must wait for each other (schedule.cpp). So there is one launch a call, and what a slab computes
// stays in the second-level cache. The same kernel may walk the steps between two barriers alone:
// then the launches are the barriers. No sum is divided among threads in a way that a launch could
// change, so results do not depend on the samples of a slab, on teams or on the batch.
// Where what a slab computes does not fit that cache, few of its groups walk a stretch of steps,
// part by part of their rows, before the next groups do.
#pragma once

#include "sums.h"

namespace pyrel::cuda {

PYREL_DEVICE void run(const Walk& walk, const Operation& op, const Step& step) {
    switch (op.kind) {
        case Kind::gemm:
            return multiply(walk, op, step);
        case Kind::map:
            return map(walk, op, step);
        case Kind::gather:
            return gather(walk, op, step);
        case Kind::scatter:
            return scatter(walk, op, step);
        case Kind::absorb:
            return absorb(walk, op, step);
        case Kind::activate:
            return activate(walk, op, step);
        case Kind::slope:
            return slopes(walk, op, step);
        case Kind::reduce:
            return reduce(walk, op, step);
        case Kind::matmul:
            return multiply_values(walk, op, step);
        case Kind::max_pool:
            return max_pool(walk, op, step);
        case Kind::pool_route:
            return pool_route(walk, op, step);
        case Kind::normalise:
            return normalise(walk, op, step);
        case Kind::normalise_back:
            return normalise_back(walk, op, step);
        case Kind::embed:
            return embed(walk, op, step);
        case Kind::seed:
            return seed(walk, op, step);
    }
}

PYREL_DEVICE Walk walk_of(const Launch& launch) {
    const int64_t slab = int64_t{launch.groups} * kGroup;
    const Team team = team_of(launch.team);
    double* const scratch = launch.scratch + team.number * 3 * slab;
    return {launch,
            team,
            launch.arena + team.number * slab * launch.header.arena_size,
            scratch,
            scratch + slab,
            scratch + 2 * slab,
            0,
            0,
            0,
            0,
            launch.groups};
}

// One way through the steps of a slab: all of them, or back alone for another target, or such of
// them as a launch of its own walks.
PYREL_DEVICE void walk_way(Walk& walk, int first, int count) {
    const Launch& launch = walk.launch;
    if (first == (walk.way == 0 ? 0 : launch.order.seed)) begin_way(walk);
    int stretch = first;  // the step with which the present one begins
    for (int n = first; n < count && n < launch.end_step; ++n) {
        const Step step = walk.steps()[n];
        if (step.begins) {
            stretch = n;
            walk.groups = launch.groups < kStretchGroups ? launch.groups : kStretchGroups;
        }
        // What begins a way is of all groups. Those that begin a stretch again meet nothing of the
        // groups that have walked it.
        const bool meets = step.begins ? walk.first_group == 0 : step.barrier && n > first;
        if (meets) barrier(launch.team);
        run(walk, walk.operations()[step.operation], step);
        if (!step.ends) continue;
        walk.first_group += walk.groups;
        if (walk.first_group * kGroup < walk.samples) {
            n = stretch - 1;
        } else {
            walk.first_group = 0;
            walk.groups = launch.groups;
        }
    }
    if (launch.end_step <= count) return;
    // Before the relevance is summed, and before the next way or slab writes over the arena: all
    // that is kept of a sample beside it is the same threads'.
    if (first < count) barrier(launch.team);
    end(walk);
}

}  // namespace pyrel::cuda

PYREL_KERNEL pyrel_walk(const PYREL_CONSTANT pyrel::cuda::Launch launch) {
    using namespace pyrel::cuda;
    Walk walk = walk_of(launch);
    const int count = steps_of(launch.order, launch.relevance);
    const int64_t samples = int64_t{launch.groups} * kGroup;
    for (int64_t slab = launch.first_slab + walk.team.number; slab < launch.end_slab;
         slab += walk.team.count) {
        walk.first = slab * samples;
        const int64_t left = launch.samples - walk.first;
        walk.samples = static_cast<int32_t>(left < samples ? left : samples);
        if (launch.first_step == 0) begin(walk);
        for (walk.way = launch.first_way; walk.way < launch.end_way; ++walk.way) {
            const bool goes_on = walk.way == launch.first_way;
            walk_way(walk, goes_on ? launch.first_step : launch.order.seed, count);
        }
    }
}

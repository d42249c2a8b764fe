// SPDX-License-Identifier: Apache-2.0
// The kernel: a block walks a whole program, forward and back, for one slab of samples after the
// other. Its threads share out the elements of each step; the host has found where they must wait
// for each other (image.cpp). So there is one launch a call, and what a slab computes stays in the
// second-level cache. No sum is divided among threads in a way that a launch could change, so
// results do not depend on the samples of a slab, on the slabs at once, or on the batch.
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
    Walk walk;
    const char* const image = launch.image;
    walk.launch = launch;
    walk.header = *reinterpret_cast<const Header*>(image);
    const auto part = [&]<typename Value>(const Value*& place, int64_t at) {
        place = reinterpret_cast<const Value*>(image + at);
    };
    part(walk.operations, walk.header.operations_at);
    part(walk.listed, walk.header.listed_at);
    part(walk.offsets, walk.header.offsets_at);
    part(walk.index, walk.header.index_at);
    part(walk.floats, walk.header.floats_at);
    const int64_t slab = int64_t{launch.groups} * kGroup;
    walk.arena = launch.arena + block() * slab * walk.header.arena_size;
    walk.absorbed = launch.scratch + block() * 3 * slab;
    walk.largest = walk.absorbed + slab;
    walk.put_in = walk.largest + slab;
    return walk;
}

}  // namespace pyrel::cuda

PYREL_KERNEL pyrel_walk(const pyrel::cuda::Launch launch) {
    using namespace pyrel::cuda;
    Walk walk = walk_of(launch);
    const auto* const steps = reinterpret_cast<const Step*>(launch.image + walk.header.steps_at);
    const int count = launch.relevance ? walk.header.steps : walk.header.seed + 1;
    const int64_t slab = int64_t{launch.groups} * kGroup;
    for (int64_t first = block() * slab; first < launch.samples; first += blocks() * slab) {
        const int64_t left = launch.samples - first;
        walk.first = first;
        walk.samples = static_cast<int32_t>(left < slab ? left : slab);
        begin(walk);
        for (int n = 0; n < count; ++n) {
            const Step step = steps[n];
            if (step.barrier) barrier();
            run(walk, walk.operations[step.operation], step);
        }
        // Before the relevance is summed, and before the next slab writes over the arena: all that
        // is kept of a sample beside it is the same threads'.
        barrier();
        end(walk);
    }
}

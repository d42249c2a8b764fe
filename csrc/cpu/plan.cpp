// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include <algorithm>

#include "caches.h"

namespace pyrel {
namespace {

// A slab's memory is kept below this where that leaves at least one sample.
constexpr int64_t kMostSlabBytes = int64_t{64} << 20;
// In lanes, of so many groups: two rows for each weight that is read, at every step.
constexpr int64_t kSlabGroups = 2;
// That is, of as many as take at most this together.
constexpr int64_t kSlabLaneBytes = int64_t{16} << 20;
// Lanes must promise to be so many times as fast, as the count behind it is rough: the more so
// where they would be filled in part, by so many times as many samples as there are.
constexpr double kClearGain = 1.05, kPartlyFilled = 1.1, kClearestGain = 1.4;
// A slab's memory is kept below this where that leaves at least one tile of samples.
constexpr int64_t kSlabBytes = int64_t{4} << 20;

// How many at a time, at most so many, if all threads shall have equally many to do.
int64_t divided(int64_t count, int threads, int64_t most) {
    const int64_t rounds = (count + threads * most - 1) / (threads * most);
    return std::max<int64_t>(1, (count + threads * rounds - 1) / (threads * rounds));
}

}  // namespace

// Samples lie this many floats apart: 17 cache lines over a multiple of 32, so that the rows of a
// tile spread over the sets of the first-level cache instead of falling on the same ones.
int64_t arena_stride(int64_t arena_size) {
    const int64_t lines = (arena_size + kLineFloats - 1) / kLineFloats;
    return (lines + ((17 - lines) % 32 + 32) % 32) * kLineFloats;
}

// Few samples, whose memory stays in the caches. But where the weights are larger than these, a
// slab reads them anew for every product: as many samples then as make that no more than what they
// read and write themselves, in no more memory than the weights take.
int64_t most_apart(const Engine& engine, int threads) {
    const int64_t bytes =
        arena_stride(engine.code().arena_size) * static_cast<int64_t>(sizeof(float));
    const int64_t tile = engine.kernels().tile_rows;
    const int64_t fitting = std::clamp(kSlabBytes / bytes / tile * tile, tile, kSlabSamples);
    const int64_t few = std::clamp<int64_t>(kMostSlabBytes / bytes, 1, fitting);
    if (engine.weight_bytes() <= second_level_cache()) return few;
    const double wanted = engine.streamed_bytes() / engine.touched_bytes();
    const int64_t room = engine.weight_bytes() / threads / bytes;
    const auto many = static_cast<int64_t>(std::min(wanted, static_cast<double>(room)));
    return std::max(few, many / tile * tile);
}

// In lanes or not: by how long the thread with the most samples takes. Where values may be NaN or
// infinite, lanes would show, as they do not multiply by weights of zero.
Plan plan_of(const Engine& engine, const Batch& batch, int threads, std::optional<bool> in_lanes) {
    const int64_t samples = batch.samples, lanes = engine.kernels().lanes;
    const int64_t groups = (samples + lanes - 1) / lanes;
    const auto most_of = [threads](int64_t all) {
        return static_cast<double>((all + threads - 1) / threads);
    };
    const double together = most_of(groups) * static_cast<double>(lanes);
    const double clear = together > kPartlyFilled * most_of(samples) ? kClearestGain : kClearGain;
    const int64_t apart = divided(samples, threads, most_apart(engine, threads));
    const double gain = apart < 2 * kSlabSamples ? engine.gain_in_lanes() : engine.gain_over_many();
    const bool gains = gain * most_of(samples) > clear * together;
    if (engine.gain_in_lanes() > 0.0 && in_lanes.value_or(gains && batch.check_finite)) {
        const int64_t fitting = kSlabLaneBytes / engine.lane_group_bytes();
        const int64_t most = std::clamp<int64_t>(fitting, 1, kSlabGroups);
        return {divided(groups, threads, most) * lanes, lanes};
    }
    return {apart, 1};
}

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
#include "runner.h"

#include <algorithm>
#include <type_traits>

#include "caches.h"
#include "ends.h"
#include "execute.h"
#include "tuning.h"

namespace pyrel {
namespace {

// One of `count` equal parts of an instruction's rows; of a repeat, iterations from one on.
template <typename Plain>
Status execute_part(const Plain& instruction, Slab& slab, int64_t part, int64_t count,
                    int64_t from = 0) {
    if constexpr (std::is_same_v<Plain, Repeat>) {
        for (int64_t iteration = from; iteration < instruction.count; ++iteration)
            for (const Repeatable& each : instruction.body)
                std::visit(
                    [&](const auto& i) { execute_part(i, slab, iteration, instruction.count); },
                    each);
    } else {
        slab.choose_rows(rows_of(instruction), part, count);
        if constexpr (std::is_same_v<Plain, Seed>)
            return execute(instruction, slab);
        else
            execute(instruction, slab);
    }
    return {};
}

// The seed, which reads the outputs, stands outside of repeats.
size_t place_of_seed(const std::vector<Instruction>& all) {
    const auto seed = std::find_if(all.begin(), all.end(), [](const Instruction& each) {
        return std::holds_alternative<Seed>(each);
    });
    return static_cast<size_t>(seed - all.begin());
}

}  // namespace

SlabRunner::SlabRunner(const Engine& engine, const Batch& batch, Plan plan)
    : slab_(engine, batch, plan),
      seed_(place_of_seed(engine.code().instructions)),
      end_(batch.relevance ? engine.code().instructions.size() : seed_ + 1),
      part_(std::max<int64_t>(
          1, kCacheBytes * 3 / 4 / (slab_.stride() * static_cast<int64_t>(sizeof(float))))) {}

Status SlabRunner::run(int64_t first, int64_t samples, const std::function<bool()>& stopped) {
    slab_.start(first, samples);
    if (Status bad = check_input(slab_); bad.outcome != Outcome::done) return bad;
    const int64_t groups = (samples + slab_.lanes() - 1) / slab_.lanes();
    if (slab_.lanes() > 1) slab_.spread_input(groups);
    Status status;
    for (int64_t way = 0; way < slab_.batch().ways_back; ++way) {
        const size_t from = way == 0 ? 0 : seed_;
        if (way > 0 && stopped()) return {Outcome::interrupted, -1, -1};
        slab_.start_way(way);
        status = slab_.lanes() > 1 ? run_in_lanes(from, groups) : run_apart(from, groups);
        if (status.outcome == Outcome::done) status = finish(slab_);
        if (status.outcome != Outcome::done) break;
    }
    return status;
}

Status SlabRunner::run_in_lanes(size_t from, int64_t groups) {
    const std::vector<Stretch>& stretches = slab_.engine().stretches();
    const Stretch whole{from, end_, 1};
    Status status;
    if (stretches.empty()) status = run_stretch(whole, groups);
    for (const Stretch& stretch : stretches)  // one begins at the seed
        if (status.outcome == Outcome::done && stretch.first >= from)
            status = run_stretch(stretch, groups);
    if (status.outcome == Outcome::done && slab_.batch().relevance) slab_.collect_relevance();
    return status;
}

// Whole instructions for all groups, or parts of many for one group after the other.
Status SlabRunner::run_stretch(const Stretch& stretch, int64_t groups) {
    const int64_t together = stretch.parts == 1 ? groups : 1;
    for (int64_t group = 0; group < groups; group += together) {
        slab_.choose(group, together);
        for (int64_t part = 0; part < stretch.parts; ++part)
            for (size_t i = stretch.first; i < std::min(stretch.end, end_); ++i)
                if (Status bad = run_part(i, part, stretch.parts); bad.outcome != Outcome::done)
                    return bad;
    }
    return {};
}

// All of an instruction in the first part, if its rows cannot be divided.
Status SlabRunner::run_part(size_t number, int64_t part, int64_t parts) {
    return std::visit(
        [&](const auto& i) {
            if (parts == 1 || rows_of(i) % parts == 0)
                return execute_part(i, slab_, part, parts, skip_zeros(number));
            return part == 0 ? execute_part(i, slab_, 0, 1) : Status{};
        },
        slab_.code().instructions[number]);
}

// Writes zeros for the iterations of a loop that no relevance of the chosen samples reaches, and
// returns how many these are. Where there is one way back alone, finding them would not repay.
int64_t SlabRunner::skip_zeros(size_t number) {
    const Batch& batch = slab_.batch();
    if (batch.ways_back == 1 || number <= seed_) return 0;
    const Loop& loop = slab_.engine().way_back().loops[number];
    auto entry = static_cast<int64_t>(loop.reached.size());
    const int64_t first = slab_.first_chosen();
    const int64_t end = std::min(first + slab_.chosen() * slab_.lanes(), slab_.size());
    for (int64_t s = first; s < end && entry > 0; ++s)
        entry = std::min(entry, loop.entry(batch.explained[slab_.result(s)]));
    for (int64_t iteration = 0; iteration < entry; ++iteration)
        for (const Loop::Written& place : loop.fresh[static_cast<size_t>(iteration)])
            slab_.clear(place.space, place.first, place.count);
    return entry;
}

Status SlabRunner::run_apart(size_t from, int64_t samples) {
    for (size_t i = from, end; i < end_; i = end) {
        end = part_ < samples ? std::min(end_of_stretch(i), end_) : end_;
        const int64_t part = part_ < samples && end > i + 1 ? part_ : samples;
        for (int64_t begin = 0; begin < samples; begin += part) {
            slab_.choose(begin, std::min(part, samples - begin));
            for (size_t j = i; j < end; ++j)
                if (Status bad = run_part(j, 0, 1); bad.outcome != Outcome::done) return bad;
        }
    }
    return {};
}

// Behind the instructions from `first` on that may as well run for few samples at a time: they
// multiply many rows of each, or none. Behind `first` alone if nothing there is multiplied.
size_t SlabRunner::end_of_stretch(size_t first) const {
    const std::vector<Instruction>& all = slab_.code().instructions;
    bool multiplies = false;
    size_t end = first;
    for (; end < all.size(); ++end) {
        const auto* gemm = std::get_if<Gemm>(&all[end]);
        if (gemm ? rows_of(*gemm) < kManyRows : std::holds_alternative<Repeat>(all[end])) break;
        multiplies |= gemm != nullptr;
    }
    return multiplies ? end : first + 1;
}

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
#include "runner.h"

#include <algorithm>
#include <type_traits>

#include "caches.h"
#include "ends.h"
#include "execute.h"

namespace pyrel {
namespace {

// One of `count` equal parts of an instruction's rows.
template <typename Plain>
Status execute_part(const Plain& instruction, Slab& slab, int64_t part, int64_t count) {
    if constexpr (std::is_same_v<Plain, Repeat>) {
        for (int64_t iteration = 0; iteration < instruction.count; ++iteration)
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

// All instructions, or those as far as the seed, which reads the outputs, where no relevance is
// asked for: the seed stands outside of repeats.
size_t end_of_run(const std::vector<Instruction>& all, const Batch& batch) {
    if (batch.relevance) return all.size();
    const auto seed = std::find_if(all.begin(), all.end(), [](const Instruction& each) {
        return std::holds_alternative<Seed>(each);
    });
    return static_cast<size_t>(seed - all.begin()) + 1;
}

}  // namespace

SlabRunner::SlabRunner(const Engine& engine, const Batch& batch, Plan plan)
    : slab_(engine, batch, plan),
      end_(end_of_run(engine.code().instructions, batch)),
      part_(std::max<int64_t>(
          1, kCacheBytes * 3 / 4 / (slab_.stride() * static_cast<int64_t>(sizeof(float))))) {}

Status SlabRunner::run(int64_t first, int64_t samples) {
    slab_.start(first, samples);
    if (Status bad = check_input(slab_); bad.outcome != Outcome::done) return bad;
    const int64_t groups = (samples + slab_.lanes() - 1) / slab_.lanes();
    const Status status = slab_.lanes() > 1 ? run_in_lanes(groups) : run_apart(groups);
    return status.outcome == Outcome::done ? finish(slab_) : status;
}

Status SlabRunner::run_in_lanes(int64_t groups) {
    slab_.spread_input(groups);
    const std::vector<Stretch>& stretches = slab_.engine().stretches();
    const Stretch whole{0, end_, 1};
    Status status;
    if (stretches.empty()) status = run_stretch(whole, groups);
    for (const Stretch& stretch : stretches)
        if (status.outcome == Outcome::done) status = run_stretch(stretch, groups);
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
                if (Status bad = run_part(slab_.code().instructions[i], part, stretch.parts);
                    bad.outcome != Outcome::done)
                    return bad;
    }
    return {};
}

// All of an instruction in the first part, if its rows cannot be divided.
Status SlabRunner::run_part(const Instruction& instruction, int64_t part, int64_t parts) {
    return std::visit(
        [&](const auto& i) {
            if (parts == 1 || rows_of(i) % parts == 0) return execute_part(i, slab_, part, parts);
            return part == 0 ? execute_part(i, slab_, 0, 1) : Status{};
        },
        instruction);
}

Status SlabRunner::run_apart(int64_t samples) {
    const std::vector<Instruction>& all = slab_.code().instructions;
    for (size_t i = 0, end; i < end_; i = end) {
        end = part_ < samples ? std::min(end_of_stretch(i), end_) : end_;
        const int64_t part = part_ < samples && end > i + 1 ? part_ : samples;
        for (int64_t begin = 0; begin < samples; begin += part) {
            slab_.choose(begin, std::min(part, samples - begin));
            for (size_t j = i; j < end; ++j)
                if (Status bad = run_part(all[j], 0, 1); bad.outcome != Outcome::done) return bad;
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

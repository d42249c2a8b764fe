// SPDX-License-Identifier: Apache-2.0
// Runs a program's instructions for one slab of samples after the other.
#pragma once

#include "slab.h"

namespace pyrel {

class SlabRunner {
  public:
    SlabRunner(const Engine& engine, const Batch& batch, Plan plan);
    bool allocated() const { return slab_.allocated(); }
    // Explains so many samples of the batch, from `first` on.
    Status run(int64_t first, int64_t samples);

  private:
    Status run_in_lanes(int64_t groups);
    Status run_apart(int64_t samples);
    Status run_stretch(const Stretch& stretch, int64_t groups);
    Status run_part(const Instruction& instruction, int64_t part, int64_t parts);
    size_t end_of_stretch(size_t first) const;

    Slab slab_;
    const size_t end_;  // of the instructions that run
    // Samples whose memory a core's cache may hold: stretches of instructions that have many rows
    // for each sample run for so many at a time, out of lanes.
    const int64_t part_;
};

}  // namespace pyrel

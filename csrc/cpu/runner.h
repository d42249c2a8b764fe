// SPDX-License-Identifier: Apache-2.0
// Runs a program's instructions for one slab of samples after the other.
#pragma once

#include <functional>

#include "slab.h"

namespace pyrel {

class SlabRunner {
  public:
    SlabRunner(const Engine& engine, const Batch& batch, Plan plan);
    bool allocated() const { return slab_.allocated(); }
    // Explains so many samples of the batch, from `first` on. `stopped` is asked before each way
    // back but the first.
    Status run(int64_t first, int64_t samples, const std::function<bool()>& stopped);

  private:
    // From an instruction on, the first one or the seed.
    Status run_in_lanes(size_t from, int64_t groups);
    Status run_apart(size_t from, int64_t samples);
    Status run_stretch(const Stretch& stretch, int64_t groups);
    Status run_part(size_t number, int64_t part, int64_t parts);
    int64_t skip_zeros(size_t number);
    size_t end_of_stretch(size_t first) const;

    Slab slab_;
    const size_t seed_;  // the instruction at which ways back begin
    const size_t end_;   // of the instructions that run
    // Samples whose memory a core's cache may hold: stretches of instructions that have many rows
    // for each sample run for so many at a time, out of lanes.
    const int64_t part_;
};

}  // namespace pyrel

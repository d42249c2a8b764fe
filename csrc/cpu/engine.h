// SPDX-License-Identifier: Apache-2.0
// A program bound to an instruction set of this processor: its matrices are packed, and it is known
// how it runs with samples in lanes. Immutable, and shared between threads.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "../program/program.h"
#include "../program/stretches.h"
#include "../program/way_back.h"
#include "kernels.h"
#include "packed.h"

namespace pyrel {

// A group of samples in lanes takes at most this: more leaves the caches, and is mapped anew at
// every call.
constexpr int64_t kMostLaneBytes = int64_t{24} << 20;

class Engine {
  public:
    // Of a finished program, whose matrices it packs, or finds packed; of those it packs it takes
    // at most so many bytes. Throws std::invalid_argument as PackedMatrices::get does.
    Engine(const Program& program, PackedMatrices& packed,
           int64_t most_packed = std::numeric_limits<int64_t>::max());

    const Code& code() const { return *code_; }
    const Kernels& kernels() const { return kernels_; }
    const PackedMatrix& matrix(const Gemm& gemm) const {
        return *matrices_[static_cast<size_t>(gemm.matrix)][gemm.bf16 ? 1 : 0];
    }
    // The same by index; null where no instruction takes it in float32.
    const PackedMatrix* in_float32(size_t matrix) const { return matrices_[matrix][0].get(); }
    int64_t scratch_size() const { return scratch_size_; }  // floats, whatever the samples
    // Bytes of a group of samples in lanes.
    int64_t lane_group_bytes() const;
    // About how many times as fast it runs with samples in lanes, as many as there are lanes, with
    // the same results; or 0 where it does not run so, as products of bfloat16 do not, and what
    // would take more than kMostLaneBytes.
    double gain_in_lanes() const { return gain_in_lanes_; }
    // The same where the other layout has slabs of as many samples as it may.
    double gain_over_many() const { return gain_over_many_; }
    // Of all matrices, and of those that a sample reads, each time that it does; but for products
    // of so many rows that one sample repays reading the weights.
    int64_t weight_bytes() const { return weight_bytes_; }
    double streamed_bytes() const { return streamed_bytes_; }
    // What a sample reads and writes of its own memory.
    double touched_bytes() const { return touched_bytes_; }
    // Makes what the matrices are in lanes, where it is not made yet. Throws std::bad_alloc.
    void pack_in_lanes() const;
    // What of the way back runs again after one forward pass. Found when it is first asked for.
    const WayBack& way_back() const;
    // How the instructions run in lanes; none where each runs on its own.
    const std::vector<Stretch>& stretches() const { return stretches_; }

  private:
    void pack(const Gemm& gemm, int64_t times, const Program& program, PackedMatrices& packed,
              int64_t& most_packed);
    double compare_with_lanes(int64_t rows_apart) const;

    const std::shared_ptr<const Code> code_;
    const Kernels& kernels_;
    // By index; in float32 and as pairs of bfloat16, where an instruction takes them.
    std::vector<std::array<std::shared_ptr<const PackedMatrix>, 2>> matrices_;
    int64_t scratch_size_ = 0;
    int64_t weight_bytes_ = 0;
    double streamed_bytes_ = 0.0;
    double touched_bytes_ = 0.0;
    double gain_in_lanes_ = 0.0;
    double gain_over_many_ = 0.0;
    std::vector<Stretch> stretches_;
    mutable std::once_flag traced_;
    mutable WayBack way_back_;
};

}  // namespace pyrel

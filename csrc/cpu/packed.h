// SPDX-License-Identifier: Apache-2.0
// Matrices as the kernels of one instruction set take them.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "../program/program.h"
#include "kernels.h"

namespace pyrel {

// A matrix as products of samples in lanes take it; see kernels.h.
struct LaneMatrix {
    std::vector<LaneColumns> groups;
    std::vector<LaneRange> ranges;
    std::vector<float> weights;
};

struct PackedMatrix {
    int64_t depth = 0;
    int64_t columns = 0;
    int64_t panel = 0;  // columns of one
    int64_t panel_stride = 0;
    int64_t lane_products = 0;  // of a row, with the widest groups of columns
    bool bf16 = false;          // pairs of bfloat16; see GemmTask
    std::unique_ptr<float[], void (*)(void*)> packed{nullptr, nullptr};

    float at(int64_t k, int64_t column) const {
        return packed[static_cast<size_t>(column / panel * panel_stride + k * panel +
                                          column % panel)];
    }
    // Writes what was packed as rows, in the same bits; not of pairs of bfloat16.
    void unpack(float* out) const;
    // Once for all engines that share it, whichever thread comes first. Throws std::bad_alloc.
    void pack_in_lanes(const Kernels& kernels) const;
    const LaneMatrix& in_lanes() const { return in_lanes_; }

  private:
    mutable std::once_flag once_;
    mutable LaneMatrix in_lanes_;
};

// What is packed of matrices for one instruction set, as long as an engine uses it: engines of
// programs with the same matrices share it. Threads may use it at once.
class PackedMatrices {
  public:
    explicit PackedMatrices(const Kernels& kernels) : kernels_(kernels) {}
    const Kernels& kernels() const { return kernels_; }

    // Packs a matrix, rounded to bfloat16 if so asked, unless it is packed. Takes the bytes of what
    // is packed anew from `left`; throws std::invalid_argument if that is too little, or if the
    // instruction set has no products of bfloat16.
    std::shared_ptr<const PackedMatrix> get(const std::shared_ptr<const Matrix>& matrix, bool bf16,
                                            int64_t& left);

  private:
    struct Entry {
        std::weak_ptr<const Matrix> matrix;  // another one may come to lie where it lay
        std::array<std::weak_ptr<const PackedMatrix>, 2> packed;
    };

    const Kernels& kernels_;
    std::mutex mutex_;
    std::map<const Matrix*, Entry> entries_;
};

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// The arrays of an image to which its operations point, while it is made.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "../program/program.h"
#include "image.h"

namespace pyrel::cuda {

// The device counts in 32 bits. Throws std::invalid_argument where a number has more.
int32_t small(int64_t number);

inline int64_t rounded_up(int64_t number, int64_t step) {
    return (number + step - 1) / step * step;
}

class Pools {
  public:
    explicit Pools(const Program& program) : program_(program), code_(*program.code()) {}

    const Code& code() const { return code_; }

    // Each returns where in its array that lies which it adds.
    Operand operand(const Rows& rows);
    int32_t listed(const std::vector<Rows>& all);
    int32_t segments(const Gemm& gemm);
    int32_t index(const std::vector<int64_t>& all);
    // Of vectors, tables and weights, each is added once; −1 of vector −1.
    int32_t vector(int number);
    int32_t table(int number);
    // Weights in the order in which lanes take them; each segment begins with a block of depths.
    int32_t weights(const Gemm& gemm);

    const std::vector<Listed>& all_listed() const { return listed_; }
    const std::vector<int32_t>& offsets() const { return offsets_; }
    const std::vector<int32_t>& indices() const { return index_; }
    const std::vector<float>& floats() const { return floats_; }

  private:
    using Segments = std::pair<int, std::vector<int64_t>>;

    int32_t add(std::map<int, int32_t>& known, int number, const float* values, int64_t count);
    void add_fragment(const Matrix& matrix, int64_t depth, int64_t end, int64_t column);

    const Program& program_;
    const Code& code_;
    std::vector<Listed> listed_;
    std::vector<int32_t> offsets_;
    std::vector<int32_t> index_;
    std::vector<float> floats_;
    std::map<int, int32_t> vectors_, tables_;
    std::map<Segments, int32_t> weights_;
};

}  // namespace pyrel::cuda

// SPDX-License-Identifier: Apache-2.0
#include "pools.h"

#include <iterator>
#include <limits>

namespace pyrel::cuda {

int32_t small(int64_t number) {
    require(number <= std::numeric_limits<int32_t>::max(),
            "the program is too large for the CUDA engine");
    return static_cast<int32_t>(number);
}

Operand Pools::operand(const Rows& rows) {
    if (rows.offsets.empty()) return {};
    const auto memory = rows.space == Space::input   ? Memory::input
                        : rows.space == Space::arena ? Memory::arena
                                                     : Memory::relevance;
    const Operand made{memory, small(std::ssize(offsets_))};
    for (const int64_t offset : rows.offsets) offsets_.push_back(small(offset));
    return made;
}

int32_t Pools::listed(const std::vector<Rows>& all) {
    const int32_t first = small(std::ssize(listed_));
    for (const Rows& rows : all) listed_.push_back({operand(rows), 0});
    return first;
}

int32_t Pools::segments(const Gemm& gemm) {
    const int32_t first = small(std::ssize(listed_));
    for (const Segment& segment : gemm.segments)
        listed_.push_back({operand(segment.rows), small(segment.depth)});
    return first;
}

int32_t Pools::index(const std::vector<int64_t>& all) {
    const int32_t first = small(std::ssize(index_));
    for (const int64_t each : all) index_.push_back(small(each));
    return first;
}

int32_t Pools::vector(int number) {
    if (number < 0) return -1;
    const std::vector<float>& values = *code_.vectors[static_cast<size_t>(number)];
    return add(vectors_, number, values.data(), std::ssize(values));
}

int32_t Pools::table(int number) {
    const Table& table = code_.table(number);
    return add(tables_, number, table.values.data(), table.rows * table.columns);
}

int32_t Pools::add(std::map<int, int32_t>& known, int number, const float* values, int64_t count) {
    const auto [found, is_new] = known.try_emplace(number, 0);
    if (is_new) {
        found->second = small(std::ssize(floats_));
        floats_.insert(floats_.end(), values, values + count);
        // Weights begin at multiples of sixteen bytes.
        floats_.resize(static_cast<size_t>(rounded_up(std::ssize(floats_), 4)));
    }
    return found->second;
}

int32_t Pools::weights(const Gemm& gemm) {
    Segments key{gemm.matrix, {}};
    for (const Segment& segment : gemm.segments) key.second.push_back(segment.depth);
    const auto [found, is_new] = weights_.try_emplace(key, 0);
    if (!is_new) return found->second;
    found->second = small(std::ssize(floats_));
    const Matrix& matrix = *program_.matrices()[static_cast<size_t>(gemm.matrix)];
    const int64_t tiles = rounded_up(matrix.columns, kTileColumns) / kTileColumns;
    int64_t begin = 0;
    for (const int64_t depth : key.second) {
        for (int64_t k = 0; k < depth; k += kTileDepth)
            for (int64_t tile = 0; tile < tiles; ++tile)
                add_fragment(matrix, begin + k, begin + depth, tile * kTileColumns);
        begin += depth;
    }
    return found->second;
}

// Of lane 4g + t the weights of columns g, g + 8, g, g + 8 and depths 2t, 2t, 2t + 1, 2t + 1. A
// tensor core calls the last two depths t + 4; but it only multiplies equal ones.
void Pools::add_fragment(const Matrix& matrix, int64_t depth, int64_t end, int64_t column) {
    for (int lane = 0; lane < kWarp; ++lane)
        for (int n = 0; n < 4; ++n) {
            const int64_t k = depth + lane % 4 * 2 + n / 2;
            const int64_t c = column + lane / 4 + (n % 2 == 0 ? 0 : 8);
            floats_.push_back(k < end && c < matrix.columns ? matrix.at(k, c) : 0.0f);
        }
}

}  // namespace pyrel::cuda

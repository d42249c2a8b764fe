// SPDX-License-Identifier: Apache-2.0
#include "packed.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <iterator>
#include <new>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace pyrel {
namespace {

// A cache line, and the widest vector.
constexpr size_t kAlignment = kLineFloats * sizeof(float);

// Floats from one panel to the next: the kernel for rows with zeros reads a few rows of four panels
// again and again, and these must not fall on the same sets of the first-level cache.
int64_t panel_stride(int64_t depth, int64_t panel) {
    constexpr int64_t kPage = 1024, kQuarter = 256;
    return (depth * panel + kPage - 1) / kPage * kPage + kQuarter;
}

// Rounds to the nearest bfloat16, ties to even. Of finite values only.
uint32_t to_bf16(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Rows 2k and 2k + 1 of a matrix as one row of pairs; see GemmTask.
Matrix paired(const Matrix& matrix) {
    const int64_t depth = (matrix.depth + 1) / 2, columns = matrix.columns;
    const std::shared_ptr<float[]> pairs(new float[static_cast<size_t>(depth * columns)]);
    for (int64_t k = 0; k < matrix.depth; k += 2)
        for (int64_t c = 0; c < columns; ++c) {
            const uint32_t low = to_bf16(matrix.at(k, c));
            const uint32_t high = k + 1 < matrix.depth ? to_bf16(matrix.at(k + 1, c)) : 0;
            pairs[k / 2 * columns + c] = std::bit_cast<float>(high << 16 | low);
        }
    return {depth, columns, columns, 1, std::shared_ptr<const float>(pairs, pairs.get())};
}

int64_t packed_bytes(int64_t depth, int64_t columns, const Kernels& kernels) {
    const int64_t panels = (columns + kernels.panel - 1) / kernels.panel;
    return panels * panel_stride(depth, kernels.panel) * static_cast<int64_t>(sizeof(float));
}

// How many products a row takes in lanes, where depths are left out at which all weights of a group
// of columns are zero.
int64_t lane_products(const Matrix& matrix, const Kernels& kernels) {
    int64_t products = 0;
    const int64_t groups = (matrix.columns + kernels.lane_columns - 1) / kernels.lane_columns;
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t first = matrix.columns * g / groups, next = matrix.columns * (g + 1) / groups;
        for (int64_t k = 0; k < matrix.depth; ++k) {
            int64_t column = first;
            while (column < next && matrix.at(k, column) == 0.0f) ++column;
            if (column < next) products += next - first;
        }
    }
    return products;
}

// Rows of a panel, from the column on that is its first one: a few at a time, so that columns that
// lie side by side, of a matrix that is stored transposed, stay in the cache meanwhile.
void fill_panel(float* out, const Matrix& matrix, int64_t column, int64_t filled, int64_t width) {
    constexpr int64_t kTogether = 64;
    const int64_t down = matrix.row_stride, right = matrix.column_stride;
    const float* const in = matrix.values.get() + column * right;
    for (int64_t first = 0; first < matrix.depth; first += kTogether) {
        const int64_t stop = std::min(first + kTogether, matrix.depth);
        for (int64_t k = first; k < stop; ++k) {
            if (right == 1) std::copy_n(in + k * down, filled, out + k * width);
            std::fill(out + k * width + filled, out + (k + 1) * width, 0.0f);
        }
        for (int64_t c = 0; right != 1 && c < filled; ++c)
            for (int64_t k = first; k < stop; ++k) out[k * width + c] = in[k * down + c * right];
    }
}

// Memory for a packed matrix. Before a large one, what is free in the heap goes back to the system:
// compiling a model frees as much as such a matrix takes, and glibc would keep it.
float* room(size_t bytes) {
#ifdef __GLIBC__
    constexpr size_t kLarge = size_t{16} << 20;
    if (bytes >= kLarge) malloc_trim(0);  // some milliseconds
#endif
    void* memory = std::aligned_alloc(kAlignment, bytes);
    if (!memory) throw std::bad_alloc();
    return static_cast<float*>(memory);
}

// Columns are cut into panels; a panel is contiguous, its rows in ascending k. The last one is
// padded by zeros.
void pack(PackedMatrix& matrix, const Matrix& logical, const Kernels& kernels) {
    const int64_t depth = logical.depth, columns = logical.columns, width = kernels.panel;
    const int64_t panels = (columns + width - 1) / width;
    const int64_t stride = panel_stride(depth, width);
    matrix.packed = {room(static_cast<size_t>(panels * stride) * sizeof(float)), &std::free};
    matrix.depth = depth;
    matrix.columns = columns;
    matrix.panel = width;
    matrix.panel_stride = stride;
    matrix.lane_products = lane_products(logical, kernels);
    for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t column = panel * width;
        const int64_t filled = std::min(width, columns - column);
        fill_panel(matrix.packed.get() + panel * stride, logical, column, filled, width);
    }
}

std::shared_ptr<const PackedMatrix> packed(const Matrix& matrix, bool bf16,
                                           const Kernels& kernels) {
    const auto made = std::make_shared<PackedMatrix>();
    pack(*made, bf16 ? paired(matrix) : matrix, kernels);
    made->depth = matrix.depth;
    made->bf16 = bf16;
    return made;
}

}  // namespace

void PackedMatrix::unpack(float* out) const {
    for (int64_t column = 0; column < columns; column += panel) {
        const float* in = packed.get() + column / panel * panel_stride;
        const int64_t filled = std::min(panel, columns - column);
        for (int64_t k = 0; k < depth; ++k, in += panel)
            std::copy_n(in, filled, out + k * columns + column);
    }
}

std::shared_ptr<const PackedMatrix> PackedMatrices::get(const std::shared_ptr<const Matrix>& matrix,
                                                        bool bf16, int64_t& left) {
    require(!bf16 || kernels_.gemm_bf16, "this instruction set has no products of bfloat16");
    const std::lock_guard lock(mutex_);
    std::erase_if(entries_, [](const auto& entry) { return entry.second.matrix.expired(); });
    Entry& entry = entries_[matrix.get()];
    entry.matrix = matrix;
    std::weak_ptr<const PackedMatrix>& kept = entry.packed[bf16 ? 1 : 0];
    if (auto shared = kept.lock()) return shared;
    const int64_t depth = bf16 ? (matrix->depth + 1) / 2 : matrix->depth;
    left -= packed_bytes(depth, matrix->columns, kernels_);
    require(left >= 0, "its matrices take more memory than it may, as packed");
    auto made = packed(*matrix, bf16, kernels_);
    kept = made;
    return made;
}

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// The micro-kernels, one source for every instruction set. Each output element is one accumulator,
// its products added in ascending k; tile shapes only choose which elements are computed together.
// So results do not depend on batch, slab, thread count or tile, bit for bit.
#include "kernels.h"

#include "functions.h"
#include "in_lanes.h"
#include "rows.h"
#include "vector.h"

namespace pyrel {
namespace {

constexpr int kPanelVectors = 2;
constexpr int64_t kPanel = kPanelVectors * kLanes;

// What the elements of a product's operands are: floats, or pairs of bfloat16 in a float's bits.
struct Single {
    static constexpr int kProducts = 1;
    static Vector multiply_add(Vector a, Vector b, Vector c) {
        return pyrel::multiply_add(a, b, c);
    }
    static unsigned non_zero_lanes(Vector v) { return pyrel::non_zero_lanes(v); }
};

#if defined(PYREL_ISA_AVX512_BF16)
struct Bf16Pair {
    static constexpr int kProducts = 2;
    static Vector multiply_add(Vector a, Vector b, Vector c) { return multiply_add_bf16(a, b, c); }
    static unsigned non_zero_lanes(Vector v) { return non_zero_lanes_bf16(v); }
};
#endif

// Where vector j, counted over panels, of the row of weights lies that starts at `row` in the first
// of them.
inline const float* weights(const GemmTask& task, const float* row, int j) {
    return row + j / kPanelVectors * task.panel_stride + j % kPanelVectors * kLanes;
}

// Rows × Vectors outputs from consecutive panels: the accumulators stay in registers over the whole
// depth. Unrolled twice: the loop's own instructions and the reloads of row pointers that found no
// register cost 7 % of the peak otherwise (12 rows, AVX-512, Zen 4).
template <typename Element, int Rows, int Vectors, bool Partial>
void gemm_tile(const GemmTask& task, const Block& block, int first, int64_t column) {
    Vector sum[Rows][Vectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) sum[r][j] = zero();
    const float* b = task.packed + column / kPanel * task.panel_stride;
    for (int s = 0; s < task.segments; ++s) {
        const float* a[Rows];
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) a[r] = block.a[s][first + r];
        const int64_t depth = task.segment_depth[s];
#pragma GCC unroll 2
        for (int64_t k = 0; k < depth; ++k, b += kPanel) {
            // Whichever operand has fewer vectors is held, the other one passes by.
            if constexpr (Vectors > Rows) {
                Vector x[Rows];
#pragma GCC unroll 8
                for (int r = 0; r < Rows; ++r) x[r] = broadcast(a[r] + k);
#pragma GCC unroll 8
                for (int j = 0; j < Vectors; ++j) {
                    const Vector w = load(weights(task, b, j));
#pragma GCC unroll 8
                    for (int r = 0; r < Rows; ++r)
                        sum[r][j] = Element::multiply_add(x[r], w, sum[r][j]);
                }
            } else {
                Vector w[Vectors];
#pragma GCC unroll 8
                for (int j = 0; j < Vectors; ++j) w[j] = load(weights(task, b, j));
#pragma GCC unroll 16
                for (int r = 0; r < Rows; ++r) {
                    const Vector x = broadcast(a[r] + k);
#pragma GCC unroll 8
                    for (int j = 0; j < Vectors; ++j)
                        sum[r][j] = Element::multiply_add(x, w[j], sum[r][j]);
                }
            }
        }
    }
    // A sum whose products were flushed may be −0, and what a row's zeros add to that depends on
    // whether they are skipped: −0 + 0 is 0.
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) sum[r][j] = sum[r][j] + zero();
    finish(sum, block, first, task.epilogue, InColumns<Vectors, Partial>(column, task.columns));
}

// Few rows leave registers free: several panels at once keep enough independent chains to hide the
// latency of an FMA.
template <typename Element, int Rows>
void gemm_rows(const GemmTask& task, const Block& block, int first) {
    constexpr int Panels = 4 * Rows <= kTileRows ? 4 : (2 * Rows <= kTileRows ? 2 : 1);
    const int64_t whole = task.columns / kPanel * kPanel;
    int64_t column = 0;
    for (; column + Panels * kPanel <= whole; column += Panels * kPanel)
        gemm_tile<Element, Rows, Panels * kPanelVectors, false>(task, block, first, column);
    for (; column < whole; column += kPanel)
        gemm_tile<Element, Rows, kPanelVectors, false>(task, block, first, column);
    if (task.columns - whole > kLanes)
        gemm_tile<Element, Rows, kPanelVectors, true>(task, block, first, whole);
    else if (task.columns > whole)
        gemm_tile<Element, Rows, 1, true>(task, block, first, whole);
}

using RowsKernel = void (*)(const GemmTask&, const Block&, int);
template <typename Element>
constexpr RowsKernel kRowsKernels[] = {
    gemm_rows<Element, 1>,  gemm_rows<Element, 2>,  gemm_rows<Element, 3>,
    gemm_rows<Element, 4>,  gemm_rows<Element, 5>,  gemm_rows<Element, 6>,
#if defined(PYREL_ISA_AVX512) || defined(PYREL_ISA_NEON)
    gemm_rows<Element, 7>,  gemm_rows<Element, 8>,  gemm_rows<Element, 9>,
    gemm_rows<Element, 10>, gemm_rows<Element, 11>, gemm_rows<Element, 12>,
#endif
};

template <typename Element>
void gemm_dense(const GemmTask& task, const Block& block) {
    // Tiles of nearly equal height: 13 rows are 7 + 6, not 12 and a slow 1.
    const int tiles = (block.rows + kTileRows - 1) / kTileRows;
    for (int t = 0; t < tiles; ++t) {
        const int first = block.rows * t / tiles;
        kRowsKernels<Element>[block.rows * (t + 1) / tiles - first - 1](task, block, first);
    }
}

// Rows with zeros. Half of all activations are zero after a ReLU, and so is all relevance below
// them; where an activation is zero its products need not be formed, since adding zero changes no
// sum. A dense tile cannot skip them, as its rows have their zeros in different places. So each row
// is multiplied alone, walking the set bits of a mask of its non-zeros, its accumulators in
// registers and the weights as operands from memory. That runs at the first-level cache's
// bandwidth, one vector a multiply-add, if the weights are there: the depth is cut into parts, of
// which a group of panels stays in that cache while all rows of the block use it. A single row
// reads its weights once anyhow, and skips reading those that it does not need.
constexpr int kPartDepth = 64;  // bits of a mask; × 4 panels × 128 bytes = 32 KiB at most
constexpr int kGroupPanels = 4;
constexpr int64_t kSparseDepth = 4096;  // deeper products do not skip
// Nor do those with fewer weights, such as a small kernel's: looking costs more than is saved.
constexpr int64_t kSparseWeights = 6144;
// And of blocks those with fewer columns: the sums of a single row would be too few chains to hide
// the latency of an FMA.
constexpr int64_t kSparseColumns = 6 * kLanes;
constexpr int kMaxParts = kSparseDepth / kPartDepth + kMaxSegments;

struct Part {
    int32_t segment;
    int32_t depth;
    int64_t start;  // within the segment
    int64_t k;      // within the whole depth
};

struct NonZeros {
    int32_t parts;
    Part part[kMaxParts];
    uint64_t mask[kMaxParts][kBlockRows];  // bit k: whether element k of the part is not zero
};

void cut_into_parts(const GemmTask& task, NonZeros& found) {
    found.parts = 0;
    int64_t k = 0;
    for (int s = 0; s < task.segments; ++s) {
        const int64_t depth = task.segment_depth[s];
        for (int64_t start = 0; start < depth; start += kPartDepth) {
            const int64_t left = depth - start;
            const auto size = static_cast<int32_t>(left < kPartDepth ? left : kPartDepth);
            found.part[found.parts++] = {s, size, start, k + start};
        }
        k += depth;
    }
}

// Returns how many elements of the row are not zero.
template <typename Element>
int64_t find_non_zeros(const Block& block, int row, NonZeros& found) {
    int64_t total = 0;
    for (int p = 0; p < found.parts; ++p) {
        const Part& part = found.part[p];
        const float* a = block.a[part.segment][row] + part.start;
        uint64_t mask = 0;
        for (int k = 0; k < part.depth; k += kLanes) {
            const int64_t count = valid_lanes(part.depth, k);
            mask |= uint64_t{Element::non_zero_lanes(load(a + k, count, count < kLanes))} << k;
        }
        found.mask[p][row] = mask;
        total += __builtin_popcountll(mask);
    }
    return total;
}

// Whether enough is zero for it to pay. A single row gains sooner: it reads weights for nothing
// else. Of more rows the first tells whether to look at the others.
template <typename Element>
bool is_sparse(const GemmTask& task, const Block& block, NonZeros& found) {
    if (task.depth > kSparseDepth || task.depth * task.columns < kSparseWeights) return false;
    if (block.rows > 1 && task.columns < kSparseColumns) return false;
    cut_into_parts(task, found);
    const auto depth = static_cast<double>(task.depth);
    auto total = static_cast<double>(find_non_zeros<Element>(block, 0, found));
    if (block.rows == 1) return total <= 0.9 * depth;
    if (total > 1.2 * kSparseShare * depth) return false;
    for (int r = 1; r < block.rows; ++r)
        total += static_cast<double>(find_non_zeros<Element>(block, r, found));
    return total <= kSparseShare * depth * block.rows;
}

// One row over the parts from `begin` to `end`; between calls the sums are kept in `carried`.
template <typename Element, int Vectors, bool Partial>
void sparse_row(const GemmTask& task, const Block& block, const NonZeros& found, int row, int begin,
                int end, int64_t column, float* carried) {
    Vector sum[Vectors];
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) sum[j] = begin == 0 ? zero() : load(carried + j * kLanes);
    const float* panels = task.packed + column / kPanel * task.panel_stride;
    for (int p = begin; p < end; ++p) {
        const Part& part = found.part[p];
        const float* a = block.a[part.segment][row] + part.start;
        const float* b = panels + part.k * kPanel;
        for (uint64_t left = found.mask[p][row]; left; left &= left - 1) {
            const int k = __builtin_ctzll(left);
            const Vector x = broadcast(a + k);
#pragma GCC unroll 8
            for (int j = 0; j < Vectors; ++j)
                sum[j] = Element::multiply_add(x, load(weights(task, b + k * kPanel, j)), sum[j]);
        }
    }
    if (end < found.parts) {
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) store(carried + j * kLanes, sum[j]);
        return;
    }
    // −0 becomes 0, as in a dense tile. A copy: of an array that is passed on by reference GCC
    // keeps every change in memory.
    Vector result[1][Vectors];
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) result[0][j] = sum[j] + zero();
    finish(result, block, row, task.epilogue, InColumns<Vectors, Partial>(column, task.columns));
}

template <typename Element, int Vectors, bool Partial>
void sparse_columns(const GemmTask& task, const Block& block, const NonZeros& found,
                    int64_t column) {
    alignas(64) float carried[kBlockRows][Vectors * kLanes];
    const int step = block.rows == 1 ? found.parts : 1;
    for (int p = 0; p < found.parts; p += step)
        for (int r = 0; r < block.rows; ++r)
            sparse_row<Element, Vectors, Partial>(task, block, found, r, p, p + step, column,
                                                  carried[r]);
}

using ColumnsKernel = void (*)(const GemmTask&, const Block&, const NonZeros&, int64_t);
template <typename Element, bool Partial>
constexpr ColumnsKernel kColumnsKernels[kGroupPanels * kPanelVectors] = {
    sparse_columns<Element, 1, Partial>, sparse_columns<Element, 2, Partial>,
    sparse_columns<Element, 3, Partial>, sparse_columns<Element, 4, Partial>,
    sparse_columns<Element, 5, Partial>, sparse_columns<Element, 6, Partial>,
    sparse_columns<Element, 7, Partial>, sparse_columns<Element, 8, Partial>};

template <typename Element>
void gemm_sparse(const GemmTask& task, const Block& block, const NonZeros& found) {
    // Groups of nearly equal width, as each reads all lists once.
    const int64_t panels = (task.columns + kPanel - 1) / kPanel;
    const int64_t groups = (panels + kGroupPanels - 1) / kGroupPanels;
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t column = panels * g / groups * kPanel;
        const int64_t next = panels * (g + 1) / groups * kPanel;
        const int64_t width = (next < task.columns ? next : task.columns) - column;
        const int64_t vectors = (width + kLanes - 1) / kLanes;
        const ColumnsKernel* kernels =
            width % kLanes ? kColumnsKernels<Element, true> : kColumnsKernels<Element, false>;
        kernels[vectors - 1](task, block, found, column);
    }
}

template <typename Element>
void multiply(const GemmTask& task, const Block& block, NonZeros& found) {
    if (is_sparse<Element>(task, block, found))
        gemm_sparse<Element>(task, block, found);
    else
        gemm_dense<Element>(task, block);
}

void gemm(const GemmTask& task) {
    NonZeros found;
    for_blocks(task, [&](Block& block) { multiply<Single>(task, block, found); });
}

#if defined(PYREL_ISA_AVX512_BF16)
// The rows of a block are rounded once, their segments joined, and then multiplied as rows of half
// as many elements.
void gemm_bf16(const GemmTask& task) {
    NonZeros found;
    GemmTask pairs = task;
    pairs.segments = 1;
    pairs.depth = pairs.segment_depth[0] = (task.depth + 1) / 2;
    const int64_t stride = bf16_row(task.depth);
    for_blocks(task, [&](Block& block) {
        for (int r = 0; r < block.rows; ++r) {
            float* row = task.scratch + r * stride;
            row[pairs.depth - 1] = 0.0f;  // an odd depth leaves half of the last pair
            int64_t k = 0;
            for (int s = 0; s < task.segments; k += task.segment_depth[s++])
                round_to_bf16(block.a[s][r], task.segment_depth[s],
                              reinterpret_cast<char*>(row) + 2 * k);
            block.a[0][r] = row;
        }
        multiply<Bf16Pair>(pairs, block, found);
    });
}
#endif

void map(const MapTask& task) {
    const int64_t rows = task.samples * task.steps;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next()) {
        Block block;
        fill_operands(block, 0, 1, task.out, task.epilogue, cursor);
        const float* source = task.has_source ? cursor.row<const float*>(task.source) : nullptr;
        for (int64_t column = 0; column < task.columns; column += kLanes) {
            const int64_t count = valid_lanes(task.columns, column);
            Vector v[1][1] = {{source ? load(source + column, count, count < kLanes) : zero()}};
            if (count < kLanes)
                finish(v, block, 0, task.epilogue, InColumns<1, true>(column, task.columns));
            else
                finish(v, block, 0, task.epilogue, InColumns<1, false>(column, task.columns));
        }
    }
}

// Each row's columns in vectors: take(row, column, how many lanes).
template <typename Task, typename Take>
inline void for_vectors(const Task& task, Take&& take) {
    const int64_t rows = task.samples * task.steps;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next())
        for (int64_t column = 0; column < task.columns; column += kLanes)
            take(cursor, column, valid_lanes(task.columns, column));
}

template <Function F>
void activate_by(const FunctionTask& task) {
    const Vector parameter = constant(task.parameter);
    for_vectors(task, [&](const RowCursor& cursor, int64_t column, int64_t count) {
        const float* source = cursor.row<const float*>(task.source) + column;
        float* out = cursor.row<float*>(task.out) + column;
        if (count == kLanes)
            store(out, apply<F>(load(source), parameter));
        else
            store(out, apply<F>(load(source, count), parameter), count);
    });
}

template <Function F>
void slope_by(const FunctionTask& task) {
    const Vector parameter = constant(task.parameter);
    for_vectors(task, [&](const RowCursor& cursor, int64_t column, int64_t count) {
        const bool partial = count < kLanes;
        const float* source = cursor.row<const float*>(task.source) + column;
        const float* value = cursor.row<const float*>(task.value) + column;
        float* out = cursor.row<float*>(task.out) + column;
        Vector v = load(source, count, partial) * slope<F>(load(value, count, partial), parameter);
        if (task.accumulate) v = v + load(out, count, partial);
        if (partial)
            store(out, v, count);
        else
            store(out, v);
    });
}

using FunctionKernel = void (*)(const FunctionTask&);
// In the order of Function.
constexpr FunctionKernel kActivate[] = {
    activate_by<Function::sigmoid>,   activate_by<Function::tanh>,
    activate_by<Function::softplus>,  activate_by<Function::leaky_relu>,
    activate_by<Function::elu>,       activate_by<Function::gelu>,
    activate_by<Function::gelu_tanh>, activate_by<Function::silu>,
    activate_by<Function::reciprocal>};
constexpr FunctionKernel kSlope[] = {
    slope_by<Function::sigmoid>,    slope_by<Function::tanh>, slope_by<Function::softplus>,
    slope_by<Function::leaky_relu>, slope_by<Function::elu>,  slope_by<Function::gelu>,
    slope_by<Function::gelu_tanh>,  slope_by<Function::silu>, slope_by<Function::reciprocal>};

void activate(const FunctionTask& task) { kActivate[static_cast<int>(task.function)](task); }
void slope(const FunctionTask& task) { kSlope[static_cast<int>(task.function)](task); }

// The rows that a window's elements lie in. With a Count above 0 that many, found once for a row;
// else as many as the task says.
template <int Count>
class Window {
  public:
    Window(const PoolTask& task, const RowCursor& cursor) : task_(task), cursor_(cursor) {
        for (int i = 0; i < Count; ++i) {
            values_[i] = cursor.row<const float*>(task.values[i]);
            if (task.outs) outs_[i] = cursor.row<float*>(task.outs[i]);
        }
    }
    int64_t count() const { return Count ? Count : task_.count; }
    const float* value(int64_t i) const {
        return Count ? values_[i] : cursor_.row<const float*>(task_.values[i]);
    }
    float* out(int64_t i) const { return Count ? outs_[i] : cursor_.row<float*>(task_.outs[i]); }

  private:
    const PoolTask& task_;
    const RowCursor& cursor_;
    const float* values_[Count ? Count : 1];
    float* outs_[Count ? Count : 1];
};

// Each row's window, and what its one row for all elements is, in vectors:
// take(window, row, column, how many lanes).
template <int Count, typename Take>
inline void for_windows(const PoolTask& task, Take&& take) {
    const int64_t rows = task.samples * task.steps;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next()) {
        const Window<Count> window(task, cursor);
        float* const out = cursor.row<float*>(task.out);
        for (int64_t column = 0; column < task.columns; column += kLanes)
            take(window, out + column, column, valid_lanes(task.columns, column));
    }
}

template <int Count>
inline Vector largest(const Window<Count>& window, int64_t column, int64_t count) {
    const bool partial = count < kLanes;
    Vector most = load(window.value(0) + column, count, partial);
    for (int64_t i = 1; i < window.count(); ++i) {
        const Vector v = load(window.value(i) + column, count, partial);
        most = select(is_nan(v), v, select(less(most, v), v, most));
    }
    return most;
}

template <int Count>
void max_pool_of(const PoolTask& task) {
    for_windows<Count>(task, [&](const auto& window, float* out, int64_t column, int64_t count) {
        const Vector most = largest(window, column, count);
        if (count == kLanes)
            store(out, most);
        else
            store(out, most, count);
    });
}

// Hands each value what `share` says, given the value.
template <int Count, typename Share>
inline void hand_out(const Window<Count>& window, bool accumulate, int64_t column, int64_t count,
                     Share&& share) {
    const bool partial = count < kLanes;
    for (int64_t i = 0; i < window.count(); ++i) {
        float* out = window.out(i) + column;
        Vector v = share(load(window.value(i) + column, count, partial));
        if (accumulate) v = v + load(out, count, partial);
        if (partial)
            store(out, v, count);
        else
            store(out, v);
    }
}

template <int Count>
void route_to_largest(const PoolTask& task) {
    for_windows<Count>(
        task, [&](const auto& window, const float* relevance, int64_t column, int64_t count) {
            const Vector most = largest(window, column, count);
            Vector left = load(relevance, count, count < kLanes);
            hand_out(window, task.accumulate, column, count, [&](Vector value) {
                const Mask smaller = less(value, most);
                const Vector v = select(smaller, zero(), left);
                left = select(smaller, left, zero());
                return v;
            });
        });
}

template <int Count>
void route_by_share(const PoolTask& task) {
    for_windows<Count>(
        task, [&](const auto& window, const float* relevance, int64_t column, int64_t count) {
            const bool partial = count < kLanes;
            Vector sum = zero();
            for (int64_t i = 0; i < window.count(); ++i)
                sum = sum + relu(load(window.value(i) + column, count, partial));
            const Vector ratio = safe_divide(load(relevance, count, partial), sum);
            hand_out(window, task.accumulate, column, count,
                     [&](Vector value) { return relu(value) * ratio; });
        });
}

constexpr int kCommonWindow = 4;  // 2 × 2

void max_pool(const PoolTask& task) {
    if (task.count == kCommonWindow)
        max_pool_of<kCommonWindow>(task);
    else
        max_pool_of<0>(task);
}

template <int Count>
void route(const PoolTask& task) {
    if (task.shares)
        route_by_share<Count>(task);
    else
        route_to_largest<Count>(task);
}

void pool_route(const PoolTask& task) {
    if (task.count == kCommonWindow)
        route<kCommonWindow>(task);
    else
        route<0>(task);
}

// Sums over the columns of a row, in double precision and by eight partial sums, whatever the set's
// width: term(column, lanes there are, terms) makes of a vector the terms of each sum.
template <int Sums, typename Term>
inline void sum_over(int64_t columns, double (&sums)[Sums], Term&& term) {
    constexpr int kStep = kLanes < kParts ? kParts : kLanes;
    WideDoubles parts[Sums][kParts / kWide] = {};
    Doubles terms[Sums];
    const auto add = [&](int first) {  // lanes of the terms, the first one of column `first`
        for (int n = 0; n < Sums; ++n)
            for (int h = 0; h < 2; ++h)
                parts[n][(first / kWide + h) % (kParts / kWide)] += terms[n].part[h];
    };
    int64_t column = 0;
    for (; column + kStep <= columns; column += kStep)
        for (int first = 0; first < kStep; first += kLanes) {
            term(column + first, int64_t{kLanes}, terms);
            add(first);
        }
    for (int first = 0; column < columns; column += kLanes, first += kLanes) {
        term(column, valid_lanes(columns, column), terms);
        add(first);
    }
    for (int n = 0; n < Sums; ++n) {
        double all[kParts];
        __builtin_memcpy(all, parts[n], sizeof all);
        sums[n] = sum_of(all);
    }
}

// Adds the part of a row that is absorbed; lanes beyond the end are zero.
void absorb_row(const AbsorbTask& task, const float* source, const float* operand, double& absorbed,
                double& largest) {
    const float* const vector = task.vector;
    const auto value = [](const float* p, int64_t column, int64_t count) {
        return load(p + column, count, count < kLanes);
    };
    const auto denominator = [&](int64_t column, int64_t count) {
        const Vector d = value(operand, column, count);
        return vector ? d + value(vector, column, count) : d;
    };
    if (task.share == Share::stabiliser) {
        const Vector epsilon = broadcast(&task.epsilon);
        double sums[2];
        sum_over(task.columns, sums, [&](int64_t column, int64_t count, auto& terms) {
            const Vector d = denominator(column, count);
            const Vector share = absorbed_of(Share::stabiliser, value(source, column, count), d);
            widen(share, terms[0]);
            widen(divided_by_stabilised(share, d, epsilon), terms[1]);
        });
        absorbed += double{task.epsilon} * sums[0];
        raise_to(largest, sums[1]);
        return;
    }
    double sum[1];
    if (task.share == Share::weighted)
        sum_over(task.columns, sum, [&](int64_t column, int64_t count, auto& terms) {
            Doubles weights;
            widen(value(vector, column, count), weights);
            widen(value(source, column, count), terms[0]);
            for (int h = 0; h < 2; ++h) terms[0].part[h] *= weights.part[h];
        });
    else
        sum_over(task.columns, sum, [&](int64_t column, int64_t count, auto& terms) {
            const Vector d = denominator(column, count);
            widen(absorbed_of(task.share, value(source, column, count), d), terms[0]);
        });
    absorbed += sum[0];
}

void absorb(const AbsorbTask& task) {
    const int64_t rows = task.samples * task.steps;
    RowCursor cursor{0, 0, task.steps};
    for (int64_t row = 0; row < rows; ++row, cursor.next()) {
        const float* operand =
            task.operand.offsets ? cursor.row<const float*>(task.operand) : nullptr;
        absorb_row(task, cursor.row<const float*>(task.source), operand,
                   task.absorbed[cursor.sample], task.largest[cursor.sample]);
    }
}

Totals totals(const float* x, int64_t size) {
    double sums[2];
    sum_over(size, sums, [&](int64_t column, int64_t count, auto& terms) {
        const Vector v = load(x + column, count, count < kLanes);
        widen(v, terms[0]);
        widen(absolute(v), terms[1]);
    });
    return {sums[0], sums[1]};
}

bool inside(const float* x, const float* low, const float* high, int64_t size) {
    const float largest = 3.402823466e+38f, smallest = -largest;
    const Vector top = broadcast(&largest), bottom = broadcast(&smallest);
    bool good = true;
    for (int64_t i = 0; i < size; i += kLanes) {
        const int64_t count = valid_lanes(size, i);
        const bool partial = count < kLanes;  // lanes beyond the end are zero in all three
        const Vector v = load(x + i, count, partial);
        good &= inside(v, load(low + i, count, partial), load(high + i, count, partial));
        good &= inside(v, bottom, top);
    }
    return good;
}

template <typename Element>
double peak(int64_t repetitions) {
    constexpr int kChains = kTileRows * kPanelVectors;
    float seed[kLanes];
    for (int i = 0; i < kLanes; ++i) seed[i] = 1.0f;
    Vector sum[kChains];
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) {
        sum[i] = zero();
        hide(sum[i]);  // else the chains are equal and the compiler keeps one
    }
    Vector x = load(seed);
    for (int64_t n = 0; n < repetitions; ++n) {
        hide(x);  // else the loop could be folded
#pragma GCC unroll 32
        for (int i = 0; i < kChains; ++i) sum[i] = Element::multiply_add(x, x, sum[i]);
    }
    Vector total = zero();
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) total = total + sum[i];
    hide(total);
    return static_cast<double>(repetitions) * kChains * kLanes * 2.0 * Element::kProducts;
}

constexpr Kernels table(const char* isa) {
    Kernels kernels{};
    kernels.isa = isa;
    kernels.panel = kPanel;
    kernels.tile_rows = kTileRows;
    kernels.block_rows = kBlockRows;
    kernels.lanes = kLanes;
    kernels.lane_columns = kLaneColumns;
    kernels.lane_rows = kLaneRows;
    kernels.gemm = gemm;
    kernels.gemm_in_lanes = gemm_in_lanes;
    kernels.map = map;
    kernels.map_in_lanes = map_in_lanes;
    kernels.activate = activate;
    kernels.slope = slope;
    kernels.max_pool = max_pool;
    kernels.pool_route = pool_route;
    kernels.absorb = absorb;
    kernels.absorb_in_lanes = absorb_in_lanes;
    kernels.totals = totals;
    kernels.inside = inside;
    kernels.peak = peak<Single>;
#if defined(PYREL_ISA_AVX512_BF16)
    kernels.gemm_bf16 = gemm_bf16;
    kernels.peak_bf16 = peak<Bf16Pair>;
#endif
    return kernels;
}

}  // namespace

#if defined(PYREL_ISA_AVX512_BF16)
const Kernels* kernels_avx512_bf16() {
    static constexpr Kernels kernels = table("avx512_bf16");
#elif defined(PYREL_ISA_AVX512)
const Kernels* kernels_avx512() {
    static constexpr Kernels kernels = table("avx512");
#elif defined(PYREL_ISA_AVX2)
const Kernels* kernels_avx2() {
    static constexpr Kernels kernels = table("avx2");
#elif defined(PYREL_ISA_NEON)
const Kernels* kernels_neon() {
    static constexpr Kernels kernels = table("neon");
#else
const Kernels* kernels_baseline() {
    static constexpr Kernels kernels = table("baseline");
#endif
    return &kernels;
}

}  // namespace pyrel

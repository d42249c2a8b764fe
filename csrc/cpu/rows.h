// SPDX-License-Identifier: Apache-2.0
// What all kernels share: how they walk rows, look at blocks of them, and finish what they
// computed. A part of kernels.cpp.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace pyrel {
namespace {

inline Vector load(const float* p, int64_t count, bool partial) {
    return partial ? load(p, count) : load(p);
}

inline int64_t valid_lanes(int64_t columns, int64_t column) {
    const int64_t left = columns - column;
    return left < 0 ? 0 : (left > kLanes ? kLanes : left);
}

// Rows are looked at this many at a time: enough to read weights often from the first-level cache
// where single rows skip their zeros, and a whole number of dense tiles.
constexpr int kBlockRows = 24;

struct Block {
    int rows;
    int64_t begin, end;  // columns of a product that are computed; from a panel's first one on
    const float* a[kMaxSegments][kBlockRows];
    float* out[kBlockRows];
    const float* scale[kBlockRows];
    const float* post[kBlockRows];
};

// Walks the rows of a view, samples outer and steps inner.
struct RowCursor {
    int64_t sample;
    int64_t step;
    int64_t steps;
    void next() { skip(1); }
    // At most to the end of the sample.
    void skip(int64_t count) {
        step += count;
        if (step == steps) {
            step = 0;
            ++sample;
        }
    }
    template <typename Pointer>
    Pointer row(const View& view) const {
        return view.base + sample * view.stride + (view.offsets[step] << view.shift);
    }
};

// Where `count` rows of one sample begin, from the cursor's on.
template <typename Pointer>
inline void fill(Pointer* pointers, int count, const View& view, const RowCursor& cursor) {
    float* const base = view.base + cursor.sample * view.stride;
    const int64_t* const offsets = view.offsets + cursor.step;
    for (int r = 0; r < count; ++r) pointers[r] = base + (offsets[r] << view.shift);
}

// The outputs and what the epilogue reads of rows `first` to `first + count − 1` of a block.
inline void fill_operands(Block& block, int first, int count, const View& out, const Epilogue& e,
                          const RowCursor& cursor) {
    fill(block.out + first, count, out, cursor);
    if (e.scale >= Scale::operand) fill(block.scale + first, count, e.scale_operand, cursor);
    if (e.post_operand.offsets) fill(block.post + first, count, e.post_operand, cursor);
}

// Where the vectors of a tile lie: vector j of a row is columns of one sample,
template <int Vectors, bool Partial>
struct InColumns {
    int64_t column;
    int64_t count[Vectors];  // of lanes that there are

    InColumns(int64_t first, int64_t columns) : column(first) {
        for (int j = 0; j < Vectors; ++j)
            count[j] = Partial ? valid_lanes(columns, column + j * kLanes) : kLanes;
    }
    Vector constants(const float* p, int j) const { return row(p, j); }
    Vector row(const float* p, int j) const {
        return load(p + column + j * kLanes, count[j], Partial);
    }
    void put(float* p, int j, Vector v) const {
        if (Partial)
            store(p + column + j * kLanes, v, count[j]);
        else
            store(p + column + j * kLanes, v);
    }
};

// or one column of as many samples as there are lanes.
struct InLanes {
    int64_t column;
    Vector constants(const float* p, int j) const { return broadcast(p + column + j); }
    Vector row(const float* p, int j) const { return load(p + (column + j) * kLanes); }
    void put(float* p, int j, Vector v) const { store(p + (column + j) * kLanes, v); }
};

// v[r][j] = f(v[r][j], r, j) for Rows × Vectors registers, unrolled.
template <int Rows, int Vectors, typename Function>
[[gnu::always_inline]] inline void for_each(Vector (&v)[Rows][Vectors], Function&& f) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) v[r][j] = f(v[r][j], r, j);
}

// The last stage of an epilogue, `post` being its operand's rows.
template <int Rows, int Vectors, typename Place>
[[gnu::always_inline]] inline void apply_post(Vector (&v)[Rows][Vectors], const float* const* post,
                                              const Epilogue& e, const Place& at) {
    switch (e.post) {
        case Post::none:
            break;
        case Post::relu:
            for_each(v, [&](Vector x, int, int) { return relu(x); });
            break;
        case Post::divide:
            if (e.post_vector)
                for_each(v, [&](Vector x, int r, int j) {
                    return safe_divide(x, at.row(post[r], j) + at.constants(e.post_vector, j));
                });
            else
                for_each(
                    v, [&](Vector x, int r, int j) { return safe_divide(x, at.row(post[r], j)); });
            break;
        case Post::mask:
            for_each(v,
                     [&](Vector x, int r, int j) { return where_positive(at.row(post[r], j), x); });
            break;
        case Post::guided:
            for_each(v, [&](Vector x, int r, int j) {
                return where_positive(at.row(post[r], j), relu(x));
            });
            break;
        case Post::square:
            for_each(v, [&](Vector x, int, int) { return x * x; });
            break;
        case Post::multiply:
            for_each(v, [&](Vector x, int r, int j) { return x * at.row(post[r], j); });
            break;
        case Post::divide_operand:
            for_each(v, [&](Vector x, int r, int j) { return safe_divide(at.row(post[r], j), x); });
            break;
        case Post::divide_stabilised: {
            const Vector epsilon = broadcast(&e.epsilon);
            for_each(v, [&](Vector x, int r, int j) {
                Vector d = at.row(post[r], j);
                if (e.post_vector) d = d + at.constants(e.post_vector, j);
                const Vector negative = where_positive(zero() - d, epsilon);
                return x / (d + (epsilon - negative - negative));
            });
            break;
        }
    }
}

// The epilogue on Rows × Vectors registers, of the block's rows from `first` on. Each stage is one
// uniform branch around an unrolled loop, so the accumulators never leave their registers.
template <int Rows, int Vectors, typename Place>
[[gnu::always_inline]] inline void finish(Vector (&v)[Rows][Vectors], const Block& block, int first,
                                          const Epilogue& e, const Place& at) {
    float* const* out = block.out + first;
    const float* const* scale = block.scale + first;
    if (e.bias) for_each(v, [&](Vector x, int, int j) { return x + at.constants(e.bias, j); });
    switch (e.scale) {
        case Scale::none:
            break;
        case Scale::vector:
            for_each(v, [&](Vector x, int, int j) { return x * at.constants(e.scale_vector, j); });
            break;
        case Scale::operand:
            for_each(v, [&](Vector x, int r, int j) { return x * at.row(scale[r], j); });
            break;
        case Scale::operand_minus_vector:
            for_each(v, [&](Vector x, int r, int j) {
                return x * (at.row(scale[r], j) - at.constants(e.scale_vector, j));
            });
            break;
    }
    if (e.accumulate) for_each(v, [&](Vector x, int r, int j) { return x + at.row(out[r], j); });
    apply_post(v, block.post + first, e, at);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) at.put(out[r], j, v[r][j]);
}

template <typename Take>
void for_blocks(const GemmTask& task, Take&& take) {
    const int64_t rows = task.samples * task.steps;
    const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
    RowCursor cursor{0, 0, task.steps};
    Block block;
    for (int64_t b = 0; b < blocks; ++b) {
        block.rows = static_cast<int>(rows * (b + 1) / blocks - rows * b / blocks);
        for (int r = 0; r < block.rows;) {
            const int64_t left = task.steps - cursor.step;  // rows of the same sample
            const int count = left < block.rows - r ? static_cast<int>(left) : block.rows - r;
            for (int s = 0; s < task.segments; ++s) fill(block.a[s] + r, count, task.a[s], cursor);
            fill_operands(block, r, count, task.out, task.epilogue, cursor);
            r += count;
            cursor.skip(count);
        }
        take(block);
    }
}

// A vector in double precision: its halves are what a register holds.
constexpr int kWide = kLanes / 2;
struct Doubles {
    WideDoubles part[2];
};

inline void widen(Vector v, Doubles& wide) { widen(v, wide.part[0], wide.part[1]); }

// Sums the eight parts of a long sum; see limits.h.
template <typename Sum>
inline Sum sum_of(const Sum (&parts)[kParts]) {
    return ((parts[0] + parts[4]) + (parts[2] + parts[6])) +
           ((parts[1] + parts[5]) + (parts[3] + parts[7]));
}

// |R| of what became s · sign(d) when R was divided by d + ε sign(d).
inline Vector divided_by_stabilised(Vector signed_s, Vector d, Vector epsilon) {
    return absolute(signed_s * (absolute(d) + epsilon));
}

inline void raise_to(double& largest, double sum) {
    if (sum > largest || sum != sum) largest = sum;
}

// What of relevance v is absorbed at a denominator d, ε apart.
inline Vector absorbed_of(Share share, Vector v, Vector d) {
    if (share == Share::stabiliser) return select(less(d, zero()), zero() - v, v);
    // NaN is not zero.
    return select(less(d, zero()), zero(),
                  select(less(zero(), d), zero(), select(is_nan(d), zero(), v)));
}

}  // namespace
}  // namespace pyrel

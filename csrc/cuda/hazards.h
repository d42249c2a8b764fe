// SPDX-License-Identifier: Apache-2.0
// Which rows of instructions may run without a barrier between them.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "../program/operands.h"

namespace pyrel::cuda {

// Floats of one sample that a row of an instruction reads or writes.
struct Touched {
    Space space;
    int64_t first, count;
    Access access;
    bool read_by_others = false;  // than the threads that write the row's results
};

using Touches = std::vector<Touched>;

// What row `row` of an instruction touches; a visitor of ../program/operands.h.
class RowTouches {
  public:
    explicit RowTouches(int64_t row) : row_(static_cast<size_t>(row)) {}

    void rows(const Rows& rows, int64_t columns, Access access) {
        found.push_back({rows.space, rows.offsets[row_], columns, access});
    }
    void elements(const std::vector<int64_t>& index, const Rows& rows, bool writes) {
        for (const int64_t i : index)
            found.push_back(
                {rows.space, rows.offsets[row_] + i, 1, writes ? Access::update : Access::read});
    }
    void apart(const Rows& rows, int64_t count, int64_t stride, int64_t columns) {
        for (int64_t i = 0; i < count; ++i)
            found.push_back({rows.space, rows.offsets[row_] + i * stride, columns, Access::read});
    }

    Touches found;

  private:
    size_t row_;
};

// Whether a row writes what another one touches.
bool meet_each_other(const std::vector<Touches>& rows);
// Whether two operands of any rows lie at the same floats, or have none in common.
bool same_or_apart(const std::vector<Touches>& rows);
// Whether what a row writes is apart from the operands that other threads read, and apart
// from the others or the same floats.
bool owns_results(const Touches& row);

// Which thread touches element e of an operand: that of number `place` + e among those of its
// `kind`, or place + e % parts. Of rows whose threads are not known, and of operands that others
// than a row's threads read, `row` is the kind: another one for each, of one thread, as none of
// another row is the same.
struct Owner {
    int32_t row = -1;
    int32_t kind = 0;
    int32_t place = 0;
    int32_t parts = 0;  // none where the threads are not known
};
constexpr int32_t kAllElements = std::numeric_limits<int32_t>::max();  // parts

// Follows what threads touch since the last barrier.
class Hazards {
  public:
    Hazards(int64_t input_size, int64_t arena_size);

    // Whether a thread would touch what another one wrote, or write what another one read, since
    // the last barrier.
    bool meets(const Touches& touched, const Owner& owner) const;
    void note(const Touches& touched, const Owner& owner);
    void barrier() { ++epoch_; }

  private:
    struct Mark {
        int32_t epoch = 0;
        int32_t kind = 0;
        int32_t place = 0;

        bool is_of(const Mark& other) const { return kind == other.kind && place == other.place; }
    };
    struct Float {
        Mark written;
        Mark read;
        bool many = false;  // read by more than one since that epoch
    };

    Mark mark(const Touched& each, int64_t place, const Owner& owner) const;
    const std::vector<Float>& floats(Space space) const {
        return floats_[static_cast<size_t>(space)];
    }

    std::array<std::vector<Float>, kSpaces> floats_;
    int32_t epoch_ = 1;
};

}  // namespace pyrel::cuda

// SPDX-License-Identifier: Apache-2.0
// Which floats of a sample instructions touch, and by which part of their rows.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "operands.h"

namespace pyrel {

class TouchedByParts {
  public:
    TouchedByParts(int64_t input_size, int64_t arena_size) {
        for (auto* last : {&writer_, &reader_})
            for (const Space space : {Space::input, Space::arena, Space::relevance}) {
                const int64_t size = space == Space::arena ? arena_size : input_size;
                (*last)[static_cast<size_t>(space)].assign(static_cast<size_t>(size), -1);
            }
    }

    // Nothing is touched yet.
    void forget() {
        first_ = latest_ + 1;
        part_ = first_;
        floats_ = 0;
        in_order_ = true;
    }

    // What is touched from now on is by this part, in so many steps from the first one on.
    void start(int64_t part, int64_t first_step, int64_t steps) {
        first_step_ = first_step;
        end_step_ = first_step + steps;
        part_ = first_ + part;
        touches_ += kStart;
        latest_ = std::max(latest_, part_);
    }

    void rows(const Rows& rows, int64_t columns, Access access) {
        for (int64_t step = first_step_; step < end_step_; ++step) {
            if (spent()) return;
            const int64_t offset = rows.offsets[static_cast<size_t>(step)];
            for (int64_t f = offset; f < offset + columns; ++f) touch(rows.space, f, access);
        }
    }

    void elements(const std::vector<int64_t>& index, const Rows& rows, bool writes) {
        for (int64_t step = first_step_; step < end_step_ && !spent(); ++step)
            for (const int64_t i : index)
                touch(rows.space, rows.offsets[static_cast<size_t>(step)] + i,
                      writes ? Access::update : Access::read);
    }

    void apart(const Rows& rows, int64_t count, int64_t stride, int64_t columns) {
        for (int64_t step = first_step_; step < end_step_; ++step)
            for (int64_t i = 0; i < count && !spent(); ++i) {
                const int64_t from = rows.offsets[static_cast<size_t>(step)] + i * stride;
                for (int64_t f = from; f < from + columns; ++f) touch(rows.space, f, Access::read);
            }
    }

    // What is absorbed is one sum, which every part adds to.
    void absorbed() { touch(absorbed_, absorbed_, Access::update); }

    // Whether so much was touched since the beginning that no more is looked up.
    bool spent() const { return touches_ > kMostTouches; }
    // How many different ones.
    int64_t floats() const { return floats_; }
    // Whether no part has touched what a later one had touched before, but to read what that read.
    bool in_order() const { return in_order_; }

  private:
    void touch(Space space, int64_t f, Access access) {
        touch(writer_[static_cast<size_t>(space)][static_cast<size_t>(f)],
              reader_[static_cast<size_t>(space)][static_cast<size_t>(f)], access);
    }

    void touch(int64_t& writer, int64_t& reader, Access access) {
        ++touches_;
        if (writer < first_ && reader < first_) ++floats_;
        in_order_ &= writer <= part_ && (access == Access::read || reader <= part_);
        if (access != Access::read) writer = std::max(writer, part_);
        if (access != Access::write) reader = std::max(reader, part_);
    }

    // By space and float: the last part that wrote or read it. Parts go on being numbered where
    // things are forgotten, so that nothing needs to be cleared.
    std::array<std::vector<int64_t>, kSpaces> writer_, reader_;
    static constexpr int64_t kMostTouches = int64_t{1} << 28;
    static constexpr int64_t kStart = 32;  // touches that take about as long as starting
    int64_t first_step_ = 0, end_step_ = 0;
    int64_t absorbed_ = -1;
    int64_t touches_ = 0;
    int64_t first_ = 0;
    int64_t latest_ = -1;
    int64_t part_ = 0;
    int64_t floats_ = 0;
    bool in_order_ = true;
};

}  // namespace pyrel

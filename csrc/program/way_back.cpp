// SPDX-License-Identifier: Apache-2.0
#include "way_back.h"

#include <algorithm>
#include <array>
#include <limits>
#include <type_traits>
#include <variant>

#include "operands.h"

namespace pyrel {
namespace {

using Reached = Loop::Reached;

constexpr Reached kNone{std::numeric_limits<int32_t>::max(), -1};

bool none(const Reached& reached) { return reached.last < 0; }

void join(Reached& reached, const Reached& more) {
    reached.first = std::min(reached.first, more.first);
    reached.last = std::max(reached.last, more.last);
}

template <typename Plain, typename... Kinds>
constexpr bool is_one_of = (std::is_same_v<Plain, Kinds> || ...);

// Follows relevance through the instructions of the way back, one row after the other. Nothing
// writes relevance before the seed, or to the input.
class Trace {
  public:
    explicit Trace(const Code& code) : code_(code) {
        const auto sized = [](int64_t size) {
            return std::vector<Place>(static_cast<size_t>(size));
        };
        of(Space::arena) = sized(code.arena_size);
        of(Space::relevance) = sized(code.input_size);
    }

    bool keeps_forward() const { return keeps_forward_; }

    // Begins an iteration of a loop, or none where `loop` is null; `number` is never taken twice.
    void start(Loop* loop, int32_t number) {
        loop_ = loop;
        number_ = number;
        if (!loop_) return;
        loop_->reached.push_back(kNone);
        loop_->fresh.emplace_back();
    }

    template <typename Plain>
    void row(const Plain& instruction, int64_t step) {
        step_ = step;
        reached_ = kNone;
        reads_ = true;
        operands(code_, instruction, *this);
        if constexpr (std::is_same_v<Plain, Seed>) return seed(instruction);
        // What may write more than zeros where it reads zeros is left out for no output.
        const bool zeros = none(reached_) ? clears(instruction) : is_linear(instruction);
        if (!zeros) reached_ = {0, static_cast<int32_t>(code_.classes - 1)};
        if (loop_) join(loop_->reached.back(), reached_);
        reads_ = false;
        operands(code_, instruction, *this);
    }

    void rows(const Rows& rows, int64_t columns, Access access) {
        touch(rows.space, rows.offsets[static_cast<size_t>(step_)], columns, access);
    }

    void elements(const std::vector<int64_t>& index, const Rows& rows, bool writes) {
        for (const int64_t i : index)
            touch(rows.space, rows.offsets[static_cast<size_t>(step_)] + i, 1,
                  writes ? Access::update : Access::read);
    }

    void apart(const Rows& rows, int64_t count, int64_t stride, int64_t columns) {
        for (int64_t i = 0; i < count; ++i)
            touch(rows.space, rows.offsets[static_cast<size_t>(step_)] + i * stride, columns,
                  Access::read);
    }

  private:
    struct Place {
        bool of_forward = false, of_back = false;
        Reached reached = kNone;
        int32_t written = -1;  // when it was last replaced
    };

    std::vector<Place>& of(Space space) { return places_[static_cast<size_t>(space)]; }

    template <typename Plain>
    static bool clears(const Plain& instruction) {
        if constexpr (std::is_same_v<Plain, Map>)
            return instruction.source.offsets.empty() && instruction.epilogue.bias < 0;
        else
            return std::is_same_v<Plain, Absorb>;
    }

    template <typename Plain>
    static bool is_linear(const Plain& instruction) {
        if constexpr (std::is_same_v<Plain, Gemm> || std::is_same_v<Plain, Map>)
            return instruction.epilogue.bias < 0;
        else
            return is_one_of<Plain, Gather, Scatter, Absorb, Slope, Reduce, Matmul, PoolRoute,
                             NormaliseBack>;
    }

    void seed(const Seed& seed) {
        for (int64_t c = 0; c < code_.classes; ++c) {
            Place& place = of(seed.out.space)[static_cast<size_t>(seed.out.offsets[0] + c)];
            keeps_forward_ &= !place.of_forward;
            place.of_back = true;
            place.reached = {static_cast<int32_t>(c), static_cast<int32_t>(c)};
        }
    }

    // Twice for each operand of a row: what is read, then what is written.
    void touch(Space space, int64_t first, int64_t count, Access access) {
        if (space == Space::input || access == (reads_ ? Access::write : Access::read)) return;
        std::vector<Place>& places = of(space);
        int64_t fresh = first;  // from here on none was replaced in this loop before
        for (int64_t f = first; f < first + count; ++f) {
            Place& place = places[static_cast<size_t>(f)];
            if (reads_) {
                place.of_forward |= !place.of_back;
                join(reached_, place.reached);
                continue;
            }
            keeps_forward_ &= !place.of_forward;
            place.of_back = true;
            if (access == Access::update) {
                join(place.reached, reached_);
                continue;
            }
            place.reached = reached_;
            if (place.written >= number_) {
                note(space, fresh, f);
                fresh = f + 1;
            }
            place.written = number_;
        }
        if (!reads_ && access == Access::write) note(space, fresh, first + count);
    }

    void note(Space space, int64_t first, int64_t end) {
        if (loop_ && first < end) loop_->fresh.back().push_back({space, first, end - first});
    }

    const Code& code_;
    std::array<std::vector<Place>, kSpaces> places_;
    Loop* loop_ = nullptr;
    int32_t number_ = 0;
    int64_t step_ = 0;
    Reached reached_ = kNone;  // by which outputs, what the row reads
    bool reads_ = true;
    bool keeps_forward_ = true;
};

template <typename Plain>
void trace_part(const Plain& instruction, int64_t part, int64_t count, Trace& trace) {
    const int64_t steps = rows_of(instruction) / count;
    for (int64_t step = part * steps; step < (part + 1) * steps; ++step)
        trace.row(instruction, step);
}

}  // namespace

int64_t Loop::entry(int64_t output) const {
    const auto found = std::find_if(reached.begin(), reached.end(), [&](const Reached& each) {
        return each.first <= output && output <= each.last;
    });
    return found - reached.begin();
}

WayBack way_back_of(const Code& code) {
    WayBack way;
    way.loops.resize(code.instructions.size());
    Trace trace(code);
    int32_t number = 0;
    bool back = false;
    for (size_t n = 0; n < code.instructions.size(); ++n) {
        back |= std::holds_alternative<Seed>(code.instructions[n]);
        if (!back) continue;
        ++number;
        if (const auto* repeat = std::get_if<Repeat>(&code.instructions[n])) {
            for (int64_t iteration = 0; iteration < repeat->count; ++iteration) {
                trace.start(&way.loops[n], number);
                for (const Repeatable& each : repeat->body)
                    std::visit(
                        [&](const auto& i) { trace_part(i, iteration, repeat->count, trace); },
                        each);
            }
        } else {
            trace.start(nullptr, number);
            std::visit(
                [&](const auto& i) {
                    if constexpr (!std::is_same_v<std::decay_t<decltype(i)>, Repeat>)
                        trace_part(i, 0, 1, trace);
                },
                code.instructions[n]);
        }
        if (!trace.keeps_forward()) return {false, {}};
    }
    return way;
}

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// The order in which a walk takes a program's instructions, and where its threads meet.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "../program/stretches.h"
#include "hazards.h"
#include "image.h"

namespace pyrel::cuda {

// An instruction of a program, on its own or of a loop's body; its number is that of its operation.
using Plain = std::variant<const Gemm*, const Map*, const Gather*, const Scatter*, const Absorb*,
                           const Activate*, const Slope*, const Reduce*, const Matmul*,
                           const MaxPool*, const PoolRoute*, const Normalise*, const NormaliseBack*,
                           const Embed*, const Seed*>;

// All of a program, those of loops once.
std::vector<Plain> plain_of(const Code& code);

// Rows of an instruction, or of several products that read the same rows.
struct Piece {
    int64_t first = 0;  // instruction
    int64_t first_row = 0, rows = 0;
    int64_t products = 1;
    bool begins = false, ends = false;  // a stretch
};

// Stretches of a program that have several parts, where there are any; what lies between two has
// one part.
std::vector<Stretch> stretches_in(const Code& code);
// A program in one part.
std::vector<Stretch> whole_of(const Code& code);

// The pieces of a program in their order; loops are walked through. `all` is plain_of(code).
std::vector<Piece> pieces_of(const Code& code, const std::vector<Plain>& all,
                             const std::vector<Stretch>& stretches);

// Makes steps of pieces. Where rows touch what others have touched there is a barrier between them.
class Schedule {
  public:
    Schedule(const Code& code, const std::vector<Plain>& all);

    // Throws std::invalid_argument where the device cannot run the instruction.
    void add(const Piece& piece);

    const std::vector<Step>& steps() const { return steps_; }
    int32_t seed() const { return seed_; }  // the step of the seed
    int64_t most_items() const { return most_items_; }

  private:
    void add_rows(const Piece& piece, bool in_order, const std::vector<Touches>& touched);
    void begin_stretch();
    void meet();
    Owner owner(const Plain& instruction, int32_t rows) const;

    const Code& code_;
    const std::vector<Plain>& all_;
    Hazards hazards_;
    int32_t unknown_ = 0;
    int32_t seed_ = 0;
    int64_t most_items_ = 0;
    bool within_ = false;           // a stretch
    bool absorbed_within_ = false;  // since the last barrier: what a sample has absorbed is kept
                                    // beside the arena, of which hazards know nothing
    std::vector<Step> steps_;
};

}  // namespace pyrel::cuda

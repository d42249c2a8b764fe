// SPDX-License-Identifier: Apache-2.0
#include "schedule.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <type_traits>
#include <utility>

#include "pools.h"

namespace pyrel::cuda {
namespace {

// Kinds whose threads take an element of a row, and may take it of all rows: operands that lie at
// the same floats are the same thread's.
template <typename Kind>
constexpr bool kByElement =
    std::is_same_v<Kind, Map> || std::is_same_v<Kind, Activate> || std::is_same_v<Kind, Slope> ||
    std::is_same_v<Kind, MaxPool> || std::is_same_v<Kind, PoolRoute>;

// Kinds of which eight threads take a row of a sample.
template <typename Kind>
constexpr bool kByPart = std::is_same_v<Kind, Absorb> || std::is_same_v<Kind, Normalise> ||
                         std::is_same_v<Kind, NormaliseBack>;

// Kinds whose threads take an element of a row's results, but read others of its operands.
template <typename Kind>
constexpr bool kByResult = std::is_same_v<Kind, Gather> || std::is_same_v<Kind, Reduce> ||
                           std::is_same_v<Kind, Matmul> || std::is_same_v<Kind, Embed>;

// Of what a row touches, how many operands at the beginning are read by other threads than those
// that write the row's results.
template <typename Kind>
size_t read_by_others(const Kind& instruction, size_t all) {
    if constexpr (std::is_same_v<Kind, Gemm>) return instruction.segments.size();
    if constexpr (std::is_same_v<Kind, Scatter>) return all;
    return kByResult<Kind> ? all - 1 : 0;
}

Touches touches_of(const Code& code, const Plain& instruction, int64_t row) {
    RowTouches visitor(row);
    std::visit(
        [&](const auto* i) {
            operands(code, *i, visitor);
            const size_t others = read_by_others(*i, visitor.found.size());
            for (size_t n = 0; n < others; ++n) visitor.found[n].read_by_others = true;
        },
        instruction);
    return std::move(visitor.found);
}

// What rows of several instructions touch together.
std::vector<Touches> touches_of(const Code& code, const std::vector<Plain>& all,
                                const Piece& piece) {
    std::vector<Touches> touched(static_cast<size_t>(piece.rows));
    for (int64_t row = 0; row < piece.rows; ++row)
        for (int64_t n = piece.first; n < piece.first + piece.products; ++n) {
            const Touches more =
                touches_of(code, all[static_cast<size_t>(n)], piece.first_row + row);
            Touches& here = touched[static_cast<size_t>(row)];
            here.insert(here.end(), more.begin(), more.end());
        }
    return touched;
}

int64_t columns_of(const Code& code, const Gemm& gemm) { return code.matrix(gemm.matrix).columns; }

bool reads_the_same(const Gemm& a, const Gemm& b, int64_t first_row, int64_t rows) {
    const auto same = [&](const Segment& one, const Segment& other) {
        const auto first = one.rows.offsets.begin() + first_row;
        return one.depth == other.depth && one.rows.space == other.rows.space &&
               std::equal(first, first + rows, other.rows.offsets.begin() + first_row);
    };
    return std::equal(a.segments.begin(), a.segments.end(), b.segments.begin(), b.segments.end(),
                      same);
}

// Whether a warp may form tile after tile of all products of a piece: the lanes that write a number
// are the only ones to touch it.
bool go_together(const Code& code, const std::vector<Plain>& all, const Piece& piece) {
    const auto* first = std::get_if<const Gemm*>(&all[static_cast<size_t>(piece.first)]);
    const auto* last =
        std::get_if<const Gemm*>(&all[static_cast<size_t>(piece.first + piece.products - 1)]);
    if (!first || !last || (*first)->bf16 != (*last)->bf16 ||
        columns_of(code, **first) != columns_of(code, **last) ||
        !reads_the_same(**first, **last, piece.first_row, piece.rows))
        return false;
    const std::vector<Touches> touched = touches_of(code, all, piece);
    return std::all_of(touched.begin(), touched.end(), owns_results) && !meet_each_other(touched);
}

// How many elements for_items is given for a row.
template <typename Kind>
int32_t elements_of(const Code& code, const Kind& instruction) {
    if constexpr (std::is_same_v<Kind, Gather> || std::is_same_v<Kind, Scatter>)
        return small(std::ssize(instruction.index));
    else if constexpr (std::is_same_v<Kind, Matmul>)
        return small(instruction.rows * instruction.columns);
    else if constexpr (std::is_same_v<Kind, Embed>)
        return small(code.table(instruction.table).columns);
    else
        return small(instruction.columns);
}

// What the device asks of the rows that a piece has of an instruction; returns their elements.
template <typename Kind>
int64_t checked_items(const Code& code, const Kind& instruction,
                      const std::vector<Touches>& touched) {
    for (const Touches& row : touched)
        require(owns_results(row),
                "the CUDA engine runs no instruction that writes over what it reads");
    // The CPU multiplies several rows before it writes the first.
    if constexpr (std::is_same_v<Kind, Gemm>)
        require(!meet_each_other(touched),
                "the CUDA engine runs no product whose rows read what others of it write");
    int64_t items = 0;
    if constexpr (kByElement<Kind> || kByResult<Kind> || std::is_same_v<Kind, Scatter>)
        items = std::ssize(touched) * elements_of(code, instruction);
    require(items <= kMostItems, "the CUDA engine runs no instruction with so many elements");
    return items;
}

// Rows of a part. What cannot be divided belongs to the first one.
struct PartOfRows {
    int64_t number = 0, count = 1;

    int64_t rows(const Plain& instruction) const {
        const int64_t all = std::visit([](const auto* i) { return rows_of(*i); }, instruction);
        return all % count == 0 ? all / count : (number == 0 ? all : 0);
    }
};

// Adds the rows of a part that instructions have, from `first` to `end`: as many products in a
// piece as go together.
void add_pieces(const Code& code, const std::vector<Plain>& all, int64_t first, int64_t end,
                const PartOfRows& part, std::vector<Piece>& pieces) {
    const auto alone = [&](int64_t number) {
        const int64_t rows = part.rows(all[static_cast<size_t>(number)]);
        return Piece{number, part.number * rows, rows};
    };
    for (int64_t n = first; n < end;) {
        Piece piece = alone(n);
        for (Piece more = piece; n + more.products < end; piece = more) {
            const Piece next = alone(n + more.products++);
            if (next.rows != piece.rows || !go_together(code, all, more)) break;
        }
        n += piece.products;
        if (piece.rows > 0) pieces.push_back(piece);
    }
}

}  // namespace

std::vector<Plain> plain_of(const Code& code) {
    std::vector<Plain> all;
    for_each(code.instructions, [&](const auto& i) { all.push_back(&i); });
    return all;
}

std::vector<Stretch> whole_of(const Code& code) { return {{0, code.instructions.size(), 1}}; }

std::vector<Stretch> stretches_in(const Code& code) {
    // A multiprocessor's part of an H200's second-level cache is 450 KiB, of an A100's 380.
    constexpr int64_t kPartBytes = int64_t{256} << 10;
    constexpr int64_t kFloatBytes = kStretchGroups * kGroup * int64_t{sizeof(float)};
    std::vector<Stretch> stretches;
    constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
    for (Stretch each : find_stretches(code, {kPartBytes, kFloatBytes, kNever})) {
        if (each.end - each.first == 1) each.parts = 1;  // nobody reads what it wrote
        if (each.parts == 1 && !stretches.empty() && stretches.back().parts == 1)
            stretches.back().end = each.end;
        else
            stretches.push_back(each);
    }
    const bool any = stretches.size() > 1 || (!stretches.empty() && stretches[0].parts > 1);
    return any ? stretches : std::vector<Stretch>();
}

std::vector<Piece> pieces_of(const Code& code, const std::vector<Plain>& all,
                             const std::vector<Stretch>& stretches) {
    std::vector<Piece> pieces;
    const auto is_repeat = [](const Instruction& i) { return std::holds_alternative<Repeat>(i); };
    int64_t first = 0;  // of `all`
    for (const Stretch& stretch : stretches) {
        const auto stop = code.instructions.begin() + static_cast<std::ptrdiff_t>(stretch.end);
        for (auto each = code.instructions.begin() + static_cast<std::ptrdiff_t>(stretch.first);
             each != stop;) {
            const auto* const repeat = std::get_if<Repeat>(&*each);
            const auto next = repeat ? each + 1 : std::find_if(each, stop, is_repeat);
            const int64_t end = first + (repeat ? std::ssize(repeat->body) : next - each);
            const int64_t parts = repeat ? repeat->count : stretch.parts;
            const size_t begin = pieces.size();
            for (int64_t part = 0; part < parts; ++part)
                add_pieces(code, all, first, end, {part, parts}, pieces);
            if (stretch.parts > 1) pieces[begin].begins = pieces.back().ends = true;
            first = end;
            each = next;
        }
    }
    return pieces;
}

Schedule::Schedule(const Code& code, const std::vector<Plain>& all)
    : code_(code), all_(all), hazards_(code.input_size, code.arena_size) {}

// Rows that touch each other's memory are steps of their own, behind barriers; but where they touch
// the same elements or none in common, a thread takes an element of all of them.
void Schedule::add(const Piece& piece) {
    std::vector<Touches> touched = touches_of(code_, all_, piece);
    if (piece.begins) begin_stretch();
    const size_t first = steps_.size();
    bool in_order = false;
    std::visit(
        [&](const auto* i) {
            using Kind = std::decay_t<decltype(*i)>;
            most_items_ = std::max(most_items_, checked_items(code_, *i, touched));
            if constexpr (std::is_same_v<Kind, Seed>) seed_ = small(std::ssize(steps_));
            if constexpr (kByElement<Kind>)
                in_order = piece.rows > 1 && meet_each_other(touched) && same_or_apart(touched);
        },
        all_[static_cast<size_t>(piece.first)]);
    if (in_order) {
        for (size_t n = 1; n < touched.size(); ++n)
            touched[0].insert(touched[0].end(), touched[n].begin(), touched[n].end());
        touched.resize(1);
    }
    add_rows(piece, in_order, touched);
    steps_[first].begins = piece.begins;
    steps_.back().ends = piece.ends;
    if (piece.ends) within_ = false;
}

// All threads meet before it (walk.h), so that no barrier within the stretch waits for what was
// before: the later groups would come to that one for nothing.
void Schedule::begin_stretch() {
    within_ = true;
    meet();
}

void Schedule::meet() {
    hazards_.barrier();
    absorbed_within_ = false;
}

void Schedule::add_rows(const Piece& piece, bool in_order, const std::vector<Touches>& touched) {
    const Plain& instruction = all_[static_cast<size_t>(piece.first)];
    const bool absorbs = std::holds_alternative<const Absorb*>(instruction);
    for (size_t n = 0; n < touched.size(); ++n) {
        ++unknown_;
        const bool joins =
            n > 0 && !hazards_.meets(touched[n], owner(instruction, steps_.back().rows));
        if (!joins) {
            const bool meets = (absorbs && absorbed_within_ && !within_) ||
                               hazards_.meets(touched[n], owner(instruction, 0));
            if (meets) meet();
            steps_.push_back({.operation = small(piece.first),
                              .first_row = small(piece.first_row + static_cast<int64_t>(n)),
                              .barrier = meets,
                              .in_order = in_order,
                              .products = small(piece.products)});
        }
        absorbed_within_ |= absorbs && within_;
        hazards_.note(touched[n], owner(instruction, steps_.back().rows));
        steps_.back().rows += in_order ? small(piece.rows) : 1;
    }
}

// Of a row behind so many others of its step. The threads of two steps are the same, element by
// element, where their rows have equally many columns (for_items in memory.h), or where eight share
// out a row of each sample (for_parts in sums.h); but within a stretch they are others.
Owner Schedule::owner(const Plain& instruction, int32_t rows) const {
    constexpr int32_t kByParts = 0;
    return std::visit(
        [&](const auto* i) -> Owner {
            using Kind = std::decay_t<decltype(*i)>;
            if constexpr (kByPart<Kind>) return {-unknown_, kByParts + within_, 0, kParts};
            if constexpr (kByElement<Kind> || kByResult<Kind>) {
                const int32_t columns = elements_of(code_, *i);
                return {-unknown_, 2 * columns + within_, small(int64_t{rows} * columns),
                        kAllElements};
            }
            return {-unknown_};
        },
        instruction);
}

}  // namespace pyrel::cuda

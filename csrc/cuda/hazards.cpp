// SPDX-License-Identifier: Apache-2.0
#include "hazards.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace pyrel::cuda {
namespace {

// An operand, and the row that it is of.
using OfRow = std::pair<Touched, size_t>;

bool overlap(const Touched& a, const Touched& b) {
    return a.space == b.space && a.first < b.first + b.count && b.first < a.first + a.count;
}

bool same(const Touched& a, const Touched& b) {
    return a.space == b.space && a.first == b.first && a.count == b.count;
}

// What is read and written, in the order of memory.
std::vector<OfRow> by_place(const std::vector<Touches>& rows) {
    std::vector<OfRow> all;
    for (size_t n = 0; n < rows.size(); ++n)
        for (const Touched& each : rows[n])
            if (each.space != Space::input) all.push_back({each, n});
    std::sort(all.begin(), all.end(), [](const OfRow& a, const OfRow& b) {
        const auto key = [](const Touched& each) {
            return std::tuple(each.space, each.first, each.count, each.access, each.read_by_others);
        };
        return key(a.first) < key(b.first);
    });
    return all;
}

// How far operands reach that begin before, of rows but one.
class Reach {
  public:
    void add(int64_t end, size_t row) {
        if (row == row_) {
            end_ = std::max(end_, end);
        } else if (end > end_) {
            others_ = end_;
            end_ = end;
            row_ = row;
        } else {
            others_ = std::max(others_, end);
        }
    }
    int64_t of_others(size_t row) const { return row == row_ ? others_ : end_; }

  private:
    size_t row_ = 0;
    int64_t end_ = 0, others_ = 0;
};

}  // namespace

bool meet_each_other(const std::vector<Touches>& rows) {
    Reach read, written;
    const std::vector<OfRow> all = by_place(rows);
    for (size_t n = 0; n < all.size(); ++n) {
        const auto& [here, row] = all[n];
        if (n > 0 && all[n - 1].first.space != here.space) read = written = {};
        const bool reads = here.access == Access::read;
        if (written.of_others(row) > here.first) return true;
        if (!reads && read.of_others(row) > here.first) return true;
        (reads ? read : written).add(here.first + here.count, row);
    }
    return false;
}

bool same_or_apart(const std::vector<Touches>& rows) {
    const std::vector<OfRow> all = by_place(rows);
    for (size_t n = 1; n < all.size(); ++n)
        if (overlap(all[n - 1].first, all[n].first) && !same(all[n - 1].first, all[n].first))
            return false;
    return true;
}

bool owns_results(const Touches& row) {
    std::vector<OfRow> all = by_place({row});
    // What is read again and again at one place is looked at once.
    const auto equal = [](const OfRow& a, const OfRow& b) {
        return same(a.first, b.first) && a.first.access == b.first.access &&
               a.first.read_by_others == b.first.read_by_others;
    };
    all.erase(std::unique(all.begin(), all.end(), equal), all.end());
    for (size_t n = 0; n < all.size(); ++n)
        for (size_t m = n + 1; m < all.size() && overlap(all[n].first, all[m].first); ++m) {
            const Touched &a = all[n].first, &b = all[m].first;
            if (a.access == Access::read && b.access == Access::read) continue;
            const Touched& reads = a.access == Access::read ? a : b;
            if (!same(a, b) || (reads.access == Access::read && reads.read_by_others)) return false;
        }
    return true;
}

Hazards::Hazards(int64_t input_size, int64_t arena_size) {
    // Nothing writes the input, so reading it meets nothing.
    floats_[static_cast<size_t>(Space::arena)].resize(static_cast<size_t>(arena_size));
    floats_[static_cast<size_t>(Space::relevance)].resize(static_cast<size_t>(input_size));
}

Hazards::Mark Hazards::mark(const Touched& each, int64_t place, const Owner& owner) const {
    if (owner.parts == 0 || each.read_by_others) return {epoch_, owner.row, 0};
    const auto element = static_cast<int32_t>((place - each.first) % owner.parts);
    return {epoch_, owner.kind, owner.place + element};
}

bool Hazards::meets(const Touches& touched, const Owner& owner) const {
    for (const Touched& each : touched) {
        if (each.space == Space::input) continue;
        for (int64_t i = each.first; i < each.first + each.count; ++i) {
            const Float& here = floats(each.space)[static_cast<size_t>(i)];
            const Mark now = mark(each, i, owner);
            if (here.written.epoch == epoch_ && !here.written.is_of(now)) return true;
            if (each.access == Access::read || here.read.epoch != epoch_) continue;
            if (here.many || !here.read.is_of(now)) return true;
        }
    }
    return false;
}

void Hazards::note(const Touches& touched, const Owner& owner) {
    for (const Touched& each : touched) {
        if (each.space == Space::input) continue;
        auto& floats = floats_[static_cast<size_t>(each.space)];
        for (int64_t i = each.first; i < each.first + each.count; ++i) {
            Float& here = floats[static_cast<size_t>(i)];
            const Mark now = mark(each, i, owner);
            if (each.access != Access::read) here.written = now;
            if (each.access == Access::write) continue;
            here.many = here.read.epoch == epoch_ && (here.many || !here.read.is_of(now));
            here.read = now;
        }
    }
}

}  // namespace pyrel::cuda

// SPDX-License-Identifier: Apache-2.0
// A set of numbers as spans, so that what it takes grows with the spans and not with the numbers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <vector>

namespace pyrel {

// Sorted spans in sorted vectors of at most kMost: a span takes little more than its two numbers,
// and n calls take O(n log n) in whatever order, fewest where neighbours follow each other.
class Spans {
  public:
    // Adds `count` numbers from `first` on.
    void add(int64_t first, int64_t count) {
        if (count <= 0) return;
        if (parts_.empty()) parts_[std::numeric_limits<int64_t>::min()];
        int64_t end = first + count;
        const auto home = part_of(first);
        std::vector<Span>& spans = home->second;
        auto begin = after(spans, first);  // what lies from here to `stop` becomes one
        if (begin != spans.begin() && std::prev(begin)->end >= first) {
            --begin;
            if (begin->end >= end) return;
            first = begin->first;
        } else if (begin == spans.begin() && home != parts_.begin()) {
            Span& before = std::prev(home)->second.back();
            if (before.end >= end) return;
            if (before.end >= first) return add(before.first, end - before.first);
        }
        const auto stop = merged(spans, begin, end);
        if (stop == spans.end()) drop_merged(std::next(home), end);
        if (begin == stop) {
            insert(home, static_cast<size_t>(begin - spans.begin()), {first, end});
        } else {
            *begin = {first, end};
            spans.erase(std::next(begin), stop);
        }
    }
    // Whether all of `count` numbers from `first` on are in it.
    bool all(int64_t first, int64_t count) const {
        if (count <= 0) return true;
        if (parts_.empty()) return false;
        auto part = std::prev(parts_.upper_bound(first));
        auto next = after(part->second, first);
        if (next == part->second.begin()) {
            if (part == parts_.begin()) return false;
            --part;
            next = part->second.end();
        }
        return std::prev(next)->end >= first + count;
    }

  private:
    struct Span {
        int64_t first, end;
    };
    static constexpr size_t kMost = 256;
    // By a number that the part's first numbers reach and that all before it stay below; none is
    // empty. Spans neither overlap nor are adjacent.
    using Parts = std::map<int64_t, std::vector<Span>>;

    Parts::iterator part_of(int64_t first) { return std::prev(parts_.upper_bound(first)); }

    // The first span that begins after a number.
    template <typename Vector>
    static auto after(Vector& spans, int64_t first) -> decltype(spans.begin()) {
        return std::upper_bound(spans.begin(), spans.end(), first,
                                [](int64_t f, const Span& span) { return f < span.first; });
    }

    // Where those end, from `begin` on, that overlap or follow what goes to `end`; which grows by
    // them.
    static std::vector<Span>::iterator merged(std::vector<Span>& spans,
                                              std::vector<Span>::iterator begin, int64_t& end) {
        while (begin != spans.end() && begin->first <= end) {
            end = std::max(end, begin->end);
            ++begin;
        }
        return begin;
    }

    // The same from a part on, whose merged spans go.
    void drop_merged(Parts::iterator part, int64_t& end) {
        while (part != parts_.end()) {
            std::vector<Span>& spans = part->second;
            const auto stop = merged(spans, spans.begin(), end);
            if (stop != spans.end()) {
                spans.erase(spans.begin(), stop);
                return;
            }
            part = parts_.erase(part);
        }
    }

    void insert(Parts::iterator home, size_t place, Span span) {
        std::vector<Span>& spans = home->second;
        if (spans.size() == kMost) {
            if (place == kMost) {  // what comes in order leaves whole parts behind
                parts_.emplace_hint(std::next(home), span.first, std::vector<Span>{span});
                return;
            }
            std::vector<Span> rest(std::next(spans.begin(), kMost / 2), spans.end());
            const int64_t from = rest.front().first;
            const auto next = parts_.emplace_hint(std::next(home), from, std::move(rest));
            spans.resize(kMost / 2);
            if (place > kMost / 2) return insert(next, place - kMost / 2, span);
        }
        spans.insert(spans.begin() + static_cast<std::ptrdiff_t>(place), span);
    }

    Parts parts_;
};

}  // namespace pyrel

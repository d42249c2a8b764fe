// SPDX-License-Identifier: Apache-2.0
// A set of numbers as spans, so that what it takes grows with the spans and not with the numbers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

namespace pyrel {

class Spans {
  public:
    // Adds `count` numbers from `first` on. Each span is merged once, so that n calls take O(n log
    // n).
    void add(int64_t first, int64_t count) {
        if (count <= 0) return;
        int64_t end = first + count;
        auto next = ends_.upper_bound(first);
        if (next != ends_.begin()) {
            const auto before = std::prev(next);
            if (before->second >= end) return;
            if (before->second >= first) {
                first = before->first;
                next = ends_.erase(before);
            }
        }
        while (next != ends_.end() && next->first <= end) {
            end = std::max(end, next->second);
            next = ends_.erase(next);
        }
        ends_.emplace_hint(next, first, end);
    }
    // Whether all of `count` numbers from `first` on are in it.
    bool all(int64_t first, int64_t count) const {
        if (count <= 0) return true;
        const auto next = ends_.upper_bound(first);
        return next != ends_.begin() && std::prev(next)->second >= first + count;
    }

  private:
    std::map<int64_t, int64_t> ends_;  // by first number; neither overlapping nor adjacent
};

}  // namespace pyrel

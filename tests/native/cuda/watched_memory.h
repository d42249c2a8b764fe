// SPDX-License-Identifier: Apache-2.0
// The memory that a launch may touch, with the last accesses to each word of writable regions.
//
// Epochs count barriers over all blocks of a launch, from 1, and each block begins a new one. So an
// epoch before the block's first is another block's, one before the present is ordered by a
// barrier, and accesses in the present one are ordered within a thread alone. Blocks are not
// ordered at all, though they run one after the other here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulator.h"

namespace pyrel::cuda::emulated {

constexpr uint16_t kNobody = 0xffff;

// Two readers are enough: one of them is not the thread that writes. A word that another block has
// read keeps that reader, since each later write is an error because of it.
struct Word {
    uint32_t written = 0;  // the epoch of the last write; 0: none in this launch
    uint32_t was_read = 0;
    uint16_t writer = 0;
    uint16_t reader = 0;
    uint16_t second_reader = 0;
};

inline std::string thread_of_block(int thread, int block) {
    return "thread " + std::to_string(thread) + " of block " + std::to_string(block);
}

class WatchedMemory {
  public:
    void set(const std::vector<Region>& regions) {
        std::vector<Watched> made;
        for (const Region& region : regions) {
            if (region.bytes <= 0) continue;
            const auto begin = reinterpret_cast<uintptr_t>(region.base);
            const auto end = begin + static_cast<uintptr_t>(region.bytes);
            const std::string name = region.name;
            if (region.writable && (begin % 4 != 0 || region.bytes % 4 != 0)) {
                throw std::invalid_argument("region " + name + " is not a number of whole words");
            }
            for (const Watched& other : made) {
                if (begin < other.end && other.begin < end && (region.writable || other.writable)) {
                    throw std::invalid_argument("regions " + other.name + " and " + name +
                                                " overlap");
                }
            }
            made.push_back({begin, end, region.writable, name, {}});
        }
        regions_ = std::move(made);
        end_launch();
    }

    void begin_launch() {
        for (Watched& region : regions_) {
            if (region.writable) region.words.assign((region.end - region.begin) / 4, Word{});
        }
        first_epochs_.clear();
        epoch_ = 0;
        launched_ = true;
    }
    void begin_block() {
        first_epochs_.push_back(++epoch_);
        first_epoch_ = epoch_;
    }
    void pass_barrier() { ++epoch_; }
    void end_launch() {
        recent_ = recent_constant_ = nullptr;  // so that a later access is looked at
        launched_ = false;
    }

    void read(const void* place, int bytes, int alignment) {
        const auto at = reinterpret_cast<uintptr_t>(place);
        Watched& region = found(recent_, at, bytes, alignment, "reads");
        if (!region.writable) return;
        Word* word = &region.words[(at - region.begin) / 4];
        for (Word* end = word + bytes / 4; word < end; ++word) note_read(region, *word);
    }
    void write(const void* place, int bytes, int alignment) {
        const auto at = reinterpret_cast<uintptr_t>(place);
        Watched& region = found(recent_, at, bytes, alignment, "writes");
        if (!region.writable) fail("writes", region, at, "which is read-only");
        Word* word = &region.words[(at - region.begin) / 4];
        for (Word* end = word + bytes / 4; word < end; ++word) note_write(region, *word);
    }
    void read_constant(const void* place, int bytes, int alignment) {
        const auto at = reinterpret_cast<uintptr_t>(place);
        Watched& region = found(recent_constant_, at, bytes, alignment, "reads as a constant");
        if (region.writable) {
            fail("reads as a constant", region, at,
                 "which is writable: the cache of constants may hold an old value");
        }
    }

  private:
    struct Watched {
        uintptr_t begin, end;
        bool writable;
        std::string name;
        std::vector<Word> words;  // of a writable region

        bool holds(uintptr_t at, int bytes) const {
            return at >= begin && at < end && static_cast<uintptr_t>(bytes) <= end - at;
        }
    };

    Watched& found(Watched*& recent, uintptr_t at, int bytes, int alignment, const char* does) {
        if (recent == nullptr || !recent->holds(at, bytes)) recent = &sought(at, bytes, does);
        if (at % static_cast<uintptr_t>(alignment) != 0) {
            fail(does, *recent, at,
                 "unaligned: its address is no multiple of " + std::to_string(alignment));
        }
        return *recent;
    }

    Watched& sought(uintptr_t at, int bytes, const char* does) {
        if (!launched_) throw std::logic_error("checked memory is touched outside of a launch");
        Watched* nearest = nullptr;
        uintptr_t distance = UINTPTR_MAX;
        for (Watched& region : regions_) {
            if (region.holds(at, bytes)) return region;
            const uintptr_t away = at < region.begin ? region.begin - at
                                   : at > region.end ? at - region.end
                                                     : 0;
            if (away < distance) {
                distance = away;
                nearest = &region;
            }
        }
        const std::string who = thread_of_block(here.thread, here.block) + " " + does + " ";
        if (at == 0) throw std::runtime_error(who + "a null pointer");
        if (nearest == nullptr) throw std::runtime_error(who + "memory, but there are no regions");
        fail(does, *nearest, at,
             "outside of it and of all regions: it has " +
                 std::to_string((nearest->end - nearest->begin) / 4) + " floats, and " +
                 std::to_string(bytes) + " bytes were asked for");
    }

    bool of_other_block(uint32_t epoch) const { return epoch - 1u < first_epoch_ - 1u; }

    void check_written(const Watched& region, const Word& word, const char* does) const {
        if (word.written == epoch_ ? word.writer != here.thread : of_other_block(word.written)) {
            fail_race(does, region, word, word.writer, "wrote", word.written);
        }
    }

    void note_read(const Watched& region, Word& word) const {
        check_written(region, word, "reads");
        const auto me = static_cast<uint16_t>(here.thread);
        if (word.was_read == epoch_) {
            if (word.reader != me) word.second_reader = me;
        } else if (!of_other_block(word.was_read)) {
            word.was_read = epoch_;
            word.reader = me;
            word.second_reader = kNobody;
        }
    }

    void note_write(const Watched& region, Word& word) const {
        check_written(region, word, "writes");
        const auto me = static_cast<uint16_t>(here.thread);
        if (word.was_read == epoch_) {
            const uint16_t other = word.reader != me ? word.reader : word.second_reader;
            if (other != kNobody) fail_race("writes", region, word, other, "read", word.was_read);
        } else if (of_other_block(word.was_read)) {
            fail_race("writes", region, word, word.reader, "read", word.was_read);
        }
        word.written = epoch_;
        word.writer = me;
    }

    [[noreturn, gnu::cold, gnu::noinline]] static void fail(const char* does, const Watched& region,
                                                            uintptr_t at, const std::string& why) {
        const auto bytes = static_cast<int64_t>(at - region.begin);
        const int64_t offset = bytes >= 0 ? bytes / 4 : -((3 - bytes) / 4);
        throw std::runtime_error(thread_of_block(here.thread, here.block) + " " + does + " float " +
                                 std::to_string(offset) + " of " + region.name + ", " + why);
    }

    [[noreturn, gnu::cold, gnu::noinline]] void fail_race(const char* does, const Watched& region,
                                                          const Word& word, int other,
                                                          const char* did, uint32_t epoch) const {
        const auto after = std::upper_bound(first_epochs_.begin(), first_epochs_.end(), epoch);
        const auto block = static_cast<int>(after - first_epochs_.begin()) - 1;
        const auto offset = static_cast<uintptr_t>(&word - region.words.data());
        fail(does, region, region.begin + 4 * offset,
             "which " + thread_of_block(other, block) + " " + did +
                 (block == here.block ? " since their last common barrier" : " in this launch"));
    }

    std::vector<Watched> regions_;
    Watched* recent_ = nullptr;
    Watched* recent_constant_ = nullptr;
    std::vector<uint32_t> first_epochs_;  // of each block
    uint32_t epoch_ = 0;
    uint32_t first_epoch_ = 0;  // of the present block
    bool launched_ = false;
};

}  // namespace pyrel::cuda::emulated

// SPDX-License-Identifier: Apache-2.0
// A program on a device, and the memory that its runs take. Whatever owns memory grows and ends
// while its device is the thread's current one.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "../shared/batch.h"
#include "interface.h"
#include "runtime.h"

namespace pyrel::cuda {

// Of what the runs of all programs take at most this is kept for the next ones: allocating takes
// about as long as a small batch does. An explainer of sequences has a program for each length.
constexpr int64_t kMostKept = int64_t{1} << 30;

template <void* (*take)(int64_t), void (*give_back)(void*) noexcept>
class Block {
  public:
    Block() = default;
    Block(Block&& other) noexcept { *this = std::move(other); }
    Block& operator=(Block&& other) noexcept {
        std::swap(place_, other.place_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~Block() { clear(); }

    // Of at least so many bytes, whatever they hold.
    void reserve(int64_t bytes) {
        if (bytes <= bytes_) return;
        clear();
        place_ = take(bytes);
        bytes_ = bytes;
    }
    void clear() noexcept {
        if (place_) give_back(place_);
        place_ = nullptr;
        bytes_ = 0;
    }
    void* get() const { return place_; }
    char* bytes_at(int64_t at) const { return static_cast<char*>(place_) + at; }
    int64_t bytes() const { return bytes_; }

  private:
    void* place_ = nullptr;
    int64_t bytes_ = 0;
};

using DeviceMemory = Block<allocate, release>;
using PinnedMemory = Block<allocate_pinned, release_pinned>;

// Made when it is first asked for.
class Stream {
  public:
    Stream() = default;
    Stream(Stream&& other) noexcept { *this = std::move(other); }
    Stream& operator=(Stream&& other) noexcept {
        std::swap(stream_, other.stream_);
        return *this;
    }
    ~Stream() {
        if (stream_) release_stream(stream_);
    }
    void* get() {
        if (!stream_) stream_ = make_stream();
        return stream_;
    }

  private:
    void* stream_ = nullptr;
};

struct Division;  // library.cpp

// What a run writes beside its results.
struct Workspace {
    DeviceMemory arena, scratch, verdicts;
    Graph graph;
    int64_t samples = 0, team = 0, teams = 0;  // of the last launch

    void reserve(const Division& division, const Header& header);
    int64_t bytes() const { return arena.bytes() + scratch.bytes() + verdicts.bytes(); }
};

// What a chunk of the host's samples goes through (from_host.cpp).
struct Lane {
    Stream stream;
    PinnedMemory host_in, host_out;
    DeviceMemory in, out;
    Workspace workspace;

    int64_t bytes() const { return in.bytes() + out.bytes() + workspace.bytes(); }
    // All but the stream.
    void clear() {
        host_in.clear();
        host_out.clear();
        in.clear();
        out.clear();
        workspace = Workspace();
    }
};

struct Lanes : std::array<Lane, 2> {  // one computes while the other one copies
    int64_t bytes() const { return (*this)[0].bytes() + (*this)[1].bytes(); }
};

// Of the device's memory, what all programs keep.
inline std::atomic<int64_t> all_kept{0};

// What a run leaves the next one of its program, by a mutex.
template <typename Memory>
class Kept {
  public:
    ~Kept() { all_kept -= memory_.bytes(); }
    Memory take() {
        const std::lock_guard lock(mutex_);
        all_kept -= memory_.bytes();
        return std::exchange(memory_, Memory());
    }
    // In `used` is afterwards what is not kept.
    void keep(Memory& used) {
        const std::lock_guard lock(mutex_);
        const int64_t more = used.bytes() - memory_.bytes();
        if (all_kept.fetch_add(more) + more > kMostKept)
            all_kept -= more;
        else
            std::swap(memory_, used);
    }

  private:
    std::mutex mutex_;
    Memory memory_;
};

// A program on a device.
struct Loaded {
    Header header;
    std::vector<int32_t> barriers;  // the steps that have one before them
    std::vector<Kind> kinds;        // of all steps
    int64_t most_tiles = 1;         // of a product, for one group of samples
    int device = 0;
    std::array<int, 4> teams{};  // of 1, 2, 4 and 8 blocks, that run at once on the device
    DeviceMemory image;
    Kept<Workspace> workspace;
    Kept<Lanes> lanes;

    int teams_of(int blocks) const {
        return teams[static_cast<size_t>(std::countr_zero(static_cast<unsigned>(blocks)))];
    }
};

// Starts a batch in the memory of the thread's device, on the batch's stream, and leaves what it
// finds of each sample in `workspace.verdicts`; false if even few samples at once have no place.
bool launch(const Loaded& loaded, const PyrelCudaBatch& batch, Workspace& workspace);
void report(PyrelCudaBatch& batch, Outcome outcome, int64_t sample, int32_t element);
// Reports the first of so many samples, from `first` on, that something is wrong with; false if
// there is none.
bool report_first(PyrelCudaBatch& batch, const Verdict* verdicts, int64_t samples, int64_t first);
// Explains samples in the host's memory, as pyrel_cuda_run_from_host does.
void run_from_host(Loaded& loaded, PyrelCudaBatch& batch);

}  // namespace pyrel::cuda

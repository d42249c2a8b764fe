// SPDX-License-Identifier: Apache-2.0
// Runs the threads of a block as fibers, in a random order. A fiber runs until it comes to a
// barrier, to an operation of its whole warp (a collective) or to its end. When all that are left
// wait, either all wait at a barrier, or the kernel is divergent.
#include "emulator.h"

#include <algorithm>
#include <array>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fibers.h"
#include "shared/flush_denormals.h"
#include "tensor_core.h"
#include "watched_memory.h"

namespace pyrel::cuda::emulated {

Here here;

namespace {

constexpr int kMostThreads = 2048;  // of a team of blocks

enum class State { fresh, runs, at_barrier, at_collective, finished };

struct Fiber {
    Place place{};
    int thread = 0;
    int barriers = 0;  // that it came to
    State state = State::fresh;
};

// What lanes have to agree on.
struct Collective {
    enum Kind { exchanges, takes, multiplies } kind = exchanges;
    int bytes = 0;
    int mask = 0;

    bool operator==(const Collective&) const = default;
    std::string name() const {
        if (kind == multiplies) return "multiply_tf32";
        if (kind == takes) return "from_lane";
        return "exchanged with " + std::to_string(bytes) + " bytes and mask " +
               std::to_string(mask);
    }
};

struct Warp {
    Collective collective;
    int waiting = 0;
    std::array<bool, kLanes> came{};
    uint64_t bits[kLanes] = {};
    int from[kLanes] = {};
    Fragments fragments[kLanes] = {};
};

// Thrown in fibers that wait, after an error in another one, so that their destructors run.
struct Stopped {};

class Emulator {
  public:
    WatchedMemory memory;

    int launch(const std::function<void()>& kernel, int blocks, int threads,
               const Options& options);
    bool running() const { return kernel_ != nullptr; }
    void run_fiber();
    void wait_at_barrier();
    template <typename Give>
    Warp& wait_at_collective(const Collective& collective, Give give);

  private:
    void run_block(int block);
    void shuffle_all();
    uint64_t random_below(uint64_t limit);
    Fiber* next();
    void suspend(State state);
    void stop(std::exception_ptr error);
    std::string divergence() const;

    Stacks stacks_;
    std::vector<Fiber> fibers_;
    std::vector<Warp> warps_;
    std::vector<Fiber*> ready_;  // the last one runs next
    Place host_{};
    Fiber* current_ = nullptr;
    const std::function<void()>* kernel_ = nullptr;
    std::exception_ptr error_;
    Options options_;
    uint64_t random_ = 0;
    int at_barrier_ = 0;
    int finished_ = 0;
};

Emulator emulator;

void enter_fiber() { emulator.run_fiber(); }

int Emulator::launch(const std::function<void()>& kernel, int blocks, int threads,
                     const Options& options) {
    if (running()) throw std::logic_error("a launch within a launch");
    if (!kernel || blocks < 1 || threads < kLanes || threads > kMostThreads ||
        threads % kLanes != 0) {
        throw std::invalid_argument(
            "a launch takes a kernel, blocks, and 32 to 2048 threads in "
            "warps of 32");
    }
    stacks_.reserve(threads);
    fibers_.resize(static_cast<size_t>(threads));
    warps_.resize(static_cast<size_t>(threads / kLanes));
    memory.begin_launch();
    options_ = options;
    random_ = options.seed;
    error_ = nullptr;
    here = {0, threads, 0, blocks};
    kernel_ = &kernel;
    int barriers = 0;
    {
        const FlushDenormals flushed;  // as a GPU does for code compiled with -ftz=true
        for (int block = 0; block < blocks && !error_; ++block) {
            run_block(block);
            for (const Fiber& fiber : fibers_) barriers = std::max(barriers, fiber.barriers);
        }
    }
    kernel_ = nullptr;
    memory.end_launch();
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return barriers;
}

void Emulator::run_block(int block) {
    memory.begin_block();
    here.block = block;
    at_barrier_ = finished_ = 0;
    for (Warp& warp : warps_) {
        warp.waiting = 0;
        warp.came = {};
    }
    for (size_t i = 0; i < fibers_.size(); ++i) {
        const int thread = static_cast<int>(i);
        Fiber& fiber = fibers_[i];
        fiber.thread = thread;
        fiber.barriers = 0;
        fiber.state = State::fresh;
        begin_at(fiber.place, stacks_.bottom(thread), Stacks::bytes(thread), enter_fiber);
    }
    shuffle_all();
    current_ = next();
    here.thread = current_->thread;
    switch_fiber(host_, current_->place);
}

// The body of a fiber, which is left for good at its end.
void Emulator::run_fiber() {
    Fiber& me = *current_;
    me.state = State::runs;
    try {
        (*kernel_)();
    } catch (const Stopped&) {
    } catch (...) {
        stop(std::current_exception());
    }
    ++finished_;
    me.state = State::finished;
    current_ = next();
    if (current_ != nullptr) here.thread = current_->thread;
    switch_fiber(me.place, current_ != nullptr ? current_->place : host_);
    std::terminate();
}

// splitmix64 of Sebastiano Vigna.
uint64_t Emulator::random_below(uint64_t limit) {
    uint64_t mixed = random_ += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    mixed ^= mixed >> 31;
    return ((mixed >> 32) * limit) >> 32;
}

void Emulator::shuffle_all() {
    ready_.clear();
    for (Fiber& fiber : fibers_) {
        ready_.push_back(&fiber);
        std::swap(ready_.back(), ready_[random_below(ready_.size())]);
    }
}

// The fiber that runs next; null is the host. After an error each fiber that has begun runs once
// more, to be unwound, and the others never do.
Fiber* Emulator::next() {
    if (!error_ && ready_.empty()) {
        const int threads = here.threads;
        if (finished_ == threads) return nullptr;
        if (at_barrier_ == threads) {
            at_barrier_ = 0;
            memory.pass_barrier();
            shuffle_all();
        } else {
            stop(std::make_exception_ptr(std::runtime_error(divergence())));
        }
    }
    if (error_) {
        for (Fiber& fiber : fibers_) {
            if (fiber.state != State::fresh && fiber.state != State::finished) return &fiber;
        }
        return nullptr;
    }
    Fiber* chosen = ready_.back();
    ready_.pop_back();
    return chosen;
}

void Emulator::suspend(State state) {
    Fiber& me = *current_;
    me.state = state;
    Fiber* chosen = next();
    if (chosen != &me) {
        current_ = chosen;
        here.thread = chosen->thread;
        switch_fiber(me.place, chosen->place);
    }
    me.state = State::runs;
    if (error_) throw Stopped();
}

void Emulator::stop(std::exception_ptr error) {
    if (!error_) error_ = std::move(error);
}

std::string Emulator::divergence() const {
    const Fiber* waits = nullptr;
    for (const Fiber& fiber : fibers_) {
        if (fiber.state == State::at_collective) waits = &fiber;
    }
    const bool in_warp = waits != nullptr;
    size_t first = 0;
    size_t end = fibers_.size();
    if (in_warp) {
        first = static_cast<size_t>(waits->thread / kLanes * kLanes);
        end = first + kLanes;
    } else {
        for (const Fiber& fiber : fibers_) {
            if (fiber.state == State::at_barrier) waits = &fiber;
        }
    }
    const Fiber* other = nullptr;
    for (size_t i = first; i < end; ++i) {
        if (fibers_[i].state != waits->state) other = &fibers_[i];
    }
    const std::string where =
        in_warp ? warps_[first / kLanes].collective.name() : std::string("a barrier");
    const bool ended = other->state == State::finished;
    return std::string(in_warp ? "divergent warp: " : "divergent block: ") +
           thread_of_block(waits->thread, here.block) + " waits at " + where + ", but " +
           thread_of_block(other->thread, here.block) +
           (ended ? " has ended" : " waits at a barrier");
}

void Emulator::wait_at_barrier() {
    if (current_->barriers++ == options_.dropped_barrier) return;
    ++at_barrier_;
    suspend(State::at_barrier);
}

// Comes back in all lanes when all have come and the last one has done what they came for. It does
// that while the others wait, so `give` may hand over places on a stack.
template <typename Give>
Warp& Emulator::wait_at_collective(const Collective& collective, Give give) {
    Fiber& me = *current_;
    const int lane = me.thread % kLanes;
    const int first = me.thread - lane;
    Warp& warp = warps_[static_cast<size_t>(first / kLanes)];
    if (warp.waiting > 0 && !(warp.collective == collective)) {
        int other = 0;
        while (!warp.came[static_cast<size_t>(other)]) ++other;
        throw std::runtime_error("divergent warp: " + thread_of_block(me.thread, here.block) +
                                 " comes to " + collective.name() + ", but " +
                                 thread_of_block(first + other, here.block) + " waits at " +
                                 warp.collective.name());
    }
    warp.collective = collective;
    give(warp, lane);
    if (++warp.waiting < kLanes) {
        warp.came[static_cast<size_t>(lane)] = true;
        suspend(State::at_collective);
        return warp;
    }
    if (collective.kind == Collective::multiplies) {
        multiply_fragments(warp.fragments);
    } else {
        uint64_t given[kLanes];
        std::copy(std::begin(warp.bits), std::end(warp.bits), given);
        for (int i = 0; i < kLanes; ++i) warp.bits[i] = given[warp.from[i]];
    }
    warp.waiting = 0;
    warp.came = {};
    const auto mixed = static_cast<int>(random_below(kLanes));
    for (int i = 0; i < kLanes; ++i) {
        const int other = i ^ mixed;
        if (other != lane) ready_.push_back(&fibers_[static_cast<size_t>(first + other)]);
    }
    return warp;
}

void expect_launch() {
    if (!emulator.running()) throw std::logic_error("threads meet outside of a launch");
}

}  // namespace

void set_regions(const std::vector<Region>& regions) {
    if (emulator.running()) throw std::logic_error("regions are set within a launch");
    emulator.memory.set(regions);
}

int launch(const std::function<void()>& kernel, int blocks, int threads, const Options& options) {
    return emulator.launch(kernel, blocks, threads, options);
}

void check_read(const void* place, int bytes, int alignment) {
    emulator.memory.read(place, bytes, alignment);
}
void check_write(const void* place, int bytes, int alignment) {
    emulator.memory.write(place, bytes, alignment);
}
void check_constant(const void* place, int bytes, int alignment) {
    emulator.memory.read_constant(place, bytes, alignment);
}

void wait_at_barrier() {
    expect_launch();
    emulator.wait_at_barrier();
}

uint64_t exchange(uint64_t bits, int bytes, int mask) {
    expect_launch();
    if (mask < 0 || mask >= kLanes) {
        throw std::runtime_error(thread_of_block(here.thread, here.block) +
                                 " exchanges with mask " + std::to_string(mask) +
                                 ", which leads out of its warp");
    }
    const Warp& warp = emulator.wait_at_collective({Collective::exchanges, bytes, mask},
                                                   [bits, mask](Warp& given, int lane) {
                                                       given.bits[lane] = bits;
                                                       given.from[lane] = lane ^ mask;
                                                   });
    return warp.bits[here.thread % kLanes];
}

uint64_t take(uint64_t bits, int from) {
    expect_launch();
    if (from < 0 || from >= kLanes) {
        throw std::runtime_error(thread_of_block(here.thread, here.block) + " takes from lane " +
                                 std::to_string(from) + ", which its warp has not");
    }
    const Warp& warp =
        emulator.wait_at_collective({Collective::takes, 0, 0}, [bits, from](Warp& given, int lane) {
            given.bits[lane] = bits;
            given.from[lane] = from;
        });
    return warp.bits[here.thread % kLanes];
}

void multiply(float* sum, const uint32_t* a, const uint32_t* b) {
    expect_launch();
    emulator.wait_at_collective({Collective::multiplies, 0, 0}, [sum, a, b](Warp& given, int lane) {
        given.fragments[lane] = {sum, a, b};
    });
}

}  // namespace pyrel::cuda::emulated

// SPDX-License-Identifier: Apache-2.0
// The functions of csrc/cuda/device.h for a host without a GPU: threads are fibers, and each access
// to memory is checked. What makes a GPU's numbers wrong now and then (a missing barrier, a stale
// cache, a divergent warp) is an exception here. A pointer that the kernel follows without these
// functions is not checked. emulator.cpp is compiled along.
//
// What a GPU does otherwise: its tensor cores add the products of a fragment in another order and
// with fewer bits, so their sums differ from multiply_tf32's in the last bits of the largest term,
// and tests need a tolerance; and it flushes denormals of floats alone, here those of doubles too.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#include "cuda/team.h"

#if defined(__x86_64__) && !defined(__FMA__)
#error "compile with -mfma: fused() has to be one instruction"
#endif

#define PYREL_DEVICE inline
#define PYREL_CONSTANT
#define PYREL_KERNEL extern "C" void

namespace pyrel::cuda {

namespace emulated {

// Memory that a launch may touch. Of read-only regions `read`, constant_at and four_at may read.
struct Region {
    const void* base;
    int64_t bytes;
    bool writable;
    const char* name;
};

struct Options {
    uint64_t seed = 0;         // of the order in which threads run
    int dropped_barrier = -1;  // a block's barrier of this number, from 0, does nothing; -1: none
};

// The regions of later launches; a writable one begins at a multiple of four bytes and overlaps
// with no other. Throws std::invalid_argument.
void set_regions(const std::vector<Region>& regions);

// Runs the kernel for all threads of all blocks, one block after the other, and returns the number
// of barriers that a block came to (the largest, with a dropped one). Throws std::runtime_error
// with the threads and what each did if the kernel touches other memory than the regions, has a
// race or diverges. One launch at a time: all state is the process's own.
int launch(const std::function<void()>& kernel, int blocks, int threads,
           const Options& options = {});

// Of the functions below alone.
constexpr int kLanes = 32;

struct Here {
    int thread = 0, threads = 0, block = 0, blocks = 0;
};
extern Here here;

void check_read(const void* place, int bytes, int alignment);
void check_write(const void* place, int bytes, int alignment);
void check_constant(const void* place, int bytes, int alignment);
void wait_at_barrier();
uint64_t exchange(uint64_t bits, int bytes, int mask);
uint64_t take(uint64_t bits, int lane);
void multiply(float* sum, const uint32_t* a, const uint32_t* b);

}  // namespace emulated

inline int thread() { return emulated::here.thread; }
inline int threads() { return emulated::here.threads; }
inline int block() { return emulated::here.block; }
inline int blocks() { return emulated::here.blocks; }

inline void barrier() { emulated::wait_at_barrier(); }

// The blocks of a team are one here, of all their threads. So what one block would read of another
// without a barrier of the whole team is a race.
inline Team team_of(int) { return {thread(), threads(), block(), blocks()}; }
inline void barrier(int) { barrier(); }

template <typename Value>
inline Value read(const Value* place) {
    static_assert(sizeof(Value) % 4 == 0 && std::is_trivially_copyable_v<Value>);
    emulated::check_read(place, sizeof(Value), alignof(Value));
    return *place;
}

template <typename Value>
inline void write(Value* place, Value value) {
    static_assert(sizeof(Value) % 4 == 0 && std::is_trivially_copyable_v<Value>);
    emulated::check_write(place, sizeof(Value), alignof(Value));
    *place = value;
}

template <typename Value>
inline Value constant_at(const Value* place) {
    static_assert(std::is_arithmetic_v<Value>, "__ldg takes numbers alone");
    emulated::check_constant(place, sizeof(Value), alignof(Value));
    return *place;
}

inline Four four_at(const float* place) {
    emulated::check_constant(place, sizeof(Four), alignof(Four));
    return {{place[0], place[1], place[2], place[3]}};
}

template <typename Value>
inline Value exchanged(Value value, int mask) {
    static_assert(std::is_arithmetic_v<Value> && (sizeof(Value) == 4 || sizeof(Value) == 8),
                  "__shfl_xor_sync takes numbers of four or eight bytes alone");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = emulated::exchange(bits, sizeof value, mask);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline float from_lane(float value, int lane) {
    const uint64_t bits = emulated::take(std::bit_cast<uint32_t>(value), lane);
    return std::bit_cast<float>(static_cast<uint32_t>(bits));
}

inline float fused(float a, float b, float c) { return std::fma(a, b, c); }

inline float float_of(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t bits_of(float value) { return std::bit_cast<uint32_t>(value); }

inline uint32_t to_tf32(float value) {
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bits | 0x00400000u;  // not a number, as before
    if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
    return (bits + 0x1000u) & ~0x1fffu;
}

inline uint32_t to_bf16(float value) {
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff0000u;  // as cvt.rn.bf16 makes it
    return (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
}

inline void multiply_tf32(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulated::multiply(sum, a, b);
}

}  // namespace pyrel::cuda

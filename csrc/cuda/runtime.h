// SPDX-License-Identifier: Apache-2.0
// What the library asks of a device. runtime_cuda.cu asks CUDA; the emulated library of the tests
// has the same functions over the host's memory (tests/native/cuda/runtime_emulated.cpp).
#pragma once

#include <stdint.h>

#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "image.h"

namespace pyrel::cuda {

// What a failed call throws, with its name and what the device says of it.
struct DeviceError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// What an allocation throws that the device has no memory for; another one may succeed after it.
struct DeviceFull : std::bad_alloc {
    const char* what() const noexcept override { return "the device has no memory left"; }
};

// How many devices there are.
int devices();

// Makes a device the calling thread's, and afterwards that which was; everything below is of it.
class OnDevice {
  public:
    explicit OnDevice(int device);
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

  private:
    int before_ = 0;
    bool changed_ = false;
};

// Throws DeviceFull, or DeviceError.
void* allocate(int64_t bytes);
void release(void* place) noexcept;
// Of the host's memory, that copies run from and to beside what else runs. Throws alike.
void* allocate_pinned(int64_t bytes);
void release_pinned(void* place) noexcept;
// A stream that waits for no other one.
void* make_stream();
void release_stream(void* stream) noexcept;
// In the order of a stream, which is a cudaStream_t. The host's memory may be given back after
// `synchronise`.
void copy_to_device(void* to, const void* from, int64_t bytes, void* stream);
void copy_from_device(void* to, const void* from, int64_t bytes, void* stream);
// Runs pyrel_walk by so many teams of blocks.
void launch_walk(const Launch& launch, int teams, void* stream);
void synchronise(void* stream);

// Launches that follow each other, none of which has a barrier. They are kept as one graph, which
// the same launches need not be made of again.
class Graph {
  public:
    Graph();
    Graph(Graph&&) noexcept;
    Graph& operator=(Graph&&) noexcept;
    ~Graph();
    void launch(const std::vector<Launch>& all, int teams, void* stream);

  private:
    struct Made;
    std::unique_ptr<Made> made_;
};

// How many teams of so many blocks run at once; 0 where the device has no clusters so large.
int teams_at_once(int blocks);
int64_t free_memory();
// Of the device's second-level cache.
int64_t cache_bytes();

constexpr int kThreads = 256;  // of a block of pyrel_walk

}  // namespace pyrel::cuda

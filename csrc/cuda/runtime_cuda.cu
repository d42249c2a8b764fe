// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include <string>

#include "runtime.h"
#include "walk.h"

namespace pyrel::cuda {
namespace {

// An error of a call stays the thread's last one until it is asked for; the check behind a launch
// must not find that of an earlier call.
void check(cudaError_t error, const char* call) {
    if (error == cudaSuccess) return;
    cudaGetLastError();
    throw DeviceError(std::string(call) + ": " + cudaGetErrorName(error) + " (" +
                      cudaGetErrorString(error) + ")");
}

cudaStream_t of(void* stream) { return static_cast<cudaStream_t>(stream); }

int current() {
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    return device;
}

}  // namespace

OnDevice::OnDevice(int device) : before_(current()) {
    check(cudaSetDevice(device), "cudaSetDevice");
}

OnDevice::~OnDevice() {
    if (cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
}

void* allocate(int64_t bytes) {
    void* place = nullptr;
    const cudaError_t error = cudaMalloc(&place, static_cast<size_t>(bytes));
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        throw DeviceFull();
    }
    check(error, "cudaMalloc");
    return place;
}

void release(void* place) noexcept {
    if (cudaFree(place) != cudaSuccess) cudaGetLastError();
}

void copy_to_device(void* to, const void* from, int64_t bytes, void* stream) {
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, of(stream)),
          "cudaMemcpyAsync to the device");
}

void copy_from_device(void* to, const void* from, int64_t bytes, void* stream) {
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, of(stream)),
          "cudaMemcpyAsync from the device");
}

void launch_walk(const Launch& launch, const Header&, int blocks, void* stream) {
    pyrel_walk<<<static_cast<unsigned>(blocks), kThreads, 0, of(stream)>>>(launch);
    check(cudaGetLastError(), "the launch of pyrel_walk");
}

void synchronise(void* stream) {
    check(cudaStreamSynchronize(of(stream)), "cudaStreamSynchronize");
}

int multiprocessors() {
    int count = 0;
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, current()),
          "cudaDeviceGetAttribute");
    return count;
}

int64_t free_memory() {
    size_t unused = 0, all = 0;
    check(cudaMemGetInfo(&unused, &all), "cudaMemGetInfo");
    return static_cast<int64_t>(unused);
}

}  // namespace pyrel::cuda

// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include <string>
#include <utility>

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

void check_memory(cudaError_t error, const char* call) {
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        throw DeviceFull();
    }
    check(error, call);
}

cudaStream_t of(void* stream) { return static_cast<cudaStream_t>(stream); }

int current() {
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    return device;
}

int attribute(cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, current()), "cudaDeviceGetAttribute");
    return value;
}

// Of a launch by teams of blocks that are clusters.
struct Configuration {
    cudaLaunchConfig_t config{};
    cudaLaunchAttribute cluster{};

    Configuration(int teams, int blocks, void* stream) {
        config.gridDim = dim3(static_cast<unsigned>(teams * blocks));
        config.blockDim = dim3(kThreads);
        config.stream = of(stream);
        cluster.id = cudaLaunchAttributeClusterDimension;
        cluster.val.clusterDim.x = static_cast<unsigned>(blocks);
        cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
        config.attrs = &cluster;
        config.numAttrs = blocks > 1 ? 1 : 0;
    }
    Configuration(const Configuration&) = delete;
    Configuration& operator=(const Configuration&) = delete;
};

// Of launches on a stream of their own, which only captures.
cudaGraphExec_t captured(const std::vector<Launch>& all, int teams) {
    const cudaStream_t stream = of(make_stream());
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t made = nullptr;
    // A kernel that was never used is loaded now, which a capture may not do.
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, pyrel_walk);
    if (error == cudaSuccess)
        error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    const bool captures = error == cudaSuccess;
    for (const Launch& launch : all) {
        if (error != cudaSuccess) break;
        pyrel_walk<<<static_cast<unsigned>(teams * launch.team), kThreads, 0, stream>>>(launch);
        error = cudaGetLastError();
    }
    const cudaError_t ended = captures ? cudaStreamEndCapture(stream, &graph) : cudaSuccess;
    if (error == cudaSuccess) error = ended;
    if (error == cudaSuccess) error = cudaGraphInstantiate(&made, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    release_stream(stream);
    check(error, "capturing the launches of pyrel_walk");
    return made;
}

}  // namespace

int devices() {
    int count = 0;
    check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    return count;
}

// Choosing a device makes its context, so none is chosen that is already.
OnDevice::OnDevice(int device) : before_(current()), changed_(before_ != device) {
    if (changed_) check(cudaSetDevice(device), "cudaSetDevice");
}

OnDevice::~OnDevice() {
    if (changed_ && cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
}

void* allocate(int64_t bytes) {
    void* place = nullptr;
    check_memory(cudaMalloc(&place, static_cast<size_t>(bytes)), "cudaMalloc");
    return place;
}

void release(void* place) noexcept {
    if (cudaFree(place) != cudaSuccess) cudaGetLastError();
}

void* allocate_pinned(int64_t bytes) {
    void* place = nullptr;
    check_memory(cudaMallocHost(&place, static_cast<size_t>(bytes)), "cudaMallocHost");
    return place;
}

void release_pinned(void* place) noexcept {
    if (cudaFreeHost(place) != cudaSuccess) cudaGetLastError();
}

void* make_stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return stream;
}

void release_stream(void* stream) noexcept {
    if (cudaStreamDestroy(of(stream)) != cudaSuccess) cudaGetLastError();
}

void copy_to_device(void* to, const void* from, int64_t bytes, void* stream) {
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, of(stream)),
          "cudaMemcpyAsync to the device");
}

void copy_from_device(void* to, const void* from, int64_t bytes, void* stream) {
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, of(stream)),
          "cudaMemcpyAsync from the device");
}

void launch_walk(const Launch& launch, int teams, void* stream) {
    const Configuration made(teams, launch.team, stream);
    check(cudaLaunchKernelEx(&made.config, pyrel_walk, launch), "the launch of pyrel_walk");
}

struct Graph::Made {
    std::vector<Launch> of;
    int teams = 0;
    cudaGraphExec_t graph = nullptr;

    ~Made() {
        if (graph && cudaGraphExecDestroy(graph) != cudaSuccess) cudaGetLastError();
    }
};

Graph::Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;
Graph::~Graph() = default;

void Graph::launch(const std::vector<Launch>& all, int teams, void* stream) {
    if (!made_ || made_->teams != teams || made_->of != all) {
        auto made = std::make_unique<Made>();
        made->of = all;
        made->teams = teams;
        made->graph = captured(all, teams);
        made_ = std::move(made);
    }
    check(cudaGraphLaunch(made_->graph, of(stream)), "cudaGraphLaunch");
}

void synchronise(void* stream) {
    check(cudaStreamSynchronize(of(stream)), "cudaStreamSynchronize");
}

int teams_at_once(int blocks) {
    if (blocks == 1) return attribute(cudaDevAttrMultiProcessorCount);
    if (attribute(cudaDevAttrComputeCapabilityMajor) < 9) return 0;
    int count = 0;
    const Configuration made(1, blocks, nullptr);
    check(cudaOccupancyMaxActiveClusters(&count, pyrel_walk, &made.config),
          "cudaOccupancyMaxActiveClusters");
    return count;
}

int64_t cache_bytes() { return attribute(cudaDevAttrL2CacheSize); }

int64_t free_memory() {
    size_t unused = 0, all = 0;
    check(cudaMemGetInfo(&unused, &all), "cudaMemGetInfo");
    return static_cast<int64_t>(unused);
}

}  // namespace pyrel::cuda

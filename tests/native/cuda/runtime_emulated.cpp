// SPDX-License-Identifier: Apache-2.0
// The device of csrc/cuda/runtime.h over the host's memory. It is a small one: how samples are
// divided among its multiprocessors can be tried with few.
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "runtime.h"
#include "walk.h"

namespace pyrel::cuda {
namespace {

constexpr int kMultiprocessors = 8;
constexpr int64_t kBytes = int64_t{1} << 30;
constexpr int64_t kCacheBytes = int64_t{1} << 20;

// What the tests choose, and what the last launch came to.
struct Emulation {
    std::mutex mutex;
    emulated::Options options;
    int64_t said = kBytes, given = kBytes;  // bytes that seem to be unused, and that there are
    std::map<void*, int64_t> allocated;
    int64_t used = 0;
    int barriers = 0, teams = 0, team = 0, groups = 0, launches = 0;
    int devices = 1;  // less than 0: there is no driver
    std::map<void*, int64_t> pinned;
    // What waits in each stream that was made; it runs when somebody waits for it, and so as late
    // as a device may run it.
    std::map<void*, std::vector<std::function<void()>>> streams;
    int64_t runs = 0;
    int failing_launch = -1;           // counted down to 0, at which one fails
    int waits = 0, dropped_wait = -1;  // on streams that were made
    void* stream = nullptr;            // of the last launch
};

Emulation& emulation() {
    static Emulation made;
    return made;
}

// Of the arrays of a launch, in their exact sizes: what was allocated may be larger.
std::vector<emulated::Region> regions_of(const Launch& launch, int teams) {
    const Header& header = launch.header;
    const int64_t n = launch.samples, size = header.input_size, real = sizeof(float);
    const int64_t lanes = int64_t{teams} * launch.groups * kGroup;
    std::vector<emulated::Region> regions;
    const auto add = [&](const void* base, int64_t bytes, bool writable, const char* name) {
        if (base) regions.push_back({base, bytes, writable, name});
    };
    add(launch.image, header.bytes, false, "the image");
    add(launch.x, n * size * real, false, "x");
    add(launch.target, n * launch.ways * int64_t{sizeof(int64_t)}, false, "the targets");
    add(launch.low, size * real, false, "low");
    add(launch.high, size * real, false, "high");
    add(launch.relevance, n * launch.ways * size * real, true, "the relevance");
    add(launch.output, n * header.classes * real, true, "the outputs");
    add(launch.explained, n * launch.ways * int64_t{sizeof(int64_t)}, true,
        "the explained classes");
    add(launch.absorbed, n * launch.ways * real, true, "what is absorbed");
    add(launch.conservation, n * launch.ways * real, true, "the conservation");
    add(launch.amplification, n * launch.ways * real, true, "the amplification");
    add(launch.verdicts, n * int64_t{sizeof(Verdict)}, true, "the verdicts");
    add(launch.arena, lanes * header.arena_size * real, true, "the arena");
    add(launch.scratch, lanes * 3 * int64_t{sizeof(double)}, true, "the scratch");
    return regions;
}

// NaN in every float and double: what is read before it is written shows in the results.
void spoil(const emulated::Region& region) {
    std::memset(const_cast<void*>(region.base), 0xff, static_cast<size_t>(region.bytes));
}

// Does something in the order of a stream; at once in those of torch.
void in_order(void* stream, std::function<void()> work) {
    Emulation& device = emulation();
    {
        const std::lock_guard lock(device.mutex);
        const auto found = device.streams.find(stream);
        if (found != device.streams.end()) return found->second.push_back(std::move(work));
    }
    work();
}

// One launch after the other, over what the ones before left.
void run_all(const std::vector<Launch>& all, int teams, void* stream) {
    Emulation& device = emulation();
    const std::lock_guard lock(device.mutex);
    const std::vector<emulated::Region> regions = regions_of(all.front(), teams);
    for (const emulated::Region& region : regions)
        if (all.front().first_step == 0 &&
            (region.base == all.front().arena || region.base == all.front().scratch))
            spoil(region);
    emulated::set_regions(regions);
    device.teams = teams;
    device.team = all.front().team;
    device.groups = all.front().groups;
    device.launches = static_cast<int>(all.size());
    device.stream = stream;
    ++device.runs;
    for (const Launch& launch : all) {
        if (device.failing_launch >= 0 && device.failing_launch-- == 0)
            throw DeviceError("cudaErrorIllegalAddress");
        device.barriers = emulated::launch([&] { pyrel_walk(launch); }, teams,
                                           kThreads * launch.team, device.options);
    }
}

}  // namespace

int devices() {
    if (emulation().devices < 0)
        throw DeviceError("cudaGetDeviceCount: cudaErrorInsufficientDriver (no driver)");
    return emulation().devices;
}

OnDevice::OnDevice(int device) {
    if (device < 0 || device >= devices())
        throw DeviceError("the emulator has no device " + std::to_string(device));
}
OnDevice::~OnDevice() = default;

void* allocate(int64_t bytes) {
    Emulation& device = emulation();
    const std::lock_guard lock(device.mutex);
    if (bytes > device.given - device.used) throw DeviceFull();
    // As cudaMalloc aligns.
    const auto whole = static_cast<size_t>((bytes + 255) / 256 * 256);
    void* const place = std::aligned_alloc(256, whole);
    if (!place) throw DeviceFull();
    device.allocated[place] = bytes;
    device.used += bytes;
    return place;
}

void release(void* place) noexcept {
    Emulation& device = emulation();
    const std::lock_guard lock(device.mutex);
    const auto found = device.allocated.find(place);
    if (found == device.allocated.end()) std::abort();  // given back twice
    device.used -= found->second;
    device.allocated.erase(found);
    std::free(place);
}

struct Graph::Made {};

Graph::Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;
Graph::~Graph() = default;

void Graph::launch(const std::vector<Launch>& all, int teams, void* stream) {
    in_order(stream, [=] { run_all(all, teams, stream); });
}

void* allocate_pinned(int64_t bytes) {
    void* const place = std::malloc(static_cast<size_t>(bytes));
    if (!place) throw DeviceFull();
    std::memset(place, 0xff, static_cast<size_t>(bytes));
    Emulation& device = emulation();
    const std::lock_guard lock(device.mutex);
    device.pinned[place] = bytes;
    return place;
}

void release_pinned(void* place) noexcept {
    Emulation& device = emulation();
    const std::lock_guard lock(device.mutex);
    if (device.pinned.erase(place) == 0) std::abort();  // given back twice
    std::free(place);
}

void* make_stream() {
    auto* const stream = new char;
    Emulation& device = emulation();
    const std::lock_guard lock(device.mutex);
    device.streams[stream];
    return stream;
}

void release_stream(void* stream) noexcept {
    Emulation& device = emulation();
    const std::lock_guard lock(device.mutex);
    const auto found = device.streams.find(stream);
    if (found == device.streams.end()) std::abort();
    if (!found->second.empty() && device.dropped_wait < 0) std::abort();
    device.streams.erase(found);
    delete static_cast<char*>(stream);
}

void copy_to_device(void* to, const void* from, int64_t bytes, void* stream) {
    in_order(stream, [=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });
}
void copy_from_device(void* to, const void* from, int64_t bytes, void* stream) {
    in_order(stream, [=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });
}
void launch_walk(const Launch& launch, int teams, void* stream) {
    in_order(stream, [=] { run_all({launch}, teams, stream); });
}

void synchronise(void* stream) {
    std::vector<std::function<void()>> waiting;
    {
        Emulation& device = emulation();
        const std::lock_guard lock(device.mutex);
        const auto found = device.streams.find(stream);
        if (found != device.streams.end() && device.waits++ == device.dropped_wait) return;
        if (found != device.streams.end()) waiting.swap(found->second);
    }
    for (const auto& work : waiting) work();
}

int teams_at_once(int blocks) { return kMultiprocessors / blocks; }

int64_t cache_bytes() { return kCacheBytes; }

int64_t free_memory() {
    Emulation& device = emulation();
    const std::lock_guard lock(device.mutex);
    return device.said - device.used;
}

}  // namespace pyrel::cuda

#pragma GCC visibility push(default)
extern "C" {

// How later launches run: the order of threads, and a barrier that does nothing, or -1.
void pyrel_cuda_emulate(uint64_t seed, int32_t dropped_barrier) {
    pyrel::cuda::Emulation& device = pyrel::cuda::emulation();
    const std::lock_guard lock(device.mutex);
    device.options = {seed, dropped_barrier};
}

// How many bytes the device has by its own word, and how many it has; -1 for as many as at first.
void pyrel_cuda_memory(int64_t said, int64_t given) {
    pyrel::cuda::Emulation& device = pyrel::cuda::emulation();
    const std::lock_guard lock(device.mutex);
    device.said = said < 0 ? pyrel::cuda::kBytes : said;
    device.given = given < 0 ? pyrel::cuda::kBytes : given;
}

// Of the last run: the barriers that a block of its last launch came to, its launches, their teams,
// the blocks of a team and the groups of a slab.
int32_t pyrel_cuda_barriers() { return pyrel::cuda::emulation().barriers; }
int32_t pyrel_cuda_launches() { return pyrel::cuda::emulation().launches; }
int32_t pyrel_cuda_teams() { return pyrel::cuda::emulation().teams; }
int32_t pyrel_cuda_team() { return pyrel::cuda::emulation().team; }
int32_t pyrel_cuda_groups() { return pyrel::cuda::emulation().groups; }
// What is allocated now.
int64_t pyrel_cuda_used() { return pyrel::cuda::emulation().used; }
// How many blocks of pinned memory, and streams, there are now.
int32_t pyrel_cuda_held() {
    const pyrel::cuda::Emulation& device = pyrel::cuda::emulation();
    return static_cast<int32_t>(device.pinned.size() + device.streams.size());
}
// How many runs there were, and the stream of the last one.
int64_t pyrel_cuda_runs() { return pyrel::cuda::emulation().runs; }
void* pyrel_cuda_stream() { return pyrel::cuda::emulation().stream; }
// Lets a later launch fail, the one of this number from 0 on; -1: none.
void pyrel_cuda_fail_launch(int32_t number) { pyrel::cuda::emulation().failing_launch = number; }
// Counts waits for streams that were made from 0 on, and lets one of them do nothing; -1: none.
void pyrel_cuda_drop_wait(int32_t number) {
    pyrel::cuda::emulation().waits = 0;
    pyrel::cuda::emulation().dropped_wait = number;
}
int32_t pyrel_cuda_waits() { return pyrel::cuda::emulation().waits; }
// How many devices there are, all in the same memory; less than 0 for no driver.
void pyrel_cuda_set_devices(int32_t count) { pyrel::cuda::emulation().devices = count; }

}  // extern "C"
#pragma GCC visibility pop

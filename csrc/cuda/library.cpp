// SPDX-License-Identifier: Apache-2.0
// The C interface, on the functions of runtime.h.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../shared/batch.h"
#include "runtime.h"

// All else in the library is hidden.
#pragma GCC visibility push(default)
#include "interface.h"
#pragma GCC visibility pop

namespace pyrel::cuda {
namespace {

constexpr int kMostGroups = 8;
constexpr int kBlocksOfMultiprocessor = 1;  // the kernel takes the registers of one
// Of what a run takes at most this is kept for the next one: allocating takes about as long as a
// small batch does.
constexpr int64_t kMostKept = int64_t{1} << 30;

// Of the device; it must be the thread's current one where this grows or ends.
class Memory {
  public:
    Memory() = default;
    Memory(Memory&& other) noexcept { *this = std::move(other); }
    Memory& operator=(Memory&& other) noexcept {
        std::swap(place_, other.place_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~Memory() { clear(); }

    // Of at least so many bytes, whatever they hold.
    void reserve(int64_t bytes) {
        if (bytes <= bytes_) return;
        clear();
        place_ = allocate(bytes);
        bytes_ = bytes;
    }
    void clear() noexcept {
        if (place_) release(place_);
        place_ = nullptr;
        bytes_ = 0;
    }
    void* get() const { return place_; }
    int64_t bytes() const { return bytes_; }

  private:
    void* place_ = nullptr;
    int64_t bytes_ = 0;
};

// How the samples of a batch are divided; their results have the same bits whatever it is.
struct Division {
    int64_t samples = 0;
    int groups = 1;
    int64_t blocks = 1;

    int64_t slabs() const { return (samples + groups * kGroup - 1) / (groups * kGroup); }
    int64_t arena_bytes(const Header& header) const {
        return blocks * groups * header.arena_size * kGroup * int64_t{sizeof(float)};
    }
    int64_t scratch_bytes() const { return blocks * 3 * groups * kGroup * int64_t{sizeof(double)}; }
    int64_t verdict_bytes() const { return samples * int64_t{sizeof(Verdict)}; }
    // Divides so that about half as much memory is needed; false if there is no way.
    bool take_less() {
        if (blocks > 1)
            blocks /= 2;
        else if (groups > 1)
            groups /= 2;
        else
            return false;
        return true;
    }
};

// What a run writes beside its results.
struct Workspace {
    Memory arena, scratch, verdicts;

    void reserve(const Division& division, const Header& header) {
        verdicts.reserve(division.verdict_bytes());
        scratch.reserve(division.scratch_bytes());
        arena.reserve(division.arena_bytes(header));
    }
    int64_t bytes() const { return arena.bytes() + scratch.bytes() + verdicts.bytes(); }
};

// A program on a device.
struct Loaded {
    Header header;
    int device = 0;
    Memory image;
    std::mutex mutex;
    Workspace kept;  // by the mutex; each run has one alone

    Workspace take() {
        const std::lock_guard lock(mutex);
        return std::exchange(kept, Workspace());
    }
    void keep(Workspace& used) {
        if (used.bytes() > kMostKept) return;
        const std::lock_guard lock(mutex);
        std::swap(kept, used);
    }
};

// Slabs of many samples read the weights seldom, but a multiprocessor without one does nothing.
int chosen_groups(int64_t samples) {
    const int64_t processors = multiprocessors();
    int groups = kMostGroups;
    while (groups > 1 && Division{samples, groups}.slabs() < processors) groups /= 2;
    return groups;
}

Division divided(const PyrelCudaBatch& batch, const Header& header) {
    Division division;
    division.samples = batch.samples;
    division.groups = batch.groups > 0 ? batch.groups : chosen_groups(batch.samples);
    const auto bytes = [&] { return division.arena_bytes(header) + division.scratch_bytes(); };
    const int64_t most = free_memory() / 2;
    while (bytes() > most && division.take_less()) {
    }
    const int64_t asked =
        batch.blocks > 0 ? batch.blocks : int64_t{kBlocksOfMultiprocessor} * multiprocessors();
    const int64_t fitting = std::max<int64_t>(1, most / bytes());
    division.blocks = std::min({asked, division.slabs(), fitting});
    return division;
}

Launch launch_of(const Loaded& loaded, const PyrelCudaBatch& batch) {
    Launch launch;
    launch.image = static_cast<const char*>(loaded.image.get());
    launch.x = batch.x;
    launch.target = batch.target;
    launch.low = batch.low;
    launch.high = batch.high;
    launch.relevance = batch.relevance;
    launch.output = batch.output;
    launch.explained = batch.explained;
    launch.absorbed = batch.absorbed;
    launch.conservation = batch.conservation;
    launch.amplification = batch.amplification;
    launch.samples = batch.samples;
    launch.check_finite = batch.check_finite;
    launch.precision = static_cast<Precision>(batch.precision);
    return launch;
}

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

void check(const PyrelCudaBatch& batch, const Header& header) {
    const int groups = batch.groups;
    require(groups >= 0 && groups <= kMostGroups && (groups & (groups - 1)) == 0,
            "a slab has 1, 2, 4 or 8 groups of samples");
    require(batch.blocks >= 0, "there is no negative number of blocks");
    require(batch.samples >= 0, "there is no negative number of samples");
    require(batch.precision == 0 || batch.precision == 1, "there is no such precision");
    require(!batch.low == !batch.high, "low and high come together");
    require(!batch.relevance || header.explains != 0,
            "a program that only computes outputs writes no relevance");
    require(batch.x && batch.output && batch.explained && batch.absorbed && batch.conservation &&
                batch.amplification,
            "an array is missing");
    require(batch.x != batch.relevance, "the relevance does not overwrite the input");
}

void report(PyrelCudaBatch& batch, Outcome outcome, int64_t sample, int32_t element) {
    batch.outcome = static_cast<int32_t>(outcome);
    batch.sample = sample;
    batch.element = element;
}

// Makes a workspace large enough, for fewer blocks where the device is full; false if even one of
// few samples has no place.
bool reserve(Workspace& workspace, Division& division, const Header& header) {
    for (;;) {
        try {
            workspace.reserve(division, header);
            return true;
        } catch (const DeviceFull&) {
            workspace = Workspace();
            if (!division.take_less()) return false;
        }
    }
}

void run(Loaded& loaded, PyrelCudaBatch& batch) {
    report(batch, Outcome::done, -1, -1);
    if (batch.samples == 0) return;
    check(batch, loaded.header);
    const OnDevice device(loaded.device);
    Workspace workspace = loaded.take();
    Division division = divided(batch, loaded.header);
    if (!reserve(workspace, division, loaded.header))
        return report(batch, Outcome::out_of_memory, -1, -1);
    Launch launch = launch_of(loaded, batch);
    launch.arena = static_cast<float*>(workspace.arena.get());
    launch.scratch = static_cast<double*>(workspace.scratch.get());
    launch.verdicts = static_cast<Verdict*>(workspace.verdicts.get());
    launch.groups = division.groups;
    std::vector<Verdict> verdicts(static_cast<size_t>(batch.samples));
    launch_walk(launch, loaded.header, static_cast<int>(division.blocks), batch.stream);
    copy_from_device(verdicts.data(), launch.verdicts, division.verdict_bytes(), batch.stream);
    synchronise(batch.stream);
    loaded.keep(workspace);
    const auto bad = std::find_if(verdicts.begin(), verdicts.end(),
                                  [](const Verdict& verdict) { return verdict.outcome != 0; });
    if (bad == verdicts.end()) return;
    if (bad->outcome == kNoClass)
        throw std::invalid_argument("the target of sample " +
                                    std::to_string(bad - verdicts.begin()) + " is no class");
    report(batch, static_cast<Outcome>(bad->outcome), bad - verdicts.begin(), bad->element);
}

Header header_of(const void* image, int64_t bytes) {
    Header header;
    require(bytes >= int64_t{sizeof(Header)}, "the image has no header");
    std::memcpy(&header, image, sizeof(Header));
    require(header.bytes == bytes, "the image has another size than its header says");
    require(header.input_size > 0 && header.arena_size > 0 && header.classes > 0,
            "the image's header has an empty size");
    return header;
}

std::unique_ptr<Loaded> load(const void* image, int64_t bytes, int device) {
    const Header header = header_of(image, bytes);
    const OnDevice current(device);
    auto loaded = std::make_unique<Loaded>();
    loaded->header = header;
    loaded->device = device;
    loaded->image.reserve(bytes);
    // The host waits, as other streams may read the image.
    copy_to_device(loaded->image.get(), image, bytes, nullptr);
    synchronise(nullptr);
    return loaded;
}

// What went wrong, in the words of the exception: none may leave a function of C.
template <typename Work>
int without_exceptions(char* error, Work&& work) {
    try {
        work();
        return 0;
    } catch (const std::exception& thrown) {
        std::snprintf(error, PYREL_CUDA_ERROR_BYTES, "%s", thrown.what());
    } catch (...) {
        std::snprintf(error, PYREL_CUDA_ERROR_BYTES, "unknown error");
    }
    return 1;
}

}  // namespace
}  // namespace pyrel::cuda

int pyrel_cuda_interface() { return PYREL_CUDA_INTERFACE; }

int pyrel_cuda_load(const void* image, int64_t bytes, int device, void** made, char* error) {
    return pyrel::cuda::without_exceptions(
        error, [&] { *made = pyrel::cuda::load(image, bytes, device).release(); });
}

int pyrel_cuda_run(void* made, PyrelCudaBatch* batch, char* error) {
    return pyrel::cuda::without_exceptions(
        error, [&] { pyrel::cuda::run(*static_cast<pyrel::cuda::Loaded*>(made), *batch); });
}

void pyrel_cuda_free(void* made) {
    auto* const loaded = static_cast<pyrel::cuda::Loaded*>(made);
    if (!loaded) return;
    char ignored[PYREL_CUDA_ERROR_BYTES];
    // Without its device the memory there is lost, and the host's is given back all the same.
    const int made_there = pyrel::cuda::without_exceptions(ignored, [&] {
        const pyrel::cuda::OnDevice device(loaded->device);
        delete loaded;
    });
    if (made_there != 0) pyrel::cuda::without_exceptions(ignored, [&] { delete loaded; });
}

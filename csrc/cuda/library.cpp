// SPDX-License-Identifier: Apache-2.0
// The C interface, on the functions of runtime.h.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

// All else in the library is hidden.
#pragma GCC visibility push(default)
#include "interface.h"
#pragma GCC visibility pop

#include "loaded.h"
#include "step_by_step.h"

namespace pyrel::cuda {
namespace {

constexpr int kMostBlocks = 8;
constexpr int kWarps = kThreads / kWarp;  // of a block

}  // namespace

// How the samples of a batch are divided; their results have the same bits whatever it is.
struct Division {
    int64_t samples = 0;
    int groups = 1;
    int team = 1;
    int64_t teams = 1;

    int64_t slabs() const { return (samples + groups * kGroup - 1) / (groups * kGroup); }
    int64_t arena_bytes(const Header& header) const {
        return teams * groups * header.arena_size * kGroup * int64_t{sizeof(float)};
    }
    int64_t scratch_bytes() const { return teams * 3 * groups * kGroup * int64_t{sizeof(double)}; }
    int64_t verdict_bytes() const { return samples * int64_t{sizeof(Verdict)}; }
    // Divides so that about half as much memory is needed; false if there is no way.
    bool take_less() {
        if (teams > 1)
            teams /= 2;
        else if (groups > 1)
            groups /= 2;
        else
            return false;
        return true;
    }
};

void Workspace::reserve(const Division& division, const Header& header) {
    verdicts.reserve(division.verdict_bytes());
    scratch.reserve(division.scratch_bytes());
    arena.reserve(division.arena_bytes(header));
}

namespace {

// Whether what a slab has of a program, and of so many ways back, can be counted in 32 bits.
bool can_be_counted(const Header& header, int ways, int groups) {
    const int64_t size = std::max(header.arena_size, header.input_size);
    return std::max(size, int64_t{ways} * header.input_size) <= most_floats(groups) &&
           header.most_items <= most_items(groups);
}

// Slabs of many samples read the weights seldom, but a multiprocessor without one does nothing. Of
// what a walk of the benchmark's cells reads, the weights are as much as the values of two to nine
// groups.
int chosen_groups(const PyrelCudaBatch& batch, const Loaded& loaded) {
    constexpr int64_t kWeights = 4;  // in groups
    const int64_t processors = loaded.teams_of(1);
    const auto cost = [&](int groups) {
        const int64_t slabs = Division{batch.samples, groups}.slabs();
        return (slabs + processors - 1) / processors * (groups + kWeights);
    };
    int best = kMostGroups;
    while (!can_be_counted(loaded.header, batch.ways, best)) best /= 2;
    for (int groups = best / 2; groups > 0; groups /= 2)
        if (cost(groups) < cost(best)) best = groups;
    return best;
}

// As many blocks as have something to multiply, as long as all slabs run at once.
int chosen_team(const Division& division, const Loaded& loaded) {
    int team = 1;
    while (team < kMostBlocks && loaded.teams_of(2 * team) >= division.slabs() &&
           2 * team * kWarps <= loaded.most_tiles * division.groups)
        team *= 2;
    return team;
}

Division divided(const PyrelCudaBatch& batch, const Loaded& loaded, const Workspace& workspace) {
    Division division;
    division.samples = batch.samples;
    division.groups = batch.groups > 0 ? batch.groups : chosen_groups(batch, loaded);
    const auto bytes = [&] {
        return division.arena_bytes(loaded.header) + division.scratch_bytes();
    };
    const int64_t most = (free_memory() + workspace.bytes()) / 2;
    while (bytes() > most && division.take_less()) {
    }
    division.team = batch.team > 0 ? batch.team : chosen_team(division, loaded);
    const int64_t asked =
        batch.teams > 0 ? batch.teams : std::max(1, loaded.teams_of(division.team));
    const int64_t fitting = std::max<int64_t>(1, most / bytes());
    division.teams = std::min({asked, division.slabs(), fitting});
    return division;
}

// Part by part where more slabs at once work than the device's cache holds. Launches of their own
// for steps are of small batches, and of all groups.
Order order_of(const Header& header, const PyrelCudaBatch& batch, const Division& division) {
    if (header.in_parts.steps == 0 || batch.by_steps || is_blocking()) return header.whole;
    const bool in_parts = batch.in_parts == 0 ? division.arena_bytes(header) > cache_bytes()
                                              : batch.in_parts == PYREL_CUDA_IN_PARTS;
    return in_parts ? header.in_parts : header.whole;
}

Launch launch_of(const Loaded& loaded, const PyrelCudaBatch& batch, const Division& division,
                 const Workspace& workspace) {
    Launch launch;
    launch.header = loaded.header;
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
    // Numbers of TF32 lose less than those of bfloat16, and more than the bound of float32 allows.
    const bool coarse = loaded.header.multiplies_bf16 || launch.precision == Precision::tf32;
    launch.lost = coarse ? kLostInBf16 : kLost;
    launch.arena = static_cast<float*>(workspace.arena.get());
    launch.scratch = static_cast<double*>(workspace.scratch.get());
    launch.verdicts = static_cast<Verdict*>(workspace.verdicts.get());
    launch.groups = division.groups;
    launch.team = division.team;
    launch.end_slab = division.slabs();
    launch.order = order_of(loaded.header, batch, division);
    launch.end_step = steps_of(launch.order, batch.relevance) + 1;
    launch.ways = launch.end_way = batch.ways;
    return launch;
}

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

void check(const PyrelCudaBatch& batch, const Header& header) {
    const int groups = batch.groups;
    require(groups >= 0 && groups <= kMostGroups && (groups & (groups - 1)) == 0,
            "a slab has 1, 2, 4, 8 or 16 groups of samples");
    const int team = batch.team;
    require(team >= 0 && team <= kMostBlocks && (team & (team - 1)) == 0,
            "a team has 1, 2, 4 or 8 blocks");
    require(batch.teams >= 0, "there is no negative number of teams");
    require(batch.samples >= 0, "there is no negative number of samples");
    require(batch.precision >= 0 && batch.precision <= static_cast<int>(Precision::tf32),
            "there is no such precision");
    require(batch.in_parts >= 0 && batch.in_parts <= PYREL_CUDA_IN_PARTS, "there is no such order");
    require(batch.ways >= 1 && batch.ways * int64_t{header.input_size} <= kMostFloats,
            "a sample goes back at least once, and has no room for so many ways");
    require(batch.ways == 1 || (batch.relevance && batch.target && header.keeps_forward),
            "several ways back need relevance, targets, and a program that keeps its forward pass");
    require(groups == 0 || can_be_counted(header, batch.ways, groups),
            "a slab of so many groups has too many floats");
    require(!batch.low == !batch.high, "low and high come together");
    require(!batch.relevance || header.explains != 0,
            "a program that only computes outputs writes no relevance");
    require(batch.x && batch.output && batch.explained && batch.absorbed && batch.conservation &&
                batch.amplification,
            "an array is missing");
    require(batch.x != batch.relevance, "the relevance does not overwrite the input");
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

}  // namespace

void report(PyrelCudaBatch& batch, Outcome outcome, int64_t sample, int32_t element) {
    batch.outcome = static_cast<int32_t>(outcome);
    batch.sample = sample;
    batch.element = element;
}

bool report_first(PyrelCudaBatch& batch, const Verdict* verdicts, int64_t samples, int64_t first) {
    const Verdict* const end = verdicts + samples;
    const Verdict* const bad =
        std::find_if(verdicts, end, [](const Verdict& verdict) { return verdict.outcome != 0; });
    if (bad == end) return false;
    const int64_t sample = first + (bad - verdicts);
    if (bad->outcome == kNoClass)
        throw std::invalid_argument("the target of sample " + std::to_string(sample) +
                                    " is no class");
    report(batch, static_cast<Outcome>(bad->outcome), sample, bad->element);
    return true;
}

bool launch(const Loaded& loaded, const PyrelCudaBatch& batch, Workspace& workspace) {
    check(batch, loaded.header);
    Division division = divided(batch, loaded, workspace);
    require(batch.by_steps || loaded.teams_of(division.team) > 0,
            "this device has no teams of so many blocks");
    if (!reserve(workspace, division, loaded.header)) return false;
    const Launch launch = launch_of(loaded, batch, division, workspace);
    const int teams = static_cast<int>(division.teams);
    workspace.samples = batch.samples;
    workspace.team = division.team;
    workspace.teams = teams;
    if (is_blocking()) {
        run_step_by_step(launch, loaded, teams, batch.stream);
        return true;
    }
    name_walk_in_errors(workspace, [&] {
        if (batch.by_steps)
            workspace.graph.launch(divided_at_barriers(launch, loaded, teams), teams, batch.stream);
        else
            launch_walk(launch, teams, batch.stream);
    });
    return true;
}

namespace {

// For what has begun, and works in memory that is given back after an error.
void wait_quietly(void* stream) {
    try {
        synchronise(stream);
    } catch (const DeviceError&) {  // the first error says more
    }
}

void run(Loaded& loaded, PyrelCudaBatch& batch) {
    report(batch, Outcome::done, -1, -1);
    if (batch.samples == 0) return;
    const OnDevice device(loaded.device);
    std::vector<Verdict> verdicts(static_cast<size_t>(batch.samples));
    Workspace workspace = loaded.workspace.take();
    try {
        if (!launch(loaded, batch, workspace)) return report(batch, Outcome::out_of_memory, -1, -1);
        copy_from_device(verdicts.data(), workspace.verdicts.get(),
                         batch.samples * int64_t{sizeof(Verdict)}, batch.stream);
        name_walk_in_errors(workspace, [&] { synchronise(batch.stream); });
    } catch (...) {
        wait_quietly(batch.stream);
        throw;
    }
    loaded.workspace.keep(workspace);
    report_first(batch, verdicts.data(), batch.samples, 0);
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

// What the host needs of an image's steps.
void look_at_steps(Loaded& loaded, const char* image) {
    const auto* const steps = reinterpret_cast<const Step*>(image + loaded.header.whole.steps_at);
    const auto* const operations =
        reinterpret_cast<const Operation*>(image + loaded.header.operations_at);
    for (int32_t n = 0; n < loaded.header.whole.steps; ++n) {
        if (steps[n].barrier) loaded.barriers.push_back(n);
        const Operation& op = operations[steps[n].operation];
        loaded.kinds.push_back(op.kind);
        if (op.kind != Kind::gemm) continue;
        loaded.most_tiles = std::max(loaded.most_tiles, int64_t{steps[n].rows} * tiles_of(op));
    }
}

std::unique_ptr<Loaded> load(const void* image, int64_t bytes, int device) {
    const Header header = header_of(image, bytes);
    const OnDevice current(device);
    auto loaded = std::make_unique<Loaded>();
    loaded->header = header;
    loaded->device = device;
    look_at_steps(*loaded, static_cast<const char*>(image));
    for (size_t n = 0; n < loaded->teams.size(); ++n) loaded->teams[n] = teams_at_once(1 << n);
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

int pyrel_cuda_devices(int* count, char* error) {
    return pyrel::cuda::without_exceptions(error, [&] { *count = pyrel::cuda::devices(); });
}

int pyrel_cuda_load(const void* image, int64_t bytes, int device, void** made, char* error) {
    return pyrel::cuda::without_exceptions(
        error, [&] { *made = pyrel::cuda::load(image, bytes, device).release(); });
}

int pyrel_cuda_run(void* made, PyrelCudaBatch* batch, char* error) {
    return pyrel::cuda::without_exceptions(
        error, [&] { pyrel::cuda::run(*static_cast<pyrel::cuda::Loaded*>(made), *batch); });
}

int pyrel_cuda_run_from_host(void* made, PyrelCudaBatch* batch, char* error) {
    return pyrel::cuda::without_exceptions(error, [&] {
        pyrel::cuda::run_from_host(*static_cast<pyrel::cuda::Loaded*>(made), *batch);
    });
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

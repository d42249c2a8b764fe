// SPDX-License-Identifier: Apache-2.0
#include "executor.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "../shared/flush_denormals.h"
#include "plan.h"
#include "runner.h"

namespace pyrel {
namespace {

// A thread is worth its start (tens of microseconds) from about this much work on.
constexpr double kFlopsPerThread = 8e6;

struct SharedState {
    std::atomic<int64_t> next{0};
    std::atomic<bool> stop{false};
    std::atomic<bool> interrupted{false};  // whoever is under way stops before its slab is done
    std::mutex mutex;
    Status status;

    // Of several offences the one of the lowest sample is kept, so the report does not depend on
    // timing within a slab.
    void fail(Status failure) {
        const std::lock_guard lock(mutex);
        if (status.outcome == Outcome::done || failure.sample < status.sample) status = failure;
        stop.store(true, std::memory_order_relaxed);
    }
};

void work(const Engine& engine, const Batch& batch, Plan plan, SharedState& state,
          Interrupted interrupted) {
    using Clock = std::chrono::steady_clock;
    constexpr auto kPollInterval = std::chrono::milliseconds(50);
    const FlushDenormals flush;
    SlabRunner runner(engine, batch, plan);
    if (!runner.allocated()) return state.fail({Outcome::out_of_memory, -1, -1});
    auto polled = Clock::now();
    const auto stopped = [&] {
        if (interrupted && Clock::now() - polled > kPollInterval) {
            polled = Clock::now();
            if (interrupted()) state.interrupted.store(true, std::memory_order_relaxed);
        }
        return state.interrupted.load(std::memory_order_relaxed);
    };
    while (!state.stop.load(std::memory_order_relaxed)) {
        const int64_t first = state.next.fetch_add(plan.slab);
        if (first >= batch.samples) return;
        const Status status =
            runner.run(first, std::min(plan.slab, batch.samples - first), stopped);
        if (status.outcome != Outcome::done) return state.fail(status);
        if (stopped()) return state.fail({Outcome::interrupted, -1, -1});
    }
}

}  // namespace

Status run(const Engine& engine, const Batch& batch, int threads, std::optional<bool> in_lanes,
           Interrupted interrupted) noexcept {
    if (batch.samples == 0) return {};
    const double worth = engine.code().flops * static_cast<double>(batch.samples) / kFlopsPerThread;
    const auto useful = static_cast<int64_t>(std::min(worth, 1e6));
    threads = static_cast<int>(std::clamp<int64_t>(std::min(useful, batch.samples), 1, threads));
    const Plan plan = plan_of(engine, batch, threads, in_lanes);
    try {
        if (plan.lanes > 1) engine.pack_in_lanes();
    } catch (const std::bad_alloc&) {
        return {Outcome::out_of_memory, -1, -1};
    }
    threads =
        static_cast<int>(std::min<int64_t>(threads, (batch.samples + plan.slab - 1) / plan.slab));
    SharedState state;
    std::unique_ptr<std::thread[]> helpers(threads > 1 ? new (std::nothrow) std::thread[threads - 1]
                                                       : nullptr);
    for (int i = 0; helpers && i < threads - 1; ++i) {
        try {
            helpers[i] = std::thread([&] { work(engine, batch, plan, state, nullptr); });
        } catch (const std::system_error&) {
            break;  // the operating system gives no more threads: the ones that run do the work
        }
    }
    work(engine, batch, plan, state, interrupted);
    for (int i = 0; helpers && i < threads - 1; ++i)
        if (helpers[i].joinable()) helpers[i].join();
    return state.status;
}

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
#include "executor.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cfloat>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <system_error>
#include <thread>

#if defined(PYREL_X86)
#include <xmmintrin.h>
#endif

namespace pyrel {
namespace {

// A thread is worth its start (tens of microseconds) from about this much work on.
constexpr double kFlopsPerThread = 8e6;
// Slabs of this many samples fill the widest tile at every step of a recurrence; larger ones leave
// the caches.
constexpr int64_t kSlabSamples = 12;
// In lanes, of so many groups: two rows for each weight that is read, at every step.
constexpr int64_t kSlabGroups = 2;
// That is, of as many as take at most this together.
constexpr int64_t kSlabLaneBytes = int64_t{16} << 20;
// Lanes must promise to be so many times as fast, as the count behind it is rough: the more so
// where they would be filled in part, by so many times as many samples as there are.
constexpr double kClearGain = 1.05, kPartlyFilled = 1.1, kClearestGain = 1.4;
// A slab's memory is kept below this where that leaves at least one tile of samples.
constexpr int64_t kSlabBytes = int64_t{4} << 20;
// Where a slab's memory is more than this, which the second-level cache of a core may hold,
// stretches of instructions that have many rows for each sample run for fewer samples at a time.
constexpr int64_t kCacheBytes = int64_t{768} << 10;
// So many rows of a sample repay reading the weights once for these samples alone.
constexpr int64_t kManyRows = 96;
constexpr int64_t kLineFloats = 16;
// What rounding may make of Σ relevance + absorbed, of the most relevance that passed: thousands of
// errors of float32 in a row, and far more than a few layers of bfloat16. Numbers near the ends of
// the range of float32 lose more: R / d is 0 where d is infinite, or 1e38 times as large.
constexpr double kLost = 1e-3, kLostInBf16 = 0.5;

// Sets "denormals are zero" for this thread: they cost a hundred cycles each and carry nothing.
// Restored on leaving.
class FlushDenormals {
  public:
#if defined(PYREL_X86)
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
    ~FlushDenormals() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#elif defined(__aarch64__)
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" : : "r"(saved_ | (uint64_t{1} << 24)));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

  private:
    uint64_t saved_;
#endif
};

// Samples lie this many floats apart: 17 cache lines over a multiple of 32, so that the rows of a
// tile spread over the sets of the first-level cache instead of falling on the same ones.
int64_t arena_stride(int64_t arena_size) {
    const int64_t lines = (arena_size + kLineFloats - 1) / kLineFloats;
    return (lines + ((17 - lines) % 32 + 32) % 32) * kLineFloats;
}

// How many at a time, at most so many, if all threads shall have equally many to do.
int64_t divided(int64_t count, int threads, int64_t most) {
    const int64_t rounds = (count + threads * most - 1) / (threads * most);
    return std::max<int64_t>(1, (count + threads * rounds - 1) / (threads * rounds));
}

int64_t slab_samples(const Program& program, int64_t samples, int threads) {
    const int64_t bytes = arena_stride(program.arena_size()) * static_cast<int64_t>(sizeof(float));
    const int64_t tile = program.kernels().tile_rows;
    const int64_t fitting = std::clamp(kSlabBytes / bytes / tile * tile, tile, kSlabSamples);
    const int64_t most = std::clamp<int64_t>(kMostSlabBytes / bytes, 1, fitting);
    return divided(samples, threads, most);
}

// How a call runs: a slab of so many samples at a time, and with so many side by side in lanes; 1
// where each sample's floats lie side by side instead.
struct Plan {
    int64_t slab;
    int64_t lanes;
};

// In lanes or not: by how long the thread with the most samples takes. Where values may be NaN or
// infinite, lanes would show, as they do not multiply by weights of zero.
Plan plan_of(const Program& program, const Batch& batch, int threads,
             std::optional<bool> in_lanes) {
    const int64_t samples = batch.samples, lanes = program.kernels().lanes;
    const int64_t groups = (samples + lanes - 1) / lanes;
    const auto most_of = [threads](int64_t all) {
        return static_cast<double>((all + threads - 1) / threads);
    };
    const double together = most_of(groups) * static_cast<double>(lanes);
    const double clear = together > kPartlyFilled * most_of(samples) ? kClearestGain : kClearGain;
    const bool gains = program.gain_in_lanes() * most_of(samples) > clear * together;
    if (program.gain_in_lanes() > 0.0 && in_lanes.value_or(gains && batch.check_finite)) {
        const int64_t fitting = kSlabLaneBytes / program.lane_group_bytes();
        const int64_t most = std::clamp<int64_t>(fitting, 1, kSlabGroups);
        return {divided(groups, threads, most) * lanes, lanes};
    }
    return {slab_samples(program, samples, threads), 1};
}

struct SharedState {
    std::atomic<int64_t> next{0};
    std::atomic<bool> stop{false};
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

class SlabRunner {
  public:
    SlabRunner(const Program& program, const Batch& batch, Plan plan)
        : program_(program),
          batch_(batch),
          stride_(plan.lanes == 1 ? arena_stride(program.arena_size())
                                  : program.arena_size() * plan.lanes),
          groups_((plan.slab + plan.lanes - 1) / plan.lanes),
          lanes_(plan.lanes),
          shift_(std::countr_zero(static_cast<uint64_t>(plan.lanes))),
          part_(
              std::max<int64_t>(1, kCacheBytes / (stride_ * static_cast<int64_t>(sizeof(float))))) {
        const int64_t slab = groups_ * lanes_;
        arena_ = floats(stride_ * groups_ + program.scratch_size());
        if (lanes_ > 1) {
            ends_[0] = floats(program.input_size() * slab);
            ends_[1] = floats(program.input_size() * slab);
            one_sample_ = floats(3 * program.most_normalised() + 1);
        }
        absorbed_.reset(new (std::nothrow) double[static_cast<size_t>(slab)]);
        largest_.reset(new (std::nothrow) double[static_cast<size_t>(slab)]);
        put_in_.reset(new (std::nothrow) double[static_cast<size_t>(slab)]);
        views_.reset(new (std::nothrow) View[static_cast<size_t>(2 * program.most_listed())]);
    }

    bool allocated() const {
        return arena_ && absorbed_ && largest_ && put_in_ && views_ &&
               (lanes_ == 1 || (ends_[0] && ends_[1] && one_sample_));
    }

    Status run(int64_t first, int64_t samples) {
        slab_first_ = first;
        slab_samples_ = samples;
        if (Status bad = check_input(); bad.outcome != Outcome::done) return bad;
        const int64_t groups = (samples + lanes_ - 1) / lanes_;
        std::fill_n(absorbed_.get(), groups * lanes_, 0.0);
        std::fill_n(largest_.get(), groups * lanes_, 0.0);
        const Status status = lanes_ > 1 ? run_in_lanes(groups) : run_apart(groups);
        return status.outcome == Outcome::done ? finish() : status;
    }

  private:
    Status run_in_lanes(int64_t groups) {
        spread_input(groups);
        const Stretch whole{0, program_.instructions().size(), 1};
        Status status;
        if (program_.stretches().empty()) status = execute(whole, groups);
        for (const Stretch& stretch : program_.stretches())
            if (status.outcome == Outcome::done) status = execute(stretch, groups);
        if (status.outcome == Outcome::done && program_.explains()) collect_relevance();
        return status;
    }

    // Whole instructions for all groups, or parts of many for one group after the other.
    Status execute(const Stretch& stretch, int64_t groups) {
        const int64_t together = stretch.parts == 1 ? groups : 1;
        for (int64_t group = 0; group < groups; group += together) {
            choose(group, together);
            for (int64_t part = 0; part < stretch.parts; ++part)
                for (size_t i = stretch.first; i < stretch.end; ++i)
                    if (Status bad = execute_part(program_.instructions()[i], part, stretch.parts);
                        bad.outcome != Outcome::done)
                        return bad;
        }
        return {};
    }

    // All of an instruction in the first part, if its rows cannot be divided.
    Status execute_part(const Instruction& instruction, int64_t part, int64_t parts) {
        return std::visit(
            [&](const auto& i) {
                if (parts == 1 || rows_of(i) % parts == 0) return execute(i, part, parts);
                return part == 0 ? execute(i, 0, 1) : Status{};
            },
            instruction);
    }

    // Missing samples of the last group are zero.
    void spread_input(int64_t groups) {
        const int64_t size = program_.input_size();
        std::fill_n(ends_[0].get() + (groups - 1) * size * lanes_, size * lanes_, 0.0f);
        for_ends([&](int64_t sample, int64_t i, int64_t place) {
            ends_[0].get()[place] = batch_.x[sample * size + i];
        });
    }

    void collect_relevance() {
        const int64_t size = program_.input_size();
        for_ends([&](int64_t sample, int64_t i, int64_t place) {
            batch_.relevance[sample * size + i] = ends_[1].get()[place];
        });
    }

    // Where each element of each sample of the slab lies in lanes: take(sample, element, place). A
    // cache line of elements at a time, so that the lines of all lanes stay in a cache.
    template <typename Take>
    void for_ends(Take&& take) const {
        const int64_t size = program_.input_size();
        for (int64_t s = 0; s < slab_samples_; s += lanes_)
            for (int64_t first = 0; first < size; first += kLineFloats)
                for (int64_t lane = 0; lane < std::min(lanes_, slab_samples_ - s); ++lane)
                    for (int64_t i = first; i < std::min(first + kLineFloats, size); ++i)
                        take(slab_first_ + s + lane, i, (s * size) + i * lanes_ + lane);
    }

    Status run_apart(int64_t samples) {
        const std::vector<Instruction>& all = program_.instructions();
        for (size_t i = 0, end; i < all.size(); i = end) {
            end = part_ < samples ? end_of_stretch(i) : all.size();
            const int64_t part = part_ < samples && end > i + 1 ? part_ : samples;
            for (int64_t begin = 0; begin < samples; begin += part) {
                choose(begin, std::min(part, samples - begin));
                for (size_t j = i; j < end; ++j)
                    if (Status bad = execute(all[j]); bad.outcome != Outcome::done) return bad;
            }
        }
        return {};
    }

    // The samples of the slab that instructions run for from now on, in groups of lanes.
    void choose(int64_t begin, int64_t groups) {
        begin_ = begin;
        samples_ = groups;
    }

    // Behind the instructions from `first` on that may as well run for few samples at a time: they
    // multiply many rows of each, or none. Behind `first` alone if nothing there is multiplied.
    size_t end_of_stretch(size_t first) const {
        const std::vector<Instruction>& all = program_.instructions();
        bool multiplies = false;
        size_t end = first;
        for (; end < all.size(); ++end) {
            const auto* gemm = std::get_if<Gemm>(&all[end]);
            if (gemm ? rows_of(*gemm) < kManyRows : std::holds_alternative<Repeat>(all[end])) break;
            multiplies |= gemm != nullptr;
        }
        return multiplies ? end : first + 1;
    }

    Status execute(const Instruction& instruction) {
        return std::visit([this](const auto& i) { return execute(i, 0, 1); }, instruction);
    }

    // One of `count` equal parts of an instruction's rows.
    template <typename Plain>
    Status execute(const Plain& instruction, int64_t part, int64_t count) {
        steps_ = rows_of(instruction) / count;
        first_step_ = part * steps_;
        return execute(instruction);
    }

    Status execute(const Repeat& repeat, int64_t, int64_t) {
        for (int64_t iteration = 0; iteration < repeat.count; ++iteration)
            for (const Repeatable& instruction : repeat.body)
                std::visit([&](const auto& i) { execute(i, iteration, repeat.count); },
                           instruction);
        return {};
    }

    struct Free {
        void operator()(float* p) const { std::free(p); }
    };
    using Floats = std::unique_ptr<float, Free>;

    static Floats floats(int64_t size) {
        const size_t bytes = static_cast<size_t>(size) * sizeof(float);
        return Floats(static_cast<float*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
    }

    View view(const Rows& rows) const {
        const int64_t* const offsets = rows.offsets.data() + first_step_;
        if (rows.space == Space::arena) return {arena(), stride_, offsets, shift_};
        const int64_t stride = program_.input_size() * lanes_;
        const bool input = rows.space == Space::input;
        if (lanes_ > 1)
            return {ends_[input ? 0 : 1].get() + begin_ * stride, stride, offsets, shift_};
        // Views are writable; Program::add refuses an instruction that writes to the input.
        float* const base = input ? const_cast<float*>(batch_.x) : batch_.relevance;
        return {base + (slab_first_ + begin_) * stride, stride, offsets, shift_};
    }

    // Of the first of the chosen samples.
    float* arena() const { return arena_.get() + begin_ * stride_; }

    View optional_view(const Rows& rows) const {
        return rows.offsets.empty() ? View{} : view(rows);
    }

    static float* row(const View& v, int64_t sample, int64_t step) {
        return v.base + sample * v.stride + (v.offsets[step] << v.shift);
    }

    Epilogue epilogue(const EpilogueSpec& spec) const {
        return {program_.vector(spec.bias),
                program_.vector(spec.scale_vector),
                program_.vector(spec.post_vector),
                optional_view(spec.scale_rows),
                optional_view(spec.post_rows),
                spec.scale,
                spec.post,
                spec.accumulate,
                spec.epsilon};
    }

    Status execute(const Gemm& gemm) {
        const Matrix& w = program_.matrix(gemm.matrix);
        GemmTask task;
        task.samples = samples_;
        task.steps = steps_;
        task.columns = w.columns;
        task.depth = w.depth;
        task.segments = static_cast<int32_t>(gemm.segments.size());
        for (size_t s = 0; s < gemm.segments.size(); ++s) {
            task.segment_depth[s] = gemm.segments[s].depth;
            task.a[s] = view(gemm.segments[s].rows);
        }
        task.packed = w.packed.get();
        task.panel_stride = w.panel_stride;
        task.out = view(gemm.out);
        task.epilogue = epilogue(gemm.epilogue);
        task.scratch = arena_.get() + stride_ * groups_;
        if (lanes_ > 1) {
            const LaneMatrix& in_lanes = w.in_lanes();
            task.lane_columns = in_lanes.groups.data();
            task.lane_groups = static_cast<int64_t>(in_lanes.groups.size());
            task.lane_ranges = in_lanes.ranges.data();
            program_.kernels().gemm_in_lanes(task);
        } else if (w.bf16)
            program_.kernels().gemm_bf16(task);
        else
            program_.kernels().gemm(task);
        return {};
    }

    Status execute(const Map& map) {
        MapTask task;
        task.samples = samples_;
        task.steps = steps_;
        task.columns = map.columns;
        task.has_source = !map.source.offsets.empty();
        task.source = optional_view(map.source);
        task.out = view(map.out);
        task.epilogue = epilogue(map.epilogue);
        (lanes_ > 1 ? program_.kernels().map_in_lanes : program_.kernels().map)(task);
        return {};
    }

    Status execute(const Gather& gather) {
        const View source = view(gather.source), out = view(gather.out);
        for_rows([&](int64_t s, int64_t t) {
            const float* from = row(source, s, t);
            float* to = row(out, s, t);
            for (const Run& run : gather.runs)
                std::copy_n(from + run.start * lanes_, run.size * lanes_, to + run.place * lanes_);
            if (!gather.runs.empty()) return;
            for (size_t i = 0; i < gather.index.size(); ++i)
                if (lanes_ == 1)
                    to[i] = from[gather.index[i]];
                else
                    std::copy_n(from + gather.index[i] * lanes_, lanes_,
                                to + static_cast<int64_t>(i) * lanes_);
        });
        return {};
    }

    Status execute(const Scatter& scatter) {
        const View source = view(scatter.source), out = view(scatter.out);
        for_rows([&](int64_t s, int64_t t) {
            const float* from = row(source, s, t);
            float* to = row(out, s, t);
            const auto add = [&](int64_t place, int64_t start, int64_t count) {
                for (int64_t n = 0; n < count * lanes_; ++n)
                    to[place * lanes_ + n] += from[start * lanes_ + n];
            };
            for (const Run& run : scatter.runs) add(run.start, run.place, run.size);
            if (!scatter.runs.empty()) return;
            for (size_t i = 0; i < scatter.index.size(); ++i)
                if (lanes_ == 1)
                    to[scatter.index[i]] += from[i];
                else
                    add(scatter.index[i], static_cast<int64_t>(i), 1);
        });
        return {};
    }

    Status execute(const Seed& seed) {
        const int64_t classes = program_.classes();
        const int64_t first = begin_ * lanes_, left = slab_samples_ - first;
        for (int64_t s = 0; s < std::min(samples_ * lanes_, left); ++s) {
            const int64_t sample = slab_first_ + first + s;
            float* const here = arena() + s / lanes_ * stride_ + s % lanes_;
            float* const relevance = here + seed.out * lanes_;
            float* const output = batch_.output + sample * classes;
            for (int64_t c = 0; c < classes; ++c) {
                output[c] = here[(seed.source + c) * lanes_];
                if (batch_.check_finite && !std::isfinite(output[c]))
                    return {Outcome::output_not_finite, sample, c};
            }
            const int64_t target = batch_.target
                                       ? batch_.target[sample]
                                       : std::max_element(output, output + classes) - output;
            float start = 1.0f;
            if (seed.start == Start::output) start = output[target];
            if (seed.start == Start::positive_output) start = std::max(0.0f, output[target]);
            batch_.explained[sample] = target;
            put_in_[static_cast<size_t>(first + s)] = start;
            for (int64_t c = 0; c < classes; ++c)
                relevance[c * lanes_] = c == target ? start : 0.0f;
        }
        return {};
    }

    Status execute(const Absorb& absorb) {
        const auto kernel =
            lanes_ > 1 ? program_.kernels().absorb_in_lanes : program_.kernels().absorb;
        kernel({samples_, steps_, absorb.columns, view(absorb.source),
                optional_view(absorb.operand), program_.vector(absorb.vector), absorb.share,
                absorb.epsilon, absorbed_.get() + begin_ * lanes_,
                largest_.get() + begin_ * lanes_});
        return {};
    }

    Status execute(const Activate& activate) {
        FunctionTask task{};
        task.samples = samples_;
        task.steps = steps_;
        task.columns = activate.columns * lanes_;
        task.source = view(activate.source);
        task.out = view(activate.out);
        task.function = activate.function;
        task.parameter = activate.parameter;
        program_.kernels().activate(task);
        return {};
    }

    Status execute(const Slope& slope) {
        FunctionTask task{};
        task.samples = samples_;
        task.steps = steps_;
        task.columns = slope.columns * lanes_;
        task.source = view(slope.source);
        task.value = view(slope.value);
        task.out = view(slope.out);
        task.function = slope.function;
        task.parameter = slope.parameter;
        task.accumulate = slope.accumulate;
        program_.kernels().slope(task);
        return {};
    }

    // The views of a list of operands, from `place` in this runner's memory for them.
    const View* views(const std::vector<Rows>& listed, View* place) const {
        std::transform(listed.begin(), listed.end(), place,
                       [this](const Rows& rows) { return view(rows); });
        return place;
    }

    Status execute(const MaxPool& pool) {
        program_.kernels().max_pool(
            {samples_, steps_, pool.columns * lanes_, static_cast<int64_t>(pool.sources.size()),
             views(pool.sources, views_.get()), view(pool.out), nullptr, false, false});
        return {};
    }

    Status execute(const PoolRoute& route) {
        const auto count = static_cast<int64_t>(route.values.size());
        program_.kernels().pool_route({samples_, steps_, route.columns * lanes_, count,
                                       views(route.values, views_.get()), view(route.relevance),
                                       views(route.outs, views_.get() + count), route.shares,
                                       route.accumulate});
        return {};
    }

    // Mean and 1/σ of a row.
    struct Moments {
        double mean, scale;
    };

    static Moments moments(const float* x, int64_t columns, float epsilon) {
        const auto size = static_cast<double>(columns);
        const double mean = sum_over(columns, [&](int64_t n) { return double{x[n]}; }) / size;
        const double variance = sum_over(columns,
                                         [&](int64_t n) {
                                             const double centred = double{x[n]} - mean;
                                             return centred * centred;
                                         }) /
                                size;
        return {mean, 1.0 / std::sqrt(variance + double{epsilon})};
    }

    Status execute(const Normalise& normalise) {
        const View source = view(normalise.source), out = view(normalise.out);
        const int64_t columns = normalise.columns;
        for_samples(source, out, columns, [&](const float* from, float* to, int64_t, int64_t) {
            const Moments m = moments(from, columns, normalise.epsilon);
            for (int64_t n = 0; n < columns; ++n)
                to[n] = static_cast<float>((double{from[n]} - m.mean) * m.scale);
        });
        return {};
    }

    Status execute(const NormaliseBack& back) {
        const View source = view(back.source), value = view(back.value), out = view(back.out);
        const auto size = static_cast<double>(back.columns);
        for_samples(
            source, out, back.columns, [&](const float* g, float* to, int64_t s, int64_t t) {
                const float* x = one_sample(value, s, t, back.columns, 2);
                const Moments m = moments(x, back.columns, back.epsilon);
                const auto normal = [&](int64_t n) { return (double{x[n]} - m.mean) * m.scale; };
                const double mean =
                    sum_over(back.columns, [&](int64_t n) { return double{g[n]}; }) / size;
                const double along = back.detached ? 0.0 : sum_over(back.columns, [&](int64_t n) {
                                                               return double{g[n]} * normal(n);
                                                           }) / size;
                for (int64_t n = 0; n < back.columns; ++n) {
                    const double centred = double{g[n]} - mean;
                    const double v = back.detached ? double{x[n]} * centred * m.scale
                                                   : (centred - normal(n) * along) * m.scale;
                    to[n] = static_cast<float>(back.accumulate ? v + double{to[n]} : v);
                }
            });
        return {};
    }

    Status execute(const Embed& embed) {
        const Table& table = program_.table(embed.table);
        const View source = view(embed.source), out = view(embed.out);
        const auto last = static_cast<float>(table.rows - 1);
        for (int64_t s = 0; s < samples_ * lanes_; ++s)
            for (int64_t t = 0; t < steps_; ++t) {
                const float id = *element(source, s, t);
                const auto number =
                    std::isnan(id) ? 0 : static_cast<int64_t>(std::clamp(id, 0.0f, last));
                const float* const from = table.values.data() + number * table.columns;
                float* const to = element(out, s, t);
                for (int64_t n = 0; n < table.columns; ++n)
                    to[n * lanes_] = std::isnan(id) ? id : from[n];
            }
        return {};
    }

    // Where a row of one sample begins; its elements lie lanes_ apart.
    float* element(const View& v, int64_t sample, int64_t step) const {
        return row(v, sample / lanes_, step) + sample % lanes_;
    }

    // A row of one sample, its elements side by side: in lanes a copy, of which there are three.
    float* one_sample(const View& v, int64_t sample, int64_t step, int64_t columns, int copy) {
        float* const from = element(v, sample, step);
        if (lanes_ == 1) return from;
        float* const to = one_sample_.get() + copy * program_.most_normalised();
        for (int64_t n = 0; n < columns; ++n) to[n] = from[n * lanes_];
        return to;
    }

    // Each row of each sample on its own: take(source, out, sample, step).
    template <typename Take>
    void for_samples(const View& source, const View& out, int64_t columns, Take&& take) {
        for (int64_t s = 0; s < samples_ * lanes_; ++s)
            for (int64_t t = 0; t < steps_; ++t) {
                float* const to = one_sample(out, s, t, columns, 1);
                take(one_sample(source, s, t, columns, 0), to, s, t);
                float* const there = element(out, s, t);
                if (lanes_ > 1)
                    for (int64_t n = 0; n < columns; ++n) there[n * lanes_] = to[n];
            }
    }

    template <typename Take>
    void for_rows(Take&& take) const {
        for (int64_t s = 0; s < samples_; ++s)
            for (int64_t t = 0; t < steps_; ++t) take(s, t);
    }

    Status check_input() const {
        const int64_t size = program_.input_size();
        const bool bounded = batch_.low != nullptr;
        if (!bounded && !batch_.check_finite) return {};
        for (int64_t s = 0; s < slab_samples_; ++s) {
            const float* x = batch_.x + (slab_first_ + s) * size;
            if (bounded ? inside(x, size) : finite(x, size)) continue;
            for (int64_t i = 0; i < size; ++i) {
                if (batch_.check_finite && !std::isfinite(x[i]))
                    return {Outcome::input_not_finite, slab_first_ + s, i};
                if (bounded && (x[i] < batch_.low[i] || x[i] > batch_.high[i]))
                    return {Outcome::input_out_of_bounds, slab_first_ + s, i};
            }
        }
        return {};
    }

    // Written without a branch in the loop, so that the compiler vectorises it. Comparisons with
    // NaN are false.
    static bool finite(const float* x, int64_t size) {
        int good = 1;
        for (int64_t i = 0; i < size; ++i) good &= std::fabs(x[i]) <= FLT_MAX;
        return good;
    }

    bool inside(const float* x, int64_t size) const {
        return program_.kernels().inside(x, batch_.low, batch_.high, size);
    }

    Status finish() const {
        const int64_t size = program_.input_size();
        for (int64_t s = 0; s < slab_samples_; ++s) {
            const int64_t sample = slab_first_ + s;
            const double put_in = put_in_[static_cast<size_t>(s)];
            const double largest = largest_[static_cast<size_t>(s)];
            batch_.absorbed[sample] = static_cast<float>(absorbed_[static_cast<size_t>(s)]);
            batch_.amplification[sample] = amplification(put_in, largest, 0.0);
            if (!program_.explains()) continue;
            const float* relevance = batch_.relevance + sample * size;
            const auto [sum, end] = program_.kernels().totals(relevance, size);
            batch_.conservation[sample] = program_.conserves()
                                              ? static_cast<float>(sum - put_in)
                                              : std::numeric_limits<float>::quiet_NaN();
            batch_.amplification[sample] = amplification(put_in, largest, end);
            if (!batch_.check_finite) continue;
            if (!std::isfinite(sum) || (put_in != 0.0 && !std::isfinite(largest)))
                return {Outcome::relevance_not_finite, sample, -1};
            const double gap = sum + absorbed_[static_cast<size_t>(s)] - put_in;
            const double passed = std::max({std::fabs(put_in), largest, end});
            if (program_.conserves() && !(std::fabs(gap) <= lost() * passed))
                return {Outcome::relevance_lost, sample, -1};
        }
        return {};
    }

    double lost() const { return program_.multiplies_bf16() ? kLostInBf16 : kLost; }

    // The largest of Σ|relevance| put in, on the way and at the end, over the first.
    static float amplification(double put_in, double on_the_way, double end) {
        const double start = std::fabs(put_in);
        if (start == 0.0) return 0.0f;
        if (std::isnan(on_the_way) || std::isnan(end))
            return std::numeric_limits<float>::quiet_NaN();
        return static_cast<float>(std::max({start, on_the_way, end}) / start);
    }

    // Σ term(i) for i below `size`, in double precision and by eight partial sums: one would wait
    // for each addition's latency.
    template <typename Term>
    static double sum_over(int64_t size, Term&& term) {
        constexpr int kParts = 8;
        double parts[kParts] = {};
        int64_t i = 0;
        for (; i + kParts <= size; i += kParts)
            for (int p = 0; p < kParts; ++p) parts[p] += term(i + p);
        for (int p = 0; i < size; ++i, ++p) parts[p] += term(i);
        double sum = 0.0;
        for (const double part : parts) sum += part;
        return sum;
    }

    const Program& program_;
    const Batch& batch_;
    const int64_t stride_;  // floats of the arena of a group
    const int64_t groups_;  // of a slab
    const int64_t lanes_;   // samples of a group
    const int32_t shift_;   // its logarithm
    const int64_t part_;    // samples of a stretch of many rows, out of lanes
    int64_t slab_first_ = 0;
    int64_t slab_samples_ = 0;
    int64_t begin_ = 0;  // the first of the chosen groups of the slab, and how many
    int64_t samples_ = 0;
    int64_t steps_ = 0;  // of the instruction that runs: how many rows, and which is the first
    int64_t first_step_ = 0;
    Floats arena_;
    // In lanes: the input and the relevance of the slab, and rows of single samples.
    Floats ends_[2];
    Floats one_sample_;
    std::unique_ptr<double[]> absorbed_;
    std::unique_ptr<double[]> largest_;  // Σ|relevance| that arrived at a stabilised division
    std::unique_ptr<double[]> put_in_;
    std::unique_ptr<View[]> views_;  // two lists of operands
};

void work(const Program& program, const Batch& batch, Plan plan, SharedState& state,
          Interrupted interrupted) {
    using Clock = std::chrono::steady_clock;
    constexpr auto kPollInterval = std::chrono::milliseconds(50);
    const FlushDenormals flush;
    SlabRunner runner(program, batch, plan);
    if (!runner.allocated()) return state.fail({Outcome::out_of_memory, -1, -1});
    auto polled = Clock::now();
    while (!state.stop.load(std::memory_order_relaxed)) {
        const int64_t first = state.next.fetch_add(plan.slab);
        if (first >= batch.samples) return;
        const Status status = runner.run(first, std::min(plan.slab, batch.samples - first));
        if (status.outcome != Outcome::done) return state.fail(status);
        if (interrupted && Clock::now() - polled > kPollInterval) {
            polled = Clock::now();
            if (interrupted()) return state.fail({Outcome::interrupted, -1, -1});
        }
    }
}

}  // namespace

Status run(const Program& program, const Batch& batch, int threads, std::optional<bool> in_lanes,
           Interrupted interrupted) noexcept {
    if (batch.samples == 0) return {};
    const double worth = program.flops() * static_cast<double>(batch.samples) / kFlopsPerThread;
    const auto useful = static_cast<int64_t>(std::min(worth, 1e6));
    threads = static_cast<int>(std::clamp<int64_t>(std::min(useful, batch.samples), 1, threads));
    const Plan plan = plan_of(program, batch, threads, in_lanes);
    try {
        if (plan.lanes > 1) program.pack_in_lanes();
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
            helpers[i] = std::thread([&] { work(program, batch, plan, state, nullptr); });
        } catch (const std::system_error&) {
            break;  // the operating system gives no more threads: the ones that run do the work
        }
    }
    work(program, batch, plan, state, interrupted);
    for (int i = 0; helpers && i < threads - 1; ++i)
        if (helpers[i].joinable()) helpers[i].join();
    return state.status;
}

}  // namespace pyrel

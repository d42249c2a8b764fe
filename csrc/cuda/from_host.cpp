// SPDX-License-Identifier: Apache-2.0
// Batches in the host's memory, which may be larger than the device's. They go through two lanes
// chunk by chunk: while one lane computes, the other one copies.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

#include "loaded.h"
#include "step_by_step.h"

namespace pyrel::cuda {
namespace {

constexpr int64_t kAlignment = 256;  // of an array in a block, as an allocation has it
// A copy of so many bytes takes far longer than to start it.
constexpr int64_t kChunkBytes = int64_t{64} << 20;
// No chunk begins later: then the caller may look whether it is to stop.
constexpr std::chrono::milliseconds kLongest{200};

// An array of the batch; null if it is not there.
struct Array {
    char* host = nullptr;
    int64_t bytes = 0;    // of a sample
    bool shared = false;  // by all samples
};

// Where arrays of a chunk lie in a block.
template <size_t count>
struct Layout {
    std::array<int64_t, count> at{}, bytes{};
    int64_t end = 0;
};

template <size_t count>
Layout<count> layout_of(const std::array<Array, count>& arrays, int64_t samples) {
    Layout<count> layout;
    for (size_t i = 0; i < count; ++i) {
        if (!arrays[i].host) continue;
        layout.at[i] = layout.end;
        layout.bytes[i] = arrays[i].bytes * (arrays[i].shared ? 1 : samples);
        layout.end += (layout.bytes[i] + kAlignment - 1) / kAlignment * kAlignment;
    }
    return layout;
}

template <typename T>
Array array_of(T* host, int64_t elements, bool shared = false) {
    return {reinterpret_cast<char*>(const_cast<std::remove_const_t<T>*>(host)),
            elements * int64_t{sizeof(T)}, shared};
}

class FromHost {
  public:
    FromHost(Loaded& loaded, PyrelCudaBatch& batch)
        : loaded_(loaded), batch_(batch), lanes_(loaded.lanes.take()) {
        const int64_t size = loaded.header.input_size;
        const int64_t ways = batch.ways;
        in_ = {array_of(batch.x, size), array_of(batch.target, ways),
               array_of(batch.low, size, true), array_of(batch.high, size, true)};
        out_ = {
            array_of(batch.relevance, size * ways), array_of(batch.output, loaded.header.classes),
            array_of(batch.explained, ways),        array_of(batch.absorbed, ways),
            array_of(batch.conservation, ways),     array_of(batch.amplification, ways)};
        chunk_ = std::min(batch.samples, batch.chunk > 0 ? batch.chunk : chosen_chunk());
    }
    // What is still on its way reads and writes the lanes' memory.
    ~FromHost() {
        for (size_t i = 0; i < lanes_.size(); ++i) {
            if (running_[i].samples == 0) continue;
            try {
                synchronise(lanes_[i].stream.get());
            } catch (...) {  // the error that ends this run says more
            }
        }
    }

    void run() {
        const auto begin = std::chrono::steady_clock::now();
        do {
            collect(turn_);
            if (good()) start_or_take_less();
        } while (good() && next_ < batch_.samples &&
                 std::chrono::steady_clock::now() - begin < kLongest);
        for (size_t i = 0; i < lanes_.size(); ++i)
            if (good()) collect((turn_ + i) % lanes_.size());
        if (good()) loaded_.lanes.keep(lanes_);
    }

  private:
    struct Running {
        int64_t first = 0, samples = 0;
    };

    // Enough for a group on each multiprocessor, and in both lanes a quarter of what is unused: the
    // rest is for arenas.
    int64_t chosen_chunk() const {
        const int64_t bytes = layout_of(in_, 1).end + layout_of(out_, 1).end;
        const int64_t filling = int64_t{kGroup} * loaded_.teams_of(1);
        const int64_t fitting = (free_memory() + lanes_[0].bytes() + lanes_[1].bytes()) / 8 / bytes;
        const int64_t chosen = std::min(std::max(kChunkBytes / bytes, filling), fitting);
        return std::max<int64_t>(1, chosen / kGroup) * kGroup;
    }

    bool good() const { return batch_.outcome == static_cast<int32_t>(Outcome::done); }

    // Starts the next chunk, a smaller one where the device is full.
    void start_or_take_less() {
        while (!started()) {
            for (size_t i = 0; i < lanes_.size(); ++i) {
                collect(i);
                if (!good()) return;
                lanes_[i].clear();
            }
            loaded_.workspace.take();
            turn_ = 0;
            if (used_ > 1)
                used_ = 1;
            else if (chunk_ > kGroup)
                chunk_ = std::max<int64_t>(1, chunk_ / 2 / kGroup) * kGroup;
            else
                return report(batch_, Outcome::out_of_memory, -1, -1);
        }
        turn_ = (turn_ + 1) % used_;
    }

    bool started() {
        try {
            return start(lanes_[turn_], running_[turn_]);
        } catch (const DeviceFull&) {
            return false;
        }
    }

    // Copies the next chunk to the device, starts it, and lets its results be copied back; false if
    // its arena has no place.
    bool start(Lane& lane, Running& running) {
        const int64_t samples = std::min(chunk_, batch_.samples - next_);
        const auto in = layout_of(in_, samples);
        const auto out = layout_of(out_, samples);
        const int64_t verdict_bytes = samples * int64_t{sizeof(Verdict)};
        lane.host_in.reserve(in.end);
        lane.host_out.reserve(out.end + verdict_bytes);
        lane.in.reserve(in.end);
        lane.out.reserve(out.end);
        for (size_t i = 0; i < in_.size(); ++i) {
            if (!in_[i].host) continue;
            const int64_t from = in_[i].shared ? 0 : next_ * in_[i].bytes;
            std::memcpy(lane.host_in.bytes_at(in.at[i]), in_[i].host + from,
                        static_cast<size_t>(in.bytes[i]));
        }
        void* const stream = lane.stream.get();
        // From here on the lane is in use, whatever fails.
        running = {next_, samples};
        copy_to_device(lane.in.get(), lane.host_in.get(), in.end, stream);
        if (!launch(loaded_, chunk_of(lane, in, out, samples), lane.workspace)) {
            synchronise(stream);
            running = {};
            return false;
        }
        copy_from_device(lane.host_out.get(), lane.out.get(), out.end, stream);
        copy_from_device(lane.host_out.bytes_at(out.end), lane.workspace.verdicts.get(),
                         verdict_bytes, stream);
        next_ += samples;
        return true;
    }

    PyrelCudaBatch chunk_of(Lane& lane, const Layout<4>& in, const Layout<6>& out,
                            int64_t samples) const {
        PyrelCudaBatch chunk = batch_;
        const auto input = [&]<typename T>(const T*& place, size_t i) {
            if (place) place = reinterpret_cast<const T*>(lane.in.bytes_at(in.at[i]));
        };
        const auto output = [&]<typename T>(T*& place, size_t i) {
            if (place) place = reinterpret_cast<T*>(lane.out.bytes_at(out.at[i]));
        };
        input(chunk.x, 0);
        input(chunk.target, 1);
        input(chunk.low, 2);
        input(chunk.high, 3);
        output(chunk.relevance, 0);
        output(chunk.output, 1);
        output(chunk.explained, 2);
        output(chunk.absorbed, 3);
        output(chunk.conservation, 4);
        output(chunk.amplification, 5);
        chunk.samples = samples;
        chunk.stream = lane.stream.get();
        return chunk;
    }

    // Waits for the chunk in a lane, if there is one, and hands its results on, or reports its
    // first sample that is refused.
    void collect(size_t number) {
        const Running chunk = running_[number];
        if (chunk.samples == 0) return;
        Lane& lane = lanes_[number];
        name_walk_in_errors(lane.workspace, [&] { synchronise(lane.stream.get()); });
        running_[number] = {};
        const auto out = layout_of(out_, chunk.samples);
        const auto* const verdicts =
            reinterpret_cast<const Verdict*>(lane.host_out.bytes_at(out.end));
        // Of a sample that lost relevance a message tells how much.
        for (size_t i = 0; i < out_.size(); ++i) {
            if (!out_[i].host) continue;
            std::memcpy(out_[i].host + chunk.first * out_[i].bytes,
                        lane.host_out.bytes_at(out.at[i]), static_cast<size_t>(out.bytes[i]));
        }
        if (report_first(batch_, verdicts, chunk.samples, chunk.first)) return;
        batch_.done += chunk.samples;
    }

    Loaded& loaded_;
    PyrelCudaBatch& batch_;
    Lanes lanes_;
    std::array<Array, 4> in_;
    std::array<Array, 6> out_;
    std::array<Running, 2> running_{};
    int64_t chunk_ = 0, next_ = 0;
    size_t turn_ = 0, used_ = 2;  // lanes
};

}  // namespace

void run_from_host(Loaded& loaded, PyrelCudaBatch& batch) {
    report(batch, Outcome::done, -1, -1);
    batch.done = 0;
    if (batch.samples == 0) return;
    const OnDevice device(loaded.device);
    FromHost(loaded, batch).run();
}

}  // namespace pyrel::cuda

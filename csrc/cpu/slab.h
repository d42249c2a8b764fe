// SPDX-License-Identifier: Apache-2.0
// The memory of a slab of samples, and where the rows of instructions lie in it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../shared/batch.h"
#include "engine.h"
#include "plan.h"

namespace pyrel {

class Slab {
  public:
    // Memory for the slabs of a plan; see `allocated`.
    Slab(const Engine& engine, const Batch& batch, Plan plan);
    bool allocated() const;

    // The samples that are in it from now on, of the batch.
    void start(int64_t first, int64_t samples);
    // Which of their ways back instructions run from now on; nothing is absorbed on it yet.
    void start_way(int64_t way);
    // Those of them that instructions run for from now on, in groups of lanes.
    void choose(int64_t begin, int64_t groups) {
        begin_ = begin;
        samples_ = groups;
    }
    // One of `count` equal parts of so many rows of an instruction, from now on.
    void choose_rows(int64_t rows, int64_t part, int64_t count) {
        steps_ = rows / count;
        first_step_ = part * steps_;
    }
    // In lanes: fill the memory of inputs; missing samples of the last group are zero.
    void spread_input(int64_t groups);
    // In lanes: write the relevance to the batch's.
    void collect_relevance();

    const Engine& engine() const { return engine_; }
    const Kernels& kernels() const { return engine_.kernels(); }
    const Code& code() const { return engine_.code(); }
    const Batch& batch() const { return batch_; }
    int64_t lanes() const { return lanes_; }    // samples of a group
    int64_t stride() const { return stride_; }  // floats of the arena of a group
    int64_t first() const { return first_; }
    int64_t way() const { return way_; }
    // Where results of a sample of the slab are in the batch's, on this way back.
    int64_t result(int64_t sample) const { return (first_ + sample) * batch_.ways_back + way_; }
    int64_t size() const { return size_; }
    int64_t chosen() const { return samples_; }               // groups
    int64_t first_chosen() const { return begin_ * lanes_; }  // sample of the slab
    int64_t steps() const { return steps_; }                  // rows of the instruction that runs

    // Inline, as a program may have thousands of operands that take less time than a call.
    View view(const Rows& rows) const {
        return view(rows.space, rows.offsets.data() + first_step_);
    }
    // Zeros for floats of each chosen sample.
    void clear(Space space, int64_t first, int64_t count);
    View optional_view(const Rows& rows) const {
        return rows.offsets.empty() ? View{} : view(rows);
    }
    // The views of a list of operands; `list` is 0 or 1, as an instruction has two at most.
    const View* views(const std::vector<Rows>& listed, int list) const;
    Epilogue epilogue(const EpilogueSpec& spec) const {
        return {code().vector(spec.bias),
                code().vector(spec.scale_vector),
                code().vector(spec.post_vector),
                optional_view(spec.scale_rows),
                optional_view(spec.post_rows),
                spec.scale,
                spec.post,
                spec.accumulate,
                spec.epsilon};
    }
    float* scratch() const { return arena_.get() + stride_ * groups_; }

    static float* row(const View& v, int64_t sample, int64_t step) {
        return v.base + sample * v.stride + (v.offsets[step] << v.shift);
    }
    // Where a row of one sample begins; its elements lie as many floats apart as there are lanes.
    float* element(const View& v, int64_t sample, int64_t step) const {
        return row(v, sample / lanes_, step) + sample % lanes_;
    }
    // A row of one sample, its elements side by side: in lanes a copy, of which there are three.
    float* one_sample(const View& v, int64_t sample, int64_t step, int64_t columns, int copy) const;

    // The rows of the instruction that runs: take(group, step).
    template <typename Take>
    void for_rows(Take&& take) const {
        for (int64_t s = 0; s < samples_; ++s)
            for (int64_t t = 0; t < steps_; ++t) take(s, t);
    }
    // Each row of each sample on its own: take(source, out, sample, step).
    template <typename Take>
    void for_samples(const View& source, const View& out, int64_t columns, Take&& take) const {
        for (int64_t s = 0; s < samples_ * lanes_; ++s)
            for (int64_t t = 0; t < steps_; ++t) {
                float* const to = one_sample(out, s, t, columns, 1);
                take(one_sample(source, s, t, columns, 0), to, s, t);
                float* const there = element(out, s, t);
                if (lanes_ > 1)
                    for (int64_t n = 0; n < columns; ++n) there[n * lanes_] = to[n];
            }
    }

    // Of each sample of the slab, on this way back: what is absorbed, Σ|relevance| that arrived at
    // a stabilised division, and the relevance that the target starts with.
    double* absorbed() const { return absorbed_.get(); }
    double* largest() const { return largest_.get(); }
    double* put_in() const { return put_in_.get(); }

  private:
    View view(Space space, const int64_t* offsets) const {
        if (space == Space::arena)
            return {arena_.get() + begin_ * stride_, stride_, offsets, shift_};
        const int64_t stride = code().input_size * lanes_;
        const bool input = space == Space::input;
        if (lanes_ > 1)
            return {ends_[input ? 0 : 1].get() + begin_ * stride, stride, offsets, shift_};
        // Views are writable; Program::add refuses an instruction that writes to the input.
        if (input)
            return {const_cast<float*>(batch_.x) + (first_ + begin_) * stride, stride, offsets,
                    shift_};
        return {batch_.relevance + result(begin_) * stride, stride * batch_.ways_back, offsets,
                shift_};
    }

    struct Free {
        void operator()(float* p) const { std::free(p); }
    };
    using Floats = std::unique_ptr<float, Free>;

    static Floats floats(int64_t size);
    template <typename Take>
    void for_ends(Take&& take) const;

    const Engine& engine_;
    const Batch& batch_;
    const int64_t stride_;
    const int64_t groups_;  // of a slab
    const int64_t lanes_;
    const int32_t shift_;  // its logarithm
    int64_t first_ = 0;
    int64_t size_ = 0;
    int64_t way_ = 0;
    int64_t begin_ = 0;
    int64_t samples_ = 0;
    int64_t steps_ = 0;
    int64_t first_step_ = 0;
    Floats arena_;
    // In lanes: the input and the relevance of the slab, and rows of single samples.
    Floats ends_[2];
    Floats one_sample_;
    std::unique_ptr<double[]> absorbed_;
    std::unique_ptr<double[]> largest_;
    std::unique_ptr<double[]> put_in_;
    std::unique_ptr<View[]> views_;  // two lists of operands
};

}  // namespace pyrel

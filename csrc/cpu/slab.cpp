// SPDX-License-Identifier: Apache-2.0
#include "slab.h"

#include <algorithm>
#include <bit>
#include <new>

namespace pyrel {

Slab::Floats Slab::floats(int64_t size) {
    const size_t bytes = static_cast<size_t>(size) * sizeof(float);
    return Floats(static_cast<float*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
}

Slab::Slab(const Engine& engine, const Batch& batch, Plan plan)
    : engine_(engine),
      batch_(batch),
      stride_(plan.lanes == 1 ? arena_stride(engine.code().arena_size)
                              : engine.code().arena_size * plan.lanes),
      groups_((plan.slab + plan.lanes - 1) / plan.lanes),
      lanes_(plan.lanes),
      shift_(std::countr_zero(static_cast<uint64_t>(plan.lanes))) {
    const int64_t slab = groups_ * lanes_;
    arena_ = floats(stride_ * groups_ + engine.scratch_size());
    if (lanes_ > 1) {
        ends_[0] = floats(code().input_size * slab);
        ends_[1] = floats(code().input_size * slab);
        one_sample_ = floats(3 * code().most_normalised + 1);
    }
    absorbed_.reset(new (std::nothrow) double[static_cast<size_t>(slab)]);
    largest_.reset(new (std::nothrow) double[static_cast<size_t>(slab)]);
    put_in_.reset(new (std::nothrow) double[static_cast<size_t>(slab)]);
    views_.reset(new (std::nothrow) View[static_cast<size_t>(2 * code().most_listed)]);
}

bool Slab::allocated() const {
    return arena_ && absorbed_ && largest_ && put_in_ && views_ &&
           (lanes_ == 1 || (ends_[0] && ends_[1] && one_sample_));
}

void Slab::start(int64_t first, int64_t samples) {
    first_ = first;
    size_ = samples;
    start_way(0);
}

void Slab::start_way(int64_t way) {
    way_ = way;
    const int64_t whole = (size_ + lanes_ - 1) / lanes_ * lanes_;
    std::fill_n(absorbed_.get(), whole, 0.0);
    std::fill_n(largest_.get(), whole, 0.0);
}

// Where each element of each sample of the slab lies in lanes: take(sample, element, place). A
// cache line of elements at a time, so that the lines of all lanes stay in a cache.
template <typename Take>
void Slab::for_ends(Take&& take) const {
    const int64_t size = code().input_size;
    for (int64_t s = 0; s < size_; s += lanes_)
        for (int64_t first = 0; first < size; first += kLineFloats)
            for (int64_t lane = 0; lane < std::min(lanes_, size_ - s); ++lane)
                for (int64_t i = first; i < std::min(first + kLineFloats, size); ++i)
                    take(s + lane, i, (s * size) + i * lanes_ + lane);
}

void Slab::spread_input(int64_t groups) {
    const int64_t size = code().input_size;
    std::fill_n(ends_[0].get() + (groups - 1) * size * lanes_, size * lanes_, 0.0f);
    for_ends([&](int64_t sample, int64_t i, int64_t place) {
        ends_[0].get()[place] = batch_.x[(first_ + sample) * size + i];
    });
}

void Slab::collect_relevance() {
    const int64_t size = code().input_size;
    for_ends([&](int64_t sample, int64_t i, int64_t place) {
        batch_.relevance[result(sample) * size + i] = ends_[1].get()[place];
    });
}

void Slab::clear(Space space, int64_t first, int64_t count) {
    const View all = view(space, &first);
    for (int64_t s = 0; s < samples_; ++s) std::fill_n(row(all, s, 0), count * lanes_, 0.0f);
}

const View* Slab::views(const std::vector<Rows>& listed, int list) const {
    View* const place = views_.get() + list * code().most_listed;
    std::transform(listed.begin(), listed.end(), place,
                   [this](const Rows& rows) { return view(rows); });
    return place;
}

float* Slab::one_sample(const View& v, int64_t sample, int64_t step, int64_t columns,
                        int copy) const {
    float* const from = element(v, sample, step);
    if (lanes_ == 1) return from;
    float* const to = one_sample_.get() + copy * code().most_normalised;
    for (int64_t n = 0; n < columns; ++n) to[n] = from[n * lanes_];
    return to;
}

}  // namespace pyrel

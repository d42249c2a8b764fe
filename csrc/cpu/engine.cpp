// SPDX-License-Identifier: Apache-2.0
#include "engine.h"

#include <algorithm>
#include <type_traits>

#include "../program/operands.h"
#include "caches.h"
#include "plan.h"
#include "tuning.h"

namespace pyrel {
namespace {

// Counts what instructions read and write of a sample's memory.
struct Traffic {
    double floats = 0.0;

    void rows(const Rows& rows, int64_t columns, Access access) {
        const double each = access == Access::update ? 2.0 : 1.0;
        floats += each * static_cast<double>(columns) * static_cast<double>(rows.offsets.size());
    }
    void elements(const std::vector<int64_t>& index, const Rows& rows, bool writes) {
        this->rows(rows, static_cast<int64_t>(index.size()),
                   writes ? Access::update : Access::read);
    }
    void apart(const Rows& rows, int64_t count, int64_t, int64_t columns) {
        this->rows(rows, count * columns, Access::read);
    }
};

}  // namespace

Engine::Engine(const Program& program, PackedMatrices& packed, int64_t most_packed)
    : code_(program.code()), kernels_(packed.kernels()), matrices_(program.matrices().size()) {
    require(program.finished(), "the program is not finished");
    for (const Instruction& instruction : code_->instructions) {
        if (const auto* gemm = std::get_if<Gemm>(&instruction))
            pack(*gemm, 1, program, packed, most_packed);
        if (const auto* repeat = std::get_if<Repeat>(&instruction))
            for (const Repeatable& each : repeat->body)
                if (const auto* gemm = std::get_if<Gemm>(&each))
                    pack(*gemm, repeat->count, program, packed, most_packed);
    }
    Traffic traffic;
    for_each(code_->instructions, [&](const auto& i) { operands(*code_, i, traffic); });
    touched_bytes_ = traffic.floats * sizeof(float);
    gain_in_lanes_ = compare_with_lanes(kSlabSamples);
    gain_over_many_ = compare_with_lanes(std::max(kSlabSamples, most_apart(*this, 1)));
    if (gain_in_lanes_ > 1.0)
        stretches_ = find_stretches(
            *code_,
            {kCacheBytes / 2, kernels_.lanes * static_cast<int64_t>(sizeof(float)), kManyRows});
}

// What a gemm needs that runs so many times.
void Engine::pack(const Gemm& gemm, int64_t times, const Program& program, PackedMatrices& packed,
                  int64_t& most_packed) {
    const Shape& w = code_->matrix(gemm.matrix);
    const int64_t bytes =
        w.depth * w.columns * (gemm.bf16 ? 2 : static_cast<int64_t>(sizeof(float)));
    if (rows_of(gemm) / times < kManyRows)
        streamed_bytes_ += static_cast<double>(bytes) * static_cast<double>(times);
    auto& slot = matrices_[static_cast<size_t>(gemm.matrix)][gemm.bf16 ? 1 : 0];
    if (slot) return;
    slot = packed.get(program.matrices()[static_cast<size_t>(gemm.matrix)], gemm.bf16, most_packed);
    weight_bytes_ += bytes;
    if (gemm.bf16)
        scratch_size_ = std::max(scratch_size_, kernels_.block_rows * bf16_row(slot->depth));
}

int64_t Engine::lane_group_bytes() const {
    return (code_->arena_size + 2 * code_->input_size) * kernels_.lanes *
           static_cast<int64_t>(sizeof(float));
}

const WayBack& Engine::way_back() const {
    std::call_once(traced_, [this] { way_back_ = way_back_of(code()); });
    return way_back_;
}

}  // namespace pyrel

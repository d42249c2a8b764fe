// SPDX-License-Identifier: Apache-2.0
#include "engine.h"

#include <algorithm>
#include <type_traits>

namespace pyrel {

Engine::Engine(const Program& program, PackedMatrices& packed, int64_t most_packed)
    : code_(program.code()), kernels_(packed.kernels()), matrices_(program.matrices().size()) {
    require(program.finished(), "the program is not finished");
    for_each(code_->instructions, [&](const auto& i) {
        if constexpr (std::is_same_v<std::decay_t<decltype(i)>, Gemm>) {
            auto& slot = matrices_[static_cast<size_t>(i.matrix)][i.bf16 ? 1 : 0];
            if (slot) return;
            slot =
                packed.get(program.matrices()[static_cast<size_t>(i.matrix)], i.bf16, most_packed);
            if (i.bf16)
                scratch_size_ =
                    std::max(scratch_size_, kernels_.block_rows * bf16_row(slot->depth));
        }
    });
    gain_in_lanes_ = compare_with_lanes();
    if (gain_in_lanes_ > 1.0) stretches_ = find_stretches(*code_, kernels_);
}

int64_t Engine::lane_group_bytes() const {
    return (code_->arena_size + 2 * code_->input_size) * kernels_.lanes *
           static_cast<int64_t>(sizeof(float));
}

}  // namespace pyrel

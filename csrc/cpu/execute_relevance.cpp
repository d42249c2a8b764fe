// SPDX-License-Identifier: Apache-2.0
// Where relevance starts, and where it is absorbed.
#include <algorithm>
#include <cmath>

#include "execute.h"

namespace pyrel {

Status execute(const Seed& seed, Slab& slab) {
    const Batch& batch = slab.batch();
    const int64_t classes = slab.code().classes, lanes = slab.lanes();
    const int64_t first = slab.first_chosen(), left = slab.size() - first;
    const View source = slab.view(seed.source), out = slab.view(seed.out);
    for (int64_t s = 0; s < std::min(slab.chosen() * lanes, left); ++s) {
        const int64_t sample = slab.first() + first + s;
        const float* const here = slab.element(source, s, 0);
        float* const relevance = slab.element(out, s, 0);
        float* const output = batch.output + sample * classes;
        for (int64_t c = 0; c < classes; ++c) {
            output[c] = here[c * lanes];
            if (batch.check_finite && !std::isfinite(output[c]))
                return {Outcome::output_not_finite, sample, c};
        }
        const int64_t result = slab.result(first + s);
        const int64_t target = batch.target ? batch.target[result]
                                            : std::max_element(output, output + classes) - output;
        float start = 1.0f;
        if (seed.start == Start::output) start = output[target];
        if (seed.start == Start::positive_output) start = std::max(0.0f, output[target]);
        batch.explained[result] = target;
        slab.put_in()[first + s] = start;
        for (int64_t c = 0; c < classes; ++c) relevance[c * lanes] = c == target ? start : 0.0f;
    }
    return {};
}

void execute(const Absorb& absorb, Slab& slab) {
    const Kernels& kernels = slab.kernels();
    const auto kernel = slab.lanes() > 1 ? kernels.absorb_in_lanes : kernels.absorb;
    kernel({slab.chosen(), slab.steps(), absorb.columns, slab.view(absorb.source),
            slab.optional_view(absorb.operand), slab.code().vector(absorb.vector), absorb.share,
            absorb.epsilon, slab.absorbed() + slab.first_chosen(),
            slab.largest() + slab.first_chosen()});
}

}  // namespace pyrel

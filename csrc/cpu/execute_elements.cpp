// SPDX-License-Identifier: Apache-2.0
// What is moved, and what is computed element by element.
#include <algorithm>
#include <cmath>

#include "execute.h"

namespace pyrel {

void execute(const Gather& gather, Slab& slab) {
    const int64_t lanes = slab.lanes();
    const View source = slab.view(gather.source), out = slab.view(gather.out);
    slab.for_rows([&](int64_t s, int64_t t) {
        const float* from = slab.row(source, s, t);
        float* to = slab.row(out, s, t);
        for (const Run& run : gather.runs)
            std::copy_n(from + run.start * lanes, run.size * lanes, to + run.place * lanes);
        if (!gather.runs.empty()) return;
        for (size_t i = 0; i < gather.index.size(); ++i)
            if (lanes == 1)
                to[i] = from[gather.index[i]];
            else
                std::copy_n(from + gather.index[i] * lanes, lanes,
                            to + static_cast<int64_t>(i) * lanes);
    });
}

void execute(const Scatter& scatter, Slab& slab) {
    const int64_t lanes = slab.lanes();
    const View source = slab.view(scatter.source), out = slab.view(scatter.out);
    slab.for_rows([&](int64_t s, int64_t t) {
        const float* from = slab.row(source, s, t);
        float* to = slab.row(out, s, t);
        const auto add = [&](int64_t place, int64_t start, int64_t count) {
            for (int64_t n = 0; n < count * lanes; ++n)
                to[place * lanes + n] += from[start * lanes + n];
        };
        for (const Run& run : scatter.runs) add(run.start, run.place, run.size);
        if (!scatter.runs.empty()) return;
        for (size_t i = 0; i < scatter.index.size(); ++i)
            if (lanes == 1)
                to[scatter.index[i]] += from[i];
            else
                add(scatter.index[i], static_cast<int64_t>(i), 1);
    });
}

void execute(const Activate& activate, Slab& slab) {
    FunctionTask task{};
    task.samples = slab.chosen();
    task.steps = slab.steps();
    task.columns = activate.columns * slab.lanes();
    task.source = slab.view(activate.source);
    task.out = slab.view(activate.out);
    task.function = activate.function;
    task.parameter = activate.parameter;
    slab.kernels().activate(task);
}

void execute(const Slope& slope, Slab& slab) {
    FunctionTask task{};
    task.samples = slab.chosen();
    task.steps = slab.steps();
    task.columns = slope.columns * slab.lanes();
    task.source = slab.view(slope.source);
    task.value = slab.view(slope.value);
    task.out = slab.view(slope.out);
    task.function = slope.function;
    task.parameter = slope.parameter;
    task.accumulate = slope.accumulate;
    slab.kernels().slope(task);
}

void execute(const Reduce& reduce, Slab& slab) {
    const int64_t lanes = slab.lanes();
    slab.kernels().reduce({slab.chosen(), slab.steps(), reduce.columns * lanes, reduce.count,
                           reduce.stride * lanes, slab.view(reduce.source), slab.view(reduce.out),
                           reduce.accumulate});
}

void execute(const MaxPool& pool, Slab& slab) {
    slab.kernels().max_pool({slab.chosen(), slab.steps(), pool.columns * slab.lanes(),
                             static_cast<int64_t>(pool.sources.size()), slab.views(pool.sources, 0),
                             slab.view(pool.out), nullptr, false, false});
}

void execute(const PoolRoute& route, Slab& slab) {
    const auto count = static_cast<int64_t>(route.values.size());
    slab.kernels().pool_route({slab.chosen(), slab.steps(), route.columns * slab.lanes(), count,
                               slab.views(route.values, 0), slab.view(route.relevance),
                               slab.views(route.outs, 1), route.shares, route.accumulate});
}

void execute(const Embed& embed, Slab& slab) {
    const int64_t lanes = slab.lanes();
    const Table& table = slab.code().table(embed.table);
    const View source = slab.view(embed.source), out = slab.view(embed.out);
    const auto last = static_cast<float>(table.rows - 1);
    for (int64_t s = 0; s < slab.chosen() * lanes; ++s)
        for (int64_t t = 0; t < slab.steps(); ++t) {
            const float id = *slab.element(source, s, t);
            const auto number =
                std::isnan(id) ? 0 : static_cast<int64_t>(std::clamp(id, 0.0f, last));
            const float* const from = table.values.data() + number * table.columns;
            float* const to = slab.element(out, s, t);
            for (int64_t n = 0; n < table.columns; ++n)
                to[n * lanes] = std::isnan(id) ? id : from[n];
        }
}

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// Products, and what is done to their results.
#include <algorithm>

#include "caches.h"
#include "execute.h"

namespace pyrel {
namespace {

// Columns whose weights fill half of the second-level cache, where all do not fit it and rows
// are enough to repay reading the rows again for each part of the columns.
int64_t columns_together(const PackedMatrix& w, int64_t rows, const Kernels& kernels) {
    if (rows <= kernels.block_rows) return w.columns;
    const int64_t depth = w.bf16 ? (w.depth + 1) / 2 : w.depth;
    const int64_t bytes = depth * static_cast<int64_t>(sizeof(float));
    if (w.columns * bytes <= second_level_cache()) return w.columns;
    const int64_t most = second_level_cache() / 2 / bytes;
    return std::max<int64_t>(1, most / kernels.panel) * kernels.panel;
}

}  // namespace

void execute(const Gemm& gemm, Slab& slab) {
    const PackedMatrix& w = slab.engine().matrix(gemm);
    GemmTask task;
    task.samples = slab.chosen();
    task.steps = slab.steps();
    task.columns = w.columns;
    task.depth = w.depth;
    task.segments = static_cast<int32_t>(gemm.segments.size());
    for (size_t s = 0; s < gemm.segments.size(); ++s) {
        task.segment_depth[s] = gemm.segments[s].depth;
        task.a[s] = slab.view(gemm.segments[s].rows);
    }
    task.packed = w.packed.get();
    task.panel_stride = w.panel_stride;
    task.together = columns_together(w, task.samples * task.steps, slab.kernels());
    task.out = slab.view(gemm.out);
    task.epilogue = slab.epilogue(gemm.epilogue);
    task.scratch = slab.scratch();
    if (slab.lanes() > 1) {
        const LaneMatrix& in_lanes = w.in_lanes();
        task.lane_columns = in_lanes.groups.data();
        task.lane_groups = static_cast<int64_t>(in_lanes.groups.size());
        task.lane_ranges = in_lanes.ranges.data();
        slab.kernels().gemm_in_lanes(task);
    } else if (w.bf16)
        slab.kernels().gemm_bf16(task);
    else
        slab.kernels().gemm(task);
}

void execute(const Matmul& matmul, Slab& slab) {
    MatmulTask task;
    task.samples = slab.chosen();
    task.steps = slab.steps();
    task.rows = matmul.rows;
    task.depth = matmul.depth;
    task.columns = matmul.columns;
    task.left = slab.view(matmul.left);
    task.right = slab.view(matmul.right);
    task.out = slab.view(matmul.out);
    task.left_transposed = matmul.left_transposed;
    task.right_transposed = matmul.right_transposed;
    task.accumulate = matmul.accumulate;
    (slab.lanes() > 1 ? slab.kernels().matmul_in_lanes : slab.kernels().matmul)(task);
}

void execute(const Map& map, Slab& slab) {
    MapTask task;
    task.samples = slab.chosen();
    task.steps = slab.steps();
    task.columns = map.columns;
    task.has_source = !map.source.offsets.empty();
    task.source = slab.optional_view(map.source);
    task.out = slab.view(map.out);
    task.epilogue = slab.epilogue(map.epilogue);
    (slab.lanes() > 1 ? slab.kernels().map_in_lanes : slab.kernels().map)(task);
}

}  // namespace pyrel

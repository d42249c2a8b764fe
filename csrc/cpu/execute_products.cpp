// SPDX-License-Identifier: Apache-2.0
// Products, and what is done to their results.
#include "execute.h"

namespace pyrel {

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

// SPDX-License-Identifier: Apache-2.0
// The boundary between the executor and the micro-kernels. Plain data only: the kernel units are
// compiled once per instruction set and must not include C++ library headers, whose inline
// functions are weak symbols that the linker may take from the AVX-512 unit for everyone.
#pragma once

#include <stdint.h>

#include "../program/limits.h"
#include "../program/operations.h"
#include "tuning.h"

namespace pyrel {

// Row (sample s, step t) of a matrix that lives scattered in memory starts at base + s·stride +
// offsets[t] · 2^shift. The shift is 0 where the elements of one sample lie side by side. Where
// samples lie in lanes, side by side are the same elements of as many samples as a vector has
// lanes: s counts such groups, and the shift makes vectors of elements.
struct View {
    float* base;
    int64_t stride;
    const int64_t* offsets;
    int32_t shift;
};

// What happens to a result while it is still in a register, in this order:
// v += bias[n]; v = scale(v); v += out[row, n] if accumulate; v = post(v); out[row, n] = v.
struct Epilogue {
    const float* bias;          // or null
    const float* scale_vector;  // or null
    const float* post_vector;   // added to the post operand; or null
    View scale_operand;
    View post_operand;
    Scale scale;
    Post post;
    bool accumulate;
    float epsilon;
};

// A matrix for samples in lanes, cut into groups of columns: of each the depths from which one of
// its columns takes anything, and the weights of these, the columns side by side.
struct LaneRange {
    int64_t first, stop;
};
struct LaneColumns {
    int64_t column, count;
    int64_t first_range, stop_range;
    const float* weights;
};

// out[row, :] = epilogue(Σ_segments a[row, :] · W), rows being all (sample, step) pairs.
struct GemmTask {
    int64_t samples;
    int64_t steps;
    int64_t columns;
    int64_t depth;  // Σ of segment_depth
    int32_t segments;
    int64_t segment_depth[kMaxSegments];
    View a[kMaxSegments];
    // [panel][depth][columns of the panel], zero padded; see Kernels. For gemm_bf16 each element is
    // a pair of bfloat16, of rows 2k and 2k + 1, in the bits of a float, the first one lowest.
    const float* packed;
    int64_t panel_stride;             // floats from one panel to the next
    int64_t together;                 // columns that all rows are multiplied with before others
    float* scratch;                   // for gemm_bf16: block_rows × bf16_row(depth) floats
    const LaneColumns* lane_columns;  // for gemm_in_lanes, instead of the packed panels
    int64_t lane_groups;
    const LaneRange* lane_ranges;
    View out;
    Epilogue epilogue;
};

// out[row, :] = epilogue(source[row, :]), or of 0 without a source.
struct MapTask {
    int64_t samples;
    int64_t steps;
    int64_t columns;
    bool has_source;
    View source;
    View out;
    Epilogue epilogue;
};

// out[row, :] = f(source[row, :]); or source · f'(value), and out added to it if `accumulate`.
struct FunctionTask {
    int64_t samples;
    int64_t steps;
    int64_t columns;
    View source;
    View value;  // of slopes only
    View out;
    Function function;
    float parameter;
    bool accumulate;
};

// out[row, n] = Σ_i source[row, i · stride + n], in the order of i and beginning with 0, or with
// out if `accumulate`.
struct ReduceTask {
    int64_t samples;
    int64_t steps;
    int64_t columns;
    int64_t count;
    int64_t stride;
    View source;
    View out;
    bool accumulate;
};

// Of each row: out = L · R, or added to it if `accumulate`; see Matmul.
struct MatmulTask {
    int64_t samples;
    int64_t steps;
    int64_t rows;
    int64_t depth;
    int64_t columns;
    View left;
    View right;
    View out;
    bool left_transposed;
    bool right_transposed;
    bool accumulate;
};

// out[row, n] = the largest values[i][row, n]; or outs[i][row, n] += relevance[row, n] for the
// first i with the largest one. Where one is NaN, the result is NaN, and the relevance goes to the
// first.
struct PoolTask {
    int64_t samples;
    int64_t steps;
    int64_t columns;
    int64_t count;
    const View* values;
    View out;  // relevance, where that is routed
    const View* outs;
    bool shares;
    bool accumulate;
};

// absorbed[sample] += a share of the sample's rows, in double precision. A stabiliser's task also
// measures how much relevance was divided: largest[sample] becomes no less than the largest
// Σ_n |R[n]| of the sample's rows, R = source · (d + ε sign(d)), or NaN where one is.
struct AbsorbTask {
    int64_t samples;
    int64_t steps;
    int64_t columns;
    View source;
    View operand;         // or without offsets
    const float* vector;  // or null
    Share share;
    float epsilon;
    double* absorbed;
    double* largest;
};

// Floats that one row of `depth` values takes once it is rounded to pairs of bfloat16.
constexpr int64_t bf16_row(int64_t depth) { return (depth + 31) / 32 * 16; }

// Σ x[i] and Σ |x[i]|, in double precision.
struct Totals {
    double sum, size;
};

struct Kernels {
    const char* isa;
    int64_t panel;         // columns per packed panel
    int64_t tile_rows;     // most rows that a micro-kernel takes at once
    int64_t block_rows;    // most rows that are looked at together
    int64_t lanes;         // samples of a group in lanes
    int64_t lane_columns;  // most columns of a group, see LaneColumns
    int64_t lane_rows;     // most rows that a micro-kernel takes at once there
    void (*gemm)(const GemmTask&);
    // The same with the segments and the weights rounded to bfloat16, and sums in float32; null
    // where the instruction set has no such products.
    void (*gemm_bf16)(const GemmTask&);
    void (*gemm_in_lanes)(const GemmTask&);
    void (*map)(const MapTask&);
    void (*map_in_lanes)(const MapTask&);
    void (*activate)(const FunctionTask&);
    void (*slope)(const FunctionTask&);
    void (*reduce)(const ReduceTask&);
    void (*matmul)(const MatmulTask&);
    void (*matmul_in_lanes)(const MatmulTask&);
    void (*max_pool)(const PoolTask&);
    void (*pool_route)(const PoolTask&);
    void (*absorb)(const AbsorbTask&);
    void (*absorb_in_lanes)(const AbsorbTask&);
    Totals (*totals)(const float* x, int64_t size);
    // Whether every x[i] lies in [low[i], high[i]] and is finite.
    bool (*inside)(const float* x, const float* low, const float* high, int64_t size);
    // Repeats independent fused multiply-adds in registers; what benchmarks call the peak. Returns
    // the FLOPs done.
    double (*peak)(int64_t repetitions);
    double (*peak_bf16)(int64_t repetitions);  // null as gemm_bf16
};

const Kernels* kernels_baseline();
#if defined(PYREL_X86)
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512_bf16();
#elif defined(PYREL_ARM64)
const Kernels* kernels_neon();
#endif

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// NEON of 64-bit ARM: 32 registers of 4 floats, with fused multiply-add. Gives the bits of AVX2 and
// AVX-512, but for the sign of a NaN that an invalid operation makes.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

namespace pyrel {
namespace {

constexpr int kLanes = 4;
// 12 × 2 accumulators, 2 panel vectors, 1 broadcast: 27 of 32 registers.
constexpr int kTileRows = 12;
// That of AVX2: no ARM processor was there to measure it.
constexpr double kSparseShare = 0.55;
using Vector = float32x4_t;

inline Vector zero() { return vdupq_n_f32(0.0f); }
inline Vector load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, Vector v) { vst1q_f32(p, v); }
// NEON has no masked loads: one or two instructions for each count read only what is there.
inline Vector load(const float* p, int64_t count) {
    switch (count) {
        case 0:
            return zero();
        case 1:
            return vld1q_lane_f32(p, zero(), 0);
        case 2:
            return vcombine_f32(vld1_f32(p), vdup_n_f32(0.0f));
        case 3:
            return vcombine_f32(vld1_f32(p), vld1_lane_f32(p + 2, vdup_n_f32(0.0f), 0));
        default:
            return load(p);
    }
}
inline void store(float* p, Vector v, int64_t count) {
    switch (count) {
        case 0:
            return;
        case 1:
            return vst1q_lane_f32(p, v, 0);
        case 2:
            return vst1_f32(p, vget_low_f32(v));
        case 3:
            vst1_f32(p, vget_low_f32(v));
            return vst1q_lane_f32(p + 2, v, 2);
        default:
            return store(p, v);
    }
}
inline Vector broadcast(const float* p) { return vld1q_dup_f32(p); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
// v where the mask is set, else 0; and the other way round.
inline Vector keep(uint32x4_t mask, Vector v) {
    return vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(v)));
}
inline Vector clear(uint32x4_t mask, Vector v) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), mask));
}
inline Vector absolute(Vector v) { return vabsq_f32(v); }
inline Vector square_root(Vector v) { return vsqrtq_f32(v); }
// Not FMAX, which makes +0 of −0: what is not below zero stays as it is, −0 and NaN too.
inline Vector relu(Vector v) { return clear(vcltzq_f32(v), v); }
inline Vector where_positive(Vector test, Vector v) { return keep(vcgtzq_f32(test), v); }
// Whether all lanes lie in [low, high]; not where one is NaN.
inline bool inside(Vector v, Vector low, Vector high) {
    return vminvq_u32(vandq_u32(vcgeq_f32(v, low), vcleq_f32(v, high))) != 0;
}
inline unsigned non_zero_lanes(Vector v) {
    constexpr uint32_t kBits[kLanes] = {1, 2, 4, 8};
    return vaddvq_u32(vbicq_u32(vld1q_u32(kBits), vceqzq_f32(v)));
}
inline Vector safe_divide(Vector v, Vector d) { return clear(vceqzq_f32(d), vdivq_f32(v, d)); }
using Mask = uint32x4_t;
inline Mask less(Vector a, Vector b) { return vcltq_f32(a, b); }
inline Mask is_nan(Vector v) { return vmvnq_u32(vceqq_f32(v, v)); }
inline Vector select(Mask m, Vector v, Vector other) { return vbslq_f32(m, v, other); }
// 2^n of 1.5 · 2²³ + n, n from −126 to 127.
inline Vector power_of_two(Vector shifted) {
    const int32x4_t n = vshlq_n_s32(vreinterpretq_s32_f32(shifted), 23);
    return vreinterpretq_f32_s32(vaddq_s32(n, vdupq_n_s32(0x3f800000)));
}
// Without the lower half of its significant bits.
inline Vector high_half(Vector v) {
    return vreinterpretq_f32_s32(vandq_s32(vreinterpretq_s32_f32(v), vdupq_n_s32(-0x1000)));
}
using WideDoubles = float64x2_t;
inline void widen(Vector v, WideDoubles& low, WideDoubles& high) {
    low = vcvt_f64_f32(vget_low_f32(v));
    high = vcvt_high_f64_f32(v);
}
// A new value as far as the compiler knows.
inline void hide(Vector& v) { asm volatile("" : "+w"(v)); }

}  // namespace
}  // namespace pyrel

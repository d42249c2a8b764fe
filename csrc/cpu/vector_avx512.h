// SPDX-License-Identifier: Apache-2.0
// AVX-512: 32 registers of 16 floats.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace pyrel {
namespace {

constexpr int kLanes = 16;
// 12 × 2 accumulators, 2 panel vectors, 1 broadcast: 27 of 32 registers.
constexpr int kTileRows = 12;
// Blocks of rows skip their zeros where at most this share is not zero.
constexpr double kSparseShare = 0.6;
using Vector = __m512;

inline Vector zero() { return _mm512_setzero_ps(); }
inline Vector load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
inline __mmask16 lanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }
inline Vector load(const float* p, int64_t count) { return _mm512_maskz_loadu_ps(lanes(count), p); }
inline void store(float* p, Vector v, int64_t count) { _mm512_mask_storeu_ps(p, lanes(count), v); }
inline Vector broadcast(const float* p) { return _mm512_set1_ps(*p); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
// The maskz form has no undefined pass-through operand, which GCC 12 warns about. NaN stays NaN in
// this operand order.
inline Vector absolute(Vector v) { return _mm512_abs_ps(v); }
inline Vector square_root(Vector v) { return _mm512_sqrt_ps(v); }
inline Vector relu(Vector v) { return _mm512_maskz_max_ps(lanes(kLanes), zero(), v); }
inline Vector where_positive(Vector test, Vector v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, zero(), _CMP_GT_OQ), v);
}
// Whether all lanes lie in [low, high]; not where one is NaN.
inline bool inside(Vector v, Vector low, Vector high) {
    return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(v, low, _CMP_GE_OQ), v, high, _CMP_LE_OQ) ==
           lanes(kLanes);
}
// One bit for each lane that is not zero.
inline unsigned non_zero_lanes(Vector v) { return _mm512_cmp_ps_mask(v, zero(), _CMP_NEQ_UQ); }
inline Vector safe_divide(Vector v, Vector d) {
    return _mm512_maskz_div_ps(_mm512_cmp_ps_mask(d, zero(), _CMP_NEQ_UQ), v, d);
}
using Mask = __mmask16;
inline Mask less(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Mask is_nan(Vector v) { return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q); }
inline Vector select(Mask m, Vector v, Vector other) { return _mm512_mask_blend_ps(m, other, v); }
// 2^n of 1.5 · 2²³ + n, n from −126 to 127.
inline Vector power_of_two(Vector shifted) {
    const __m512i n = _mm512_maskz_slli_epi32(lanes(kLanes), _mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(0x3f800000)));
}
// Without the lower half of its significant bits.
inline Vector high_half(Vector v) {
    return _mm512_and_ps(v, _mm512_castsi512_ps(_mm512_set1_epi32(-0x1000)));
}
using WideDoubles = __m512d;
inline void widen(Vector v, WideDoubles& low, WideDoubles& high) {
    low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
}
// A new value as far as the compiler knows.
inline void hide(Vector& v) { asm volatile("" : "+v"(v)); }

}  // namespace
}  // namespace pyrel

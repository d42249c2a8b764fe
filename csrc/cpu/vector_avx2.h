// SPDX-License-Identifier: Apache-2.0
// AVX2 with FMA: 16 registers of 8 floats.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace pyrel {
namespace {

constexpr int kLanes = 8;
// 6 × 2 accumulators, 2 panel vectors, 1 broadcast: 15 of 16 registers.
constexpr int kTileRows = 6;
constexpr double kSparseShare = 0.55;
using Vector = __m256;

inline Vector zero() { return _mm256_setzero_ps(); }
inline Vector load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
inline __m256i lanes(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vector load(const float* p, int64_t count) { return _mm256_maskload_ps(p, lanes(count)); }
inline void store(float* p, Vector v, int64_t count) { _mm256_maskstore_ps(p, lanes(count), v); }
inline Vector broadcast(const float* p) { return _mm256_broadcast_ss(p); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector absolute(Vector v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
inline Vector square_root(Vector v) { return _mm256_sqrt_ps(v); }
inline Vector relu(Vector v) { return _mm256_max_ps(zero(), v); }
inline Vector where_positive(Vector test, Vector v) {
    return _mm256_and_ps(_mm256_cmp_ps(test, zero(), _CMP_GT_OQ), v);
}
inline bool inside(Vector v, Vector low, Vector high) {
    const Vector within =
        _mm256_and_ps(_mm256_cmp_ps(v, low, _CMP_GE_OQ), _mm256_cmp_ps(v, high, _CMP_LE_OQ));
    return _mm256_movemask_ps(within) == 0xff;
}
inline unsigned non_zero_lanes(Vector v) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(v, zero(), _CMP_NEQ_UQ)));
}
inline Vector safe_divide(Vector v, Vector d) {
    return _mm256_and_ps(_mm256_cmp_ps(d, zero(), _CMP_NEQ_UQ), _mm256_div_ps(v, d));
}
using Mask = __m256;
inline Mask less(Vector a, Vector b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline Mask is_nan(Vector v) { return _mm256_cmp_ps(v, v, _CMP_UNORD_Q); }
inline Vector select(Mask m, Vector v, Vector other) { return _mm256_blendv_ps(other, v, m); }
// 2^n of 1.5 · 2²³ + n, n from −126 to 127.
inline Vector power_of_two(Vector shifted) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(0x3f800000)));
}
// Without the lower half of its significant bits.
inline Vector high_half(Vector v) {
    return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(-0x1000)));
}
using WideDoubles = __m256d;
inline void widen(Vector v, WideDoubles& low, WideDoubles& high) {
    low = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    high = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
}
// A new value as far as the compiler knows.
inline void hide(Vector& v) { asm volatile("" : "+x"(v)); }

}  // namespace
}  // namespace pyrel

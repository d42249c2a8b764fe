// SPDX-License-Identifier: Apache-2.0
// One vector type per instruction set, with the handful of operations that the kernels need.
// Multiply-add is spelled out (contraction is off): every result is one chain of the same
// operations, whatever tile computes it.
#pragma once

#include <stdint.h>

#if defined(PYREL_ISA_AVX512) || defined(PYREL_ISA_AVX2)
#include <immintrin.h>
#endif

namespace pyrel {
namespace {

#if defined(PYREL_ISA_AVX512)

constexpr int kLanes = 16;
constexpr int kTileRows =
    12;  // 12 × 2 accumulators, 2 panel vectors, 1 broadcast: 27 of 32 registers
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
inline Vector relu(Vector v) { return _mm512_maskz_max_ps(lanes(kLanes), zero(), v); }
inline Vector where_positive(Vector test, Vector v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, zero(), _CMP_GT_OQ), v);
}
// Whether all lanes lie in [low, high]; not where one is NaN.
inline bool inside(Vector v, Vector low, Vector high) {
    return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(v, low, _CMP_GE_OQ), v, high, _CMP_LE_OQ) ==
           lanes(kLanes);
}
inline Vector safe_divide(Vector v, Vector d) {
    return _mm512_maskz_div_ps(_mm512_cmp_ps_mask(d, zero(), _CMP_NEQ_UQ), v, d);
}

#elif defined(PYREL_ISA_AVX2)

constexpr int kLanes = 8;
constexpr int kTileRows =
    6;  // 6 × 2 accumulators, 2 panel vectors, 1 broadcast: 15 of 16 registers
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
inline Vector relu(Vector v) { return _mm256_max_ps(zero(), v); }
inline Vector where_positive(Vector test, Vector v) {
    return _mm256_and_ps(_mm256_cmp_ps(test, zero(), _CMP_GT_OQ), v);
}
inline bool inside(Vector v, Vector low, Vector high) {
    const Vector within =
        _mm256_and_ps(_mm256_cmp_ps(v, low, _CMP_GE_OQ), _mm256_cmp_ps(v, high, _CMP_LE_OQ));
    return _mm256_movemask_ps(within) == 0xff;
}
inline Vector safe_divide(Vector v, Vector d) {
    return _mm256_and_ps(_mm256_cmp_ps(d, zero(), _CMP_NEQ_UQ), _mm256_div_ps(v, d));
}

#else

constexpr int kLanes = 4;
constexpr int kTileRows = 6;
typedef float Vector __attribute__((vector_size(16)));
typedef int32_t Mask __attribute__((vector_size(16)));
typedef float Unaligned __attribute__((vector_size(16), aligned(4), may_alias));

inline Vector zero() { return Vector{0.0f, 0.0f, 0.0f, 0.0f}; }
inline Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
inline Vector load(const float* p, int64_t count) {
    Vector v = zero();
    for (int64_t i = 0; i < count && i < kLanes; ++i) v[i] = p[i];
    return v;
}
inline void store(float* p, Vector v, int64_t count) {
    for (int64_t i = 0; i < count && i < kLanes; ++i) p[i] = v[i];
}
inline Vector broadcast(const float* p) { return Vector{*p, *p, *p, *p}; }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
inline Vector select(Mask m, Vector v) {
    return reinterpret_cast<Vector>(m & reinterpret_cast<Mask>(v));
}
inline Vector relu(Vector v) { return select(~(v <= zero()), v); }  // NaN stays NaN
inline Vector where_positive(Vector test, Vector v) { return select(test > zero(), v); }
inline bool inside(Vector v, Vector low, Vector high) {
    const Mask within = (v >= low) & (v <= high);
    return within[0] && within[1] && within[2] && within[3];
}
inline Vector safe_divide(Vector v, Vector d) { return select(d != zero(), v / d); }

#endif

}  // namespace
}  // namespace pyrel

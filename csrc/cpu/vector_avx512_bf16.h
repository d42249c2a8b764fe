// SPDX-License-Identifier: Apache-2.0
// AVX-512 with products of bfloat16: a lane holds a pair of them, and a multiply-add adds both
// products to a float. Beside vector_avx512.h.
#pragma once

#include "vector_avx512.h"

namespace pyrel {
namespace {

// c + a₁ b₁ + a₀ b₀ in each lane, rounded after each addition; denormals count as zero.
inline Vector multiply_add_bf16(Vector a, Vector b, Vector c) {
    return _mm512_dpbf16_ps(c, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
}
// Pairs of zeros only: as a float, a pair may look like a denormal.
inline unsigned non_zero_lanes_bf16(Vector v) {
    const __m512i bits = _mm512_castps_si512(v);
    return _mm512_test_epi32_mask(bits, bits);
}
// Rounds to the nearest, ties to even; writes 2 · size bytes.
inline void round_to_bf16(const float* from, int64_t size, char* to) {
    int64_t i = 0;
    for (; i + 2 * kLanes <= size; i += 2 * kLanes)
        _mm512_storeu_si512(to + 2 * i,
                            (__m512i)_mm512_cvtne2ps_pbh(load(from + i + kLanes), load(from + i)));
    for (; i < size; i += kLanes) {
        const int64_t count = size - i < kLanes ? size - i : kLanes;
        _mm256_mask_storeu_epi16(to + 2 * i, lanes(count),
                                 (__m256i)_mm512_cvtneps_pbh(load(from + i, count)));
    }
}

}  // namespace
}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// The vector extensions of GCC and clang, for any processor: 4 floats, multiply and add apart.
#pragma once

#include <stdint.h>

namespace pyrel {
namespace {

constexpr int kLanes = 4;
constexpr int kTileRows = 6;
constexpr double kSparseShare = 0.55;
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
inline Vector absolute(Vector v) {
    return reinterpret_cast<Vector>(reinterpret_cast<Mask>(v) & 0x7fffffff);
}
inline Vector square_root(Vector v) {
    return Vector{__builtin_sqrtf(v[0]), __builtin_sqrtf(v[1]), __builtin_sqrtf(v[2]),
                  __builtin_sqrtf(v[3])};
}
inline Vector relu(Vector v) { return select(~(v <= zero()), v); }  // NaN stays NaN
inline Vector where_positive(Vector test, Vector v) { return select(test > zero(), v); }
inline bool inside(Vector v, Vector low, Vector high) {
    const Mask within = (v >= low) & (v <= high);
    return within[0] && within[1] && within[2] && within[3];
}
inline unsigned non_zero_lanes(Vector v) {
    const Mask bits = (v != zero()) & Mask{1, 2, 4, 8};
    return static_cast<unsigned>(bits[0] | bits[1] | bits[2] | bits[3]);
}
inline Vector safe_divide(Vector v, Vector d) { return select(d != zero(), v / d); }
inline Mask less(Vector a, Vector b) { return a < b; }
inline Mask is_nan(Vector v) { return v != v; }
inline Vector select(Mask m, Vector v, Vector other) {
    return reinterpret_cast<Vector>((m & reinterpret_cast<Mask>(v)) |
                                    (~m & reinterpret_cast<Mask>(other)));
}
// 2^n of 1.5 · 2²³ + n, n from −126 to 127.
inline Vector power_of_two(Vector shifted) {
    typedef uint32_t Bits __attribute__((vector_size(16)));
    const Bits n = reinterpret_cast<Bits>(shifted) << 23;
    return reinterpret_cast<Vector>(n + 0x3f800000u);
}
// Without the lower half of its significant bits.
inline Vector high_half(Vector v) {
    return reinterpret_cast<Vector>(reinterpret_cast<Mask>(v) & -0x1000);
}
typedef double WideDoubles __attribute__((vector_size(16)));
inline void widen(Vector v, WideDoubles& low, WideDoubles& high) {
    low = WideDoubles{v[0], v[1]};
    high = WideDoubles{v[2], v[3]};
}
// A new value as far as the compiler knows.
inline void hide(Vector& v) {
#if defined(__aarch64__)
    asm volatile("" : "+w"(v));
#else
    asm volatile("" : "+x"(v));
#endif
}

}  // namespace
}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// A vector of one float, for a thread of the device: shared/functions.h then gives the same bits as
// on a processor that fuses its multiply-adds.
#pragma once

#include "device.h"

namespace pyrel {
namespace {

typedef float Vector;
typedef bool Mask;

PYREL_DEVICE Vector zero() { return 0.0f; }
PYREL_DEVICE Vector broadcast(const float* p) { return *p; }
PYREL_DEVICE Vector multiply_add(Vector a, Vector b, Vector c) { return cuda::fused(a, b, c); }
PYREL_DEVICE Vector absolute(Vector v) { return cuda::float_of(cuda::bits_of(v) & 0x7fffffffu); }
PYREL_DEVICE Vector square_root(Vector v) { return sqrtf(v); }
// NaN stays NaN and −0 stays −0. Denormals become 0, as the CPU's maximum makes them.
PYREL_DEVICE Vector relu(Vector v) {
    const uint32_t bits = cuda::bits_of(v);
    const bool denormal = (bits & 0x7f800000u) == 0;
    return cuda::float_of(0.0f > v ? 0u : (denormal ? bits & 0x80000000u : bits));
}
PYREL_DEVICE Vector where_positive(Vector test, Vector v) { return test > 0.0f ? v : 0.0f; }
PYREL_DEVICE Vector safe_divide(Vector v, Vector d) { return d != 0.0f ? v / d : 0.0f; }
PYREL_DEVICE Mask less(Vector a, Vector b) { return a < b; }
PYREL_DEVICE Mask is_nan(Vector v) { return v != v; }
// Of bits, as a compiler may make a minimum or maximum of a choice of floats, which flush
// denormals.
PYREL_DEVICE Vector select(Mask m, Vector v, Vector other) {
    return cuda::float_of(m ? cuda::bits_of(v) : cuda::bits_of(other));
}
// 2^n of 1.5 · 2²³ + n, n from −126 to 127.
PYREL_DEVICE Vector power_of_two(Vector shifted) {
    return cuda::float_of((cuda::bits_of(shifted) << 23) + 0x3f800000u);
}
// Without the lower half of its significant bits.
PYREL_DEVICE Vector high_half(Vector v) { return cuda::float_of(cuda::bits_of(v) & 0xfffff000u); }

}  // namespace
}  // namespace pyrel

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
PYREL_DEVICE Vector relu(Vector v) { return 0.0f > v ? 0.0f : v; }  // NaN stays NaN, −0 −0
PYREL_DEVICE Vector where_positive(Vector test, Vector v) { return test > 0.0f ? v : 0.0f; }
PYREL_DEVICE Vector safe_divide(Vector v, Vector d) { return d != 0.0f ? v / d : 0.0f; }
PYREL_DEVICE Mask less(Vector a, Vector b) { return a < b; }
PYREL_DEVICE Mask is_nan(Vector v) { return v != v; }
PYREL_DEVICE Vector select(Mask m, Vector v, Vector other) { return m ? v : other; }
// 2^n of 1.5 · 2²³ + n, n from −126 to 127.
PYREL_DEVICE Vector power_of_two(Vector shifted) {
    return cuda::float_of((cuda::bits_of(shifted) << 23) + 0x3f800000u);
}
// Without the lower half of its significant bits.
PYREL_DEVICE Vector high_half(Vector v) { return cuda::float_of(cuda::bits_of(v) & 0xfffff000u); }

}  // namespace
}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// The product of fragments that a warp holds (PTX ISA, mma.m16n8k8 with .tf32).
#pragma once

#include <bit>
#include <cstdint>

#include "emulator.h"

namespace pyrel::cuda::emulated {

// What a lane gave to a product.
struct Fragments {
    float* sum;
    const uint32_t* a;
    const uint32_t* b;
};

// The hardware ignores the low 13 bits of an operand.
inline double value_of_tf32(uint32_t bits) {
    return static_cast<double>(std::bit_cast<float>(bits & ~0x1fffu));
}

// Products of two TF32 numbers have 22 significant bits, so they are exact in doubles; the sums
// over the depths begin with the old sum, are taken in doubles and are rounded once.
inline void multiply_fragments(const Fragments (&lanes)[kLanes]) {
    using Doubles = double __attribute__((vector_size(32)));
    double a[16][8];
    union {
        double number[8][8];
        Doubles part[8][2];
    } b, sum;
    for (int lane = 0; lane < kLanes; ++lane) {
        const Fragments& given = lanes[lane];
        const int g = lane / 4;
        const int t = lane % 4;
        a[g][t] = value_of_tf32(given.a[0]);
        a[g + 8][t] = value_of_tf32(given.a[1]);
        a[g][t + 4] = value_of_tf32(given.a[2]);
        a[g + 8][t + 4] = value_of_tf32(given.a[3]);
        b.number[t][g] = value_of_tf32(given.b[0]);
        b.number[t + 4][g] = value_of_tf32(given.b[1]);
    }
    for (int half = 0; half < 2; ++half) {
        for (int lane = 0; lane < kLanes; ++lane) {
            const float* old = lanes[lane].sum + 2 * half;
            sum.number[lane / 4][lane % 4 * 2] = static_cast<double>(old[0]);
            sum.number[lane / 4][lane % 4 * 2 + 1] = static_cast<double>(old[1]);
        }
        for (int row = 0; row < 8; ++row) {
            Doubles left = sum.part[row][0];
            Doubles right = sum.part[row][1];
            for (int depth = 0; depth < 8; ++depth) {
                const double factor = a[half * 8 + row][depth];
                const Doubles factors = {factor, factor, factor, factor};
                left += factors * b.part[depth][0];
                right += factors * b.part[depth][1];
            }
            sum.part[row][0] = left;
            sum.part[row][1] = right;
        }
        for (int lane = 0; lane < kLanes; ++lane) {
            float* made = lanes[lane].sum + 2 * half;
            made[0] = static_cast<float>(sum.number[lane / 4][lane % 4 * 2]);
            made[1] = static_cast<float>(sum.number[lane / 4][lane % 4 * 2 + 1]);
        }
    }
}

}  // namespace pyrel::cuda::emulated

// SPDX-License-Identifier: Apache-2.0
// What the kernel asks of the device. On a GPU these are CUDA's own; for the tests, threads are
// fibers of the emulator (tests/native/cuda/emulator.h), which has the same functions and looks at
// each access to memory.
#pragma once

#include <stdint.h>

#include "team.h"

#if defined(PYREL_CUDA_EMULATED)
#include "emulator.h"
#define PYREL_UNROLL
#define PYREL_ROLLED
#else

#define PYREL_DEVICE __device__ __forceinline__
// Before a loop whose arrays shall be registers.
#define PYREL_UNROLL _Pragma("unroll")
// Before a loop whose body is long, and the same for all.
#define PYREL_ROLLED _Pragma("unroll 1")
// Of a kernel's argument that is read where it lies.
#define PYREL_CONSTANT __grid_constant__
#define PYREL_KERNEL extern "C" __global__ __launch_bounds__(256, 1) void

namespace pyrel::cuda {

PYREL_DEVICE Team team_of(int blocks) {
    const auto x = static_cast<int>(blockIdx.x), size = static_cast<int>(blockDim.x);
    return {x % blocks * size + static_cast<int>(threadIdx.x), blocks * size, x / blocks,
            static_cast<int>(gridDim.x) / blocks};
}

// All threads of a team of so many blocks come here; what was written before is read behind it.
// Several blocks are a cluster of the launch. Its barrier releases and acquires, so that no block
// reads what its first-level cache held of another one's memory before.
PYREL_DEVICE void barrier(int blocks) {
    if (blocks == 1) return __syncthreads();
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "barrier.cluster.arrive.release;\n\t"
        "barrier.cluster.wait.acquire;" ::
            : "memory");
#endif
}

// Memory that threads write, the arena, the relevance and results, or that none does. Volatile
// reads would keep the compiler from nothing that it needs.
template <typename Value>
PYREL_DEVICE Value read(const Value* place) {
    __builtin_assume(__isGlobal(place));
    return *place;
}
template <typename Value>
PYREL_DEVICE void write(Value* place, Value value) {
    __builtin_assume(__isGlobal(place));
    *place = value;
}
// Memory that no thread writes. Four floats at a multiple of 16 bytes.
template <typename Value>
PYREL_DEVICE Value constant_at(const Value* place) {
    return __ldg(place);
}
PYREL_DEVICE Four four_at(const float* place) {
    const float4 v = __ldg(reinterpret_cast<const float4*>(place));
    return {{v.x, v.y, v.z, v.w}};
}

// The value of the lane of this warp whose number differs in the bits of `mask`; all lanes come.
template <typename Value>
PYREL_DEVICE Value exchanged(Value value, int mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}
// The value of a lane of this warp, of each the one that it asks for; all lanes come.
PYREL_DEVICE float from_lane(float value, int lane) {
    return __shfl_sync(0xffffffffu, value, lane);
}

PYREL_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// A float rounded to the eleven significant bits that tensor cores take. Ties go to even where that
// is one instruction, and else away from zero.
PYREL_DEVICE uint32_t to_tf32(float value) {
    uint32_t bits;
#if __CUDA_ARCH__ >= 900
    asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
#else
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
#endif
    return bits;
}

// A float rounded to the eight significant bits of bfloat16, which TF32 has; ties to even.
PYREL_DEVICE uint32_t to_bf16(float value) {
    uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return uint32_t{bits} << 16;
}

// sum += a · b of 16×8 and 8×8 numbers, over all lanes of the warp (PTX ISA, mma.m16n8k8). With
// g = lane / 4 and t = lane % 4 a lane holds a of rows g, g + 8, g, g + 8 and depths t, t, t + 4,
// t + 4; b of depths t, t + 4 and column g; and sums of rows g, g, g + 8, g + 8 and columns 2t,
// 2t + 1, 2t, 2t + 1.
PYREL_DEVICE void multiply_tf32(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

PYREL_DEVICE float float_of(uint32_t bits) { return __uint_as_float(bits); }
PYREL_DEVICE uint32_t bits_of(float value) { return __float_as_uint(value); }

}  // namespace pyrel::cuda

#endif

// SPDX-License-Identifier: Apache-2.0
// One vector type per instruction set, with the handful of operations that the kernels need.
// Multiply-add is spelled out (contraction is off): every result is one chain of the same
// operations, whatever tile computes it.
#pragma once

#if defined(PYREL_ISA_AVX512_BF16)
#include "vector_avx512_bf16.h"
#elif defined(PYREL_ISA_AVX512)
#include "vector_avx512.h"
#elif defined(PYREL_ISA_AVX2)
#include "vector_avx2.h"
#elif defined(PYREL_ISA_NEON)
#include "vector_neon.h"
#else
#include "vector_baseline.h"
#endif

// SPDX-License-Identifier: Apache-2.0
// An instruction as the device reads it. Each returns an operation whose operands, weights and
// vectors it adds to the pools.
#pragma once

#include "pools.h"

namespace pyrel::cuda {

Operation operation_of(const Gemm& gemm, Pools& pools);
Operation operation_of(const Map& map, Pools& pools);
Operation operation_of(const Gather& gather, Pools& pools);
Operation operation_of(const Scatter& scatter, Pools& pools);
Operation operation_of(const Absorb& absorb, Pools& pools);
Operation operation_of(const Activate& activate, Pools& pools);
Operation operation_of(const Slope& slope, Pools& pools);
Operation operation_of(const Reduce& reduce, Pools& pools);
Operation operation_of(const Matmul& matmul, Pools& pools);
Operation operation_of(const MaxPool& pool, Pools& pools);
Operation operation_of(const PoolRoute& route, Pools& pools);
Operation operation_of(const Normalise& normalise, Pools& pools);
Operation operation_of(const NormaliseBack& back, Pools& pools);
Operation operation_of(const Embed& embed, Pools& pools);
Operation operation_of(const Seed& seed, Pools& pools);

}  // namespace pyrel::cuda

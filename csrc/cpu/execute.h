// SPDX-License-Identifier: Apache-2.0
// How each instruction runs, for the samples and rows of a slab that are chosen.
#pragma once

#include "slab.h"

namespace pyrel {

void execute(const Gemm& gemm, Slab& slab);
void execute(const Map& map, Slab& slab);
void execute(const Gather& gather, Slab& slab);
void execute(const Scatter& scatter, Slab& slab);
void execute(const Absorb& absorb, Slab& slab);
void execute(const Activate& activate, Slab& slab);
void execute(const Slope& slope, Slab& slab);
void execute(const Reduce& reduce, Slab& slab);
void execute(const Matmul& matmul, Slab& slab);
void execute(const MaxPool& pool, Slab& slab);
void execute(const PoolRoute& route, Slab& slab);
void execute(const Normalise& normalise, Slab& slab);
void execute(const NormaliseBack& back, Slab& slab);
void execute(const Embed& embed, Slab& slab);
// Fails where an output is not finite.
Status execute(const Seed& seed, Slab& slab);

}  // namespace pyrel

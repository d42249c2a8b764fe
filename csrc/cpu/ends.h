// SPDX-License-Identifier: Apache-2.0
// What is checked of a slab's samples before they are explained, and what is told of them then.
#pragma once

#include "slab.h"

namespace pyrel {

// Names the first element that is not finite, or out of its bounds, if the batch wants it so.
Status check_input(const Slab& slab);

// Writes what is absorbed, conserved and amplified; fails where relevance is not finite, or lost.
Status finish(const Slab& slab);

}  // namespace pyrel

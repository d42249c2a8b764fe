// SPDX-License-Identifier: Apache-2.0
// Lays a program out as the device reads it.
#pragma once

#include <vector>

#include "../program/program.h"

namespace pyrel::cuda {

// Of a finished program. Throws std::invalid_argument where the device cannot run it: what it names
// must be smaller, or of another kind.
std::vector<char> image_of(const Program& program);

}  // namespace pyrel::cuda

// SPDX-License-Identifier: Apache-2.0
// Which kernels this machine can run.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels.h"

namespace pyrel {

// Every instruction set compiled in that the processor and the operating system support, slowest
// first.
std::vector<const Kernels*> available_kernels();

// By name, or the fastest for an empty name; null where there is none of that name.
const Kernels* find_kernels(const std::string& name);

// By name, where the functions of a table lie in the file that they were loaded from: what a
// disassembler needs to find them.
std::map<std::string, int64_t> kernel_offsets(const Kernels& kernels);

}  // namespace pyrel

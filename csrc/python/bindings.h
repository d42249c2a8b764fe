// SPDX-License-Identifier: Apache-2.0
// The Python face of the engine: declares and calls, nothing else. What each part of it binds.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "../cpu/kernels.h"
#include "../program/program.h"

namespace pyrel {

void bind_enums(pybind11::module_& module);
void bind_limits(pybind11::module_& module);
void bind_program(pybind11::module_& module);
void bind_engine(pybind11::module_& module);
void bind_cuda(pybind11::module_& module);

// Those of an instruction set that this machine can run.
const Kernels& kernels_named(const std::string& isa);

// Called without the GIL; true where a signal handler, such as Ctrl-C's, raised.
bool signal_raised();

}  // namespace pyrel

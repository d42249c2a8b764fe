// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>

namespace py = pybind11;

PYBIND11_MODULE(_core, module) {
    module.doc() = "The compiled engine of pyrel.";
    module.def("version", [] { return PYREL_VERSION; }, "Version of pyrel that this extension was built from.");
}

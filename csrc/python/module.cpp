// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include <exception>
#include <utility>

#include "../cpu/dispatch.h"
#include "bindings.h"

namespace py = pybind11;
using namespace py::literals;

namespace pyrel {

const Kernels& kernels_named(const std::string& isa) {
    const Kernels* kernels = find_kernels(isa);
    if (!kernels)
        throw std::invalid_argument("this machine cannot run the instruction set '" + isa + "'");
    return *kernels;
}

bool signal_raised() {
    const py::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
}

void bind_limits(py::module_& module) {
    module.attr("limits") =
        py::dict("segments"_a = kMaxSegments, "space"_a = kLargestSpace, "exact"_a = kLargestExact,
                 "line"_a = kLineFloats, "row_cost"_a = kRowCost, "result_cost"_a = kResultCost);
}

namespace {

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Kernels* kernels : available_kernels()) names.emplace_back(kernels->isa);
    return names;
}

}  // namespace
}  // namespace pyrel

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
    module.doc() = "The compiled engine of pyrel.";
    module.def(
        "version", [] { return PYREL_VERSION; },
        "Version of pyrel that this extension was built from.");
    module.def("compiler", [] { return PYREL_COMPILER; }, "Name and version of the C++ compiler.");
    module.def("instruction_sets", &pyrel::instruction_sets,
               "Those that this machine can run, slowest first.");
    module.def(
        "peak",
        [](const std::string& isa, int64_t repetitions, bool bf16) {
            const pyrel::Kernels& kernels = pyrel::kernels_named(isa);
            const auto peak = bf16 ? kernels.peak_bf16 : kernels.peak;
            if (!peak) throw std::invalid_argument("no products of bfloat16 in " + isa);
            const py::gil_scoped_release release;
            return peak(repetitions);
        },
        "isa"_a, "repetitions"_a, "bf16"_a = false,
        "Repeat independent multiply-adds in registers; return the FLOPs done.");
    module.def(
        "kernel_offsets",
        [](const std::string& isa) { return pyrel::kernel_offsets(pyrel::kernels_named(isa)); },
        "isa"_a,
        "Where the functions of an instruction set's kernels lie in the extension's file.");
    module.def(
        "has_bf16",
        [](const std::string& isa) { return pyrel::kernels_named(isa).gemm_bf16 != nullptr; },
        "isa"_a, "Whether an instruction set has products of bfloat16.");
    py::register_local_exception_translator([](std::exception_ptr thrown) {
        try {
            std::rethrow_exception(std::move(thrown));
        } catch (const pyrel::Interruption&) {
            // What the signal's handler raised is set.
        }
    });
    pyrel::bind_enums(module);
    pyrel::bind_limits(module);
    pyrel::bind_program(module);
    pyrel::bind_engine(module);
    pyrel::bind_cuda(module);
}

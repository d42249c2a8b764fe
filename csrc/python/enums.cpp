// SPDX-License-Identifier: Apache-2.0
#include "enums.h"

#include <pybind11/native_enum.h>

#include "../shared/batch.h"
#include "bindings.h"

namespace py = pybind11;

namespace pyrel {
namespace {

// Name → number of the members of every enum, by the enum's name.
py::dict enums() {
    py::dict all;
    const auto add = [&](auto names) {
        py::dict members;
        int number = 0;
        for (const char* name : names.kMembers) members[name] = number++;
        all[names.kEnum] = members;
    };
    add(Names<Space>{});
    add(Names<Scale>{});
    add(Names<Post>{});
    add(Names<Share>{});
    add(Names<Function>{});
    add(Names<Start>{});
    return all;
}

}  // namespace

void bind_enums(py::module_& module) {
    module.attr("enums") = enums();
    py::native_enum<Outcome>(module, "Outcome", "enum.Enum", "How a run ended.")
        .value("done", Outcome::done)
        .value("input_not_finite", Outcome::input_not_finite)
        .value("input_out_of_bounds", Outcome::input_out_of_bounds)
        .value("output_not_finite", Outcome::output_not_finite)
        .value("relevance_not_finite", Outcome::relevance_not_finite)
        .value("relevance_lost", Outcome::relevance_lost)
        .value("interrupted", Outcome::interrupted)
        .value("out_of_memory", Outcome::out_of_memory)
        .finalize();
}

}  // namespace pyrel

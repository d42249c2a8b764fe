// SPDX-License-Identifier: Apache-2.0
// Programs as they are built. Shapes and meanings are checked in Python.
#include <optional>
#include <utility>

#include "../program/way_back.h"
#include "bindings.h"
#include "fields.h"

namespace py = pybind11;
using namespace py::literals;

namespace pyrel {
namespace {

using Floats = py::array_t<float, py::array::c_style>;

// The instruction of a kind, if that is one of these; a repeat is added by its body.
template <typename Kind, typename... Others>
std::optional<Instruction> made_of(const std::string& kind, const py::dict& fields) {
    if constexpr (!std::is_same_v<Kind, Repeat>)
        if (kind == Kind::kName) return from_fields<Kind>(fields);
    if constexpr (sizeof...(Others) > 0)
        return made_of<Others...>(kind, fields);
    else
        return std::nullopt;
}

template <typename... Kinds>
std::optional<Instruction> made(const std::string& kind, const py::dict& fields,
                                const std::variant<Kinds...>*) {
    return made_of<Kinds...>(kind, fields);
}

// Other threads go on while an instruction is looked through.
void add(Program& program, const std::string& kind, const py::dict& fields) {
    std::optional<Instruction> instruction =
        made(kind, fields, static_cast<const Instruction*>(nullptr));
    if (!instruction) throw std::invalid_argument("there is no instruction '" + kind + "'");
    const py::gil_scoped_release release;
    program.add(std::move(*instruction));
}

// Without a copy: whoever packs the matrix reads it where the array keeps it, such as one whose
// transpose is another matrix.
int add_matrix(Program& program, const py::array_t<float>& matrix) {
    if (matrix.ndim() != 2) throw std::invalid_argument("a matrix must have two dimensions");
    constexpr auto kSize = static_cast<py::ssize_t>(sizeof(float));
    if (matrix.strides(0) % kSize != 0 || matrix.strides(1) % kSize != 0)
        throw std::invalid_argument("a matrix must lie whole floats apart");
    const auto let_go = [owner = py::object(matrix)](const float*) mutable {
        const py::gil_scoped_acquire acquire;
        owner.release().dec_ref();
    };
    return program.add_matrix({matrix.shape(0), matrix.shape(1), matrix.strides(0) / kSize,
                               matrix.strides(1) / kSize,
                               std::shared_ptr<const float>(matrix.data(), let_go)});
}

int add_table(Program& program, const Floats& table) {
    if (table.ndim() != 2) throw std::invalid_argument("a table must have two dimensions");
    return program.add_table(table.data(), table.shape(0), table.shape(1));
}

int add_vector(Program& program, const Floats& vector) {
    return program.add_vector({vector.data(), vector.data() + vector.size()});
}

Program begun(int64_t input_size, int64_t arena_size, int64_t classes, bool conserves,
              const Program* weights, std::optional<int64_t> most_looked_up,
              std::optional<double> most_work) {
    Most most;
    most.looked_up = most_looked_up.value_or(most.looked_up);
    most.work = most_work.value_or(most.work);
    return Program(input_size, arena_size, classes, conserves, weights, most, signal_raised);
}

}  // namespace

void bind_program(py::module_& module) {
    py::class_<Program>(module, "Program", "Instructions and what they use, for any engine.")
        .def(py::init(&begun), py::kw_only(), "input_size"_a, "arena_size"_a, "classes"_a,
             "conserves"_a, "weights"_a = py::none(), "most_looked_up"_a = py::none(),
             "most_work"_a = py::none())
        .def("add_matrix", &add_matrix, "matrix"_a)
        .def("add_vector", &add_vector, "vector"_a)
        .def("add_table", &add_table, "table"_a)
        .def("add", &add, "kind"_a, "fields"_a,
             "Add an instruction of a kind, such as `Gemm`, with the fields of its struct.")
        .def("begin_repeat", &Program::begin_repeat, "count"_a,
             "Let the instructions up to `end_repeat` be the body of one.")
        .def("end_repeat", &Program::end_repeat, py::call_guard<py::gil_scoped_release>())
        .def("finish", &Program::finish, py::call_guard<py::gil_scoped_release>(),
             "End the building; an engine binds a program only then.")
        .def_property_readonly("explains", [](const Program& p) { return p.code()->explains; })
        .def_property_readonly("flops", [](const Program& p) { return p.code()->flops; })
        .def_property_readonly(
            "keeps_forward", [](const Program& p) { return way_back_of(*p.code()).keeps_forward; })
        .def_property_readonly("multiplies_bf16",
                               [](const Program& p) { return p.code()->multiplies_bf16; })
        .def_property_readonly("matrices", [](const Program& p) { return p.matrices().size(); })
        .def_property_readonly("vectors", [](const Program& p) { return p.code()->vectors.size(); })
        .def_property_readonly("tables", [](const Program& p) { return p.code()->tables.size(); });
}

}  // namespace pyrel

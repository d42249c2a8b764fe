// SPDX-License-Identifier: Apache-2.0
// The Python face of the engine: declares and calls, nothing else. Shapes and meanings are checked
// in Python.
#include <pybind11/native_enum.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <exception>
#include <map>
#include <optional>
#include <utility>

#include "cpu/dispatch.h"
#include "cpu/executor.h"
#include "program.h"
#include "python/enums.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Integers = py::array_t<int64_t, py::array::c_style>;
// As sequences of integers too.
using Offsets = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;
// (space, one offset per step); an absent operand has no offsets
using PyRows = std::pair<pyrel::Space, Offsets>;

std::vector<int64_t> numbers(const Offsets& offsets) {
    return {offsets.data(), offsets.data() + offsets.size()};
}

pyrel::Rows rows(const PyRows& r) { return {r.first, numbers(r.second)}; }
pyrel::Rows rows(const std::optional<PyRows>& r) { return r ? rows(*r) : pyrel::Rows{}; }

std::vector<pyrel::Rows> rows(const std::vector<PyRows>& listed) {
    std::vector<pyrel::Rows> all;
    for (const PyRows& r : listed) all.push_back(rows(r));
    return all;
}

const pyrel::Kernels& kernels_named(const std::string& isa) {
    const pyrel::Kernels* kernels = pyrel::find_kernels(isa);
    if (!kernels)
        throw std::invalid_argument("this machine cannot run the instruction set '" + isa + "'");
    return *kernels;
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const pyrel::Kernels* kernels : pyrel::available_kernels())
        names.emplace_back(kernels->isa);
    return names;
}

pyrel::EpilogueSpec epilogue(int bias, pyrel::Scale scale, const std::optional<PyRows>& scale_rows,
                             int scale_vector, bool accumulate, pyrel::Post post,
                             const std::optional<PyRows>& post_rows, int post_vector,
                             float epsilon) {
    return {bias, scale,           rows(scale_rows), scale_vector, accumulate,
            post, rows(post_rows), post_vector,      epsilon};
}

// Other threads go on while an instruction is looked through.
void add(pyrel::Program& program, pyrel::Instruction instruction) {
    const py::gil_scoped_release release;
    program.add(std::move(instruction));
}

int add_matrix(pyrel::Program& program, const Floats& matrix, bool bf16, int64_t key) {
    if (matrix.ndim() != 2) throw std::invalid_argument("a matrix must have two dimensions");
    const py::gil_scoped_release release;
    return program.add_matrix(matrix.data(), matrix.shape(0), matrix.shape(1), bf16, key);
}

int add_table(pyrel::Program& program, const Floats& table) {
    if (table.ndim() != 2) throw std::invalid_argument("a table must have two dimensions");
    return program.add_table(table.data(), table.shape(0), table.shape(1));
}

int add_vector(pyrel::Program& program, const Floats& vector) {
    return program.add_vector({vector.data(), vector.data() + vector.size()});
}

void add_gemm(pyrel::Program& program, const std::vector<std::pair<PyRows, int64_t>>& segments,
              int matrix, const PyRows& out, const pyrel::EpilogueSpec& spec) {
    pyrel::Gemm gemm{{}, matrix, rows(out), spec};
    for (const auto& [r, depth] : segments) gemm.segments.push_back({rows(r), depth});
    add(program, std::move(gemm));
}

// Called without the GIL; true where a signal handler, such as Ctrl-C's, raised.
bool signal_raised() {
    const py::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
}

const float* data_or_null(const std::optional<Floats>& array) {
    return array ? array->data() : nullptr;
}

pyrel::Status run(const pyrel::Program& program, const Floats& x,
                  const std::optional<Integers>& target, const std::optional<Floats>& low,
                  const std::optional<Floats>& high, bool check_finite, int threads,
                  std::optional<Floats> relevance, Floats output, Integers explained,
                  Floats absorbed, Floats conservation, Floats amplification, int64_t first,
                  std::optional<bool> in_lanes) {
    if (!program.finished()) throw std::invalid_argument("the program is not finished");
    if (program.explains() != relevance.has_value())
        throw std::invalid_argument("a program needs a place for relevance if it writes any");
    const int64_t n = x.ndim() == 0 ? -1 : x.shape(0), size = program.input_size();
    const auto holds = [&](int64_t count, int64_t width) {
        return count / width >= n && count / width - n >= first;
    };
    const auto bounds = [&](const std::optional<Floats>& bound) {
        return bound.has_value() == low.has_value() && (!bound || bound->size() == size);
    };
    if (n < 0 || first < 0 || threads < 1 || x.size() != n * size || !bounds(low) ||
        !bounds(high) || (relevance && !holds(relevance->size(), size)) ||
        !holds(output.size(), program.classes()) || !holds(explained.size(), 1) ||
        !holds(absorbed.size(), 1) || !holds(conservation.size(), 1) ||
        !holds(amplification.size(), 1) || (target && !holds(target->size(), 1)))
        throw std::invalid_argument("the arrays do not have the sizes that the program asks for");
    const auto valid = [&](int64_t t) { return t >= 0 && t < program.classes(); };
    if (target && !std::all_of(target->data() + first, target->data() + first + n, valid))
        throw std::invalid_argument("a target is no class");
    pyrel::Batch batch;
    batch.samples = n;
    batch.x = x.data();
    batch.target = target ? target->data() + first : nullptr;
    batch.low = data_or_null(low);
    batch.high = data_or_null(high);
    batch.check_finite = check_finite;
    batch.relevance =
        relevance ? relevance->mutable_data() + first * program.input_size() : nullptr;
    batch.output = output.mutable_data() + first * program.classes();
    batch.explained = explained.mutable_data() + first;
    batch.absorbed = absorbed.mutable_data() + first;
    batch.conservation = conservation.mutable_data() + first;
    batch.amplification = amplification.mutable_data() + first;
    pyrel::Status status;
    {
        const py::gil_scoped_release release;
        status = pyrel::run(program, batch, threads, in_lanes, signal_raised);
    }
    if (status.outcome == pyrel::Outcome::interrupted) throw py::error_already_set();
    return status;
}

void register_outcome(py::module_& m) {
    py::native_enum<pyrel::Outcome>(m, "Outcome", "enum.Enum", "How a run ended.")
        .value("done", pyrel::Outcome::done)
        .value("input_not_finite", pyrel::Outcome::input_not_finite)
        .value("input_out_of_bounds", pyrel::Outcome::input_out_of_bounds)
        .value("output_not_finite", pyrel::Outcome::output_not_finite)
        .value("relevance_not_finite", pyrel::Outcome::relevance_not_finite)
        .value("relevance_lost", pyrel::Outcome::relevance_lost)
        .value("interrupted", pyrel::Outcome::interrupted)
        .value("out_of_memory", pyrel::Outcome::out_of_memory)
        .finalize();
}

void register_program(py::module_& m) {
    py::class_<pyrel::Status>(m, "Status",
                              "How a run ended, and the first offence where it was refused.")
        .def_readonly("outcome", &pyrel::Status::outcome)
        .def_readonly("sample", &pyrel::Status::sample)
        .def_readonly("element", &pyrel::Status::element);

    py::class_<pyrel::EpilogueSpec>(m, "Epilogue", "What happens to a result before it is stored.")
        .def(py::init(&epilogue), py::kw_only(), "bias"_a = -1, "scale"_a = pyrel::Scale::none,
             "scale_rows"_a = py::none(), "scale_vector"_a = -1, "accumulate"_a = false,
             "post"_a = pyrel::Post::none, "post_rows"_a = py::none(), "post_vector"_a = -1,
             "epsilon"_a = 0.0f);

    py::class_<pyrel::Program>(m, "Program",
                               "Instructions, matrices and vectors, checked as they are added.")
        .def(py::init([](int64_t input_size, int64_t arena_size, int64_t classes, bool conserves,
                         const std::string& isa, const pyrel::Program* weights,
                         std::optional<int64_t> most_packed, std::optional<int64_t> most_looked_up,
                         std::optional<double> most_work) {
                 pyrel::Most most;
                 most.packed = most_packed.value_or(most.packed);
                 most.looked_up = most_looked_up.value_or(most.looked_up);
                 most.work = most_work.value_or(most.work);
                 return pyrel::Program(input_size, arena_size, classes, conserves,
                                       kernels_named(isa), weights, most, signal_raised);
             }),
             py::kw_only(), "input_size"_a, "arena_size"_a, "classes"_a, "conserves"_a, "isa"_a,
             "weights"_a = py::none(), "most_packed"_a = py::none(),
             "most_looked_up"_a = py::none(), "most_work"_a = py::none())
        .def("add_matrix", &add_matrix, "matrix"_a, "bf16"_a = false, "key"_a = -1)
        .def("find_matrix", &pyrel::Program::find_matrix, "key"_a, "bf16"_a)
        .def("add_vector", &add_vector, "vector"_a)
        .def("add_table", &add_table, "table"_a)
        .def("gemm", &add_gemm, "segments"_a, "matrix"_a, "out"_a, "epilogue"_a)
        .def(
            "map",
            [](pyrel::Program& program, const std::optional<PyRows>& source, int64_t columns,
               const PyRows& out, const pyrel::EpilogueSpec& spec) {
                add(program, pyrel::Map{rows(source), columns, rows(out), spec});
            },
            "source"_a, "columns"_a, "out"_a, "epilogue"_a)
        .def(
            "gather",
            [](pyrel::Program& program, const PyRows& source, const Offsets& index,
               const PyRows& out) {
                add(program, pyrel::Gather{rows(source), numbers(index), rows(out)});
            },
            "source"_a, "index"_a, "out"_a)
        .def(
            "scatter",
            [](pyrel::Program& program, const PyRows& source, const Offsets& index,
               const PyRows& out) {
                add(program, pyrel::Scatter{rows(source), numbers(index), rows(out)});
            },
            "source"_a, "index"_a, "out"_a)
        .def(
            "seed",
            [](pyrel::Program& program, int64_t source, int64_t out, pyrel::Start start) {
                add(program, pyrel::Seed{source, out, start});
            },
            "source"_a, "out"_a, "start"_a)
        .def(
            "absorb",
            [](pyrel::Program& program, const PyRows& source, int64_t columns, pyrel::Share share,
               const std::optional<PyRows>& operand, int vector, float epsilon) {
                add(program,
                    pyrel::Absorb{rows(source), columns, share, rows(operand), vector, epsilon});
            },
            "source"_a, "columns"_a, "share"_a, "operand"_a, "vector"_a, "epsilon"_a)
        .def(
            "activate",
            [](pyrel::Program& program, const PyRows& source, int64_t columns, const PyRows& out,
               pyrel::Function function, float parameter) {
                add(program,
                    pyrel::Activate{rows(source), columns, rows(out), function, parameter});
            },
            "source"_a, "columns"_a, "out"_a, "function"_a, "parameter"_a)
        .def(
            "slope",
            [](pyrel::Program& program, const PyRows& source, const PyRows& value, int64_t columns,
               const PyRows& out, pyrel::Function function, float parameter, bool accumulate) {
                add(program, pyrel::Slope{rows(source), rows(value), columns, rows(out), function,
                                          parameter, accumulate});
            },
            "source"_a, "value"_a, "columns"_a, "out"_a, "function"_a, "parameter"_a,
            "accumulate"_a)
        .def(
            "max_pool",
            [](pyrel::Program& program, const std::vector<PyRows>& sources, int64_t columns,
               const PyRows& out) {
                add(program, pyrel::MaxPool{rows(sources), columns, rows(out)});
            },
            "sources"_a, "columns"_a, "out"_a)
        .def(
            "pool_route",
            [](pyrel::Program& program, const std::vector<PyRows>& values, int64_t columns,
               const PyRows& relevance, const std::vector<PyRows>& outs, bool shares,
               bool accumulate) {
                add(program, pyrel::PoolRoute{rows(values), columns, rows(relevance), rows(outs),
                                              shares, accumulate});
            },
            "values"_a, "columns"_a, "relevance"_a, "outs"_a, "shares"_a, "accumulate"_a)
        .def(
            "normalise",
            [](pyrel::Program& program, const PyRows& source, int64_t columns, const PyRows& out,
               float epsilon) {
                add(program, pyrel::Normalise{rows(source), columns, rows(out), epsilon});
            },
            "source"_a, "columns"_a, "out"_a, "epsilon"_a)
        .def(
            "normalise_back",
            [](pyrel::Program& program, const PyRows& source, const PyRows& value, int64_t columns,
               const PyRows& out, float epsilon, bool detached, bool accumulate) {
                add(program, pyrel::NormaliseBack{rows(source), rows(value), columns, rows(out),
                                                  epsilon, detached, accumulate});
            },
            "source"_a, "value"_a, "columns"_a, "out"_a, "epsilon"_a, "detached"_a, "accumulate"_a)
        .def(
            "embed",
            [](pyrel::Program& program, const PyRows& source, int table, const PyRows& out) {
                add(program, pyrel::Embed{rows(source), table, rows(out)});
            },
            "source"_a, "table"_a, "out"_a)
        .def("begin_repeat", &pyrel::Program::begin_repeat, "count"_a,
             "Let the instructions up to `end_repeat` be the body of one.")
        .def("end_repeat", &pyrel::Program::end_repeat, py::call_guard<py::gil_scoped_release>())
        .def("finish", &pyrel::Program::finish, py::call_guard<py::gil_scoped_release>(),
             "End the building; a program runs only then.")
        .def_property_readonly("explains", &pyrel::Program::explains)
        .def_property_readonly("vectors", &pyrel::Program::vectors)
        .def_property_readonly("tables", &pyrel::Program::tables)
        .def_property_readonly("gain_in_lanes", &pyrel::Program::gain_in_lanes,
                               "About how many times as fast it runs with samples in lanes; 0 if "
                               "it cannot.")
        .def_property_readonly("flops", &pyrel::Program::flops)
        .def_property_readonly("arena_size", &pyrel::Program::arena_size)
        .def_property_readonly(
            "instructions",
            [](const pyrel::Program& program) { return program.instructions().size(); })
        .def_property_readonly("isa",
                               [](const pyrel::Program& program) { return program.kernels().isa; })
        .def("run", &run, "x"_a.noconvert(), "target"_a.noconvert(), "low"_a.noconvert(),
             "high"_a.noconvert(), "check_finite"_a, "threads"_a, "relevance"_a.noconvert(),
             "output"_a.noconvert(), "explained"_a.noconvert(), "absorbed"_a.noconvert(),
             "conservation"_a.noconvert(), "amplification"_a.noconvert(), "first"_a = 0,
             "in_lanes"_a = py::none(),
             "Explain x, which are the samples from `first` on of all the other arrays. `in_lanes` "
             "says whether samples lie in lanes, where they can.");
}

}  // namespace

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
    module.doc() = "The compiled engine of pyrel.";
    module.def(
        "version", [] { return PYREL_VERSION; },
        "Version of pyrel that this extension was built from.");
    module.def("compiler", [] { return PYREL_COMPILER; }, "Name and version of the C++ compiler.");
    module.def("instruction_sets", &instruction_sets,
               "Those that this machine can run, slowest first.");
    module.def(
        "peak",
        [](const std::string& isa, int64_t repetitions, bool bf16) {
            const pyrel::Kernels& kernels = kernels_named(isa);
            const auto peak = bf16 ? kernels.peak_bf16 : kernels.peak;
            if (!peak) throw std::invalid_argument("no products of bfloat16 in " + isa);
            const py::gil_scoped_release release;
            return peak(repetitions);
        },
        "isa"_a, "repetitions"_a, "bf16"_a = false,
        "Repeat independent multiply-adds in registers; return the FLOPs done.");
    module.def(
        "kernel_offsets",
        [](const std::string& isa) { return pyrel::kernel_offsets(kernels_named(isa)); }, "isa"_a,
        "Where the functions of an instruction set's kernels lie in the extension's file.");
    module.def(
        "has_bf16", [](const std::string& isa) { return kernels_named(isa).gemm_bf16 != nullptr; },
        "isa"_a, "Whether an instruction set has products of bfloat16.");
    py::register_local_exception_translator([](std::exception_ptr thrown) {
        try {
            std::rethrow_exception(std::move(thrown));
        } catch (const pyrel::Interruption&) {
            // What the signal's handler raised is set.
        }
    });
    module.attr("enums") = pyrel::enums();
    register_outcome(module);
    register_program(module);
}

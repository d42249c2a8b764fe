// SPDX-License-Identifier: Apache-2.0
// Engines: a program bound to an instruction set, and its runs.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "../cpu/executor.h"
#include "bindings.h"

namespace py = pybind11;
using namespace py::literals;

namespace pyrel {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Integers = py::array_t<int64_t, py::array::c_style>;

std::unique_ptr<Engine> bound(const Program& program, const std::string& isa,
                              PackedMatrices* packed, std::optional<int64_t> most_packed) {
    const Kernels& kernels = kernels_named(isa);
    if (packed && &packed->kernels() != &kernels)
        throw std::invalid_argument("the matrices are packed for another instruction set");
    const py::gil_scoped_release release;
    PackedMatrices own(kernels);
    return std::make_unique<Engine>(program, packed ? *packed : own,
                                    most_packed.value_or(std::numeric_limits<int64_t>::max()));
}

const float* data_or_null(const std::optional<Floats>& array) {
    return array ? array->data() : nullptr;
}

Status run_engine(const Engine& engine, const Floats& x, const std::optional<Integers>& target,
                  const std::optional<Floats>& low, const std::optional<Floats>& high,
                  bool check_finite, int threads, std::optional<Floats> relevance, Floats output,
                  Integers explained, Floats absorbed, Floats conservation, Floats amplification,
                  int64_t first, int64_t ways_back, std::optional<bool> in_lanes) {
    const Code& program = engine.code();
    if (relevance && !program.explains)
        throw std::invalid_argument("a program that only computes outputs writes no relevance");
    if (ways_back < 1 || ways_back > kLargestSpace || (ways_back > 1 && !(relevance && target)))
        throw std::invalid_argument("several ways back need places for relevance, and targets");
    if (ways_back > 1 && !engine.way_back().keeps_forward)
        throw std::invalid_argument("the way back writes over what the forward pass leaves it");
    const int64_t n = x.ndim() == 0 ? -1 : x.shape(0), size = program.input_size;
    const auto holds = [&](int64_t count, int64_t width) {
        return count / width >= n && count / width - n >= first;
    };
    const auto bounds = [&](const std::optional<Floats>& bound) {
        return bound.has_value() == low.has_value() && (!bound || bound->size() == size);
    };
    if (n < 0 || first < 0 || threads < 1 || x.size() != n * size || !bounds(low) ||
        !bounds(high) || (relevance && !holds(relevance->size(), size * ways_back)) ||
        !holds(output.size(), program.classes) || !holds(explained.size(), ways_back) ||
        !holds(absorbed.size(), ways_back) || !holds(conservation.size(), ways_back) ||
        !holds(amplification.size(), ways_back) || (target && !holds(target->size(), ways_back)))
        throw std::invalid_argument("the arrays do not have the sizes that the program asks for");
    const auto valid = [&](int64_t t) { return t >= 0 && t < program.classes; };
    const int64_t begin = first * ways_back, end = begin + n * ways_back;
    if (target && !std::all_of(target->data() + begin, target->data() + end, valid))
        throw std::invalid_argument("a target is no class");
    Batch batch;
    batch.samples = n;
    batch.ways_back = ways_back;
    batch.x = x.data();
    batch.target = target ? target->data() + begin : nullptr;
    batch.low = data_or_null(low);
    batch.high = data_or_null(high);
    batch.check_finite = check_finite;
    batch.relevance = relevance ? relevance->mutable_data() + begin * program.input_size : nullptr;
    batch.output = output.mutable_data() + first * program.classes;
    batch.explained = explained.mutable_data() + begin;
    batch.absorbed = absorbed.mutable_data() + begin;
    batch.conservation = conservation.mutable_data() + begin;
    batch.amplification = amplification.mutable_data() + begin;
    Status status;
    {
        const py::gil_scoped_release release;
        status = run(engine, batch, threads, in_lanes, signal_raised);
    }
    if (status.outcome == Outcome::interrupted) throw py::error_already_set();
    return status;
}

// A matrix of the program as it was before it was packed.
Floats matrix_of(const Engine& engine, size_t index) {
    if (index >= engine.code().matrices.size()) throw std::out_of_range("no such matrix");
    const PackedMatrix* const packed = engine.in_float32(index);
    if (!packed) throw std::invalid_argument("no instruction takes the matrix in float32");
    Floats matrix({packed->depth, packed->columns});
    float* const out = matrix.mutable_data();
    const py::gil_scoped_release release;
    packed->unpack(out);
    return matrix;
}

}  // namespace

void bind_engine(py::module_& module) {
    py::class_<Status>(module, "Status", "How a run ended, and where it failed.")
        .def_readonly("outcome", &Status::outcome)
        .def_readonly("sample", &Status::sample)
        .def_readonly("element", &Status::element);
    py::class_<PackedMatrices>(module, "PackedMatrices",
                               "Matrices packed for an instruction set, that engines share.")
        .def(py::init([](const std::string& isa) {
                 return std::make_unique<PackedMatrices>(kernels_named(isa));
             }),
             "isa"_a);
    py::class_<Engine>(module, "Engine", "A program bound to an instruction set.")
        .def(py::init(&bound), "program"_a, "isa"_a, "packed"_a = py::none(),
             "most_packed"_a = py::none())
        .def_property_readonly("explains", [](const Engine& e) { return e.code().explains; })
        .def_property_readonly("gain_in_lanes", &Engine::gain_in_lanes,
                               "About how many times as fast it runs with samples in lanes; 0 if "
                               "it cannot.")
        .def_property_readonly("flops", [](const Engine& e) { return e.code().flops; })
        .def_property_readonly("arena_size", [](const Engine& e) { return e.code().arena_size; })
        .def_property_readonly("instructions",
                               [](const Engine& e) { return e.code().instructions.size(); })
        .def_property_readonly("isa", [](const Engine& e) { return e.kernels().isa; })
        .def("matrix", &matrix_of, "index"_a,
             "A matrix of the program that some instruction takes in float32, unpacked.")
        .def("run", &run_engine, "x"_a.noconvert(), "target"_a.noconvert(), "low"_a.noconvert(),
             "high"_a.noconvert(), "check_finite"_a, "threads"_a, "relevance"_a.noconvert(),
             "output"_a.noconvert(), "explained"_a.noconvert(), "absorbed"_a.noconvert(),
             "conservation"_a.noconvert(), "amplification"_a.noconvert(), "first"_a = 0,
             "ways_back"_a = 1, "in_lanes"_a = py::none(),
             "Explain x, which are the samples from `first` on of all the other arrays; without a "
             "place for relevance, compute the outputs alone. `in_lanes` says whether samples lie "
             "in lanes, where they can. With `ways_back` each sample has so many targets, and so "
             "many results of each kind but the outputs, one after the other.")
        .def_property_readonly(
            "keeps_forward", [](const Engine& e) { return e.way_back().keeps_forward; },
            "Whether `ways_back` may be more than 1.");
}

}  // namespace pyrel

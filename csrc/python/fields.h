// SPDX-License-Identifier: Apache-2.0
// Instructions from Python: a dictionary with the values of a struct's `fields`, by name.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "../program/instructions.h"
#include "enums.h"

namespace pyrel {

using Offsets = pybind11::array_t<int64_t, pybind11::array::c_style | pybind11::array::forcecast>;

inline std::vector<int64_t> numbers(const Offsets& offsets) {
    return {offsets.data(), offsets.data() + offsets.size()};
}

// A struct of all the fields in a dictionary, and no others.
template <typename Struct>
Struct from_fields(const pybind11::dict& given) {
    Struct made;
    size_t taken = 0;
    Struct::fields(made, [&](const char* name, auto& to) {
        if (!given.contains(name))
            throw pybind11::type_error(std::string("the field '") + name + "' is missing");
        try {
            to = given[name].template cast<std::decay_t<decltype(to)>>();
        } catch (const pybind11::cast_error&) {
            throw std::invalid_argument(std::string("an operand has no such ") + name);
        }
        ++taken;
    });
    if (taken != given.size()) throw pybind11::type_error("there are fields beside the struct's");
    return made;
}

}  // namespace pyrel

namespace pybind11::detail {

// (space, one offset per step); None where the operand is absent.
template <>
struct type_caster<pyrel::Rows> {
    PYBIND11_TYPE_CASTER(pyrel::Rows, const_name("tuple[int, numpy.typing.ArrayLike]"));

    bool load(handle source, bool convert) {
        if (source.is_none()) return true;
        make_caster<std::pair<pyrel::Space, pyrel::Offsets>> pair;
        if (!pair.load(source, convert)) return false;
        auto [space, offsets] = cast_op<std::pair<pyrel::Space, pyrel::Offsets>>(std::move(pair));
        value = {space, pyrel::numbers(offsets)};
        return true;
    }
};

template <>
struct type_caster<pyrel::Segment> {
    PYBIND11_TYPE_CASTER(pyrel::Segment, const_name("tuple[object, int]"));

    bool load(handle source, bool convert) {
        make_caster<std::pair<pyrel::Rows, int64_t>> pair;
        if (!pair.load(source, convert)) return false;
        auto [rows, depth] = cast_op<std::pair<pyrel::Rows, int64_t>>(std::move(pair));
        value = {std::move(rows), depth};
        return true;
    }
};

template <>
struct type_caster<pyrel::EpilogueSpec> {
    PYBIND11_TYPE_CASTER(pyrel::EpilogueSpec, const_name("dict[str, object]"));

    bool load(handle source, bool) {
        if (!isinstance<dict>(source)) return false;
        value = pyrel::from_fields<pyrel::EpilogueSpec>(reinterpret_borrow<dict>(source));
        return true;
    }
};

}  // namespace pybind11::detail

// SPDX-License-Identifier: Apache-2.0
// What instructions choose from, by name and number. Python has enums of its own, so that a program
// can be made without this extension, and hands over their numbers.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "../program/instructions.h"

namespace pyrel {

// The names of an enum's members, in the order of their numbers from 0 on.
template <typename Enum>
struct Names;

template <>
struct Names<Space> {
    static constexpr const char* kEnum = "Space";
    static constexpr const char* kMembers[] = {"input", "arena", "relevance"};
};
template <>
struct Names<Scale> {
    static constexpr const char* kEnum = "Scale";
    static constexpr const char* kMembers[] = {"none", "vector", "operand", "operand_minus_vector"};
};
template <>
struct Names<Post> {
    static constexpr const char* kEnum = "Post";
    static constexpr const char* kMembers[] = {
        "none",          "relu",   "divide",   "mask",
        "guided",        "square", "multiply", "divide_stabilised",
        "divide_operand"};
};
template <>
struct Names<Share> {
    static constexpr const char* kEnum = "Share";
    static constexpr const char* kMembers[] = {"weighted", "stabiliser", "undivided"};
};
template <>
struct Names<Function> {
    static constexpr const char* kEnum = "Function";
    static constexpr const char* kMembers[] = {
        "sigmoid", "tanh",       "softplus", "leaky_relu", "elu",    "gelu",  "gelu_tanh",
        "silu",    "reciprocal", "power",    "exp",        "log",    "log1p", "sqrt",
        "sin",     "cos",        "erf",      "absolute",   "square", "pow",   "at_least",
        "above",   "at_most",    "below",    "step"};
};
template <>
struct Names<Start> {
    static constexpr const char* kEnum = "Start";
    static constexpr const char* kMembers[] = {"one", "output", "positive_output"};
};

}  // namespace pyrel

namespace pybind11::detail {

template <typename Enum>
struct type_caster_enum_type_enabled<Enum, std::void_t<decltype(pyrel::Names<Enum>::kMembers)>>
    : std::false_type {};

// A member is a plain number in Python; one that names none is refused.
template <typename Enum>
    requires requires { pyrel::Names<Enum>::kMembers; }
struct type_caster<Enum> {
    PYBIND11_TYPE_CASTER(Enum, const_name("int"));

    bool load(handle source, bool convert) {
        make_caster<int> number;
        if (!number.load(source, convert)) return false;
        const int members = static_cast<int>(std::size(pyrel::Names<Enum>::kMembers));
        if (int{number} < 0 || int{number} >= members)
            throw value_error("no such " + std::string(pyrel::Names<Enum>::kEnum) + ": " +
                              std::to_string(int{number}));
        value = static_cast<Enum>(int{number});
        return true;
    }

    static handle cast(Enum member, return_value_policy, handle) {
        return int_(static_cast<int>(member)).release();
    }
};

}  // namespace pybind11::detail

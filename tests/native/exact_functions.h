// SPDX-License-Identifier: Apache-2.0
// The elementwise functions in double precision, arguments at which they are defined, and how far
// single precision may be from them. No switch has a default: the compiler warns of a function that
// is added and missing here.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "program/operations.h"

namespace exact {

using pyrel::Function;

constexpr int kFunctions = static_cast<int>(Function::step) + 1;  // its last member
constexpr double kNone = std::numeric_limits<double>::infinity();

// 2 √(2/π) (x + 0.044715 x³), whose sigmoid is in gelu_tanh.
inline double gauss_argument(double x) { return 1.5957691216057308 * (x + 0.044715 * x * x * x); }
inline double logistic(double x) { return 1.0 / (1.0 + std::exp(-x)); }

inline double value(Function function, double p, double x) {
    switch (function) {
        case Function::sigmoid:
            return logistic(x);
        case Function::tanh:
            return std::tanh(x);
        case Function::softplus:
            return std::log1p(std::exp(x));
        case Function::leaky_relu:
            return x > 0.0 ? x : p * x;
        case Function::elu:
            return x > 0.0 ? x : p * std::expm1(x);
        case Function::gelu:
            return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
        case Function::gelu_tanh:
            return x * logistic(gauss_argument(x));
        case Function::silu:
            return x * logistic(x);
        case Function::reciprocal:
            return 1.0 / x;
        case Function::power:
            return std::pow(1.0 + std::max(0.0, x), p);
        case Function::exp:
            return std::exp(x);
        case Function::log:
            return std::log(x);
        case Function::log1p:
            return std::log1p(x);
        case Function::sqrt:
            return std::sqrt(x);
        case Function::sin:
            return std::sin(x);
        case Function::cos:
            return std::cos(x);
        case Function::erf:
            return std::erf(x);
        case Function::absolute:
            return std::fabs(x);
        case Function::square:
            return x * x;
        case Function::pow:
            return std::pow(x, p);
        case Function::at_least:
        case Function::above:
            return std::max(x, p);
        case Function::at_most:
        case Function::below:
            return std::min(x, p);
        case Function::step:
            return x > 0.0 ? 1.0 : 0.0;
    }
    return kNone;
}

// An argument at which the function is defined, of a number in [-1, 1). Differences over a small
// step tell the derivative there, as no argument is near a pole.
inline float argument(Function function, float p, float number) {
    const float positive = 4.0f + 3.9375f * number;  // from 1/16
    switch (function) {
        case Function::reciprocal:
            return 8.0f * number + (number < 0.0f ? -0.25f : 0.25f);
        case Function::log:
        case Function::sqrt:
            return positive;
        case Function::log1p:
            return positive - 1.0f;
        case Function::pow:
            return p == std::nearbyint(p) ? 8.0f * number : positive;
        case Function::sigmoid:
        case Function::tanh:
        case Function::softplus:
        case Function::leaky_relu:
        case Function::elu:
        case Function::gelu:
        case Function::gelu_tanh:
        case Function::silu:
        case Function::power:
        case Function::exp:
        case Function::sin:
        case Function::cos:
        case Function::erf:
        case Function::absolute:
        case Function::square:
        case Function::at_least:
        case Function::above:
        case Function::at_most:
        case Function::below:
        case Function::step:
            break;
    }
    return 8.0f * number;
}

// Where the function is not smooth; differences say nothing of the derivative there.
inline double bend(Function function, double p) {
    switch (function) {
        case Function::leaky_relu:
        case Function::elu:
        case Function::power:
        case Function::absolute:
        case Function::step:
            return 0.0;
        case Function::at_least:
        case Function::above:
        case Function::at_most:
        case Function::below:
            return p;
        case Function::sigmoid:
        case Function::tanh:
        case Function::softplus:
        case Function::gelu:
        case Function::gelu_tanh:
        case Function::silu:
        case Function::reciprocal:
        case Function::exp:
        case Function::log:
        case Function::log1p:
        case Function::sqrt:
        case Function::sin:
        case Function::cos:
        case Function::erf:
        case Function::square:
        case Function::pow:
            break;
    }
    return kNone;
}

// How far a kernel's result of about `size` may be off, being the value or the derivative at x: 8
// roundings, as many more as the argument of an exponential in it is large. Small results are
// compared as if they were 1, since some are sums of terms that cancel.
inline double bound(Function function, double p, double x, double size) {
    double exponent = 0.0;
    if (function == Function::gelu_tanh) exponent = std::fabs(gauss_argument(x));
    // The derivative has the power p − 1.
    if (function == Function::power) exponent = (1.0 + std::fabs(p)) * std::log1p(std::max(0.0, x));
    if (function == Function::pow && x != 0.0)
        exponent = (1.0 + std::fabs(p)) * std::fabs(std::log(std::fabs(x)));
    return 8.0 * FLT_EPSILON * (1.0 + exponent) * std::max(1.0, size);
}

}  // namespace exact

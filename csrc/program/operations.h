// SPDX-License-Identifier: Apache-2.0
// What instructions choose from. Plain data only, as the kernel units include this too. Names and
// numbers are those of the enums in Python; see python/enums.h.
#pragma once

#include <stdint.h>

namespace pyrel {

enum class Scale : int32_t {
    none,
    vector,                // v · u[n]
    operand,               // v · a[row, n]
    operand_minus_vector,  // v · (a[row, n] − u[n])
};

enum class Post : int32_t {
    none,
    relu,               // max(0, v)
    divide,             // v / d[row, n], 0 where d is 0
    mask,               // v where d[row, n] > 0, else 0
    guided,             // v where d[row, n] > 0 and v > 0, else 0
    square,             // v²
    multiply,           // v · d[row, n]
    divide_stabilised,  // v / (d[row, n] + ε sign(d[row, n])), sign(0) being 1
    divide_operand,     // d[row, n] / v, 0 where v is 0
};

// Elementwise functions of a parameter p.
enum class Function : int32_t {
    sigmoid,
    tanh,
    softplus,    // log(1 + e^v)
    leaky_relu,  // v, or p·v below 0
    elu,         // v, or p·(e^v − 1) below 0
    gelu,        // v·Φ(v)
    gelu_tanh,   // its approximation by tanh
    silu,        // v·sigmoid(v)
    reciprocal,  // 1 / v
    power,       // (1 + max(0, v))^p
    exp,         // e^v
    log,         // NaN below 0
    log1p,       // log(1 + v), NaN below −1
    sqrt,        // NaN below 0; its derivative at 0 is infinite, or 0 if p > 0, as of a norm
    sin,         // NaN beyond ±8192, where float32 tells few places of a period apart
    cos,         // as sin
    erf,
    absolute,  // |v|
    square,    // v²
    pow,       // v^p; NaN of v < 0 unless p is a whole number
    at_least,  // the larger of v and p; its derivative at p is 1
    above,     // the same, its derivative at p is 0
    at_most,   // the smaller of v and p; its derivative at p is 1
    below,     // the same, its derivative at p is 0
    step,      // 1 above 0, else 0; its derivative is 0
};

// Which part of a row is relevance that no input gets. d is the operand plus the vector, if there
// is one; sign(0) is 1.
enum class Share : int32_t {
    weighted,    // Σ_n source[n] · vector[n]
    stabiliser,  // ε Σ_n source[n] · sign(d[n]), after the division by d + ε sign(d)
    undivided,   // Σ_n source[n] where d[n] is 0, before the division
};

// What the relevance of the explained output starts from.
enum class Start : int32_t { one, output, positive_output };

}  // namespace pyrel

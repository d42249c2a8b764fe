// SPDX-License-Identifier: Apache-2.0
// Elementwise functions and their derivatives, over the operations of vector.h: the same bits at
// every place in a row and with every set that fuses its multiply-adds. All are made of
// exponentials of numbers below zero, so nothing overflows on the way, and nothing that cancels is
// subtracted. Only x86's and ARM's "flush denormals" is assumed: results below FLT_MIN count as 0.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace pyrel {
namespace {

inline Vector constant(float value) { return broadcast(&value); }
inline Vector negative(Vector x) { return zero() - x; }
inline Vector magnitude(Vector x) { return select(less(x, zero()), negative(x), x); }
// The larger or smaller of both; NaN in x stays.
inline Vector at_least(Vector x, float low) {
    return select(less(x, constant(low)), constant(low), x);
}
inline Vector at_most(Vector x, float high) {
    return select(less(constant(high), x), constant(high), x);
}

// Coefficients from the highest power down.
template <int Count>
inline Vector polynomial(Vector x, const float (&coefficients)[Count]) {
    Vector sum = constant(coefficients[0]);
#pragma GCC unroll 16
    for (int i = 1; i < Count; ++i) sum = multiply_add(sum, x, constant(coefficients[i]));
    return sum;
}

// ln(FLT_MIN): exponentials below it are 0.
constexpr float kLeast = -87.33654f;

// e^(high + low) = power · (1 + rest), power being one of two and |rest| < 0.42. For high ≤ 0 and
// |low| far below 1.
struct Exponential {
    Vector power, rest;
};

inline Exponential split_exponential(Vector high, Vector low) {
    // Adding 1.5 · 2²³ rounds to an integer, which the lowest bits then hold.
    const Vector shift = constant(12582912.0f);
    const Vector shifted = multiply_add(high, constant(1.44269504f), shift);
    const Vector n = shifted - shift;
    // ln 2 in two parts, the first with few enough bits for its multiples to be exact.
    Vector r = multiply_add(n, constant(-0.693359375f), high);
    r = multiply_add(n, constant(2.12194440e-4f), r) + low;
    // (e^r − 1 − r) / r², Cephes' expf.
    const Vector p = polynomial(r, {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                    4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f});
    return {power_of_two(shifted), multiply_add(r * r, p, r)};
}

// e^(high + low) for high ≤ 0.
inline Vector exponential(Vector high, Vector low) {
    const Exponential e = split_exponential(high, low);
    return select(less(high, constant(kLeast)), zero(), e.power * (constant(1.0f) + e.rest));
}
inline Vector exponential(Vector x) { return exponential(x, zero()); }

// e^x − 1 for x ≤ 0.
inline Vector exponential_minus_one(Vector x) {
    const Exponential e = split_exponential(x, zero());
    const Vector one = constant(1.0f);
    return select(less(x, constant(kLeast)), negative(one),
                  multiply_add(e.power, e.rest, e.power - one));
}

// log(1 + y) for y from 0 to 1.
inline Vector log_of_one_plus(Vector y) {
    const Vector half = constant(0.5f);
    const auto large = less(constant(0.41421356f), y);  // then 1 + y is halved
    const Vector f = select(large, (y - constant(1.0f)) * half, y);
    // (log(1 + f) − f + f²/2) / f³, Cephes' logf.
    const Vector p = polynomial(f, {7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f,
                                    -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                                    2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f});
    const Vector square = f * f;
    Vector sum = square * f * p + select(large, constant(-2.12194440e-4f), zero());
    sum = f + multiply_add(negative(half), square, sum);
    return select(large, sum + constant(0.693359375f), sum);
}

// log(1 + x) for x ≥ 0.
inline Vector log_of_one_plus_any(Vector x) {
    const Vector one = constant(1.0f);
    Vector w = one + x, halvings = zero();
    constexpr float kPowers[] = {0x1p64f, 0x1p32f, 0x1p16f, 0x1p8f, 0x1p4f, 0x1p2f, 0x1p1f};
    float step = 64.0f;
#pragma GCC unroll 8
    for (const float power : kPowers) {
        const auto large = less(constant(power), w);
        w = select(large, w * constant(1.0f / power), w);
        halvings = select(large, halvings + constant(step), halvings);
        step *= 0.5f;
    }
    // Now w is at most 2; below 1, x has digits that 1 + x has lost.
    const Vector sum = log_of_one_plus(select(less(x, one), x, w - one));
    const Vector log = multiply_add(halvings, constant(0.693359375f),
                                    multiply_add(halvings, constant(-2.12194440e-4f), sum));
    return select(less(constant(3.40282347e38f), x), x, log);
}

// (1 + max(0, x))^p
inline Vector power_of_one_plus(Vector x, Vector p) {
    const Vector exponent = p * log_of_one_plus_any(at_least(x, 0.0f));
    const Vector y = exponential(negative(magnitude(exponent)));
    return select(less(exponent, zero()), y, constant(1.0f) / y);
}

// 1 / (1 + e^−x), from e = e^−|x|.
inline Vector sigmoid_from(Vector x, Vector e) {
    const Vector one = constant(1.0f);
    return select(less(x, zero()), e, one) / (one + e);
}
inline Vector sigmoid(Vector x) { return sigmoid_from(x, exponential(negative(magnitude(x)))); }

// Its derivative: the same at x and −x.
inline Vector sigmoid_slope_from(Vector e) {
    const Vector sum = constant(1.0f) + e;
    return e / (sum * sum);
}

// Φ(x), and e^(−x²/2).
struct Gauss {
    Vector below, bell;
};

inline Gauss gauss(Vector x) {
    const Vector size = magnitude(x), half = constant(0.5f);
    // x² in two parts: a rounding of x² alone would be an error of x²/2 units in the last place.
    const Vector top = high_half(size);
    const Vector bell =
        exponential(negative(half * top * top), negative(half * (size - top) * (size + top)));
    // Φ(−|x|) e^(x²/2) / t by powers of t = 1 / (1 + 0.3 |x|); relative error 4e-9.
    const Vector t = constant(1.0f) / multiply_add(constant(0.3f), size, constant(1.0f));
    const Vector tail =
        bell * t *
        polynomial(t, {-2.059469372e-02f, 1.122736633e-01f, -2.278178781e-01f, 1.912345439e-01f,
                       -7.894533873e-02f, 9.588775039e-02f, 7.848745584e-02f, 1.102133319e-01f,
                       1.195746213e-01f, 1.196865365e-01f});
    return {select(less(x, zero()), tail, constant(1.0f) - tail), bell};
}

// 2 √(2/π) (x + 0.044715 x³), whose sigmoid approximates Φ(x).
inline Vector gauss_argument(Vector x) {
    return x * multiply_add(x * x, constant(0.0713548163f), constant(1.59576912f));
}

// Where a factor of these functions has reached its limit; further out 0 · ∞ would make NaN of it.
constexpr float kGaussEnd = 20.0f, kGaussTanhEnd = 12.0f, kSigmoidEnd = 90.0f;

template <Function F>
inline Vector apply(Vector x, Vector parameter) {
    if constexpr (F == Function::sigmoid) return sigmoid(x);
    if constexpr (F == Function::tanh) {
        const Vector e = exponential_minus_one(constant(-2.0f) * magnitude(x));
        const Vector t = e / (e + constant(2.0f));
        return select(less(x, zero()), t, negative(t));
    }
    if constexpr (F == Function::softplus)
        return relu(x) + log_of_one_plus(exponential(negative(magnitude(x))));
    if constexpr (F == Function::leaky_relu) return select(less(zero(), x), x, parameter * x);
    if constexpr (F == Function::elu) {
        const Vector below = parameter * exponential_minus_one(at_most(x, 0.0f));
        return select(less(zero(), x), x, below);
    }
    if constexpr (F == Function::gelu) return at_least(x, -kGaussEnd) * gauss(x).below;
    if constexpr (F == Function::gelu_tanh) {
        const Vector inner = at_least(x, -kGaussTanhEnd);
        return inner * sigmoid(gauss_argument(inner));
    }
    if constexpr (F == Function::silu) return at_least(x, -kSigmoidEnd) * sigmoid(x);
    if constexpr (F == Function::reciprocal) return constant(1.0f) / x;
    if constexpr (F == Function::power) return power_of_one_plus(x, parameter);
}

template <Function F>
inline Vector slope(Vector x, Vector parameter) {
    const Vector one = constant(1.0f);
    if constexpr (F == Function::sigmoid)
        return sigmoid_slope_from(exponential(negative(magnitude(x))));
    if constexpr (F == Function::tanh)
        return constant(4.0f) * sigmoid_slope_from(exponential(constant(-2.0f) * magnitude(x)));
    if constexpr (F == Function::softplus) return sigmoid(x);
    if constexpr (F == Function::leaky_relu)
        return select(less(zero(), x), one, select(less(x, one), parameter, x));
    if constexpr (F == Function::elu)
        return select(less(zero(), x), one, parameter * exponential(at_most(x, 0.0f)));
    if constexpr (F == Function::gelu) {
        const Vector inner = at_most(at_least(x, -kGaussEnd), kGaussEnd);
        const Gauss g = gauss(inner);
        return multiply_add(inner * constant(0.398942280f), g.bell, g.below);
    }
    if constexpr (F == Function::gelu_tanh) {
        const Vector inner = at_most(at_least(x, -kGaussTanhEnd), kGaussTanhEnd);
        const Vector u = gauss_argument(inner);
        const Vector e = exponential(negative(magnitude(u)));
        const Vector along =
            multiply_add(inner * inner, constant(0.214064449f), constant(1.59576912f));
        return multiply_add(inner * along, sigmoid_slope_from(e), sigmoid_from(u, e));
    }
    if constexpr (F == Function::silu) {
        const Vector inner = at_most(at_least(x, -kSigmoidEnd), kSigmoidEnd);
        const Vector e = exponential(negative(magnitude(inner)));
        return sigmoid_from(inner, e) * multiply_add(inner, sigmoid_from(negative(inner), e), one);
    }
    if constexpr (F == Function::reciprocal) return negative(one / x) * (one / x);
    if constexpr (F == Function::power)
        return select(less(x, zero()), zero(), parameter * power_of_one_plus(x, parameter - one));
}

}  // namespace
}  // namespace pyrel

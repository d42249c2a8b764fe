// SPDX-License-Identifier: Apache-2.0
// Elementwise functions and their derivatives, over the operations of a vector type, whose header
// is included before: the same bits at every place in a row and with every set that fuses its
// multiply-adds. All are made of exponentials of numbers below zero, so nothing overflows on the
// way, and nothing that cancels is subtracted. Only x86's and ARM's "flush denormals" is assumed:
// results below FLT_MIN count as 0.
#pragma once

#include "../program/operations.h"

#if !defined(PYREL_INLINE)
#define PYREL_INLINE inline
#endif

namespace pyrel {
namespace {

PYREL_INLINE Vector constant(float value) { return broadcast(&value); }
PYREL_INLINE Vector negative(Vector x) { return zero() - x; }
PYREL_INLINE Vector magnitude(Vector x) { return select(less(x, zero()), negative(x), x); }
// The larger or smaller of both; NaN in x stays.
PYREL_INLINE Vector at_least(Vector x, float low) {
    return select(less(x, constant(low)), constant(low), x);
}
PYREL_INLINE Vector at_most(Vector x, float high) {
    return select(less(constant(high), x), constant(high), x);
}

// Coefficients from the highest power down.
template <int Count>
PYREL_INLINE Vector polynomial(Vector x, const float (&coefficients)[Count]) {
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

// Adding 1.5 · 2²³ rounds to an integer, which the lowest bits then hold.
PYREL_INLINE Vector shift_to_integers() { return constant(12582912.0f); }

// The power is lowered by a factor of 2^lowered.
PYREL_INLINE Exponential split_exponential(Vector high, Vector low, float lowered = 0.0f) {
    const Vector shift = shift_to_integers();
    const Vector shifted = multiply_add(high, constant(1.44269504f), shift);
    const Vector n = shifted - shift;
    // ln 2 in two parts, the first with few enough bits for its multiples to be exact.
    Vector r = multiply_add(n, constant(-0.693359375f), high);
    r = multiply_add(n, constant(2.12194440e-4f), r) + low;
    // (e^r − 1 − r) / r², Cephes' expf.
    const Vector p = polynomial(r, {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                    4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f});
    const Vector power = lowered == 0.0f ? shifted : shifted - constant(lowered);
    return {power_of_two(power), multiply_add(r * r, p, r)};
}

// e^(high + low) for high ≤ 0.
PYREL_INLINE Vector exponential(Vector high, Vector low) {
    const Exponential e = split_exponential(high, low);
    return select(less(high, constant(kLeast)), zero(), e.power * (constant(1.0f) + e.rest));
}
PYREL_INLINE Vector exponential(Vector x) { return exponential(x, zero()); }

// e^x − 1 for x ≤ 0.
PYREL_INLINE Vector exponential_minus_one(Vector x) {
    const Exponential e = split_exponential(x, zero());
    const Vector one = constant(1.0f);
    return select(less(x, constant(kLeast)), negative(one),
                  multiply_add(e.power, e.rest, e.power - one));
}

// log(1 + y) for y from 0 to 1.
PYREL_INLINE Vector log_of_one_plus(Vector y) {
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
PYREL_INLINE Vector log_of_one_plus_any(Vector x) {
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

// ln(FLT_MAX): exponentials above it are infinite.
constexpr float kMost = 88.72284f;

// e^x for any x. Above 0 the power of two is computed as 2^-64 of it, as 2^128 is no float32.
PYREL_INLINE Vector exponential_of_any(Vector x) {
    const Vector one = constant(1.0f), inner = at_most(at_least(x, 0.0f), kMost);
    const Exponential e = split_exponential(inner, zero(), 64.0f);
    const Vector above = e.power * (one + e.rest) * constant(0x1p64f);
    const Vector infinite = select(less(constant(kMost), x), constant(__builtin_inff()), above);
    return select(less(x, zero()), exponential(at_most(x, 0.0f)), infinite);
}

PYREL_INLINE Vector not_a_number() { return constant(__builtin_nanf("")); }

// log(1 + x), from log(1 + y) of a y ≥ 0: below 0, 1 + x is 1 / (1 + y).
PYREL_INLINE Vector log_of_one_plus_signed(Vector x) {
    const Vector one = constant(1.0f);
    const auto negative_x = less(x, zero());
    const Vector y = select(negative_x, negative(x) / (one + x), x);
    const Vector log = log_of_one_plus_any(y);
    const Vector found = select(negative_x, negative(log), log);
    return select(less(x, constant(-1.0f)), not_a_number(), found);
}

// log(x). Neither x − 1 near 1 nor (1 − x) / x below 1 has lost digits.
PYREL_INLINE Vector logarithm(Vector x) {
    const Vector one = constant(1.0f);
    const auto small = less(x, one);
    const Vector log = log_of_one_plus_any(select(small, (one - x) / x, x - one));
    const Vector found = select(small, negative(log), log);
    return select(less(x, zero()), not_a_number(), found);
}

// v^p by |v|, for |p| < 2²²; a whole p that is odd has the sign of v.
PYREL_INLINE Vector power_of(Vector x, Vector p) {
    const Vector size = magnitude(x), half = constant(0.5f), shift = shift_to_integers();
    const Vector one = constant(1.0f), exponent = p * logarithm(size);
    // 0 · ∞: v^0 is 1, and 1^p, too.
    const Vector known = select(less(magnitude(p), constant(0x1p-126f)), zero(), exponent);
    const Vector y = exponential_of_any(known);
    const Vector whole = (p + shift) - shift, pairs = (p * half + shift) - shift;
    const auto odd = less(zero(), magnitude(p - pairs - pairs));
    const Vector of_negative =
        select(less(zero(), magnitude(p - whole)), not_a_number(), select(odd, negative(y), y));
    const Vector of_zero =
        select(less(p, zero()), constant(__builtin_inff()), select(less(zero(), p), zero(), one));
    return select(less(zero(), size), select(less(x, zero()), of_negative, y),
                  select(is_nan(x), x, of_zero));
}

// Sine and cosine of x = q π/2 + r, for |x| ≤ 8192.
struct Circle {
    Vector sin, cos, turn;  // of r; and q less a multiple of 4, from −2 to 2
};

constexpr float kCircleEnd = 8192.0f;

PYREL_INLINE Circle circle(Vector x) {
    const Vector inner = at_most(at_least(x, -kCircleEnd), kCircleEnd), shift = shift_to_integers();
    const Vector q = multiply_add(inner, constant(0.636619772f), shift) - shift;
    // π/2 in three parts, the first two with few enough bits for their multiples to be exact.
    Vector r = multiply_add(q, constant(-1.5703125f), inner);
    r = multiply_add(q, constant(-4.837512969970703125e-4f), r);
    r = multiply_add(q, constant(-7.54978995489188216e-8f), r);
    const Vector z = r * r;  // Cephes' sinf and cosf
    const Vector s = polynomial(z, {-1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f});
    const Vector c =
        polynomial(z, {2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f});
    const Vector cos = multiply_add(z * z, c, multiply_add(constant(-0.5f), z, constant(1.0f)));
    const Vector fours = multiply_add(q, constant(0.25f), shift) - shift;
    return {multiply_add(r * z, s, r), cos, multiply_add(constant(-4.0f), fours, q)};
}

// The sine of x + turns π/2, turns being 0 or 1.
PYREL_INLINE Vector sine(Vector x, float turns) {
    const Circle at = circle(x);
    const Vector turn = at.turn + constant(turns), size = magnitude(turn);  // −2 to 3
    const auto one = less(constant(0.5f), size), two = less(constant(1.5f), size);
    const auto three = less(constant(2.5f), size);
    const Vector value = select(one, select(two, select(three, at.cos, at.sin), at.cos), at.sin);
    // Below 0 at the turns −2, −1, 2 and 3.
    const auto less_than_zero = less(turn, constant(-0.5f));
    const auto more_than_one = less(constant(1.5f), turn);
    const Vector found =
        select(less_than_zero, negative(value), select(more_than_one, negative(value), value));
    return select(less(constant(kCircleEnd), magnitude(x)), not_a_number(), found);
}

// e^(−x² scale) for x ≥ 0 and a scale of 1 or ½. x² in two parts: a rounding of x² alone would be
// an error of x² scale units in the last place.
PYREL_INLINE Vector bell_of(Vector x, float scale) {
    const Vector top = high_half(x), by = constant(scale);
    return exponential(negative(by * top * top), negative(by * (x - top) * (x + top)));
}

// (1 + max(0, x))^p
PYREL_INLINE Vector power_of_one_plus(Vector x, Vector p) {
    const Vector exponent = p * log_of_one_plus_any(at_least(x, 0.0f));
    const Vector y = exponential(negative(magnitude(exponent)));
    return select(less(exponent, zero()), y, constant(1.0f) / y);
}

// 1 / (1 + e^−x), from e = e^−|x|.
PYREL_INLINE Vector sigmoid_from(Vector x, Vector e) {
    const Vector one = constant(1.0f);
    return select(less(x, zero()), e, one) / (one + e);
}
PYREL_INLINE Vector sigmoid(Vector x) {
    return sigmoid_from(x, exponential(negative(magnitude(x))));
}

// Its derivative: the same at x and −x.
PYREL_INLINE Vector sigmoid_slope_from(Vector e) {
    const Vector sum = constant(1.0f) + e;
    return e / (sum * sum);
}

// Φ(x), and e^(−x²/2).
struct Gauss {
    Vector below, bell;
};

PYREL_INLINE Gauss gauss(Vector x) {
    const Vector size = magnitude(x), bell = bell_of(size, 0.5f);
    // Φ(−|x|) e^(x²/2) / t by powers of t = 1 / (1 + 0.3 |x|); relative error 4e-9.
    const Vector t = constant(1.0f) / multiply_add(constant(0.3f), size, constant(1.0f));
    const Vector tail =
        bell * t *
        polynomial(t, {-2.059469372e-02f, 1.122736633e-01f, -2.278178781e-01f, 1.912345439e-01f,
                       -7.894533873e-02f, 9.588775039e-02f, 7.848745584e-02f, 1.102133319e-01f,
                       1.195746213e-01f, 1.196865365e-01f});
    return {select(less(x, zero()), tail, constant(1.0f) - tail), bell};
}

// erf(x): a polynomial near 0, and from Φ further out.
PYREL_INLINE Vector error_function(Vector x) {
    const Vector size = magnitude(x), inner = at_most(size, 1.0f), z = inner * inner;
    const Vector near =
        size * polynomial(z, {7.853861353153693e-5f, -8.010193625184903e-4f, 5.188327685732524e-3f,
                              -2.685381193529856e-2f, 1.128358514861418e-1f, -3.761262582423300e-1f,
                              1.128379165726710f});  // Cephes' erff
    const Vector tail = gauss(constant(-1.41421356f) * size).below;
    const Vector far = multiply_add(constant(-2.0f), tail, constant(1.0f));
    const Vector found = select(less(size, constant(1.0f)), near, far);
    return select(less(x, zero()), negative(found), found);
}

// 2 √(2/π) (x + 0.044715 x³), whose sigmoid approximates Φ(x).
PYREL_INLINE Vector gauss_argument(Vector x) {
    return x * multiply_add(x * x, constant(0.0713548163f), constant(1.59576912f));
}

// Where a factor of these functions has reached its limit; further out 0 · ∞ would make NaN of it.
constexpr float kGaussEnd = 20.0f, kGaussTanhEnd = 12.0f, kSigmoidEnd = 90.0f;

template <Function F>
PYREL_INLINE Vector apply(Vector x, Vector parameter) {
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
    if constexpr (F == Function::exp) return exponential_of_any(x);
    if constexpr (F == Function::log) return logarithm(x);
    if constexpr (F == Function::log1p) return log_of_one_plus_signed(x);
    if constexpr (F == Function::sqrt) return square_root(x);
    if constexpr (F == Function::sin) return sine(x, 0.0f);
    if constexpr (F == Function::cos) return sine(x, 1.0f);
    if constexpr (F == Function::erf) return error_function(x);
    if constexpr (F == Function::absolute) return magnitude(x);
    if constexpr (F == Function::square) return x * x;
    if constexpr (F == Function::pow) return power_of(x, parameter);
    if constexpr (F == Function::at_least || F == Function::above)
        return select(less(x, parameter), parameter, x);
    if constexpr (F == Function::at_most || F == Function::below)
        return select(less(parameter, x), parameter, x);
    if constexpr (F == Function::step)
        return select(less(zero(), x), constant(1.0f), select(is_nan(x), x, zero()));
}

template <Function F>
PYREL_INLINE Vector slope(Vector x, Vector parameter) {
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
    if constexpr (F == Function::exp) return exponential_of_any(x);
    if constexpr (F == Function::log) return select(less(x, zero()), not_a_number(), one / x);
    if constexpr (F == Function::log1p)
        return select(less(x, constant(-1.0f)), not_a_number(), one / (one + x));
    if constexpr (F == Function::sqrt) {
        const Vector rise = constant(0.5f) / square_root(x);
        const auto at_zero = less(magnitude(x), constant(0x1p-126f));
        return select(less(zero(), parameter), select(at_zero, zero(), rise), rise);
    }
    if constexpr (F == Function::sin) return sine(x, 1.0f);
    if constexpr (F == Function::cos) return negative(sine(x, 0.0f));
    if constexpr (F == Function::erf) return constant(1.12837917f) * bell_of(magnitude(x), 1.0f);
    if constexpr (F == Function::absolute)
        return select(less(x, zero()), negative(one), select(less(zero(), x), one, x));
    if constexpr (F == Function::square) return x + x;
    if constexpr (F == Function::pow) return parameter * power_of(x, parameter - one);
    if constexpr (F == Function::at_least)
        return select(less(x, parameter), zero(), select(is_nan(x), x, one));
    if constexpr (F == Function::above)
        return select(less(parameter, x), one, select(is_nan(x), x, zero()));
    if constexpr (F == Function::at_most)
        return select(less(parameter, x), zero(), select(is_nan(x), x, one));
    if constexpr (F == Function::below)
        return select(less(x, parameter), one, select(is_nan(x), x, zero()));
    if constexpr (F == Function::step) return select(is_nan(x), x, zero());
}

}  // namespace
}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
// Checks what lanes compute together and how floats are rounded, and measures the emulator.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "check_emulator.h"

namespace pyrel::cuda {

namespace {

using emulated::launch;
using emulated::set_regions;

void check_exchanged() {
    int wrong = 0;
    launch(
        [&] {
            const int me = thread();
            for (int mask = 0; mask < 32; ++mask) {
                const int other = me ^ mask;
                wrong += exchanged(static_cast<float>(me), mask) != static_cast<float>(other);
                wrong += exchanged(me * 1e-9, mask) != other * 1e-9;
                wrong += exchanged(int64_t{me} << 40, mask) != int64_t{other} << 40;
            }
            for (int shift = 0; shift < 32; ++shift) {
                const int lane = (7 * me + shift) % 32;
                wrong += from_lane(static_cast<float>(me), lane) !=
                         static_cast<float>(me / 32 * 32 + lane);
            }
            int sum = me;
            for (int mask = 1; mask < 32; mask *= 2) sum += exchanged(sum, mask);
            wrong += sum != me / 32 * 32 * 32 + 496;
        },
        kBlocks, kThreads);
    expect(wrong == 0, "exchanged values are the other lane's");
}

float tf32_of(float value) { return float_of(to_tf32(value)); }

void check_conversions() {
    const float step = 0x1p-10f;  // of TF32 at 1
    const float infinity = std::numeric_limits<float>::infinity();
    expect(tf32_of(1.0f + 0.5f * step) == 1.0f + step &&
               tf32_of(-1.0f - 1.5f * step) == -1.0f - 2.0f * step &&
               tf32_of(1.0f + 0.499f * step) == 1.0f &&
               tf32_of(1.0f + 3.0f * step) == 1.0f + 3.0f * step,
           "to_tf32 rounds to the nearest, ties away from zero");
    const float small_nan = float_of(0x7f800001u);
    expect(tf32_of(infinity) == infinity && tf32_of(-infinity) == -infinity &&
               std::isnan(float_of(to_tf32(small_nan) & ~0x1fffu)) &&
               tf32_of(std::numeric_limits<float>::max()) == infinity,
           "to_tf32 keeps infinities and not-a-numbers");
    const float near_one = 1.0f + 0x1p-12f;
    expect(fused(near_one, near_one, -(1.0f + 0x1p-11f)) == 0x1p-24f, "fused rounds once");

    volatile float smallest = std::numeric_limits<float>::min();
    volatile float half = 0.5f;
    float result = 1.0f;
    float operand = 1.0f;
    volatile float denormal = float_of(0x00400000u);
    launch([&] { result = smallest * half, operand = denormal * 2.0f; }, 1, kThreads);
    expect(result == 0.0f && operand == 0.0f, "denormals are zero in a launch");
    expect(smallest * half > 0.0f, "denormals are numbers after it");
    error_of([] { exchanged(1, 32); });
    expect(smallest * half > 0.0f, "denormals are numbers after an error");
}

// Matrices of a product for each warp, and what the lanes make of them.
struct Product {
    float a[16][8], b[8][8], sum[16][8];

    void kernel(uint32_t ignored) {
        const int g = thread() % 32 / 4;
        const int t = thread() % 4;
        const uint32_t left[4] = {bits_of(a[g][t]) | ignored, bits_of(a[g + 8][t]) | ignored,
                                  bits_of(a[g][t + 4]) | ignored,
                                  bits_of(a[g + 8][t + 4]) | ignored};
        const uint32_t right[2] = {bits_of(b[t][g]) | ignored, bits_of(b[t + 4][g]) | ignored};
        float made[4] = {sum[g][2 * t], sum[g][2 * t + 1], sum[g + 8][2 * t],
                         sum[g + 8][2 * t + 1]};
        multiply_tf32(made, left, right);
        sum[g][2 * t] = made[0];
        sum[g][2 * t + 1] = made[1];
        sum[g + 8][2 * t] = made[2];
        sum[g + 8][2 * t + 1] = made[3];
    }
};

void check_multiply() {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<Product> products(kThreads / 32);
    const auto fill = [&](auto& rows) {
        for (auto& row : rows) {
            for (float& value : row) value = tf32_of(normal(random));
        }
    };
    for (Product& product : products) fill(product.a), fill(product.b), fill(product.sum);
    std::vector<Product> made = products;
    launch([&] { made[static_cast<size_t>(thread() / 32)].kernel(0); }, 1, kThreads);
    double worst = 0.0;  // in units of half a float's step at the result, and the sum's rounding
    for (size_t w = 0; w < products.size(); ++w) {
        const Product& p = products[w];
        for (int i = 0; i < 16; ++i) {
            for (int j = 0; j < 8; ++j) {
                double whole = p.sum[i][j];
                double size = std::abs(whole);
                for (int k = 0; k < 8; ++k) whole += double{p.a[i][k]} * p.b[k][j];
                for (int k = 0; k < 8; ++k) size += std::abs(double{p.a[i][k]} * p.b[k][j]);
                const double bound = 0x1p-24 * std::abs(whole) + 8 * 0x1p-52 * size;
                worst = std::max(worst, std::abs(made[w].sum[i][j] - whole) / bound);
            }
        }
    }
    expect(worst <= 1.0, "multiply_tf32 is the product of the matrices, rounded once");
    std::vector<Product> dirty = products;
    launch([&] { dirty[static_cast<size_t>(thread() / 32)].kernel(0x1fffu); }, 1, kThreads);
    expect(std::memcmp(dirty.data(), made.data(), made.size() * sizeof(Product)) == 0,
           "multiply_tf32 ignores the low bits of operands");
}

template <typename Kernel>
double nanoseconds(int blocks, int threads, Kernel kernel) {
    double best = 1e30;
    for (int i = 0; i < 5; ++i) {
        const auto start = std::chrono::steady_clock::now();
        launch(kernel, blocks, threads);
        const std::chrono::duration<double, std::nano> taken =
            std::chrono::steady_clock::now() - start;
        best = std::min(best, taken.count());
    }
    return best;
}

}  // namespace

void check_numbers() {
    check_exchanged();
    check_conversions();
    check_multiply();
}

void print_times() {
    constexpr int kRounds = 2000;
    for (int threads : {32, 128, 256, 1024}) {
        const double at_barriers = nanoseconds(1, threads, [] {
            for (int i = 0; i < kRounds; ++i) barrier();
        });
        const double in_warps = nanoseconds(1, threads, [] {
            for (int i = 0; i < kRounds; ++i) exchanged(i, 1);
        });
        const double products = nanoseconds(1, threads, [] {
            float sum[4] = {};
            const uint32_t a[4] = {bits_of(1.0f), 0, bits_of(2.0f), 0};
            const uint32_t b[2] = {bits_of(1.0f), bits_of(0.5f)};
            for (int i = 0; i < kRounds; ++i) multiply_tf32(sum, a, b);
        });
        std::vector<float> values(static_cast<size_t>(threads));
        set_regions({region(values, true, "values")});
        const double accesses = nanoseconds(1, threads, [&] {
            float* mine = values.data() + thread();
            for (int i = 0; i < kRounds; ++i) write(mine, read(mine) + 1.0f);
        });
        const double passes = static_cast<double>(threads) * kRounds;
        std::printf(
            "%4d threads: a switch at a barrier %.1f ns, in a warp %.1f ns; multiply_tf32 "
            "%.0f ns for 1,024 multiply-adds; a read or write %.1f ns\n",
            threads, at_barriers / passes, in_warps / passes, products / passes * 32,
            accesses / passes / 2);
    }
}

}  // namespace pyrel::cuda

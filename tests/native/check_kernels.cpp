// SPDX-License-Identifier: Apache-2.0
// Compares the kernels of every instruction set that this machine runs with plain loops: bit for
// bit with single-precision ones that do the same operations in the same order, and within the
// derived bound with double-precision ones. Operands end where memory ends, so that reading beyond
// a row is a crash. Prints, for each set, a digest of all results; ends with status 1 after a
// difference. With --list it only names the sets and where
// in this file their gemm begins.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/executor.h"
#include "exact_functions.h"
#include "program/program.h"

namespace {

using pyrel::Kernels;
using pyrel::Post;
using pyrel::Scale;
using pyrel::View;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// Beside and between rows; no result may have this value.
constexpr float kUntouched = -12345.0f;
constexpr std::array kScales = {Scale::none, Scale::vector, Scale::operand,
                                Scale::operand_minus_vector};
constexpr std::array kPosts = {
    Post::none,          Post::relu,   Post::divide,   Post::mask,
    Post::guided,        Post::square, Post::multiply, Post::divide_stabilised,
    Post::divide_operand};

// A matrix whose values are a vector's, which lives longer.
pyrel::Matrix borrowed(const std::vector<float>& values, int64_t depth, int64_t columns) {
    return {depth, columns, columns, 1,
            std::shared_ptr<const float>(values.data(), [](const float*) {})};
}

int failures = 0;

void expect(bool good, const std::string& what) {
    if (!good && ++failures <= 20) std::fprintf(stderr, "wrong: %s\n", what.c_str());
}

// Floats whose last one is followed by memory that nobody may touch.
class Guarded {
  public:
    explicit Guarded(int64_t size, float value = kUntouched) {
        const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        const size_t bytes = static_cast<size_t>(size) * sizeof(float);
        const size_t whole = (bytes + page - 1) / page * page;
        mapped_ = whole + page;
        memory_ =
            mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory_ == MAP_FAILED || mprotect(static_cast<char*>(memory_) + whole, page, PROT_NONE))
            std::abort();
        data_ = reinterpret_cast<float*>(static_cast<char*>(memory_) + whole - bytes);
        for (int64_t i = 0; i < size; ++i) data_[i] = value;
    }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;
    ~Guarded() { munmap(memory_, mapped_); }
    float* data() const { return data_; }

  private:
    size_t mapped_;
    void* memory_;
    float* data_;
};

// (samples, steps) rows of `columns` floats, the last row at the end of memory, others apart by
// gaps of different sizes.
class Rows {
  public:
    Rows(int64_t samples, int64_t steps, int64_t columns)
        : samples_(samples),
          steps_(steps),
          columns_(columns),
          stride_(steps * (columns + 2) + 3),
          memory_((samples - 1) * stride_ + steps * (columns + 2) - 2) {
        // Later steps lie first, as nothing says that offsets ascend.
        for (int64_t t = 0; t < steps; ++t) offsets_.push_back((steps - 1 - t) * (columns + 2));
    }
    View view() const { return {memory_.data(), stride_, offsets_.data(), 0}; }
    float& at(int64_t row, int64_t column) const {
        const int64_t sample = row / steps_, step = row % steps_;
        return memory_.data()[sample * stride_ + offsets_[static_cast<size_t>(step)] + column];
    }
    int64_t rows() const { return samples_ * steps_; }
    int64_t columns() const { return columns_; }
    bool gaps_untouched() const {
        int64_t found = 0;
        const int64_t size = (samples_ - 1) * stride_ + steps_ * (columns_ + 2) - 2;
        for (int64_t i = 0; i < size; ++i) found += memory_.data()[i] == kUntouched;
        return found == size - rows() * columns_;
    }

  private:
    int64_t samples_, steps_, columns_, stride_;
    std::vector<int64_t> offsets_;
    Guarded memory_;
};

class Numbers {
  public:
    explicit Numbers(uint32_t seed) : engine_(seed) {}
    // In [-1, 1), with all bits of a float, so that products are not exact.
    float value() { return static_cast<float>(engine_() >> 8) / 8388608.0f - 1.0f; }
    // A share of zeros, of both signs.
    float sparse() {
        const uint32_t kind = engine_() % 4;
        return kind == 0 ? 0.0f : (kind == 1 ? -0.0f : value());
    }
    // With all that a comparison may trip over.
    float special() {
        constexpr std::array kSpecial = {0.0f,    -0.0f, kNan,    kInfinity, -kInfinity,
                                         FLT_MAX, 1.0f,  FLT_MIN, -FLT_MAX};
        return engine_() % 3 == 0 ? kSpecial[engine_() % kSpecial.size()] : value();
    }
    void fill(const Rows& rows, float (Numbers::*draw)()) {
        for (int64_t r = 0; r < rows.rows(); ++r)
            for (int64_t c = 0; c < rows.columns(); ++c) rows.at(r, c) = (this->*draw)();
    }

  private:
    std::mt19937 engine_;
};

uint32_t bits(float v) { return std::isnan(v) ? 0x7fc00000u : std::bit_cast<uint32_t>(v); }

// FNV-1a over results, every NaN counted as the same.
struct Digest {
    uint64_t value = 0xcbf29ce484222325u;
    void add(float v) { value = (value ^ bits(v)) * 0x100000001b3u; }
};

// What a set does with a·w + c, where the results of its gemm are known to the last bit.
enum class Rounding { once, twice, unknown };

Rounding rounding(const std::string& isa) {
    if (isa == "baseline") return Rounding::twice;
    for (const char* fused : {"avx2", "avx512", "avx512_bf16", "neon"})
        if (isa == fused) return Rounding::once;
    return Rounding::unknown;
}

struct Vectors {
    Guarded bias, scale, post;
    Vectors(int64_t columns, Numbers& numbers) : bias(columns), scale(columns), post(columns) {
        for (int64_t c = 0; c < columns; ++c)
            for (const Guarded* v : {&bias, &scale, &post}) v->data()[c] = numbers.value();
    }
};

// One result after its sum, by the order of operations that kernels.h promises.
float finish(float v, const pyrel::Epilogue& e, float before, float scale, float post, int64_t c) {
    if (e.bias) v += e.bias[c];
    if (e.scale == Scale::vector) v *= e.scale_vector[c];
    if (e.scale == Scale::operand) v *= scale;
    if (e.scale == Scale::operand_minus_vector) v *= scale - e.scale_vector[c];
    if (e.accumulate) v += before;
    const auto relu = [](float x) { return x < 0.0f ? 0.0f : x; };
    switch (e.post) {
        case Post::none:
            return v;
        case Post::relu:
            return relu(v);
        case Post::divide: {
            const float d = e.post_vector ? post + e.post_vector[c] : post;
            return d == 0.0f ? 0.0f : v / d;
        }
        case Post::mask:
            return post > 0.0f ? v : 0.0f;
        case Post::guided:
            return post > 0.0f ? relu(v) : 0.0f;
        case Post::square:
            return v * v;
        case Post::multiply:
            return v * post;
        case Post::divide_operand:
            return v == 0.0f ? 0.0f : post / v;
        case Post::divide_stabilised: {
            const float d = e.post_vector ? post + e.post_vector[c] : post;
            return v / (d + (d < 0.0f ? -e.epsilon : e.epsilon));
        }
    }
    return kNan;
}

bool same(float got, float wanted, bool zero_signs) {
    return bits(got) == bits(wanted) || (!zero_signs && got == 0.0f && wanted == 0.0f);
}

// ReLU's −0 is kept by the fused sets, made +0 by the baseline; both are zero.
bool keeps_zero_signs(const Kernels& kernels) { return rounding(kernels.isa) == Rounding::once; }

struct Operands {
    Rows out, scale, post;
    Operands(int64_t samples, int64_t steps, int64_t columns)
        : out(samples, steps, columns),
          scale(samples, steps, columns),
          post(samples, steps, columns) {}
    void fill(Numbers& numbers, float (Numbers::*draw)()) const {
        for (const Rows* rows : {&out, &scale, &post}) numbers.fill(*rows, draw);
    }
    pyrel::Epilogue epilogue(const Vectors& vectors, Scale s, Post p, bool bias, bool accumulate,
                             bool post_vector) const {
        return {bias ? vectors.bias.data() : nullptr,
                vectors.scale.data(),
                post_vector ? vectors.post.data() : nullptr,
                scale.view(),
                post.view(),
                s,
                p,
                accumulate,
                0.25f};
    }
};

void check_map(const Kernels& kernels, Digest& digest) {
    Numbers numbers(7);
    const auto one_width = [&](int64_t columns, const Vectors& vectors, const Operands& operands,
                               const Rows& source, Scale scale, Post post, int flags) {
        const bool has_source = flags & 8;
        const pyrel::Epilogue e =
            operands.epilogue(vectors, scale, post, flags & 1, flags & 2, flags & 4);
        std::vector<float> wanted;
        for (int64_t r = 0; r < source.rows(); ++r)
            for (int64_t c = 0; c < columns; ++c)
                wanted.push_back(finish(has_source ? source.at(r, c) : 0.0f, e,
                                        operands.out.at(r, c), operands.scale.at(r, c),
                                        operands.post.at(r, c), c));
        kernels.map({2, 2, columns, has_source, source.view(), operands.out.view(), e});
        const std::string what =
            std::string(kernels.isa) + " map of " + std::to_string(columns) + " columns";
        for (int64_t r = 0; r < source.rows(); ++r)
            for (int64_t c = 0; c < columns; ++c) {
                const float got = operands.out.at(r, c);
                digest.add(got);
                expect(same(got, wanted[static_cast<size_t>(r * columns + c)],
                            keeps_zero_signs(kernels)),
                       what);
            }
        expect(operands.out.gaps_untouched(), what + ", wrote beside its rows");
    };
    for (int64_t columns = 1; columns <= 35; ++columns) {
        const Vectors vectors(columns, numbers);
        const Operands operands(2, 2, columns);
        const Rows source(2, 2, columns);
        for (const Scale scale : kScales)
            for (const Post post : kPosts)
                for (int flags = 0; flags < 16; ++flags) {
                    operands.fill(numbers, &Numbers::special);
                    numbers.fill(source, &Numbers::special);
                    one_width(columns, vectors, operands, source, scale, post, flags);
                }
    }
}

// One function of rows of some width, and its derivative.
void check_function(const Kernels& kernels, pyrel::Function function, float parameter,
                    int64_t columns, Numbers& numbers, Digest& digest) {
    constexpr double kStep = 1e-5;  // of differences, whose error is far below the bound
    const Rows value(2, 2, columns), source(2, 2, columns), out(2, 2, columns);
    for (int64_t r = 0; r < value.rows(); ++r)
        for (int64_t c = 0; c < columns; ++c)
            value.at(r, c) = exact::argument(function, parameter, numbers.value());
    numbers.fill(source, &Numbers::value);
    const std::string what =
        std::string(kernels.isa) + " function " + std::to_string(static_cast<int>(function)) +
        " by " + std::to_string(parameter) + " of " + std::to_string(columns) + " columns";
    kernels.activate({2, 2, columns, value.view(), {}, out.view(), function, parameter, false});
    for (int64_t r = 0; r < value.rows(); ++r)
        for (int64_t c = 0; c < columns; ++c) {
            digest.add(out.at(r, c));
            const double x = value.at(r, c), wanted = exact::value(function, parameter, x);
            expect(std::fabs(out.at(r, c) - wanted) <=
                       exact::bound(function, parameter, x, std::fabs(wanted)),
                   what);
        }
    expect(out.gaps_untouched(), what + ", wrote beside its rows");
    for (const bool accumulate : {false, true}) {
        const float before = 0.5f;
        for (int64_t r = 0; r < out.rows(); ++r)
            for (int64_t c = 0; c < columns; ++c) out.at(r, c) = before;
        kernels.slope({2, 2, columns, source.view(), value.view(), out.view(), function, parameter,
                       accumulate});
        for (int64_t r = 0; r < value.rows(); ++r)
            for (int64_t c = 0; c < columns; ++c) {
                digest.add(out.at(r, c));
                const double x = value.at(r, c);
                if (std::fabs(x - exact::bend(function, parameter)) <= kStep) continue;
                const double slope = (exact::value(function, parameter, x + kStep) -
                                      exact::value(function, parameter, x - kStep)) /
                                     (2.0 * kStep);
                const double wanted = source.at(r, c) * slope + (accumulate ? before : 0.0);
                expect(std::fabs(out.at(r, c) - wanted) <=
                           exact::bound(function, parameter, x, std::fabs(slope)),
                       what + ", slope");
            }
        expect(out.gaps_untouched(), what + ", slope wrote beside its rows");
    }
}

// The accuracy over all arguments is measured elsewhere. What is looked at here is where kernels
// read and write, and, by the digest, whether sets agree.
void check_functions(const Kernels& kernels, Digest& digest) {
    Numbers numbers(5);
    for (int64_t columns = 1; columns <= 35; ++columns)
        for (int f = 0; f < exact::kFunctions; ++f)
            for (const float parameter : {0.3f, 3.0f})  // powers of numbers below 0 too
                check_function(kernels, static_cast<pyrel::Function>(f), parameter, columns,
                               numbers, digest);
}

void check_max(const Kernels& kernels, Digest& digest) {
    Numbers numbers(13);
    const auto larger = [](float a, float b) { return a > b || (std::isnan(a) && !std::isnan(b)); };
    for (int64_t columns = 1; columns <= 35; ++columns)
        for (const int64_t count : {1, 2, 9}) {
            std::vector<std::unique_ptr<Rows>> values, outs;
            std::vector<View> from, to;
            const Rows out(2, 2, columns), relevance(2, 2, columns);
            numbers.fill(relevance, &Numbers::value);
            for (int64_t i = 0; i < count; ++i) {
                values.push_back(std::make_unique<Rows>(2, 2, columns));
                outs.push_back(std::make_unique<Rows>(2, 2, columns));
                numbers.fill(*values.back(), &Numbers::special);
                for (int64_t r = 0; r < out.rows(); ++r)
                    for (int64_t c = 0; c < columns; ++c) outs.back()->at(r, c) = 0.25f;
                from.push_back(values.back()->view());
                to.push_back(outs.back()->view());
            }
            kernels.max_pool(
                {2, 2, columns, count, from.data(), out.view(), nullptr, false, false});
            kernels.pool_route(
                {2, 2, columns, count, from.data(), relevance.view(), to.data(), false, true});
            const std::string what = std::string(kernels.isa) + " max of " + std::to_string(count) +
                                     " rows of " + std::to_string(columns) + " columns";
            for (int64_t r = 0; r < out.rows(); ++r)
                for (int64_t c = 0; c < columns; ++c) {
                    size_t best = 0;
                    for (size_t i = 1; i < values.size(); ++i)
                        if (larger(values[i]->at(r, c), values[best]->at(r, c))) best = i;
                    const size_t winner = std::isnan(values[best]->at(r, c)) ? 0 : best;
                    expect(same(out.at(r, c), values[best]->at(r, c), true), what);
                    digest.add(out.at(r, c));
                    for (size_t i = 0; i < outs.size(); ++i)
                        expect(
                            outs[i]->at(r, c) == 0.25f + (i == winner ? relevance.at(r, c) : 0.0f),
                            what + ", routed");
                }
            expect(out.gaps_untouched(), what + ", wrote beside its rows");
            for (const auto& rows : outs)
                expect(rows->gaps_untouched(), what + ", routed beside its rows");
        }
}

struct Shape {
    int64_t samples, steps, columns;
    std::vector<int64_t> depths;  // of the segments
};

// Draws operands, runs one product and compares it.
void check_gemm(const Kernels& kernels, const Shape& shape, Scale scale, Post post, int flags,
                bool zeros, Numbers& numbers, Digest& digest) {
    const int64_t columns = shape.columns, rows = shape.samples * shape.steps;
    int64_t depth = 0;
    for (const int64_t d : shape.depths) depth += d;
    std::vector<float> w(static_cast<size_t>(depth * columns));
    for (float& v : w) v = numbers.value();
    const Vectors vectors(columns, numbers);
    const Operands operands(shape.samples, shape.steps, columns);
    operands.fill(numbers, &Numbers::sparse);
    std::vector<std::unique_ptr<Rows>> a;
    for (const int64_t d : shape.depths) {
        a.push_back(std::make_unique<Rows>(shape.samples, shape.steps, d));
        numbers.fill(*a.back(), zeros ? &Numbers::sparse : &Numbers::value);
    }
    int64_t left = INT64_MAX;
    const auto matrix = std::make_shared<const pyrel::Matrix>(borrowed(w, depth, columns));
    const auto packed = pyrel::PackedMatrices(kernels).get(matrix, false, left);

    pyrel::GemmTask task{};
    task.samples = shape.samples;
    task.steps = shape.steps;
    task.columns = columns;
    task.depth = depth;
    task.segments = static_cast<int32_t>(shape.depths.size());
    for (size_t s = 0; s < a.size(); ++s) {
        task.segment_depth[s] = shape.depths[s];
        task.a[s] = a[s]->view();
    }
    task.packed = packed->packed.get();
    task.panel_stride = packed->panel_stride;
    task.together = (columns + 1) / 2 <= kernels.panel ? columns : kernels.panel;
    task.out = operands.out.view();
    task.epilogue = operands.epilogue(vectors, scale, post, flags & 1, flags & 2, flags & 4);

    const Rounding kind = rounding(kernels.isa);
    std::vector<float> wanted;
    std::vector<double> exact, bound;
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) {
            float sum = 0.0f;
            double precise = 0.0, magnitude = 0.0;
            size_t k = 0;
            for (size_t s = 0; s < a.size(); ++s)
                for (int64_t i = 0; i < shape.depths[s]; ++i, ++k) {
                    const float x = a[s]->at(r, i),
                                y = w[k * static_cast<size_t>(columns) + static_cast<size_t>(c)];
                    if (kind == Rounding::once)
                        sum = std::fma(x, y, sum);
                    else
                        sum = x * y + sum;
                    precise += static_cast<double>(x) * y;
                    magnitude += std::fabs(static_cast<double>(x) * y);
                }
            wanted.push_back(finish(sum, task.epilogue, operands.out.at(r, c),
                                    operands.scale.at(r, c), operands.post.at(r, c), c));
            exact.push_back(precise);
            // k rounded sums and products; FLT_EPSILON is twice the unit roundoff.
            bound.push_back(static_cast<double>(depth) * FLT_EPSILON * magnitude);
        }
    kernels.gemm(task);
    const bool bare = scale == Scale::none && post == Post::none && flags == 0;
    const std::string what = std::string(kernels.isa) + " gemm " + std::to_string(rows) + " x " +
                             std::to_string(depth) + " x " + std::to_string(columns) + ", scale " +
                             std::to_string(static_cast<int>(scale)) + ", post " +
                             std::to_string(static_cast<int>(post));
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) {
            const auto i = static_cast<size_t>(r * columns + c);
            const float got = operands.out.at(r, c);
            digest.add(got);
            if (kind != Rounding::unknown)
                expect(same(got, wanted[i], keeps_zero_signs(kernels)), what);
            if (bare) expect(std::fabs(got - exact[i]) <= bound[i], what + ", against double");
        }
    expect(operands.out.gaps_untouched(), what + ", wrote beside its rows");
}

void check_gemms(const Kernels& kernels, Digest& digest) {
    Numbers numbers(11);
    constexpr std::array<int64_t, 22> kColumns = {1,  2,  3,  4,  5,  7,  8,  9,  15,  16,  17,
                                                  23, 31, 32, 33, 47, 48, 49, 65, 127, 128, 129};
    // Heights around every tile, with and without zeros to skip, over one and several segments.
    for (int64_t rows = 1; rows <= 27; ++rows)
        for (const int64_t columns : kColumns)
            for (const bool zeros : {false, true}) {
                check_gemm(kernels, {rows, 1, columns, {13}}, Scale::none, Post::none, 0, zeros,
                           numbers, digest);
                check_gemm(kernels, {rows, 2, columns, {3, 1, 2}}, Scale::none, Post::relu, 1,
                           zeros, numbers, digest);
            }
    for (const int64_t depth : {1, 2, 3, 63, 64, 65, 129, 4095, 4096, 4097})
        for (const int64_t rows : {1, 6, 12, 13, 25})
            check_gemm(kernels, {rows, 1, 33, {depth}}, Scale::none, Post::none, 0, true, numbers,
                       digest);
    check_gemm(kernels, {3, 5, 40, {1, 2, 3, 4, 5, 6, 7, 8}}, Scale::none, Post::none, 0, true,
               numbers, digest);
    for (const Scale scale : kScales)
        for (const Post post : kPosts)
            for (int flags = 0; flags < 8; ++flags)
                for (const int64_t columns : {1, 19, 64})
                    for (const int64_t rows : {1, 5, 14})
                        check_gemm(kernels, {rows, 1, columns, {9}}, scale, post, flags, true,
                                   numbers, digest);
}

void check_inside(const Kernels& kernels) {
    const auto inside = [&](const Guarded& x, const Guarded& low, const Guarded& high, int64_t n) {
        return kernels.inside(x.data(), low.data(), high.data(), n);
    };
    for (int64_t size = 1; size <= 67; ++size) {
        const Guarded x(size, 0.5f), low(size, 0.5f), high(size, 0.5f);
        const std::string what = std::string(kernels.isa) + " inside, size " + std::to_string(size);
        expect(inside(x, low, high, size), what);
        const Guarded bottom(size, -kInfinity), top(size, kInfinity);
        for (int64_t i = 0; i < size; ++i) {
            const auto with = [&](float v, const Guarded& l, const Guarded& h) {
                x.data()[i] = v;
                const bool answer = inside(x, l, h, size);
                x.data()[i] = 0.5f;
                return answer;
            };
            expect(!with(std::nextafter(0.5f, 1.0f), low, high), what + ", above");
            expect(!with(std::nextafter(0.5f, 0.0f), low, high), what + ", below");
            for (const float v : {kNan, kInfinity, -kInfinity}) {
                expect(!with(v, low, high), what + ", not finite");
                expect(!with(v, bottom, top), what + ", not finite, without bounds");
            }
            for (const float v : {FLT_MAX, -FLT_MAX})
                expect(with(v, bottom, top), what + ", largest");
        }
    }
}

// A whole program of two layers, forward and z⁺ backward, through the executor.
void check_program(const Kernels& kernels, Digest& digest) {
    constexpr int64_t kInputs = 37, kHidden = 21, kClasses = 3, kSamples = 53;
    constexpr int64_t kOutput = kHidden, kSeed = kOutput + kClasses, kBack = kSeed + kClasses;
    Numbers numbers(3);
    const auto positive = [&](int64_t size) {
        std::vector<float> v(static_cast<size_t>(size));
        for (float& value : v) value = std::fabs(numbers.value());
        return v;
    };
    const auto transposed = [](const std::vector<float>& w, int64_t depth, int64_t columns) {
        std::vector<float> t(w.size());
        for (int64_t i = 0; i < depth; ++i)
            for (int64_t j = 0; j < columns; ++j)
                t[static_cast<size_t>(j * depth + i)] = w[static_cast<size_t>(i * columns + j)];
        return t;
    };
    const std::vector<float> w1 = positive(kInputs * kHidden), w2 = positive(kHidden * kClasses);
    pyrel::Program program(kInputs, kBack + kHidden, kClasses, true);
    using pyrel::Space;
    const auto arena = [](int64_t offset) { return pyrel::Rows{Space::arena, {offset}}; };
    std::deque<std::vector<float>> weights;
    const auto product = [&](const std::vector<float>& w, int64_t depth, int64_t columns,
                             const pyrel::Rows& from, const pyrel::Rows& to, Post post,
                             const pyrel::Rows& operand) {
        pyrel::EpilogueSpec epilogue;
        epilogue.post = post;
        epilogue.post_rows = operand;
        weights.push_back(w);
        const int matrix = program.add_matrix(borrowed(weights.back(), depth, columns));
        program.add(pyrel::Gemm{{{from, depth}}, matrix, to, epilogue});
    };
    const auto divided = [&](const pyrel::Rows& rows, int64_t columns, const pyrel::Rows& by) {
        pyrel::EpilogueSpec epilogue;
        epilogue.post = Post::divide;
        epilogue.post_rows = by;
        program.add(pyrel::Map{rows, columns, rows, epilogue});
    };
    const pyrel::Rows input{Space::input, {0}}, relevance{Space::relevance, {0}};
    product(w1, kInputs, kHidden, input, arena(0), Post::relu, {});
    product(w2, kHidden, kClasses, arena(0), arena(kOutput), Post::none, {});
    program.add(pyrel::Seed{arena(kOutput), arena(kSeed), pyrel::Start::output});
    divided(arena(kSeed), kClasses, arena(kOutput));
    product(transposed(w2, kHidden, kClasses), kClasses, kHidden, arena(kSeed), arena(kBack),
            Post::none, {});
    // The relevance of a hidden unit over its activation is what the next product takes.
    product(transposed(w1, kInputs, kHidden), kHidden, kInputs, arena(kBack), relevance,
            Post::multiply, input);
    program.finish();
    pyrel::PackedMatrices packed(kernels);
    const pyrel::Engine engine(program, packed);

    const std::vector<float> x = positive(kSamples * kInputs);
    std::vector<float> first;
    for (const auto& [threads, in_lanes] :
         {std::pair{1, false}, {3, false}, {1, true}, {3, true}}) {
        std::vector<float> found(static_cast<size_t>(kSamples * kInputs)),
            output(static_cast<size_t>(kSamples * kClasses)), absorbed(kSamples),
            conservation(kSamples), amplification(kSamples);
        std::vector<int64_t> explained(kSamples);
        pyrel::Batch batch;
        batch.samples = kSamples;
        batch.x = x.data();
        batch.relevance = found.data();
        batch.output = output.data();
        batch.explained = explained.data();
        batch.absorbed = absorbed.data();
        batch.conservation = conservation.data();
        batch.amplification = amplification.data();
        const pyrel::Status status = pyrel::run(engine, batch, threads, in_lanes, nullptr);
        const std::string what = std::string(kernels.isa) + " program";
        expect(status.outcome == pyrel::Outcome::done, what + ", outcome");
        for (int64_t s = 0; s < kSamples; ++s) {
            const auto i = static_cast<size_t>(s);
            const float put_in = output[i * kClasses + static_cast<size_t>(explained[i])];
            // Two layers of positive terms: each value is wrong by its depth of roundings.
            expect(std::fabs(conservation[i]) <= 2 * (kInputs + kHidden) * FLT_EPSILON * put_in,
                   what + ", conservation");
            // All terms are positive: relevance is shared out, and no more of it is made.
            expect(std::fabs(amplification[i] - 1.0f) <= 2 * (kInputs + kHidden) * FLT_EPSILON,
                   what + ", amplification");
        }
        if (first.empty()) first = found;
        expect(found == first, what + ", threads and lanes");
    }
    for (const float v : first) digest.add(v);
}

}  // namespace

int main(int count, char** arguments) {
    const bool list = count > 1 && std::string(arguments[1]) == "--list";
    for (const Kernels* kernels : pyrel::available_kernels()) {
        if (list) {
            std::printf("%s %lld\n", kernels->isa,
                        static_cast<long long>(pyrel::kernel_offsets(*kernels).at("gemm")));
            continue;
        }
        Digest digest;
        const int before = failures;
        check_gemms(*kernels, digest);
        check_map(*kernels, digest);
        check_functions(*kernels, digest);
        check_max(*kernels, digest);
        check_inside(*kernels);
        check_program(*kernels, digest);
        std::printf("%s %016llx %s\n", kernels->isa, static_cast<unsigned long long>(digest.value),
                    failures == before ? "good" : "wrong");
    }
    return failures ? 1 : 0;
}

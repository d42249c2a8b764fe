// SPDX-License-Identifier: Apache-2.0
// Checks the emulator with small kernels: right ones pass, and each fault is reported with the
// threads and the place. Prints a line a check and ends with status 1 after a failure. With --time
// it prints what a switch of fibers, an access and a product cost instead.
#include "check_emulator.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

namespace pyrel::cuda {

namespace {

using emulated::launch;
using emulated::set_regions;

// The kernel's error names all of `parts`.
void expect_error(const std::string& what, const std::function<void()>& kernel,
                  std::initializer_list<const char*> parts, int blocks = 1) {
    const std::string message = error_of(kernel, blocks);
    bool good = true;
    for (const char* part : parts) good = good && message.find(part) != std::string::npos;
    expect(good, what + " [" + message + "]");
}

void expect_no_error(const std::string& what, const std::function<void()>& kernel, int blocks) {
    const std::string message = error_of(kernel, blocks);
    expect(message == "no error", what + " [" + message + "]");
}

// Each block sums up its values by halves; all threads read the sum.
struct TreeSum {
    std::vector<float> x, values, out;

    TreeSum() : x(kBlocks * kThreads), values(x.size()), out(x.size()) {
        for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * i % 101);
        set_regions(
            {region(x, false, "x"), region(values, true, "values"), region(out, true, "out")});
    }
    void kernel() {
        const int first = block() * threads();
        float* mine = values.data() + first + thread();
        write(mine, constant_at(x.data() + first + thread()));
        barrier();
        for (int half = threads() / 2; half > 0; half /= 2) {
            if (thread() < half) write(mine, read(mine) + read(mine + half));
            barrier();
        }
        write(out.data() + first + thread(), read(values.data() + first));
    }
    bool right() const {
        float sums[kBlocks] = {};
        for (size_t i = 0; i < x.size(); ++i) sums[i / kThreads] += x[i];
        for (size_t i = 0; i < x.size(); ++i) {
            if (out[i] != sums[i / kThreads]) return false;
        }
        return true;
    }
};

void check_tree_sum() {
    TreeSum sum;
    const auto kernel = [&] { sum.kernel(); };
    int barriers = 0;
    for (uint64_t seed = 0; seed < 5; ++seed) {
        std::fill(sum.out.begin(), sum.out.end(), -1.0f);
        barriers = launch(kernel, kBlocks, kThreads, {.seed = seed});
        expect(sum.right() && barriers == 8, "tree sum with seed " + std::to_string(seed));
    }
    for (int dropped = 0; dropped < barriers; ++dropped) {
        int caught = 0;
        for (uint64_t seed = 1; seed <= 3; ++seed) {
            try {
                launch(kernel, kBlocks, kThreads, {seed, dropped});
            } catch (const std::runtime_error& error) {
                const std::string message = error.what();
                caught += message.find("of values, which thread") != std::string::npos &&
                          message.find("since their last common barrier") != std::string::npos;
            }
        }
        expect(caught == 3, "tree sum without barrier " + std::to_string(dropped) + ", caught " +
                                std::to_string(caught) + " of 3");
    }
    std::fill(sum.out.begin(), sum.out.end(), -1.0f);
    launch(kernel, kBlocks, kThreads);
    expect(sum.right(), "tree sum after errors");
}

void check_order() {
    // The order before the first barrier, behind it, and behind the second one.
    const auto orders = [](uint64_t seed) {
        std::vector<std::vector<int>> seen(3);
        const auto kernel = [&] {
            for (std::vector<int>& order : seen) {
                order.push_back(thread());
                barrier();
            }
        };
        launch(kernel, 1, kThreads, {.seed = seed});
        return seen;
    };
    const auto first = orders(1);
    expect(first == orders(1), "the order of threads is that of the seed");
    expect(first != orders(2), "the order of threads changes with the seed");
    expect(first[0] != first[1] && first[1] != first[2],
           "the order of threads changes behind each barrier");
}

void check_places() {
    std::vector<float> input(64, 1.0f);
    std::vector<float> arena(64);
    std::vector<double> wide(8);
    set_regions(
        {region(input, false, "input"), region(arena, true, "arena"), region(wide, true, "wide")});
    const float* in = input.data();
    float* at = arena.data();
    const auto only = [](int which, auto act) {
        return [=] {
            if (thread() == which) act();
        };
    };
    expect_error("read behind a region", only(3, [=] { read(in + 64); }),
                 {"thread 3 of block 0 reads float 64 of input", "outside"});
    expect_error("write before a region", only(4, [=] { write(at - 1, 1.0f); }),
                 {"thread 4 of block 0 writes float -1 of arena", "outside"});
    expect_error("constant behind a region", only(0, [=] { four_at(in + 64); }),
                 {"reads as a constant float 64 of input", "outside"});
    expect_error("a null pointer", only(0, [] { read(static_cast<const float*>(nullptr)); }),
                 {"null pointer"});
    const auto moved = [](const void* place, int bytes) {
        return reinterpret_cast<uintptr_t>(place) + static_cast<uintptr_t>(bytes);
    };
    const auto odd = reinterpret_cast<const float*>(moved(in, 2));
    expect_error("unaligned float", only(5, [=] { emulated::check_read(odd, 4, 4); }),
                 {"thread 5", "float 0 of input", "unaligned"});
    const auto split = reinterpret_cast<double*>(moved(wide.data(), 4));
    expect_error("unaligned double", only(5, [=] { emulated::check_write(split, 8, 8); }),
                 {"float 1 of wide", "unaligned", "8"});
    const float* uneven = in + (moved(in, 0) % 16 == 0 ? 1 : 0);
    expect_error("unaligned four", only(5, [=] { four_at(uneven); }), {"of input", "unaligned"});
    expect_error("write to read-only memory", only(6, [=] { write(const_cast<float*>(in), 0.0f); }),
                 {"thread 6 of block 0 writes float 0 of input", "read-only"});
    expect_error("constant of writable memory", only(7, [=] { constant_at(at + 9); }),
                 {"thread 7 of block 0 reads as a constant float 9 of arena", "writable"});
    bool refused = false;
    try {
        set_regions({region(arena, true, "one"), {at + 63, 8, false, "two"}});
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    expect(refused, "regions that overlap are refused");
    bool outside = false;
    try {
        read(in);
    } catch (const std::logic_error&) {
        outside = true;
    }
    expect(outside, "an access outside of a launch is refused");
}

void check_races() {
    std::vector<float> arena(kThreads);
    std::vector<double> wide(kThreads);
    set_regions({region(arena, true, "arena"), region(wide, true, "wide")});
    float* at = arena.data();
    double* big = wide.data();
    expect_no_error(
        "reads of all threads around one write are no race",
        [=] {
            read(at), read(at);
            barrier();
            if (thread() == 9) write(at, read(at) + 1.0f);
            barrier();
            read(at);
            write(big + thread(), 1.0);
        },
        1);
    expect(at[0] == 1.0f, "the write is done");
    expect_no_error("reads of one word by several blocks are no race", [=] { read(at + 5); }, 3);
    expect_error("write after write",
                 [=] {
                     if (thread() % 64 == 1) write(at + 7, 1.0f);
                 },
                 {"writes float 7 of arena, which thread", "wrote since their last common"});
    for (int writer : {0, 1, 2}) {
        expect_error("one of three readers writes",
                     [=] {
                         if (thread() < 3) read(at + 2);
                         exchanged(0, 1);
                         if (thread() == writer) write(at + 2, 1.0f);
                     },
                     {"writes float 2 of arena, which thread", "read since their last common"});
    }
    expect_error("collectives order nothing",
                 [=] {
                     if (thread() == 0) write(at + 11, 1.0f);
                     exchanged(1.0f, 1);
                     if (thread() == 1) read(at + 11);
                 },
                 {"thread 1 of block 0 reads float 11 of arena, which thread 0 of block 0 wrote"});
    expect_error("the second half of a double",
                 [=] {
                     if (thread() == 0) write(big + 1, 1.0);
                     exchanged(1.0f, 1);
                     if (thread() == 1) read(reinterpret_cast<const float*>(big + 1) + 1);
                 },
                 {"thread 1 of block 0 reads float 3 of wide, which thread 0 of block 0 wrote"});
    const auto by_block = [=](bool early, bool late) {
        return [=] {
            barrier();
            if (thread() != 5) return barrier();
            if (block() == 0 ? early : late) {
                write(at + 4, 1.0f);
            } else {
                read(at + 4);
            }
            barrier();
        };
    };
    expect_error("write after another block's write", by_block(true, true),
                 {"thread 5 of block 1 writes float 4 of arena, which thread 5 of block 0 wrote"},
                 2);
    expect_error("read after another block's write", by_block(true, false),
                 {"thread 5 of block 1 reads float 4 of arena, which thread 5 of block 0 wrote"},
                 2);
    expect_error("write after another block's read", by_block(false, true),
                 {"thread 5 of block 1 writes float 4 of arena, which thread 5 of block 0 read"},
                 2);
    expect_error(
        "write after another block's read and an own one",
        [=] {
            if (thread() == 6) {
                read(at + 4);
                if (block() == 1) write(at + 4, 1.0f);
            }
        },
        {"thread 6 of block 1 writes float 4 of arena, which thread 6 of block 0 read"}, 2);
}

void check_divergence() {
    expect_error("a lane ends",
                 [] {
                     if (thread() != 37) exchanged(1.0f, 1);
                 },
                 {"divergent warp", "exchanged", "thread 37 of block 0 has ended"});
    expect_error("a lane waits at a barrier",
                 [] { thread() == 64 ? barrier() : static_cast<void>(exchanged(1.0f, 1)); },
                 {"divergent warp", "thread 64 of block 0 waits at a barrier"});
    expect_error("collectives of two kinds",
                 [] {
                     float sum[4] = {};
                     const uint32_t a[4] = {};
                     const uint32_t b[2] = {};
                     thread() == 0 ? multiply_tf32(sum, a, b) : static_cast<void>(exchanged(1, 1));
                 },
                 {"divergent warp", "multiply_tf32", "exchanged"});
    expect_error("two masks", [] { exchanged(1, thread() == 0 ? 1 : 2); },
                 {"divergent warp", "mask 1", "mask 2"});
    expect_error("a mask out of the warp", [] { exchanged(1, 32); }, {"mask 32"});
    expect_error("a lane out of the warp", [] { from_lane(1.0f, 32); }, {"lane 32"});
    expect_error("two collectives of values",
                 [] {
                     if (thread() == 0)
                         from_lane(1.0f, 0);
                     else
                         exchanged(1.0f, 1);
                 },
                 {"divergent warp", "from_lane", "exchanged"});
    expect_error("a thread ends before a barrier",
                 [] {
                     if (thread() != 8) barrier();
                 },
                 {"divergent block", "waits at a barrier", "thread 8 of block 0 has ended"});
}

void check_stopping() {
    struct Counted {
        int& alive;
        explicit Counted(int& count) : alive(count) { ++alive; }
        ~Counted() { --alive; }
    };
    int alive = 0;
    int begun = 0;
    int beyond = 0;
    expect_error("an error while others wait",
                 [&] {
                     const Counted counted(alive);
                     ++begun;
                     barrier();
                     if (thread() == 70) throw std::runtime_error("of the kernel");
                     barrier();
                     ++beyond;
                 },
                 {"of the kernel"});
    expect(begun == kThreads && beyond == 0 && alive == 0, "all fibers are unwound after an error");
}

}  // namespace

}  // namespace pyrel::cuda

int main(int count, char** arguments) {
    using namespace pyrel::cuda;
    if (count > 1 && std::string(arguments[1]) == "--time") {
        print_times();
        return 0;
    }
    check_tree_sum();
    check_order();
    check_places();
    check_races();
    check_divergence();
    check_stopping();
    check_numbers();
    std::printf("%d failures\n", failures);
    return failures == 0 ? 0 : 1;
}

// SPDX-License-Identifier: Apache-2.0
// What check_emulator.cpp and check_emulator_numbers.cpp share.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "device.h"

namespace pyrel::cuda {

constexpr int kThreads = 128;
constexpr int kBlocks = 2;

inline int failures = 0;

inline void expect(bool good, const std::string& what) {
    std::printf("%s: %s\n", good ? "right" : "WRONG", what.c_str());
    if (!good) ++failures;
}

template <typename Value>
emulated::Region region(std::vector<Value>& values, bool writable, const char* name) {
    return {values.data(), static_cast<int64_t>(values.size() * sizeof(Value)), writable, name};
}

// What a launch throws, or "no error".
inline std::string error_of(const std::function<void()>& kernel, int blocks = 1) {
    try {
        emulated::launch(kernel, blocks, kThreads);
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "no error";
}

void check_numbers();
void print_times();

}  // namespace pyrel::cuda

// SPDX-License-Identifier: Apache-2.0
#include "dispatch.h"

namespace pyrel {

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> found{kernels_baseline()};
#if defined(PYREL_X86)
    // The builtin asks CPUID and, for the wide registers, XCR0: whether the operating system saves
    // them.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        found.push_back(kernels_avx2());
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        found.push_back(kernels_avx512());
#endif
    return found;
}

const Kernels* find_kernels(const std::string& name) {
    const std::vector<const Kernels*> found = available_kernels();
    if (name.empty()) return found.back();
    for (const Kernels* kernels : found)
        if (name == kernels->isa) return kernels;
    return nullptr;
}

}  // namespace pyrel

// SPDX-License-Identifier: Apache-2.0
#include "dispatch.h"

#include <dlfcn.h>

#include <stdexcept>

namespace pyrel {

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> found{kernels_baseline()};
#if defined(PYREL_X86)
    // The builtin asks CPUID, and XCR0 for what the operating system saves: SSE and AVX state for
    // AVX2, opmask and both halves of ZMM state too for AVX-512. (LLVM's runtime takes FMA from
    // CPUID alone, hence never without AVX2; macOS saves ZMM state from its first use on, which
    // LLVM's runtime knows.) A further set joins the chain with all that its unit is compiled for.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("popcnt");
    if (avx2) found.push_back(kernels_avx2());
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl");
    if (avx512) found.push_back(kernels_avx512());
    if (avx512 && __builtin_cpu_supports("avx512bf16")) found.push_back(kernels_avx512_bf16());
#elif defined(PYREL_ARM64)
    found.push_back(kernels_neon());  // every 64-bit ARM has it
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

std::map<std::string, int64_t> kernel_offsets(const Kernels& kernels) {
    const auto offset = [](auto* function) -> int64_t {
        Dl_info found{};
        const auto* address = reinterpret_cast<const char*>(function);
        if (!dladdr(address, &found)) throw std::runtime_error("a kernel is in no loaded file");
        return address - static_cast<const char*>(found.dli_fbase);
    };
    std::map<std::string, int64_t> offsets{
        {"gemm", offset(kernels.gemm)},         {"gemm_in_lanes", offset(kernels.gemm_in_lanes)},
        {"map", offset(kernels.map)},           {"map_in_lanes", offset(kernels.map_in_lanes)},
        {"activate", offset(kernels.activate)}, {"slope", offset(kernels.slope)},
        {"max_pool", offset(kernels.max_pool)}, {"pool_route", offset(kernels.pool_route)},
        {"inside", offset(kernels.inside)},     {"peak", offset(kernels.peak)}};
    if (kernels.gemm_bf16) {
        offsets.emplace("gemm_bf16", offset(kernels.gemm_bf16));
        offsets.emplace("peak_bf16", offset(kernels.peak_bf16));
    }
    return offsets;
}

}  // namespace pyrel

// Which kernels are in use: those of the best instruction set that this machine has, or of one chosen by name.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace modeflow {

enum InstructionSet { BASE, AVX2, AVX512 };
constexpr const char* const INSTRUCTION_SETS[] = {"base", "avx2", "avx512"};

inline InstructionSet best_instruction_set() {
#if defined(MODEFLOW_X86) && (defined(__GNUC__) || defined(__clang__))
    __builtin_cpu_init();
#ifdef MODEFLOW_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return AVX512;
#endif
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
    return BASE;
}

inline InstructionSet active_instruction_set = best_instruction_set();

inline std::vector<std::string> available_instruction_sets() {
    std::vector<std::string> names;
    for (int set = BASE; set <= best_instruction_set(); ++set) names.push_back(INSTRUCTION_SETS[set]);
    return names;
}

// False for one that this machine does not have.
inline bool use_instruction_set(const std::string& name) {
    for (int set = BASE; set <= best_instruction_set(); ++set)
        if (name == INSTRUCTION_SETS[set]) {
            active_instruction_set = static_cast<InstructionSet>(set);
            return true;
        }
    return false;
}

template <class Real>
const BasicKernels<Real>& kernels_of();

template <>
inline const BasicKernels<float>& kernels_of<float>() {
#ifdef MODEFLOW_AVX512
    if (active_instruction_set == AVX512) return avx512_float();
#endif
#ifdef MODEFLOW_X86
    if (active_instruction_set == AVX2) return avx2_float();
#endif
    return base_float();
}

template <>
inline const BasicKernels<double>& kernels_of<double>() {
#ifdef MODEFLOW_AVX512
    if (active_instruction_set == AVX512) return avx512_double();
#endif
#ifdef MODEFLOW_X86
    if (active_instruction_set == AVX2) return avx2_double();
#endif
    return base_double();
}

}  // namespace modeflow

// A step of Adam over vectors that hold all parameters, all gradients and all averages: everything that a training
// does to them in a step, in one pass. The arithmetic is PyTorch's, up to the rounding of products that are summed.
// Reference: Loshchilov, Hutter, Decoupled Weight Decay Regularization, 2019, https://arxiv.org/abs/1711.05101
#pragma once
#include <cmath>

#include "kernels.h"
#include "lanes.h"

namespace modeflow {
namespace {

// The first `count` of LANES entries. What there is none of, what decays or the average, is neither read nor written.
// SINGLE: as PyTorch computes what its vectors of 32 bytes leave over, where compilers fuse the other product of the sum.
template <bool DECAYS, bool AVERAGE, bool SINGLE>
inline void adam_lanes(const BasicAdamStep<real>& s, int count, const real* decays, const real* gradient,
                       real* parameters, real* first, real* second, real* average) {
    const real scale = s.scale, loss = -s.share, rest = s.first_rest, kept = s.second_kept, of_square = s.second_rest;
    const real size = -s.size, root = s.root, eps = s.eps, pull = s.pull;
#ifndef _MSC_VER
#pragma omp simd
#endif
    for (int i = 0; i < count; ++i) {
        const real g = gradient[i] * scale;
        real p = parameters[i];
        if (DECAYS) p = p + loss * p * decays[i];
        const real m = first[i] + rest * (g - first[i]);
        const real v = SINGLE ? second[i] * kept + of_square * g * g : of_square * g * g + second[i] * kept;
        p = p + size * m / (std::sqrt(v) / root + eps);
        first[i] = m;
        second[i] = v;
        parameters[i] = p;
        // From the nearer end: with a weight of one the average is the parameter.
        if (AVERAGE)
            average[i] = pull < real(0.5) ? average[i] + pull * (p - average[i])
                                          : p - (p - average[i]) * (real(1) - pull);
    }
}

template <bool DECAYS, bool AVERAGE>
inline void adam_entries(const BasicAdamStep<real>& s, int64_t n) {
    const int64_t whole = n - n % static_cast<int64_t>(32 / sizeof(real));
    for (int64_t at = 0; at < n;) {
        const real* decays = DECAYS ? s.decays + at : nullptr;
        real* average = AVERAGE ? s.average + at : nullptr;
        if (at + LANES <= whole) {
            adam_lanes<DECAYS, AVERAGE, false>(s, LANES, decays, s.gradient + at, s.parameters + at, s.first + at,
                                               s.second + at, average);
            at += LANES;
        } else if (at < whole) {
            adam_lanes<DECAYS, AVERAGE, false>(s, static_cast<int>(whole - at), decays, s.gradient + at,
                                               s.parameters + at, s.first + at, s.second + at, average);
            at = whole;
        } else {
            adam_lanes<DECAYS, AVERAGE, true>(s, static_cast<int>(n - at), decays, s.gradient + at, s.parameters + at,
                                              s.first + at, s.second + at, average);
            at = n;
        }
    }
}

void adam(const BasicAdamStep<real>& s, int64_t from, int64_t to) {
    BasicAdamStep<real> part = s;
    part.gradient += from, part.parameters += from, part.first += from, part.second += from;
    if (s.decays) part.decays += from;
    if (s.average) part.average += from;
    if (s.decays && s.average)
        adam_entries<true, true>(part, to - from);
    else if (s.decays)
        adam_entries<true, false>(part, to - from);
    else if (s.average)
        adam_entries<false, true>(part, to - from);
    else
        adam_entries<false, false>(part, to - from);
}

}  // namespace
}  // namespace modeflow

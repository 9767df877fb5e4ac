// A step of Adam over vectors that hold all parameters, all gradients and all averages: everything that a training
// does to them in a step, in one pass. The arithmetic is PyTorch's, up to the rounding of products that are summed.
// Reference: Loshchilov, Hutter, Decoupled Weight Decay Regularization, 2019, https://arxiv.org/abs/1711.05101
#pragma once
#include <cmath>
#include <cstring>

#include "kernels.h"
#include "lanes.h"

namespace modeflow {
namespace {

// LANES entries. What there is none of, what decays or the average, is neither read nor written.
template <bool DECAYS, bool AVERAGE>
inline void adam_lanes(const BasicAdamStep<real>& s, const real* decays, const real* gradient, real* parameters,
                       real* first, real* second, real* average) {
    const real scale = s.scale, loss = -s.share, rest = s.first_rest, kept = s.second_kept, of_square = s.second_rest;
    const real size = -s.size, root = s.root, eps = s.eps, pull = s.pull;
    FOR_LANES {
        const real g = gradient[i] * scale;
        real p = parameters[i];
        if (DECAYS) p = p + loss * p * decays[i];
        const real m = first[i] + rest * (g - first[i]);
        const real v = of_square * g * g + second[i] * kept;
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
    int64_t at = 0;
    for (; at + LANES <= n; at += LANES)
        adam_lanes<DECAYS, AVERAGE>(s, s.decays + (DECAYS ? at : 0), s.gradient + at, s.parameters + at, s.first + at,
                                    s.second + at, s.average + (AVERAGE ? at : 0));
    if (at == n) return;
    // The rest in full lanes too: an entry's rounding must not depend on its place.
    const size_t size = sizeof(real) * static_cast<size_t>(n - at);
    Lane decays{}, gradient{}, parameters{}, first{}, second{}, average{};
    if (DECAYS) std::memcpy(decays, s.decays + at, size);
    if (AVERAGE) std::memcpy(average, s.average + at, size);
    std::memcpy(gradient, s.gradient + at, size);
    std::memcpy(parameters, s.parameters + at, size);
    std::memcpy(first, s.first + at, size);
    std::memcpy(second, s.second + at, size);
    adam_lanes<DECAYS, AVERAGE>(s, decays, gradient, parameters, first, second, average);
    if (AVERAGE) std::memcpy(s.average + at, average, size);
    std::memcpy(s.parameters + at, parameters, size);
    std::memcpy(s.first + at, first, size);
    std::memcpy(s.second + at, second, size);
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

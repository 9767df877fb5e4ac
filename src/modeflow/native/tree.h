// What a tree of states does between its matrix products, and its Gaussian leaves: every pass reads and writes a number
// once. The references are `modeflow/latents/tree/messages.py` and `modeflow/densities/leaf_kinds.py`.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "lanes.h"

namespace modeflow {
namespace {

using TreeLevel = BasicTreeLevel<real>;
using GaussianLeaves = BasicGaussianLeaves<real>;

#ifdef _MSC_VER
#define FOR_STATES(count) for (int k = 0; k < count; ++k)
#else
#define FOR_STATES(count) _Pragma("omp simd") for (int k = 0; k < count; ++k)
#endif

// The largest of n numbers, NaN left out.
inline real largest_of(int n, const real* x) {
    Lane most;
    FOR_LANES most[i] = -std::numeric_limits<real>::infinity();
    int start = 0;
    for (; start + LANES <= n; start += LANES) FOR_LANES {
        const real v = x[start + i];
        most[i] = v > most[i] ? v : most[i];
    }
    for (; start < n; ++start) most[0] = x[start] > most[0] ? x[start] : most[0];
    real largest = most[0];
    for (real v : most) largest = v > largest ? v : largest;
    return largest;
}

// Evidence of the places of a level from their leaves and what their children say; what it is divided by, to `top`.
void tree_evidence(const TreeLevel& t, const real* leaves, const real* messages, real lowest, real* evidence, real* top,
                   int64_t from, int64_t to) {
    // Far below any message; the product of two of them is a normal number, and so one logarithm serves two children.
    constexpr real least = sizeof(real) == 4 ? real(1.1e-19) : real(1.5e-154);
    const int states = t.states;
    for (int64_t place = t.first; place < t.last; ++place)
        for (int64_t row = from; row < to; ++row) {
            const real* leaf = leaves + (place * t.rows + row) * states;
            real* e = evidence + (place * t.rows + row) * states;
            const real* logs = leaf;
            const int64_t end = t.children[place + 1];
            for (int64_t child = t.children[place]; child < end; child += 2) {
                const real* s = messages + ((child - 1) * t.rows + row) * states;
                const real* other = child + 1 < end ? s + t.rows * states : nullptr;
                FOR_STATES(states) {
                    real said = s[k] < least ? least : s[k];
                    if (other) said *= other[k] < least ? least : other[k];
                    e[k] = logs[k] + (log_(said) + (said - said));  // the logarithm of a NaN would be a number
                }
                logs = e;
            }
            const real largest = largest_of(states, logs);
            FOR_STATES(states) {
                const real away = logs[k] - largest;
                e[k] = exp_(away < lowest ? lowest : away);  // a NaN stays one
            }
            top[row] += largest;
        }
}

// Posteriors of the places of a level: times their evidence, unless that is done; and by what each child said of them.
void tree_ratios(const TreeLevel& t, const real* evidence, const real* messages, real* posterior, real* ratios,
                 int64_t from, int64_t to) {
    const int states = t.states;
    for (int64_t place = t.first; place < t.last; ++place)
        for (int64_t row = from; row < to; ++row) {
            real* p = posterior + (place * t.rows + row) * states;
            if (evidence) {
                const real* e = evidence + (place * t.rows + row) * states;
                FOR_STATES(states) p[k] *= e[k];
            }
            for (int64_t child = t.children[place]; child < t.children[place + 1]; ++child) {
                const int64_t at = ((child - 1) * t.rows + row) * states;
                const real* s = messages + at;
                real* ratio = ratios + at;
                FOR_STATES(states) ratio[k] = p[k] / s[k];
            }
        }
}

// Log-densities of rows [from, to) of all (feature, row).
void gaussian_log_prob(const GaussianLeaves& g, real* log_prob, int64_t from, int64_t to) {
    for (int64_t row = from; row < to; ++row) {
        const int64_t at = row / g.rows * g.states;
        const real *mean = g.mean + at, *inverse = g.inverse + at, *constant = g.constant + at, x = g.x[row];
        real* out = log_prob + row * g.states;
        FOR_STATES(g.states) {
            const real z = (x - mean[k]) * inverse[k];
            out[k] = constant[k] - real(0.5) * (z * z);
        }
    }
}

// Of units [from, to), each LANES states of a feature: sums over rows of the gradient times z, and times z² - 1. Rows are
// summed in blocks, the blocks in double precision.
void gaussian_grad(const GaussianLeaves& g, const real* gradient, real* first, real* second, int64_t from, int64_t to) {
    const int64_t chunks = (g.states + LANES - 1) / LANES;
    for (int64_t unit = from; unit < to; ++unit) {
        const int64_t feature = unit / chunks;
        const int state = static_cast<int>(unit % chunks) * LANES, count = std::min(LANES, g.states - state);
        const real* x = g.x + feature * g.rows;
        const real* grad = gradient + feature * g.rows * g.states + state;
        const int64_t at = feature * g.states + state;
        Lane mean, inverse, with_z, with_square;
        double sum_z[LANES] = {}, sum_square[LANES] = {};
        for (int i = 0; i < LANES; ++i) mean[i] = inverse[i] = 0;
        for (int i = 0; i < count; ++i) mean[i] = g.mean[at + i], inverse[i] = g.inverse[at + i];
        for (int64_t start = 0; start < g.rows; start += 64) {
            FOR_LANES with_z[i] = with_square[i] = 0;
            const int64_t stop = std::min(g.rows, start + 64);
            const auto add = [&](const real* of_row, int64_t row) {
                FOR_LANES {
                    const real z = (x[row] - mean[i]) * inverse[i], pull = of_row[i] * z;
                    with_z[i] += pull;
                    with_square[i] += pull * z - of_row[i];
                }
            };
            for (int64_t row = start; row < stop; ++row) {
                const real* of_row = grad + row * g.states;
                if (count == LANES) {
                    add(of_row, row);
                } else {
                    Lane some = {};
                    std::copy(of_row, of_row + count, some);
                    add(some, row);
                }
            }
            FOR_LANES {
                sum_z[i] += with_z[i];
                sum_square[i] += with_square[i];
            }
        }
        for (int i = 0; i < count; ++i) {
            first[at + i] = static_cast<real>(sum_z[i]);
            second[at + i] = static_cast<real>(sum_square[i]);
        }
    }
}

// The gradient of x, of rows [from, to) of all (feature, row).
void gaussian_input_grad(const GaussianLeaves& g, const real* gradient, real* grad_x, int64_t from, int64_t to) {
    for (int64_t row = from; row < to; ++row) {
        const int64_t at = row / g.rows * g.states;
        const real *mean = g.mean + at, *inverse = g.inverse + at, *grad = gradient + row * g.states, x = g.x[row];
        Lane part = {};
        int start = 0;
        for (; start + LANES <= g.states; start += LANES) FOR_LANES {
            const int k = start + i;
            part[i] += grad[k] * ((x - mean[k]) * inverse[k]) * inverse[k];
        }
        for (int k = start; k < g.states; ++k) part[k - start] += grad[k] * ((x - mean[k]) * inverse[k]) * inverse[k];
        real sum = 0;
        for (real v : part) sum += v;
        grad_x[row] = -sum;
    }
}

}  // namespace
}  // namespace modeflow

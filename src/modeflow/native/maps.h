// The elementwise maps that conditioners parametrise, on LANES entries at once: additive, affine, the distribution
// function of a logistic mixture (all three in `modeflow/transforms`), and the spline of `lanes.h`.
#pragma once
#include "lanes.h"

namespace modeflow {
namespace {

// r / (1 + |r| / most), and its slope.
inline real softly_(real r, real most) { return r / (1.0f + (r < 0 ? -r : r) / most); }
inline real softly_slope_(real r, real most) {
    const real over = 1.0f / (1.0f + (r < 0 ? -r : r) / most);
    return over * over;
}

// Numbers that a map needs beside its table of parameters.
inline int work_of(const Map& map) {
    switch (map.kind) {
        case Map::SPLINE: return 2 * map.spline.bins * LANES;
        case Map::MIXTURE: return 6 * map.components * LANES;
        default: return 0;
    }
}

// -- the logistic mixture

// What a mixture is at x: sums in logarithms, and for every component the terms they are made of.
struct Mixture {
    Lane cdf, rest, pdf;               // log F, log (1 - F), log f
    real *weight, *scale, *z, *below, *above, *density;  // (K, LANES): log pi, exp(-s), z, and the summands
};

// The logarithm of the sum of exp of K rows.
inline void log_sum(const real* terms, int k_all, Lane& total) {
    Lane most, sum;
    FOR_LANES most[i] = terms[i];
    for (int k = 1; k < k_all; ++k) FOR_LANES {
        const real v = terms[k * LANES + i];
        most[i] = v > most[i] ? v : most[i];
    }
    FOR_LANES sum[i] = 0.0f;
    for (int k = 0; k < k_all; ++k) FOR_LANES sum[i] += exp_(terms[k * LANES + i] - most[i]);
    FOR_LANES total[i] = most[i] + log_(sum[i]);
}

// log pi and exp(-s), which do not depend on x.
inline void mixture_open(const Map& map, const real* table, real* work, Mixture& m) {
    const int k_all = map.components, size = k_all * LANES;
    m.weight = work, m.scale = work + size, m.z = work + 2 * size;
    m.below = work + 3 * size, m.above = work + 4 * size, m.density = work + 5 * size;
    Lane sum;
    log_sum(table, k_all, sum);
    for (int k = 0; k < k_all; ++k) FOR_LANES {
        m.weight[k * LANES + i] = table[k * LANES + i] - sum[i];
        m.scale[k * LANES + i] = exp_(-softly_(table[(2 * k_all + k) * LANES + i], map.most));
    }
}

inline void mixture_at(const Map& map, const real* table, const Lane& x, Mixture& m) {
    const int k_all = map.components;
    for (int k = 0; k < k_all; ++k) FOR_LANES {
        const int j = k * LANES + i;
        const real z = (x[i] - table[k_all * LANES + j]) * m.scale[j];
        const real above = -softplus_(z), below = above + z;  // log sigma(-z), log sigma(z)
        m.z[j] = z;
        m.below[j] = m.weight[j] + below;
        m.above[j] = m.weight[j] + above;
        m.density[j] = m.weight[j] - softly_(table[2 * k_all * LANES + j], map.most) + below + above;
    }
    log_sum(m.below, k_all, m.cdf);
    log_sum(m.above, k_all, m.rest);
    log_sum(m.density, k_all, m.pdf);
}

inline void mixture_lanes(const Map& map, bool inverse, const real* table, const Lane& in, real* work, Lane& out,
                          Lane& l) {
    const int k_all = map.components;
    const real *a_raw = table + 3 * k_all * LANES, *shift = a_raw + LANES;
    Mixture m;
    mixture_open(map, table, work, m);
    if (!inverse) {
        mixture_at(map, table, in, m);
        FOR_LANES {
            const real a = softly_(a_raw[i], map.most_slope);
            out[i] = (m.cdf[i] - m.rest[i]) * exp_(a) + shift[i];
            l[i] = m.pdf[i] - m.cdf[i] - m.rest[i] + a;
        }
        return;
    }
    // logit F(x) = t lies between the points where every component alone would have it. Newton's steps within.
    Lane t, low, high, x;
    FOR_LANES t[i] = (in[i] - shift[i]) * exp_(-softly_(a_raw[i], map.most_slope));
    for (int k = 0; k < k_all; ++k) FOR_LANES {
        const real point = table[(k_all + k) * LANES + i] + t[i] / m.scale[k * LANES + i];
        low[i] = k == 0 || point < low[i] ? point : low[i];
        high[i] = k == 0 || point > high[i] ? point : high[i];
    }
    FOR_LANES x[i] = 0.5f * (low[i] + high[i]);
    for (int step = 0; step < 64; ++step) {
        mixture_at(map, table, x, m);
        Lane moved;
        real most = 0.0f;
        FOR_LANES {
            const real error = m.cdf[i] - m.rest[i] - t[i];
            high[i] = error > 0 ? x[i] : high[i];
            low[i] = error > 0 ? low[i] : x[i];
            const real slope = m.pdf[i] - m.cdf[i] - m.rest[i];
            real next = x[i] - error * exp_(-slope);
            next = next > low[i] && next < high[i] ? next : 0.5f * (low[i] + high[i]);
            const real size = (x[i] < 0 ? -x[i] : x[i]) + 1.0f, by = next - x[i];
            moved[i] = (by < 0 ? -by : by) / size;
            x[i] = next;
        }
        for (int i = 0; i < LANES; ++i) most = moved[i] > most ? moved[i] : most;
        if (!(most > (sizeof(real) == 4 ? real(1e-7) : real(1e-15)))) break;
    }
    mixture_at(map, table, x, m);
    FOR_LANES {
        out[i] = x[i];
        l[i] = -(m.pdf[i] - m.cdf[i] - m.rest[i] + softly_(a_raw[i], map.most_slope));
    }
}

inline void mixture_backward_lanes(const Map& map, const real* table, const Lane& x, const Lane& gy, const Lane& gl,
                                   real* work, Lane& gx, real* grad) {
    const int k_all = map.components;
    const real* a_raw = table + 3 * k_all * LANES;
    Mixture m;
    mixture_open(map, table, work, m);
    mixture_at(map, table, x, m);
    Lane on_cdf, on_rest, sum;
    FOR_LANES {
        const real slope = exp_(softly_(a_raw[i], map.most_slope));
        on_cdf[i] = gy[i] * slope - gl[i];
        on_rest[i] = -gy[i] * slope - gl[i];
        grad[3 * k_all * LANES + i] =
            (gy[i] * (m.cdf[i] - m.rest[i]) * slope + gl[i]) * softly_slope_(a_raw[i], map.most_slope);
        grad[(3 * k_all + 1) * LANES + i] = gy[i];
        gx[i] = sum[i] = 0.0f;
    }
    for (int k = 0; k < k_all; ++k) FOR_LANES {
        const int j = k * LANES + i;
        // Of each sum, the share of this component; sigma(-z) and sigma(z) are what log sigma(±z) grow by.
        const real below = on_cdf[i] * exp_(m.below[j] - m.cdf[i]);
        const real above = on_rest[i] * exp_(m.above[j] - m.rest[i]);
        const real density = gl[i] * exp_(m.density[j] - m.pdf[i]);
        const real up = sigmoid_(m.z[j]), down = sigmoid_(-m.z[j]);
        const real on_z = below * down - above * up + density * (down - up);
        const real on_weight = below + above + density;
        grad[j] = on_weight;
        grad[k_all * LANES + j] = -on_z * m.scale[j];
        grad[2 * k_all * LANES + j] =
            -(on_z * m.z[j] + density) * softly_slope_(table[2 * k_all * LANES + j], map.most);
        gx[i] += on_z * m.scale[j];
        sum[i] += on_weight;
    }
    for (int k = 0; k < k_all; ++k) FOR_LANES grad[k * LANES + i] -= sum[i] * exp_(m.weight[k * LANES + i]);
}

// -- all of them

// Entries with the parameters in `table`, parameter p of lane i at [p * LANES + i], to values and log-derivatives.
inline void map_lanes(const Map& map, bool inverse, const real* table, const Lane& in, real* work, Lane& out,
                      Lane& l) {
    switch (map.kind) {
        case Map::SPLINE: return spline_lanes(map.spline, inverse, table, in, work, out, l);
        case Map::MIXTURE: return mixture_lanes(map, inverse, table, in, work, out, l);
        case Map::ADDITIVE:
            FOR_LANES {
                out[i] = inverse ? in[i] - table[i] : in[i] + table[i];
                l[i] = 0.0f;
            }
            return;
        case Map::AFFINE:
            FOR_LANES {
                const real s = softly_(table[LANES + i], map.most);
                out[i] = inverse ? (in[i] - table[i]) * exp_(-s) : in[i] * exp_(s) + table[i];
                l[i] = inverse ? -s : s;
            }
    }
}

// Gradients of the entries and, at [p * LANES + i] of `grad`, of the parameters. A mixture has none of its inverse.
inline void map_backward_lanes(const Map& map, bool inverse, const real* table, const Lane& in, const Lane& gy,
                               const Lane& gl, real* work, Lane& gx, real* grad) {
    switch (map.kind) {
        case Map::SPLINE: return spline_backward_lanes(map.spline, inverse, table, in, gy, gl, work, gx, grad);
        case Map::MIXTURE: return mixture_backward_lanes(map, table, in, gy, gl, work, gx, grad);
        case Map::ADDITIVE:
            FOR_LANES {
                gx[i] = gy[i];
                grad[i] = inverse ? -gy[i] : gy[i];
            }
            return;
        case Map::AFFINE:
            FOR_LANES {
                const real raw = table[LANES + i], s = softly_(raw, map.most);
                const real factor = exp_(inverse ? -s : s);
                gx[i] = gy[i] * factor;
                grad[i] = inverse ? -gx[i] : gy[i];
                const real on_s = inverse ? -gx[i] * (in[i] - table[i]) - gl[i] : gx[i] * in[i] + gl[i];
                grad[LANES + i] = on_s * softly_slope_(raw, map.most);
            }
    }
}

}  // namespace
}  // namespace modeflow

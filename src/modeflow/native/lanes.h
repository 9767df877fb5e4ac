// Arithmetic on LANES entries at once: the rational-quadratic spline with its gradient. MODEFLOW_REAL is float or double.
//
// Every loop over lanes is one vector instruction or a few, whatever the instruction set. No fast-math:
// rounding is as written. The reference is `modeflow/transforms/spline.py`, to which the tests compare every
// path. Reference: Durkan et al., Neural Spline Flows, 2019, https://arxiv.org/abs/1906.04032
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__FMA__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>
#endif

#include "elementary.h"
#include "kernels.h"

namespace modeflow {
namespace {

using real = MODEFLOW_REAL;
using Spline = BasicSpline<real>;
using Map = BasicMap<real>;

constexpr int LANES = 32;
using Lane = real[LANES];

#ifdef _MSC_VER
#define FOR_LANES for (int i = 0; i < LANES; ++i)
#else
#define FOR_LANES _Pragma("omp simd") for (int i = 0; i < LANES; ++i)
#endif

inline int pad(int n) { return (n + 15) / 16 * 16; }

// A vector is one register: wider ones, compilers keep in memory.
#if defined(__AVX512F__)
constexpr int VECTOR = 64 / sizeof(real);
#elif defined(__AVX__)
constexpr int VECTOR = 32 / sizeof(real);
#else
constexpr int VECTOR = 16 / sizeof(real);
#endif

#if defined(__GNUC__) || defined(__clang__)
typedef real Vector __attribute__((vector_size(VECTOR * sizeof(real)), aligned(sizeof(real)), may_alias));
inline Vector load_vector(const real* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store_vector(real* p, const Vector& v) { *reinterpret_cast<Vector*>(p) = v; }
inline Vector spread(real a) { return a - Vector{}; }  // not zero plus a, which is an operation if a is -0
// a b + c. As an instruction: compilers fuse it in one loop and not in another, and a row then depends on how many
// there are beside it.
inline Vector multiply_add(const Vector& a, const Vector& b, const Vector& c) {
#if defined(__AVX512F__)
    if constexpr (sizeof(real) == 4) return (Vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
    return (Vector)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
    if constexpr (sizeof(real) == 4) return (Vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
    return (Vector)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return c + a * b;
#endif
}
#else
struct Vector {
    real v[VECTOR];
    Vector operator+(const Vector& o) const {
        Vector r;
        for (int i = 0; i < VECTOR; ++i) r.v[i] = v[i] + o.v[i];
        return r;
    }
    Vector operator*(const Vector& o) const {
        Vector r;
        for (int i = 0; i < VECTOR; ++i) r.v[i] = v[i] * o.v[i];
        return r;
    }
};
inline Vector load_vector(const real* p) {
    Vector r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
}
inline void store_vector(real* p, const Vector& x) { std::memcpy(p, x.v, sizeof x.v); }
inline Vector spread(real a) {
    Vector r;
    for (real& f : r.v) f = a;
    return r;
}
inline Vector multiply_add(const Vector& a, const Vector& b, const Vector& c) { return c + a * b; }
#endif

// The bin of every lane, and what it needs to be evaluated. `table` holds parameter p of lane i at
// [p * LANES + i].
struct Bin {
    Lane index;                    // as a number: compared and selected like the rest
    Lane x0, y0, w, h, d0, d1;
    Lane gap;                      // from the bin's edge to the entry, on the side it is given on
    Lane raw0, raw1;               // raw slopes at both ends, with the offset; 0 at the end knots
};

// Softmax of K rows of the table: exponentials into `share`, the factor that normalises them into `scale`.
inline void softmax(const real* raw, int bins, real* share, Lane& scale) {
    Lane most, sum;
    FOR_LANES most[i] = raw[i];
    for (int k = 1; k < bins; ++k) FOR_LANES {
        real v = raw[k * LANES + i];
        most[i] = v > most[i] ? v : most[i];
    }
    FOR_LANES sum[i] = 0.0f;
    for (int k = 0; k < bins; ++k) FOR_LANES {
        real e = exp_(raw[k * LANES + i] - most[i]);
        share[k * LANES + i] = e;
        sum[i] += e;
    }
    FOR_LANES scale[i] = 1.0f / sum[i];
}

// Find the bins of `x`, clamped to the interval, on the side of the data or of the noise.
inline void find(const Spline& s, bool inverse, const real* table, const Lane& x, real* shares, Bin& b) {
    const int bins = s.bins;
    Lane scale_w, scale_h;
    real* share_w = shares;
    real* share_h = shares + bins * LANES;
    softmax(table, bins, share_w, scale_w);
    softmax(table + bins * LANES, bins, share_h, scale_h);
    const real free_w = 1.0f - s.min_width * bins, free_h = 1.0f - s.min_height * bins;
    const real size = 2.0f * s.bound;
    const real offset = s.offset;
    const real* slopes = table + 2 * bins * LANES;

    // Edges are sums of many sizes, and small differences to them matter: in double precision.
    double left_x[LANES], left_y[LANES];
    FOR_LANES {
        left_x[i] = left_y[i] = -s.bound;
        b.index[i] = 0.0f;
    }
    for (int k = 0; k < bins; ++k) FOR_LANES {
        real p = share_w[k * LANES + i] * scale_w[i], q = share_h[k * LANES + i] * scale_h[i];
        share_w[k * LANES + i] = p;
        share_h[k * LANES + i] = q;
        real w = s.min_width + free_w * p, h = s.min_height + free_h * q;
        double gap = x[i] - (inverse ? left_y[i] : left_x[i]);
        // The last bin whose left edge is not to the right of x; the first always qualifies.
        bool here = k == 0 || gap >= 0;
        b.index[i] = here ? static_cast<real>(k) : b.index[i];
        b.gap[i] = here ? static_cast<real>(gap) : b.gap[i];
        b.x0[i] = here ? static_cast<real>(left_x[i]) : b.x0[i];
        b.y0[i] = here ? static_cast<real>(left_y[i]) : b.y0[i];
        w *= size;
        h *= size;
        b.w[i] = here ? w : b.w[i];
        b.h[i] = here ? h : b.h[i];
        left_x[i] += w;
        left_y[i] += h;
    }
    // Knots 1 .. K - 1 have slopes of their own; the two ends are such with a raw slope of zero.
    FOR_LANES b.raw0[i] = b.raw1[i] = 0.0f;
    for (int k = 0; k + 1 < bins; ++k) FOR_LANES {
        real d = slopes[k * LANES + i];
        b.raw1[i] = b.index[i] == static_cast<real>(k) ? d : b.raw1[i];
        b.raw0[i] = b.index[i] == static_cast<real>(k + 1) ? d : b.raw0[i];
    }
    FOR_LANES {
        b.raw0[i] += offset;
        b.raw1[i] += offset;
        b.d0[i] = s.min_slope + softplus_(b.raw0[i]);
        b.d1[i] = s.min_slope + softplus_(b.raw1[i]);
    }
}

// The place t in [0, 1] within the bin.
inline void place(bool inverse, const Bin& b, Lane& t) {
    FOR_LANES {
        real s = b.h[i] / b.w[i];
        real there;
        if (inverse) {
            real q = b.gap[i] > 0 ? b.gap[i] : 0.0f;
            real curve = q * (b.d1[i] + b.d0[i] - 2 * s);
            real a = b.h[i] * (s - b.d0[i]) + curve;
            real half = b.h[i] * b.d0[i] - curve;
            real c = -s * q;
            real root = half * half - 4 * a * c;
            root = std::sqrt(root > 0 ? root : 0.0f);
            real divisor = half + root;
            there = divisor > 0 ? -2 * c / divisor : 0.0f;
        } else {
            there = b.gap[i] / b.w[i];
        }
        t[i] = there < 0 ? 0.0f : (there > 1 ? 1.0f : there);
    }
}

inline void evaluate(bool inverse, const Bin& b, const Lane& t, Lane& out, Lane& logderivative) {
    FOR_LANES {
        real s = b.h[i] / b.w[i], r = 1 - t[i], bump = t[i] * r;
        real denominator = s + (b.d1[i] + b.d0[i] - 2 * s) * bump;
        real slope = b.d1[i] * t[i] * t[i] + 2 * s * bump + b.d0[i] * r * r;
        real share = s / denominator;
        real l = log_(share * share * slope);
        logderivative[i] = inverse ? -l : l;
        out[i] = inverse ? b.x0[i] + b.w[i] * t[i]
                         : b.y0[i] + b.h[i] * (s * t[i] * t[i] + b.d0[i] * bump) / denominator;
    }
}

// Only where a vector is one register: elsewhere the exchanges cost more than they save.
#if defined(__AVX512F__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12))
// Transpose a square of vectors: in steps, rows i and i + S exchange the parts that belong to each other.
template <int S, class V>
inline void exchange(V* rows) {
    for (int i = 0; i < VECTOR; ++i) {
        if (i & S) continue;
        const V a = rows[i], b = rows[i + S];
#define KEEP(l) ((l) & S ? VECTOR + (l) - S : (l))
#define MOVE(l) ((l) & S ? VECTOR + (l) : (l) + S)
#define EIGHT(f, l) f(l), f(l + 1), f(l + 2), f(l + 3), f(l + 4), f(l + 5), f(l + 6), f(l + 7)
        if constexpr (sizeof(V) / sizeof(real) == 16) {
            rows[i] = __builtin_shufflevector(a, b, EIGHT(KEEP, 0), EIGHT(KEEP, 8));
            rows[i + S] = __builtin_shufflevector(a, b, EIGHT(MOVE, 0), EIGHT(MOVE, 8));
        } else {
            rows[i] = __builtin_shufflevector(a, b, EIGHT(KEEP, 0));
            rows[i + S] = __builtin_shufflevector(a, b, EIGHT(MOVE, 0));
        }
#undef KEEP
#undef MOVE
#undef EIGHT
    }
}
inline void transpose(Vector* rows) {
    if constexpr (VECTOR == 16) exchange<8>(rows);
    exchange<4>(rows);
    exchange<2>(rows);
    exchange<1>(rows);
}
#define MODEFLOW_TRANSPOSE 1
#endif

// Parameters of LANES entries, that begin at `params + first[i]`, to columns of lanes. In vectors: what is written
// entry by entry cannot be read as a vector before it has reached the cache. `end`: numbers that may be read.
inline void load(const real* params, const int32_t* first, int64_t end, int n_params, real* table) {
#ifdef MODEFLOW_TRANSPOSE
    bool safe = true;
    for (int i = 0; i < LANES; ++i) safe = safe && first[i] + pad(n_params) <= end;
    if (safe) {
        for (int lane = 0; lane < LANES; lane += VECTOR)
            for (int p = 0; p < n_params; p += VECTOR) {
                Vector rows[VECTOR];
                for (int i = 0; i < VECTOR; ++i) rows[i] = load_vector(params + first[lane + i] + p);
                transpose(rows);
                const int used = n_params - p < VECTOR ? n_params - p : VECTOR;
                for (int k = 0; k < used; ++k) store_vector(table + (p + k) * LANES + lane, rows[k]);
            }
        return;
    }
#endif
    (void)end;
    for (int p = 0; p < n_params; ++p)
        for (int i = 0; i < LANES; ++i) table[p * LANES + i] = params[first[i] + p];
}

inline void spline_lanes(const Spline& s, bool inverse, const real* table, const Lane& x, real* shares,
                         Lane& y, Lane& logderivative) {
    Lane safe, t, out, l;
    Bin b;
    FOR_LANES safe[i] = x[i] < -s.bound ? -s.bound : (x[i] > s.bound ? s.bound : x[i]);
    find(s, inverse, table, safe, shares, b);
    place(inverse, b, t);
    evaluate(inverse, b, t, out, l);
    FOR_LANES {
        bool inside = x[i] >= -s.bound && x[i] <= s.bound;
        y[i] = inside ? out[i] : x[i];
        logderivative[i] = inside ? l[i] : 0.0f;
    }
}

// Gradients of LANES entries: `grad` gets those of the parameters, at [p * LANES + i].
inline void spline_backward_lanes(const Spline& s, bool inverse, const real* table, const Lane& in,
                                  const Lane& gy, const Lane& gl, real* shares, Lane& gx, real* grad) {
    const int bins = s.bins;
    const real size = 2.0f * s.bound;
    const real free_w = 1.0f - s.min_width * bins, free_h = 1.0f - s.min_height * bins;
    Lane safe, t, gx0, gy0, gw, gh, gd0, gd1;
    Bin b;
    FOR_LANES safe[i] = in[i] < -s.bound ? -s.bound : (in[i] > s.bound ? s.bound : in[i]);
    find(s, inverse, table, safe, shares, b);
    place(inverse, b, t);
    FOR_LANES {
        const real w = b.w[i], h = b.h[i], d0 = b.d0[i], d1 = b.d1[i], v = t[i], r = 1 - v;
        const real m = h / w, bump = v * r, turn = 1 - 2 * v;
        const real numerator = m * v * v + d0 * bump, bend = d1 + d0 - 2 * m;
        const real denominator = m + bend * bump, over = 1 / denominator;
        const real slope = d1 * v * v + 2 * m * bump + d0 * r * r, per = 1 / slope;
        // Partial derivatives of F(t) = y0 + h A / D, and of the logarithm of its slope in x.
        const real f_t = h * m * slope * over * over;
        const real f_h = numerator * over;
        const real f_m = h * (v * v * denominator - numerator * (1 - 2 * bump)) * over * over;
        const real f_0 = h * bump * (denominator - numerator) * over * over;
        const real f_1 = -h * numerator * bump * over * over;
        const real l_t = (2 * d1 * v + 2 * m * turn - 2 * d0 * r) * per - 2 * bend * turn * over;
        const real l_m = 2 / m + 2 * bump * per - 2 * (1 - 2 * bump) * over;
        const real l_0 = r * r * per - 2 * bump * over;
        const real l_1 = v * v * per - 2 * bump * over;
        // Weights of F and of log F' in the loss. On the way back t solves F(t) = x, so that
        // dt = (dx - dF) / F_t: what the loss asks of t is handed on to F with the opposite sign.
        const real e = inverse ? -gl[i] : gl[i];
        const real on_f = inverse ? -(gy[i] * w + e * l_t) / f_t : gy[i];
        const real on_t = inverse ? 0.0f : gy[i] * f_t + e * l_t;
        const real on_m = on_f * f_m + e * l_m;
        gx[i] = inverse ? -on_f : on_t / w;
        gx0[i] = inverse ? gy[i] : -on_t / w;
        gy0[i] = on_f;
        gh[i] = on_f * f_h + on_m / w;
        gw[i] = -on_m * m / w + (inverse ? gy[i] * v : -on_t * v / w);
        gd0[i] = on_f * f_0 + e * l_0;
        gd1[i] = on_f * f_1 + e * l_1;
        const bool inside = in[i] >= -s.bound && in[i] <= s.bound;
        gx[i] = inside ? gx[i] : gy[i];
        gx0[i] = inside ? gx0[i] : 0.0f;
        gy0[i] = inside ? gy0[i] : 0.0f;
        gh[i] = inside ? gh[i] : 0.0f;
        gw[i] = inside ? gw[i] : 0.0f;
        gd0[i] = inside ? gd0[i] * sigmoid_(b.raw0[i]) : 0.0f;
        gd1[i] = inside ? gd1[i] * sigmoid_(b.raw1[i]) : 0.0f;
    }
    // Through the edges (a sum over the bins to the left), the smallest size and the softmax.
    for (int side = 0; side < 2; ++side) {
        const real* p = shares + side * bins * LANES;
        const Lane& on_edge = side == 0 ? gx0 : gy0;
        const Lane& on_size = side == 0 ? gw : gh;
        real* g = grad + side * bins * LANES;
        const real scale = size * (side == 0 ? free_w : free_h);
        Lane mean;
        FOR_LANES mean[i] = 0.0f;
        for (int k = 0; k < bins; ++k) FOR_LANES {
            real at = static_cast<real>(k);
            real v = at < b.index[i] ? on_edge[i] : (at == b.index[i] ? on_size[i] : 0.0f);
            g[k * LANES + i] = v;
            mean[i] += v * p[k * LANES + i];
        }
        for (int k = 0; k < bins; ++k) FOR_LANES
            g[k * LANES + i] = scale * p[k * LANES + i] * (g[k * LANES + i] - mean[i]);
    }
    for (int k = 0; k + 1 < bins; ++k) FOR_LANES {
        real at = static_cast<real>(k);
        real v = b.index[i] == at ? gd1[i] : (b.index[i] == at + 1 ? gd0[i] : 0.0f);
        grad[(2 * bins + k) * LANES + i] = v;
    }
}

}  // namespace
}  // namespace modeflow

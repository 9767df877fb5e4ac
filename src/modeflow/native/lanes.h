// Arithmetic on LANES entries at once: exp, log, and the rational-quadratic spline with its gradient.
//
// Every loop over lanes is one vector instruction or a few, whatever the instruction set. No fast-math:
// rounding is as written. The reference is `modeflow/transforms/spline.py`, to which the tests compare every
// path. Reference: Durkan et al., Neural Spline Flows, 2019, https://arxiv.org/abs/1906.04032
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace modeflow {
namespace {

constexpr int LANES = 32;
using Lane = float[LANES];

#ifdef _MSC_VER
#define FOR_LANES for (int i = 0; i < LANES; ++i)
#else
#define FOR_LANES _Pragma("omp simd") for (int i = 0; i < LANES; ++i)
#endif

inline int pad(int n) { return (n + 15) / 16 * 16; }

// A vector is one register: wider ones, compilers keep in memory.
#if defined(__AVX512F__)
constexpr int VECTOR = 16;
#elif defined(__AVX__)
constexpr int VECTOR = 8;
#else
constexpr int VECTOR = 4;
#endif

#if defined(__GNUC__) || defined(__clang__)
typedef float Vector __attribute__((vector_size(4 * VECTOR), aligned(4), may_alias));
inline Vector load_vector(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store_vector(float* p, const Vector& v) { *reinterpret_cast<Vector*>(p) = v; }
inline Vector spread(float a) { return a - Vector{}; }  // not zero plus a, which is an operation if a is -0
#else
struct Vector {
    float v[VECTOR];
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
inline Vector load_vector(const float* p) {
    Vector r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
}
inline void store_vector(float* p, const Vector& x) { std::memcpy(p, x.v, sizeof x.v); }
inline Vector spread(float a) {
    Vector r;
    for (float& f : r.v) f = a;
    return r;
}
#endif

inline float from_bits(int32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline int32_t to_bits(float value) {
    int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// exp within 1 ulp on [-87, 88], clamped outside. Range reduction by ln 2 in two parts, then a polynomial.
inline float exp_(float x) {
    x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
    float n = (x * 1.44269504088896341f + magic) - magic;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * from_bits((static_cast<int32_t>(n) + 127) << 23);
}

// log within 1 ulp for positive normal numbers.
inline float log_(float x) {
    int32_t bits = to_bits(x);
    int32_t e = ((bits >> 23) & 255) - 126;
    float m = from_bits((bits & 0x007fffff) | 0x3f000000);  // in [1/2, 1)
    bool small = m < 0.707106781186547524f;
    e -= small ? 1 : 0;
    m = small ? m + m : m;
    m -= 1.0f;
    float z = m * m;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    float n = static_cast<float>(e);
    float y = m * z * p - 2.12194440e-4f * n - 0.5f * z;
    return (m + y) + 0.693359375f * n;
}

// log(1 + exp(x)).
inline float softplus_(float x) {
    float a = x < 0 ? x : -x;
    float e = exp_(a);  // in (0, 1]
    // log1p(e), exact to rounding also where e is tiny: log(u) * e / (u - 1) with u = 1 + e.
    float u = 1.0f + e;
    float l = u == 1.0f ? e : log_(u) * (e / (u - 1.0f));
    return (x > 0 ? x : 0.0f) + l;
}

inline float sigmoid_(float x) { return 1.0f / (1.0f + exp_(-x)); }

// The bin of every lane, and what it needs to be evaluated. `table` holds parameter p of lane i at
// [p * LANES + i].
struct Bin {
    Lane index;                    // as a float: compared and selected like the rest
    Lane x0, y0, w, h, d0, d1;
    Lane gap;                      // from the bin's edge to the entry, on the side it is given on
    Lane raw0, raw1;               // raw slopes at both ends, with the offset; 0 at the end knots
};

// Softmax of K rows of the table: exponentials into `share`, the factor that normalises them into `scale`.
inline void softmax(const float* raw, int bins, float* share, Lane& scale) {
    Lane most, sum;
    FOR_LANES most[i] = raw[i];
    for (int k = 1; k < bins; ++k) FOR_LANES {
        float v = raw[k * LANES + i];
        most[i] = v > most[i] ? v : most[i];
    }
    FOR_LANES sum[i] = 0.0f;
    for (int k = 0; k < bins; ++k) FOR_LANES {
        float e = exp_(raw[k * LANES + i] - most[i]);
        share[k * LANES + i] = e;
        sum[i] += e;
    }
    FOR_LANES scale[i] = 1.0f / sum[i];
}

// Find the bins of `x`, clamped to the interval, on the side of the data or of the noise.
inline void find(const Spline& s, bool inverse, const float* table, const Lane& x, float* shares, Bin& b) {
    const int bins = s.bins;
    Lane scale_w, scale_h;
    float* share_w = shares;
    float* share_h = shares + bins * LANES;
    softmax(table, bins, share_w, scale_w);
    softmax(table + bins * LANES, bins, share_h, scale_h);
    const float free_w = 1.0f - s.min_width * bins, free_h = 1.0f - s.min_height * bins;
    const float size = 2.0f * s.bound;
    const float offset = s.offset;
    const float* slopes = table + 2 * bins * LANES;

    // Edges are sums of many sizes, and small differences to them matter: in double precision.
    double left_x[LANES], left_y[LANES];
    FOR_LANES {
        left_x[i] = left_y[i] = -s.bound;
        b.index[i] = 0.0f;
    }
    for (int k = 0; k < bins; ++k) FOR_LANES {
        float p = share_w[k * LANES + i] * scale_w[i], q = share_h[k * LANES + i] * scale_h[i];
        share_w[k * LANES + i] = p;
        share_h[k * LANES + i] = q;
        float w = s.min_width + free_w * p, h = s.min_height + free_h * q;
        double gap = x[i] - (inverse ? left_y[i] : left_x[i]);
        // The last bin whose left edge is not to the right of x; the first always qualifies.
        bool here = k == 0 || gap >= 0;
        b.index[i] = here ? static_cast<float>(k) : b.index[i];
        b.gap[i] = here ? static_cast<float>(gap) : b.gap[i];
        b.x0[i] = here ? static_cast<float>(left_x[i]) : b.x0[i];
        b.y0[i] = here ? static_cast<float>(left_y[i]) : b.y0[i];
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
        float d = slopes[k * LANES + i];
        b.raw1[i] = b.index[i] == static_cast<float>(k) ? d : b.raw1[i];
        b.raw0[i] = b.index[i] == static_cast<float>(k + 1) ? d : b.raw0[i];
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
        float s = b.h[i] / b.w[i];
        float there;
        if (inverse) {
            float q = b.gap[i] > 0 ? b.gap[i] : 0.0f;
            float curve = q * (b.d1[i] + b.d0[i] - 2 * s);
            float a = b.h[i] * (s - b.d0[i]) + curve;
            float half = b.h[i] * b.d0[i] - curve;
            float c = -s * q;
            float root = half * half - 4 * a * c;
            root = std::sqrt(root > 0 ? root : 0.0f);
            float divisor = half + root;
            there = divisor > 0 ? -2 * c / divisor : 0.0f;
        } else {
            there = b.gap[i] / b.w[i];
        }
        t[i] = there < 0 ? 0.0f : (there > 1 ? 1.0f : there);
    }
}

inline void evaluate(bool inverse, const Bin& b, const Lane& t, Lane& out, Lane& logderivative) {
    FOR_LANES {
        float s = b.h[i] / b.w[i], r = 1 - t[i], bump = t[i] * r;
        float denominator = s + (b.d1[i] + b.d0[i] - 2 * s) * bump;
        float slope = b.d1[i] * t[i] * t[i] + 2 * s * bump + b.d0[i] * r * r;
        float share = s / denominator;
        float l = log_(share * share * slope);
        logderivative[i] = inverse ? -l : l;
        out[i] = inverse ? b.x0[i] + b.w[i] * t[i]
                         : b.y0[i] + b.h[i] * (s * t[i] * t[i] + b.d0[i] * bump) / denominator;
    }
}

// Only where a vector is one register: elsewhere the exchanges cost more than they save.
#if defined(__AVX512F__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12))
// Transpose 16 rows of 16: in four steps, rows i and i + S exchange the parts that belong to each other.
template <int S>
inline void exchange(Vector* rows) {
    for (int i = 0; i < 16; ++i) {
        if (i & S) continue;
        const Vector a = rows[i], b = rows[i + S];
#define KEEP(l) ((l) & S ? 16 + (l) - S : (l))
#define MOVE(l) ((l) & S ? 16 + (l) : (l) + S)
#define SIXTEEN(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)
        rows[i] = __builtin_shufflevector(a, b, SIXTEEN(KEEP));
        rows[i + S] = __builtin_shufflevector(a, b, SIXTEEN(MOVE));
#undef KEEP
#undef MOVE
#undef SIXTEEN
    }
}
inline void transpose(Vector* rows) {
    exchange<8>(rows);
    exchange<4>(rows);
    exchange<2>(rows);
    exchange<1>(rows);
}
#define MODEFLOW_TRANSPOSE 1
#endif

// Parameters of LANES entries, that begin at `params + first[i]`, to columns of lanes. In vectors: what is written
// entry by entry cannot be read as a vector before it has reached the cache. `end`: floats that may be read.
inline void load(const float* params, const int32_t* first, int64_t end, int n_params, float* table) {
#ifdef MODEFLOW_TRANSPOSE
    bool safe = true;
    for (int i = 0; i < LANES; ++i) safe = safe && first[i] + pad(n_params) <= end;
    if (safe) {
        for (int half = 0; half < LANES; half += 16)
            for (int p = 0; p < n_params; p += 16) {
                Vector rows[16];
                for (int i = 0; i < 16; ++i) rows[i] = load_vector(params + first[half + i] + p);
                transpose(rows);
                const int used = n_params - p < 16 ? n_params - p : 16;
                for (int k = 0; k < used; ++k) store_vector(table + (p + k) * LANES + half, rows[k]);
            }
        return;
    }
#endif
    (void)end;
    for (int p = 0; p < n_params; ++p)
        for (int i = 0; i < LANES; ++i) table[p * LANES + i] = params[first[i] + p];
}

inline void spline_lanes(const Spline& s, bool inverse, const float* table, const Lane& x, float* shares,
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
inline void spline_backward_lanes(const Spline& s, bool inverse, const float* table, const Lane& in,
                                  const Lane& gy, const Lane& gl, float* shares, Lane& gx, float* grad) {
    const int bins = s.bins;
    const float size = 2.0f * s.bound;
    const float free_w = 1.0f - s.min_width * bins, free_h = 1.0f - s.min_height * bins;
    Lane safe, t, gx0, gy0, gw, gh, gd0, gd1;
    Bin b;
    FOR_LANES safe[i] = in[i] < -s.bound ? -s.bound : (in[i] > s.bound ? s.bound : in[i]);
    find(s, inverse, table, safe, shares, b);
    place(inverse, b, t);
    FOR_LANES {
        const float w = b.w[i], h = b.h[i], d0 = b.d0[i], d1 = b.d1[i], v = t[i], r = 1 - v;
        const float m = h / w, bump = v * r, turn = 1 - 2 * v;
        const float numerator = m * v * v + d0 * bump, bend = d1 + d0 - 2 * m;
        const float denominator = m + bend * bump, over = 1 / denominator;
        const float slope = d1 * v * v + 2 * m * bump + d0 * r * r, per = 1 / slope;
        // Partial derivatives of F(t) = y0 + h A / D, and of the logarithm of its slope in x.
        const float f_t = h * m * slope * over * over;
        const float f_h = numerator * over;
        const float f_m = h * (v * v * denominator - numerator * (1 - 2 * bump)) * over * over;
        const float f_0 = h * bump * (denominator - numerator) * over * over;
        const float f_1 = -h * numerator * bump * over * over;
        const float l_t = (2 * d1 * v + 2 * m * turn - 2 * d0 * r) * per - 2 * bend * turn * over;
        const float l_m = 2 / m + 2 * bump * per - 2 * (1 - 2 * bump) * over;
        const float l_0 = r * r * per - 2 * bump * over;
        const float l_1 = v * v * per - 2 * bump * over;
        // Weights of F and of log F' in the loss. On the way back t solves F(t) = x, so that
        // dt = (dx - dF) / F_t: what the loss asks of t is handed on to F with the opposite sign.
        const float e = inverse ? -gl[i] : gl[i];
        const float on_f = inverse ? -(gy[i] * w + e * l_t) / f_t : gy[i];
        const float on_t = inverse ? 0.0f : gy[i] * f_t + e * l_t;
        const float on_m = on_f * f_m + e * l_m;
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
        const float* p = shares + side * bins * LANES;
        const Lane& on_edge = side == 0 ? gx0 : gy0;
        const Lane& on_size = side == 0 ? gw : gh;
        float* g = grad + side * bins * LANES;
        const float scale = size * (side == 0 ? free_w : free_h);
        Lane mean;
        FOR_LANES mean[i] = 0.0f;
        for (int k = 0; k < bins; ++k) FOR_LANES {
            float at = static_cast<float>(k);
            float v = at < b.index[i] ? on_edge[i] : (at == b.index[i] ? on_size[i] : 0.0f);
            g[k * LANES + i] = v;
            mean[i] += v * p[k * LANES + i];
        }
        for (int k = 0; k < bins; ++k) FOR_LANES
            g[k * LANES + i] = scale * p[k * LANES + i] * (g[k * LANES + i] - mean[i]);
    }
    for (int k = 0; k + 1 < bins; ++k) FOR_LANES {
        float at = static_cast<float>(k);
        float v = b.index[i] == at ? gd1[i] : (b.index[i] == at + 1 ? gd0[i] : 0.0f);
        grad[(2 * bins + k) * LANES + i] = v;
    }
}

}  // namespace
}  // namespace modeflow

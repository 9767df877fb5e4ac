// The hot loops, in plain C++ that any compiler vectorises: every step acts on LANES entries at once.
//
// Compiled once per instruction set (MODEFLOW_ISA names it); `bindings.cpp` picks the best at run time.
// No fast-math: rounding is as written. The reference is `modeflow/transforms/spline.py`, to which the tests
// compare every path. Reference: Durkan et al., Neural Spline Flows, 2019, https://arxiv.org/abs/1906.04032
#include "kernels.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace modeflow {
namespace {

constexpr int LANES = 16;
using Lane = float[LANES];

#ifdef _MSC_VER
#define FOR_LANES for (int i = 0; i < LANES; ++i)
#else
#define FOR_LANES _Pragma("omp simd") for (int i = 0; i < LANES; ++i)
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
    const float offset = std::log(std::expm1(1.0f - s.min_slope));
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

// Rows of parameters to columns of lanes; lanes beyond `count` repeat the first.
inline void load(const float* params, int n_params, int count, float* table) {
    for (int i = 0; i < LANES; ++i) {
        const float* row = params + (i < count ? i : 0) * static_cast<int64_t>(n_params);
        for (int p = 0; p < n_params; ++p) table[p * LANES + i] = row[p];
    }
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

void spline(const Spline& s, bool inverse, int64_t n, const float* x, const float* params, float* y,
            float* logderivative) {
    const int n_params = 3 * s.bins - 1;
    std::vector<float> work((n_params + 2 * s.bins) * LANES);
    float *table = work.data(), *shares = table + n_params * LANES;
    for (int64_t start = 0; start < n; start += LANES) {
        const int count = static_cast<int>(n - start < LANES ? n - start : LANES);
        Lane in, out, l;
        load(params + start * n_params, n_params, count, table);
        FOR_LANES in[i] = x[start + (i < count ? i : 0)];
        spline_lanes(s, inverse, table, in, shares, out, l);
        for (int i = 0; i < count; ++i) {
            y[start + i] = out[i];
            logderivative[start + i] = l[i];
        }
    }
}

void spline_backward(const Spline& s, bool inverse, int64_t n, const float* x, const float* params,
                     const float* grad_y, const float* grad_log, float* grad_x, float* grad_params) {
    const int bins = s.bins, n_params = 3 * bins - 1;
    std::vector<float> work((2 * n_params + 2 * bins) * LANES);
    float *table = work.data(), *shares = table + n_params * LANES, *grad = shares + 2 * bins * LANES;
    const float size = 2.0f * s.bound;
    const float free_w = 1.0f - s.min_width * bins, free_h = 1.0f - s.min_height * bins;
    for (int64_t start = 0; start < n; start += LANES) {
        const int count = static_cast<int>(n - start < LANES ? n - start : LANES);
        Lane in, safe, t, gy, gl, gx, gx0, gy0, gw, gh, gd0, gd1;
        Bin b;
        load(params + start * n_params, n_params, count, table);
        FOR_LANES {
            const int64_t j = start + (i < count ? i : 0);
            in[i] = x[j];
            gy[i] = grad_y[j];
            gl[i] = grad_log[j];
            safe[i] = in[i] < -s.bound ? -s.bound : (in[i] > s.bound ? s.bound : in[i]);
        }
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
        for (int i = 0; i < count; ++i) {
            grad_x[start + i] = gx[i];
            float* row = grad_params + (start + i) * n_params;
            for (int p = 0; p < n_params; ++p) row[p] = grad[p * LANES + i];
        }
    }
}

// rows [from, to) of a layer: bias + weight[:, :seen] @ h, for LANES events at once; h is (columns, LANES).
inline void rows_of(const Dense& layer, int from, int to, int seen, const float* h, bool relu, float* out) {
    int j = from;
    for (; j + 4 <= to; j += 4) {  // four units share every load of h
        const float* w0 = layer.weight + static_cast<int64_t>(j) * layer.columns;
        const float *w1 = w0 + layer.columns, *w2 = w1 + layer.columns, *w3 = w2 + layer.columns;
        Lane a0, a1, a2, a3;
        FOR_LANES {
            a0[i] = layer.bias[j];
            a1[i] = layer.bias[j + 1];
            a2[i] = layer.bias[j + 2];
            a3[i] = layer.bias[j + 3];
        }
        for (int k = 0; k < seen; ++k) {
            const float *v = h + k * LANES, b0 = w0[k], b1 = w1[k], b2 = w2[k], b3 = w3[k];
            FOR_LANES {
                float value = relu ? (v[i] > 0 ? v[i] : 0.0f) : v[i];
                a0[i] += b0 * value;
                a1[i] += b1 * value;
                a2[i] += b2 * value;
                a3[i] += b3 * value;
            }
        }
        std::memcpy(out + j * LANES, a0, sizeof a0);
        std::memcpy(out + (j + 1) * LANES, a1, sizeof a1);
        std::memcpy(out + (j + 2) * LANES, a2, sizeof a2);
        std::memcpy(out + (j + 3) * LANES, a3, sizeof a3);
    }
    for (; j < to; ++j) {
        const float* w = layer.weight + static_cast<int64_t>(j) * layer.columns;
        Lane a;
        FOR_LANES a[i] = layer.bias[j];
        for (int k = 0; k < seen; ++k) {
            const float *v = h + k * LANES, weight = w[k];
            FOR_LANES a[i] += weight * (relu ? (v[i] > 0 ? v[i] : 0.0f) : v[i]);
        }
        std::memcpy(out + j * LANES, a, sizeof a);
    }
}

void autoregressive_inverse(const Made& made, int kind, const Spline& s, float most, int64_t rows,
                            const float* u, float* x, float* logabsdet) {
    const int d_all = made.features, n_params = made.params;
    int64_t units = 0;
    for (int l = 0; l < made.n_hidden; ++l) units += made.hidden[l].rows;
    // Values of the inputs, of every hidden layer before its activation (of second layers in residual blocks:
    // with what came into the block), and of one feature's parameters.
    std::vector<float> work((d_all + units + n_params + 2 * s.bins) * static_cast<size_t>(LANES));
    float* known = work.data();
    float* params = known + static_cast<size_t>(d_all) * LANES;
    float* shares = params + static_cast<size_t>(n_params) * LANES;
    float* hidden = shares + static_cast<size_t>(2 * s.bins) * LANES;
    for (int64_t start = 0; start < rows; start += LANES) {
        const int count = static_cast<int>(rows - start < LANES ? rows - start : LANES);
        Lane total;
        FOR_LANES total[i] = 0.0f;
        for (int d = 0; d < d_all; ++d) {
            // Units of degree d: they see inputs up to d, which are known by now.
            float* here = hidden;
            const float* before = known;
            int seen = d;
            for (int l = 0; l < made.n_hidden; ++l) {
                const Dense& layer = made.hidden[l];
                const int from = d == 0 ? 0 : static_cast<int>(layer.until[d - 1]);
                const int to = static_cast<int>(layer.until[d]);
                rows_of(layer, from, to, l == 0 ? d : seen, before, l > 0, here);
                if (l == 0 && made.context_first)
                    for (int j = from; j < to; ++j) FOR_LANES {
                        const int64_t row = start + (i < count ? i : 0);
                        here[j * LANES + i] += made.context_first[row * layer.rows + j];
                    }
                if (made.residual && l > 0 && l % 2 == 0) {
                    // The second layer of a block: added to what came into the block.
                    const float* into = here - 2 * static_cast<size_t>(layer.rows) * LANES;
                    for (int j = from; j < to; ++j) FOR_LANES here[j * LANES + i] += into[j * LANES + i];
                }
                seen = to;
                before = here;
                here += static_cast<size_t>(layer.rows) * LANES;
            }
            const Dense& out = made.final;
            const Dense one{out.weight + static_cast<int64_t>(d) * n_params * out.columns,
                            out.bias + static_cast<int64_t>(d) * n_params, n_params, out.columns, nullptr};
            // What leaves a residual network is not activated once more.
            rows_of(one, 0, n_params, made.n_hidden == 0 ? d : seen, before,
                    !made.residual && made.n_hidden > 0, params);
            if (made.context_final)
                for (int p = 0; p < n_params; ++p) FOR_LANES {
                    const int64_t row = start + (i < count ? i : 0);
                    params[p * LANES + i] += made.context_final[(row * d_all + d) * n_params + p];
                }
            Lane in, column, l;
            FOR_LANES in[i] = u[(start + (i < count ? i : 0)) * d_all + d];
            if (kind == 0) {
                spline_lanes(s, true, params, in, shares, column, l);
            } else {
                FOR_LANES {
                    float raw = params[LANES + i], size = raw < 0 ? -raw : raw;
                    float log_scale = raw / (1 + size / most);
                    column[i] = (in[i] - params[i]) * exp_(-log_scale);
                    l[i] = -log_scale;
                }
            }
            FOR_LANES {
                known[d * LANES + i] = column[i];
                total[i] += l[i];
            }
        }
        for (int i = 0; i < count; ++i) {
            for (int d = 0; d < d_all; ++d) x[(start + i) * d_all + d] = known[d * LANES + i];
            logabsdet[start + i] = total[i];
        }
    }
}

}  // namespace

#define MODEFLOW_JOIN_(a, b) a##b
#define MODEFLOW_JOIN(a, b) MODEFLOW_JOIN_(a, b)
#define MODEFLOW_TEXT_(a) #a
#define MODEFLOW_TEXT(a) MODEFLOW_TEXT_(a)

const Kernels& MODEFLOW_JOIN(MODEFLOW_ISA, _kernels)() {
    static const Kernels kernels{MODEFLOW_TEXT(MODEFLOW_ISA), spline, spline_backward, autoregressive_inverse};
    return kernels;
}

}  // namespace modeflow

// The hot loops, in plain C++ that any compiler vectorises (see `lanes.h`).
//
// Compiled once per instruction set (MODEFLOW_ISA names it); `bindings.cpp` picks the best at run time.
#include "kernels.h"

#include <cstring>
#include <vector>

#include "adam.h"
#include "lanes.h"
#include "maps.h"
#include "stack.h"
#include "tree.h"

namespace modeflow {
namespace {

using Dense = BasicDense<real>;
using Made = BasicMade<real>;

void elementwise(const Map& map, bool inverse, int64_t n, const real* x, const real* params, real* y,
                 real* logderivative) {
    std::vector<real> space(map.params * LANES + work_of(map));
    real *table = space.data(), *work = table + map.params * LANES;
    for (int64_t start = 0; start < n; start += LANES) {
        const int count = static_cast<int>(n - start < LANES ? n - start : LANES);
        Lane in, out, l;
        int32_t first[LANES];
        FOR_LANES first[i] = (i < count ? i : 0) * map.params;
        load(params + start * map.params, first, (n - start) * map.params, map.params, table);
        FOR_LANES in[i] = x[start + (i < count ? i : 0)];
        map_lanes(map, inverse, table, in, work, out, l);
        for (int i = 0; i < count; ++i) {
            y[start + i] = out[i];
            logderivative[start + i] = l[i];
        }
    }
}

void elementwise_backward(const Map& map, bool inverse, int64_t n, const real* x, const real* params,
                          const real* grad_y, const real* grad_log, real* grad_x, real* grad_params) {
    std::vector<real> space(2 * map.params * LANES + work_of(map));
    real *table = space.data(), *grad = table + map.params * LANES, *work = grad + map.params * LANES;
    for (int64_t start = 0; start < n; start += LANES) {
        const int count = static_cast<int>(n - start < LANES ? n - start : LANES);
        Lane in, gy, gl, gx;
        int32_t first[LANES];
        FOR_LANES first[i] = (i < count ? i : 0) * map.params;
        load(params + start * map.params, first, (n - start) * map.params, map.params, table);
        FOR_LANES {
            const int64_t j = start + (i < count ? i : 0);
            in[i] = x[j];
            gy[i] = grad_y[j];
            gl[i] = grad_log[j];
        }
        map_backward_lanes(map, inverse, table, in, gy, gl, work, gx, grad);
        for (int i = 0; i < count; ++i) {
            grad_x[start + i] = gx[i];
            real* row = grad_params + (start + i) * map.params;
            for (int p = 0; p < map.params; ++p) row[p] = grad[p * LANES + i];
        }
    }
}

double squares(int64_t n, const real* x) {
    double sum[LANES] = {};
    int64_t start = 0;
    for (; start + LANES <= n; start += LANES) FOR_LANES {
        const double value = x[start + i];
        sum[i] += value * value;
    }
    double total = 0;
    for (; start < n; ++start) total += static_cast<double>(x[start]) * x[start];
    for (double part : sum) total += part;
    return total;
}

void elementary(int kind, int64_t n, const real* x, real* y) {
    for (int64_t start = 0; start < n; start += LANES) {
        const int count = static_cast<int>(n - start < LANES ? n - start : LANES);
        Lane in, out;
        FOR_LANES in[i] = x[start + (i < count ? i : 0)];
        if (kind == 0)
            FOR_LANES out[i] = exp_(in[i]);
        else if (kind == 1)
            FOR_LANES out[i] = log_(in[i]);
        else
            FOR_LANES out[i] = softplus_(in[i]);
        std::memcpy(y + start, out, sizeof(real) * count);
    }
}

// rows [from, to) of a layer: bias + weight[:, :seen] @ h, for LANES events at once; h is (columns, LANES).
inline void rows_of(const Dense& layer, int from, int to, int seen, const real* h, bool relu, real* out) {
    int j = from;
    for (; j + 4 <= to; j += 4) {  // four units share every load of h
        const real* w0 = layer.weight + static_cast<int64_t>(j) * layer.columns;
        const real *w1 = w0 + layer.columns, *w2 = w1 + layer.columns, *w3 = w2 + layer.columns;
        Lane a0, a1, a2, a3;
        FOR_LANES {
            a0[i] = layer.bias[j];
            a1[i] = layer.bias[j + 1];
            a2[i] = layer.bias[j + 2];
            a3[i] = layer.bias[j + 3];
        }
        for (int k = 0; k < seen; ++k) {
            const real *v = h + k * LANES, b0 = w0[k], b1 = w1[k], b2 = w2[k], b3 = w3[k];
            FOR_LANES {
                real value = relu ? (v[i] > 0 ? v[i] : 0.0f) : v[i];
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
        const real* w = layer.weight + static_cast<int64_t>(j) * layer.columns;
        Lane a;
        FOR_LANES a[i] = layer.bias[j];
        for (int k = 0; k < seen; ++k) {
            const real *v = h + k * LANES, weight = w[k];
            FOR_LANES a[i] += weight * (relu ? (v[i] > 0 ? v[i] : 0.0f) : v[i]);
        }
        std::memcpy(out + j * LANES, a, sizeof a);
    }
}

void autoregressive_inverse(const Made& made, const Map& map, int64_t rows, const real* u, real* x,
                            real* logabsdet) {
    const int d_all = made.features, n_params = made.params;
    int64_t units = 0;
    for (int l = 0; l < made.n_hidden; ++l) units += made.hidden[l].rows;
    // Values of the inputs, of every hidden layer before its activation (of second layers in residual blocks:
    // with what came into the block), and of one feature's parameters.
    std::vector<real> work((d_all + units + n_params) * static_cast<size_t>(LANES) + work_of(map));
    real* known = work.data();
    real* params = known + static_cast<size_t>(d_all) * LANES;
    real* spare = params + static_cast<size_t>(n_params) * LANES;
    real* hidden = spare + work_of(map);
    for (int64_t start = 0; start < rows; start += LANES) {
        const int count = static_cast<int>(rows - start < LANES ? rows - start : LANES);
        Lane total;
        FOR_LANES total[i] = 0.0f;
        for (int d = 0; d < d_all; ++d) {
            // Units of degree d: they see inputs up to d, which are known by now.
            real* here = hidden;
            const real* before = known;
            int seen = d;
            for (int l = 0; l < made.n_hidden; ++l) {
                const Dense& layer = made.hidden[l];
                const int from = d == 0 ? 0 : static_cast<int>(layer.until[d - 1]);
                const int to = static_cast<int>(layer.until[d]);
                rows_of(layer, from, to, seen, before, l > 0, here);
                if (l == 0 && made.context_first)
                    for (int j = from; j < to; ++j) FOR_LANES {
                        const int64_t row = start + (i < count ? i : 0);
                        here[j * LANES + i] += made.context_first[row * layer.rows + j];
                    }
                if (made.residual && l > 0 && l % 2 == 0) {
                    // The second layer of a block: added to what came into the block.
                    const real* into = here - 2 * static_cast<size_t>(layer.rows) * LANES;
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
            rows_of(one, 0, n_params, seen, before, !made.residual && made.n_hidden > 0, params);
            if (made.context_final)
                for (int p = 0; p < n_params; ++p) FOR_LANES {
                    const int64_t row = start + (i < count ? i : 0);
                    params[p * LANES + i] += made.context_final[(row * d_all + d) * n_params + p];
                }
            Lane in, column, l;
            FOR_LANES in[i] = u[(start + (i < count ? i : 0)) * d_all + d];
            map_lanes(map, true, params, in, spare, column, l);
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

#define MODEFLOW_TEXT_(a) #a
#define MODEFLOW_TEXT(a) MODEFLOW_TEXT_(a)

const BasicKernels<real>& MODEFLOW_NAME() {
    static const BasicKernels<real> kernels{MODEFLOW_TEXT(MODEFLOW_ISA),
                                            &stacks::MODEFLOW_NAME(),
                                            elementwise,
                                            elementwise_backward,
                                            autoregressive_inverse,
                                            tree_evidence,
                                            tree_ratios,
                                            gaussian_log_prob,
                                            gaussian_grad,
                                            gaussian_input_grad,
                                            squares,
                                            adam,
                                            elementary};
    return kernels;
}

}  // namespace modeflow

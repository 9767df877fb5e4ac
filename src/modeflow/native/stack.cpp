// A stack of coupling layers, forward, inverse and backward, on tiles of rows that stay in cache.
//
// Matrices are row by row, rows padded to a multiple of 16 floats with zeros, so that no loop has a tail.
// The arithmetic is that of the modules `Permutation`, `LULinear`, `Coupling` and `ResidualMLP`.
#include "stack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "lanes.h"

namespace modeflow {
namespace {

// M x (16 N) of C = [C] + [bias] + A B, in registers over the whole of k.
template <int M, int N>
inline void block(int k_all, const float* a, int64_t a_row, int64_t a_k, const float* b, int64_t b_row, float* c,
                  int64_t c_row, const float* bias, bool add) {
    Vector sum[M][N];
    for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n) {
            sum[m][n] = bias ? load_vector(bias + 16 * n) : spread(0.0f);
            if (add) sum[m][n] = sum[m][n] + load_vector(c + m * c_row + 16 * n);
        }
    for (int k = 0; k < k_all; ++k) {
        Vector right[N];
        for (int n = 0; n < N; ++n) right[n] = load_vector(b + k * b_row + 16 * n);
        for (int m = 0; m < M; ++m) {
            const Vector left = spread(a[m * a_row + k * a_k]);
            for (int n = 0; n < N; ++n) sum[m][n] = sum[m][n] + left * right[n];
        }
    }
    for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n) store_vector(c + m * c_row + 16 * n, sum[m][n]);
}

template <int N>
inline void panel(int m_all, int k, const float* a, int64_t a_row, int64_t a_k, const float* b, int64_t b_row,
                  float* c, int64_t c_row, const float* bias, bool add) {
    int m = 0;
    for (; m + 8 <= m_all; m += 8)
        block<8, N>(k, a + m * a_row, a_row, a_k, b, b_row, c + m * c_row, c_row, bias, add);
    if (m_all - m >= 4) {
        block<4, N>(k, a + m * a_row, a_row, a_k, b, b_row, c + m * c_row, c_row, bias, add);
        m += 4;
    }
    for (; m < m_all; ++m)
        block<1, N>(k, a + m * a_row, a_row, a_k, b, b_row, c + m * c_row, c_row, bias, add);
}

// C (m x n, n a multiple of 16) = [C] + [bias] + A B. A is read at a[i * a_row + k * a_k].
void product(int m, int n, int k, const float* a, int64_t a_row, int64_t a_k, const float* b, int64_t b_row,
             float* c, int64_t c_row, const float* bias, bool add) {
    int j = 0;
    for (; j + 32 <= n; j += 32)
        panel<2>(m, k, a, a_row, a_k, b + j, b_row, c + j, c_row, bias ? bias + j : nullptr, add);
    if (j < n) panel<1>(m, k, a, a_row, a_k, b + j, b_row, c + j, c_row, bias ? bias + j : nullptr, add);
}

// A dense layer, packed: weights as (in, out) for the way there and as (out, in) for the way back.
struct Packed {
    int in = 0, out = 0, in_p = 0, out_p = 0;
    std::vector<float> there, back, bias;
    int64_t sums = 0;  // where its gradients lie: (out, in_p) and (out_p)

    void set(int in_, int out_, const float* weight, const float* bias_) {
        in = in_, out = out_, in_p = pad(in), out_p = pad(out);
        there.assign(static_cast<size_t>(in) * out_p, 0.0f);
        back.assign(static_cast<size_t>(out) * in_p, 0.0f);
        bias.assign(out_p, 0.0f);
        for (int o = 0; o < out; ++o) {
            std::memcpy(&back[static_cast<size_t>(o) * in_p], weight + static_cast<int64_t>(o) * in,
                        sizeof(float) * in);
            for (int i = 0; i < in; ++i)
                there[static_cast<size_t>(i) * out_p + o] = weight[static_cast<int64_t>(o) * in + i];
            bias[o] = bias_[o];
        }
    }
    int64_t sums_size() const { return static_cast<int64_t>(out) * in_p + out_p; }

    void forward(int rows, const float* x, float* y, bool add = false) const {
        product(rows, out_p, in, x, in_p, 1, there.data(), out_p, y, out_p, bias.data(), add);
    }
    // grad_x = grad_y W, and the gradients of weight and bias added to the sums.
    void backward(int rows, const float* x, const float* grad_y, float* grad_x, float* total) const {
        float* weight = total + sums;
        product(out, in_p, rows, grad_y, 1, out_p, x, in_p, weight, in_p, nullptr, true);
        float* bias_sum = weight + static_cast<int64_t>(out) * in_p;
        for (int r = 0; r < rows; ++r)
            for (int o = 0; o < out_p; ++o) bias_sum[o] += grad_y[static_cast<int64_t>(r) * out_p + o];
        product(rows, in_p, out, grad_y, out_p, 1, back.data(), in_p, grad_x, in_p, nullptr, false);
    }
};

struct Ready {
    const StackLayer* layer;
    std::vector<Packed> dense;          // linear: one; coupling: first, pairs of the blocks, last
    std::vector<double> lower, upper;   // of a linear layer, (D, D)
    double logabsdet = 0;
};

struct Prepared {
    Stack stack;
    std::vector<Ready> layers;
    int64_t sums = 0;
    double logabsdet = 0;  // of all linear layers
};

double softplus(double x) { return (x > 0 ? x : 0) + std::log1p(std::exp(-std::fabs(x))); }

void prepare_linear(const StackLayer& layer, int d, Ready& ready) {
    const size_t n = static_cast<size_t>(d);
    ready.lower.assign(n * n, 0.0);
    ready.upper.assign(n * n, 0.0);
    const float *low = layer.parameters[0], *up = layer.parameters[1], *raw = layer.parameters[2];
    for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < i; ++j) ready.lower[i * n + j] = *low++;
        ready.lower[i * n + i] = 1.0;
        const double diagonal = static_cast<double>(layer.eps) + softplus(raw[i]);
        ready.upper[i * n + i] = diagonal;
        for (size_t j = i + 1; j < n; ++j) ready.upper[i * n + j] = *up++;
        ready.logabsdet += std::log(diagonal);
    }
    std::vector<double> row(n);
    std::vector<float> weight(n * n);
    for (size_t i = 0; i < n; ++i) {
        std::fill(row.begin(), row.end(), 0.0);
        for (size_t k = 0; k <= i; ++k) {
            const double l = ready.lower[i * n + k];
            for (size_t j = k; j < n; ++j) row[j] += l * ready.upper[k * n + j];
        }
        for (size_t j = 0; j < n; ++j) weight[i * n + j] = static_cast<float>(row[j]);
    }
    ready.dense.resize(1);
    ready.dense[0].set(d, d, weight.data(), layer.parameters[3]);
}

void* prepare(Stack given) {
    auto* prepared = new Prepared;
    prepared->stack = std::move(given);
    const Stack& stack = prepared->stack;
    const int d = stack.features;
    for (const StackLayer& layer : stack.layers) {
        Ready ready;
        ready.layer = &layer;
        if (layer.kind == StackLayer::LINEAR) {
            prepare_linear(layer, d, ready);
            prepared->logabsdet += ready.logabsdet;
        } else if (layer.kind == StackLayer::COUPLING) {
            const auto& p = layer.parameters;
            const int last = 1 + 2 * layer.blocks, out = layer.moved * (3 * layer.spline.bins - 1);
            ready.dense.resize(last + 1);
            for (int i = 0; i <= last; ++i)
                ready.dense[i].set(i == 0 ? layer.kept + stack.context : layer.hidden,
                                   i == last ? out : layer.hidden, p[2 * i], p[2 * i + 1]);
        }
        for (Packed& dense : ready.dense) {
            dense.sums = prepared->sums;
            prepared->sums += dense.sums_size();
        }
        prepared->layers.push_back(std::move(ready));
    }
    return prepared;
}

void release(void* prepared) { delete static_cast<Prepared*>(prepared); }

int64_t sums_size(const void* prepared) { return static_cast<const Prepared*>(prepared)->sums; }

// What a tile needs for each layer: its input; a coupling also the input of its network, both activations of
// every block, what the last layer sees, and the parameters.
int64_t coupling_size(const StackLayer& layer, int context, int tile) {
    const int64_t hidden = pad(layer.hidden);
    return tile * (pad(layer.kept + context) + (2 * layer.blocks + 1) * hidden +
                   static_cast<int64_t>(pad(layer.moved * (3 * layer.spline.bins - 1))));
}

int64_t tape_size(const void* handle, int tile) {
    const Stack& stack = static_cast<const Prepared*>(handle)->stack;
    int64_t size = 0;
    for (const StackLayer& layer : stack.layers) {
        size += static_cast<int64_t>(tile) * pad(stack.features);
        if (layer.kind == StackLayer::COUPLING) size += coupling_size(layer, stack.context, tile);
    }
    return size + static_cast<int64_t>(tile) * pad(stack.features);
}

void relu_copy(int64_t n, const float* from, float* to) {
    for (int64_t i = 0; i < n; ++i) to[i] = from[i] > 0 ? from[i] : 0.0f;
}

struct Places {  // of a coupling, within its part of the tape
    float *in, *seen, *params;
    std::vector<float*> opened, closed;  // activations before the first and the second layer of every block

    Places(const StackLayer& layer, int context, int tile, float* at) {
        const int64_t hidden = static_cast<int64_t>(tile) * pad(layer.hidden);
        in = at;
        at += static_cast<int64_t>(tile) * pad(layer.kept + context);
        for (int b = 0; b < layer.blocks; ++b) {
            opened.push_back(at);
            closed.push_back(at + hidden);
            at += 2 * hidden;
        }
        seen = at;
        params = at + hidden;
    }
};

// Entries (row, column) of the moved features, LANES at a time: `visit(rows, columns, count)`.
template <class Visit>
inline void for_entries(int rows, int moved, const Visit& visit) {
    const int64_t n = static_cast<int64_t>(rows) * moved;
    int row[LANES], column[LANES];
    int r = 0, c = 0;
    for (int64_t start = 0; start < n; start += LANES) {
        const int count = static_cast<int>(n - start < LANES ? n - start : LANES);
        for (int i = 0; i < LANES; ++i) {
            row[i] = i < count ? r : row[0];
            column[i] = i < count ? c : column[0];
            if (i < count && ++c == moved) c = 0, ++r;
        }
        visit(row, column, count);
    }
}

void network(const Ready& ready, const Places& at, int context, int rows, const float* x, int width,
             const float* given) {
    const StackLayer& layer = *ready.layer;
    const int in_p = ready.dense[0].in_p, hidden = pad(layer.hidden);
    for (int r = 0; r < rows; ++r) {
        float* to = at.in + static_cast<int64_t>(r) * in_p;
        const float* from = x + static_cast<int64_t>(r) * width;
        for (int j = 0; j < layer.kept; ++j) to[j] = from[layer.index[j]];
        for (int j = 0; j < context; ++j) to[layer.kept + j] = given[static_cast<int64_t>(r) * context + j];
        for (int j = layer.kept + context; j < in_p; ++j) to[j] = 0.0f;
    }
    float* h = at.seen;
    ready.dense[0].forward(rows, at.in, h);
    const int64_t size = static_cast<int64_t>(rows) * hidden;
    for (int b = 0; b < layer.blocks; ++b) {
        relu_copy(size, h, at.opened[b]);
        ready.dense[1 + 2 * b].forward(rows, at.opened[b], at.closed[b]);
        relu_copy(size, at.closed[b], at.closed[b]);
        ready.dense[2 + 2 * b].forward(rows, at.closed[b], h, true);
    }
    ready.dense[1 + 2 * layer.blocks].forward(rows, h, at.params);
}

void couple(const Ready& ready, const Places& at, bool inverse, int rows, const float* x, int width, float* y,
            float* logabsdet, float* work) {
    const StackLayer& layer = *ready.layer;
    const int n_params = 3 * layer.spline.bins - 1;
    const int64_t stride = ready.dense.back().out_p;
    float *table = work, *shares = work + n_params * LANES;
    const int64_t* moved = layer.index + layer.kept;
    const int64_t end = rows * stride;
    for (int r = 0; r < rows; ++r)
        for (int j = 0; j < layer.kept; ++j) {
            const int64_t place = static_cast<int64_t>(r) * width + layer.index[j];
            y[place] = x[place];
        }
    for_entries(rows, layer.moved, [&](const int* row, const int* column, int count) {
        Lane in, out, l;
        int32_t first[LANES];
        for (int i = 0; i < LANES; ++i) {
            first[i] = static_cast<int32_t>(row[i] * stride + column[i] * n_params);
            in[i] = x[static_cast<int64_t>(row[i]) * width + moved[column[i]]];
        }
        load(at.params, first, end, n_params, table);
        spline_lanes(layer.spline, inverse, table, in, shares, out, l);
        for (int i = 0; i < count; ++i) {
            y[static_cast<int64_t>(row[i]) * width + moved[column[i]]] = out[i];
            logabsdet[row[i]] += l[i];
        }
    });
}

int64_t work_size(const Stack& stack) {
    int64_t most = 0;
    for (const StackLayer& layer : stack.layers)
        if (layer.kind == StackLayer::COUPLING)
            most = std::max<int64_t>(most, (2 * (3 * layer.spline.bins - 1) + 2 * layer.spline.bins) * LANES);
    return most;
}

// One row of a substitution, for all rows of data: values[i] minus the others, times the factors.
inline void eliminate(const double* factors, int i, int from, int to, int rows_p, float* values) {
    float* out = values + static_cast<int64_t>(i) * rows_p;
    for (int r = 0; r < rows_p; r += 64) {
        const int n = std::min(4, (rows_p - r) / 16);
        Vector sum[4];
        for (int v = 0; v < n; ++v) sum[v] = load_vector(out + r + 16 * v);
        for (int k = from; k < to; ++k) {
            const Vector factor = spread(static_cast<float>(-factors[k]));
            const float* other = values + static_cast<int64_t>(k) * rows_p + r;
            for (int v = 0; v < n; ++v) sum[v] = sum[v] + factor * load_vector(other + 16 * v);
        }
        for (int v = 0; v < n; ++v) store_vector(out + r + 16 * v, sum[v]);
    }
}

// x with L U x + b = u by substitution, which holds where an inverse matrix would lose digits.
void solve(const Ready& ready, int d, int width, int rows, const float* u, float* x, std::vector<float>& space) {
    const int rows_p = pad(rows);
    space.assign(static_cast<size_t>(d) * rows_p, 0.0f);
    float* values = space.data();  // (features, rows)
    const float* bias = ready.layer->parameters[3];
    for (int r = 0; r < rows; ++r)
        for (int j = 0; j < d; ++j)
            values[static_cast<int64_t>(j) * rows_p + r] = u[static_cast<int64_t>(r) * width + j] - bias[j];
    for (int i = 0; i < d; ++i) eliminate(&ready.lower[static_cast<size_t>(i) * d], i, 0, i, rows_p, values);
    for (int i = d; i-- > 0;) {
        const double* factors = &ready.upper[static_cast<size_t>(i) * d];
        eliminate(factors, i, i + 1, d, rows_p, values);
        const float diagonal = static_cast<float>(factors[i]);
        for (int r = 0; r < rows_p; ++r) values[static_cast<int64_t>(i) * rows_p + r] /= diagonal;
    }
    for (int r = 0; r < rows; ++r)
        for (int j = 0; j < width; ++j)
            x[static_cast<int64_t>(r) * width + j] =
                j < d ? values[static_cast<int64_t>(j) * rows_p + r] : 0.0f;
}

void run(const void* handle, bool inverse, int tile, int64_t rows, int64_t from, int64_t to, const float* x,
         const float* context, float* u, float* logabsdet, float* tape) {
    const Prepared& p = *static_cast<const Prepared*>(handle);
    const Stack& stack = p.stack;
    const int d = stack.features, width = pad(d), n_layers = static_cast<int>(p.layers.size());
    const int64_t per_tile = tape_size(handle, tile), size = static_cast<int64_t>(tile) * width;
    // Without a tape two layers' values and one network are all that is kept, and stay in cache.
    int64_t part_size = 0;
    for (const StackLayer& layer : stack.layers)
        if (layer.kind == StackLayer::COUPLING)
            part_size = std::max(part_size, coupling_size(layer, stack.context, tile));
    std::vector<float> scratch(tape ? 0 : 2 * size + part_size), work(work_size(stack)), space;
    for (int64_t t = from; t < to; ++t) {
        const int64_t start = t * tile;
        const int count = static_cast<int>(std::min<int64_t>(tile, rows - start));
        float* at = tape ? tape + t * per_tile : scratch.data() + part_size;
        for (int r = 0; r < count; ++r) {
            std::memcpy(at + static_cast<int64_t>(r) * width, x + (start + r) * d, sizeof(float) * d);
            std::memset(at + static_cast<int64_t>(r) * width + d, 0, sizeof(float) * (width - d));
            logabsdet[start + r] = static_cast<float>(inverse ? -p.logabsdet : p.logabsdet);
        }
        for (int l = 0; l < n_layers; ++l) {
            const Ready& ready = p.layers[inverse ? n_layers - 1 - l : l];
            const StackLayer& layer = *ready.layer;
            const float* now = at;
            float* part = tape ? at + size : scratch.data();
            if (!tape)
                at = scratch.data() + part_size + (l % 2 == 0 ? size : 0);
            else
                at += size + (layer.kind == StackLayer::COUPLING ? coupling_size(layer, stack.context, tile) : 0);
            float* next = at;
            if (layer.kind == StackLayer::PERMUTATION) {
                for (int r = 0; r < count; ++r) {
                    const float* a = now + static_cast<int64_t>(r) * width;
                    float* b = next + static_cast<int64_t>(r) * width;
                    if (inverse)
                        for (int j = 0; j < d; ++j) b[layer.index[j]] = a[j];
                    else
                        for (int j = 0; j < d; ++j) b[j] = a[layer.index[j]];
                    for (int j = d; j < width; ++j) b[j] = 0.0f;
                }
            } else if (layer.kind == StackLayer::LINEAR) {
                if (inverse)
                    solve(ready, d, width, count, now, next, space);
                else
                    ready.dense[0].forward(count, now, next);
            } else {
                const Places places(layer, stack.context, tile, part);
                network(ready, places, stack.context, count, now, width,
                        context ? context + start * stack.context : nullptr);
                for (int r = 0; r < count; ++r)
                    for (int j = d; j < width; ++j) next[static_cast<int64_t>(r) * width + j] = 0.0f;
                couple(ready, places, inverse, count, now, width, next, logabsdet + start, work.data());
            }
        }
        for (int r = 0; r < count; ++r)
            std::memcpy(u + (start + r) * d, at + static_cast<int64_t>(r) * width, sizeof(float) * d);
    }
}

// From the gradients of the moved features to those of the parameters, of x, and through the network.
void decouple(const Ready& ready, const Places& at, int context, int rows, const float* x, int width,
              const float* grad_y, const float* grad_log, float* grad_x, float* grad_context, float* sums,
              std::vector<float>& space, float* work) {
    const StackLayer& layer = *ready.layer;
    const int n_params = 3 * layer.spline.bins - 1, hidden = pad(layer.hidden), in_p = ready.dense[0].in_p;
    const int64_t stride = ready.dense.back().out_p, h_size = static_cast<int64_t>(rows) * hidden;
    float *table = work, *shares = table + n_params * LANES, *grad = shares + 2 * layer.spline.bins * LANES;
    const int64_t* moved = layer.index + layer.kept;
    const int64_t end = rows * stride;
    space.resize(std::max<size_t>(space.size(), rows * (stride + 3 * hidden + in_p)));
    float *grad_params = space.data(), *grad_h = grad_params + rows * stride, *grad_q = grad_h + h_size;
    float* grad_in = grad_q + h_size;
    const int used = layer.moved * n_params;
    for (int r = 0; r < rows; ++r)
        for (int64_t k = used; k < stride; ++k) grad_params[r * stride + k] = 0.0f;
    for_entries(rows, layer.moved, [&](const int* row, const int* column, int count) {
        Lane in, gy, gl, gx;
        int32_t first[LANES];
        for (int i = 0; i < LANES; ++i) {
            first[i] = static_cast<int32_t>(row[i] * stride + column[i] * n_params);
            const int64_t place = static_cast<int64_t>(row[i]) * width + moved[column[i]];
            in[i] = x[place];
            gy[i] = grad_y[place];
            gl[i] = grad_log[row[i]];
        }
        load(at.params, first, end, n_params, table);
        spline_backward_lanes(layer.spline, false, table, in, gy, gl, shares, gx, grad);
        for (int i = 0; i < count; ++i) {
            grad_x[static_cast<int64_t>(row[i]) * width + moved[column[i]]] = gx[i];
            float* p = grad_params + row[i] * stride + column[i] * n_params;
            for (int k = 0; k < n_params; ++k) p[k] = grad[k * LANES + i];
        }
    });
    ready.dense.back().backward(rows, at.seen, grad_params, grad_h, sums);
    for (int b = layer.blocks; b-- > 0;) {
        ready.dense[2 + 2 * b].backward(rows, at.closed[b], grad_h, grad_q, sums);
        for (int64_t i = 0; i < h_size; ++i) grad_q[i] = at.closed[b][i] > 0 ? grad_q[i] : 0.0f;
        float* grad_r = grad_in + static_cast<int64_t>(rows) * in_p;
        ready.dense[1 + 2 * b].backward(rows, at.opened[b], grad_q, grad_r, sums);
        for (int64_t i = 0; i < h_size; ++i) grad_h[i] += at.opened[b][i] > 0 ? grad_r[i] : 0.0f;
    }
    ready.dense[0].backward(rows, at.in, grad_h, grad_in, sums);
    for (int r = 0; r < rows; ++r) {
        const float* g = grad_in + static_cast<int64_t>(r) * in_p;
        for (int j = 0; j < layer.kept; ++j) {
            const int64_t place = static_cast<int64_t>(r) * width + layer.index[j];
            grad_x[place] = grad_y[place] + g[j];
        }
        if (grad_context)
            for (int j = 0; j < context; ++j)
                grad_context[static_cast<int64_t>(r) * context + j] += g[layer.kept + j];
    }
}

void backward(const void* handle, int tile, int64_t rows, int64_t from, int64_t to, const float* grad_u,
              const float* grad_log, const float* tape, float* grad_x, float* grad_context, float* sums) {
    const Prepared& p = *static_cast<const Prepared*>(handle);
    const Stack& stack = p.stack;
    const int d = stack.features, width = pad(d), n_layers = static_cast<int>(p.layers.size());
    const int64_t per_tile = tape_size(handle, tile), size = static_cast<int64_t>(tile) * width;
    std::vector<float> first(size), second(size), space, work(work_size(stack));
    std::vector<int64_t> offsets(n_layers);
    int64_t offset = 0;
    for (int l = 0; l < n_layers; ++l) {
        offsets[l] = offset;
        offset += size;
        if (p.layers[l].layer->kind == StackLayer::COUPLING)
            offset += coupling_size(*p.layers[l].layer, stack.context, tile);
    }
    for (int64_t t = from; t < to; ++t) {
        const int64_t start = t * tile;
        const int count = static_cast<int>(std::min<int64_t>(tile, rows - start));
        // Only read, but places are handed out as they are for writing.
        float* base = const_cast<float*>(tape) + t * per_tile;
        float *now = first.data(), *next = second.data();
        for (int r = 0; r < count; ++r) {
            std::memcpy(now + static_cast<int64_t>(r) * width, grad_u + (start + r) * d, sizeof(float) * d);
            std::memset(now + static_cast<int64_t>(r) * width + d, 0, sizeof(float) * (width - d));
        }
        for (int l = n_layers; l-- > 0;) {
            const Ready& ready = p.layers[l];
            const StackLayer& layer = *ready.layer;
            float* x = base + offsets[l];
            if (layer.kind == StackLayer::PERMUTATION) {
                for (int r = 0; r < count; ++r) {
                    const float* a = now + static_cast<int64_t>(r) * width;
                    float* b = next + static_cast<int64_t>(r) * width;
                    for (int j = 0; j < d; ++j) b[layer.index[j]] = a[j];
                    for (int j = d; j < width; ++j) b[j] = 0.0f;
                }
            } else if (layer.kind == StackLayer::LINEAR) {
                ready.dense[0].backward(count, x, now, next, sums);
            } else {
                for (int r = 0; r < count; ++r)
                    for (int j = d; j < width; ++j) next[static_cast<int64_t>(r) * width + j] = 0.0f;
                const Places places(layer, stack.context, tile, x + size);
                decouple(ready, places, stack.context, count, x, width, now, grad_log + start, next,
                         grad_context ? grad_context + start * stack.context : nullptr, sums, space,
                         work.data());
            }
            std::swap(now, next);
        }
        for (int r = 0; r < count; ++r)
            std::memcpy(grad_x + (start + r) * d, now + static_cast<int64_t>(r) * width, sizeof(float) * d);
    }
}

void finish(const void* handle, const float* sums, double total, const Addresses& gradients) {
    const Prepared& p = *static_cast<const Prepared*>(handle);
    const size_t n = static_cast<size_t>(p.stack.features);
    for (size_t index = 0; index < p.layers.size(); ++index) {
        const Ready& ready = p.layers[index];
        const StackLayer& layer = *ready.layer;
        const auto place = [&](size_t parameter) {
            return reinterpret_cast<float*>(static_cast<uintptr_t>(gradients[index][parameter]));
        };
        if (layer.kind == StackLayer::LINEAR) {
            // W = L U: dL = dW U^T below the diagonal, dU = L^T dW on and above it.
            const Packed& dense = ready.dense[0];
            const float* weight = sums + dense.sums;
            float *low = place(0), *up = place(1), *raw = place(2);
            std::vector<double> row(n);
            for (size_t i = 0; i < n; ++i)
                for (size_t j = 0; j < i; ++j) {
                    double g = 0;
                    for (size_t k = j; k < n; ++k) g += weight[i * dense.in_p + k] * ready.upper[j * n + k];
                    *low++ = static_cast<float>(g);
                }
            for (size_t i = 0; i < n; ++i) {
                std::fill(row.begin(), row.end(), 0.0);
                for (size_t k = i; k < n; ++k) {
                    const double l = ready.lower[k * n + i];
                    for (size_t j = i; j < n; ++j) row[j] += l * weight[k * dense.in_p + j];
                }
                const double diagonal = ready.upper[i * n + i];
                raw[i] = static_cast<float>((row[i] + total / diagonal) /
                                            (1.0 + std::exp(-static_cast<double>(layer.parameters[2][i]))));
                for (size_t j = i + 1; j < n; ++j) *up++ = static_cast<float>(row[j]);
            }
            std::memcpy(place(3), weight + static_cast<int64_t>(dense.out) * dense.in_p,
                        sizeof(float) * n);
        } else if (layer.kind == StackLayer::COUPLING) {
            for (size_t i = 0; i < ready.dense.size(); ++i) {
                const Packed& dense = ready.dense[i];
                const float* weight = sums + dense.sums;
                for (int o = 0; o < dense.out; ++o)
                    std::memcpy(place(2 * i) + static_cast<int64_t>(o) * dense.in,
                                weight + static_cast<int64_t>(o) * dense.in_p, sizeof(float) * dense.in);
                std::memcpy(place(2 * i + 1), weight + static_cast<int64_t>(dense.out) * dense.in_p,
                            sizeof(float) * dense.out);
            }
        }
    }
}

}  // namespace

const StackKernels& MODEFLOW_JOIN(MODEFLOW_ISA, _stack)() {
    static const StackKernels kernels{prepare, release, tape_size, run, sums_size, backward, finish};
    return kernels;
}

}  // namespace modeflow

// A stack of layers, forward, inverse and backward, on tiles of rows that stay in cache.
//
// The arithmetic is that of the modules `Permutation`, `LULinear`, `ConditionalAffine`, `Coupling`,
// `MaskedAutoregressive`, and of their networks `ResidualMLP`, `MADE` and `ResidualMADE`. Rows of every matrix are
// padded to a multiple of 16 numbers.
#include "stack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "lanes.h"
#include "maps.h"
#include "matrix.h"

namespace modeflow {
namespace {

using Stack = BasicStack<real>;
using StackLayer = BasicStackLayer<real>;
using StackDense = BasicStackDense<real>;

struct Ready {
    const StackLayer* layer;
    std::vector<Packed> dense;          // linear: one; conditioned: those of the network
    std::vector<double> lower, upper;   // of a linear layer, (D, D)
    std::vector<double> slope;          // of its diagonal in what it is made from
    std::vector<real> table;            // of an affine layer, as it was
    double logabsdet = 0;
    std::vector<int64_t> before;        // numbers on the tape before each dense layer's input, and before the last's
    int64_t tape = 0;                   // numbers that a row needs on the tape
    int64_t sums = 0;                   // of an affine layer: where the gradient of its table lies
};

// Numbers of an affine layer for each context: m, s and, if full, L.
int64_t affine_size(const StackLayer& layer, int d) {
    return 2 * d + (layer.full ? static_cast<int64_t>(d) * (d - 1) / 2 : 0);
}

struct Prepared {
    Stack stack;
    bool backward;
    std::vector<Ready> layers;
    int64_t sums = 0;

    double logabsdet() const {  // of all linear layers
        double total = 0;
        for (const Ready& ready : layers) total += ready.logabsdet;
        return total;
    }
};

double softplus(double x) { return (x > 0 ? x : 0) + std::log1p(std::exp(-std::fabs(x))); }

void pack_linear(const StackLayer& layer, int d, bool backward, Ready& ready) {
    const size_t n = static_cast<size_t>(d);
    ready.lower.assign(n * n, 0.0);
    ready.upper.assign(n * n, 0.0);
    const real *low = layer.linear[0], *up = layer.linear[1], *raw = layer.linear[2];
    for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < i; ++j) ready.lower[i * n + j] = *low++;
        ready.lower[i * n + i] = 1.0;
        const double diagonal = static_cast<double>(layer.eps) + softplus(raw[i]);
        ready.upper[i * n + i] = diagonal;
        ready.slope.push_back(1.0 / (1.0 + std::exp(-static_cast<double>(raw[i]))));
        for (size_t j = i + 1; j < n; ++j) ready.upper[i * n + j] = *up++;
        ready.logabsdet += std::log(diagonal);
    }
    std::vector<double> row(n);
    std::vector<real> weight(n * n);
    for (size_t i = 0; i < n; ++i) {
        std::fill(row.begin(), row.end(), 0.0);
        for (size_t k = 0; k <= i; ++k) {
            const double l = ready.lower[i * n + k];
            for (size_t j = k; j < n; ++j) row[j] += l * ready.upper[k * n + j];
        }
        for (size_t j = 0; j < n; ++j) weight[i * n + j] = static_cast<real>(row[j]);
    }
    ready.dense[0].pack(weight.data(), d, layer.linear[3], nullptr, backward);
}

void* prepare(Stack given, bool backward) {
    auto* prepared = new Prepared;
    prepared->stack = std::move(given);
    prepared->backward = backward;
    for (const StackLayer& layer : prepared->stack.layers) {
        Ready ready;
        ready.layer = &layer;
        ready.tape = pad(prepared->stack.features);
        if (layer.kind == StackLayer::LINEAR) {
            ready.dense.resize(1);
            ready.dense[0].set(prepared->stack.features, prepared->stack.features, 0);
        } else if (layer.kind == StackLayer::CONDITIONED) {
            ready.dense.resize(layer.network.size());
            for (size_t i = 0; i < ready.dense.size(); ++i) {
                const StackDense& dense = layer.network[i];
                ready.dense[i].set(dense.in, dense.out, dense.given ? prepared->stack.context : 0);
                ready.before.push_back(ready.tape - pad(prepared->stack.features));
                ready.tape += ready.dense[i].in_p;
            }
            ready.before.push_back(ready.tape - pad(prepared->stack.features));
            ready.tape += ready.dense.back().out_p;
        } else if (layer.kind == StackLayer::AFFINE) {
            const int64_t contexts = layer.given ? prepared->stack.context : 1;
            ready.sums = prepared->sums;
            prepared->sums += (contexts * affine_size(layer, prepared->stack.features) + 15) / 16 * 16;
        }
        for (Packed& dense : ready.dense) {
            dense.sums = prepared->sums;
            prepared->sums += dense.sums_size();
        }
        prepared->layers.push_back(std::move(ready));
    }
    return prepared;
}

void pack(void* handle, int64_t from, int64_t to) {
    Prepared& p = *static_cast<Prepared*>(handle);
    for (int64_t l = from; l < to; ++l) {
        Ready& ready = p.layers[l];
        if (ready.layer->kind == StackLayer::LINEAR) pack_linear(*ready.layer, p.stack.features, p.backward, ready);
        if (ready.layer->kind == StackLayer::AFFINE) {
            const int64_t contexts = ready.layer->given ? p.stack.context : 1;
            ready.table.assign(ready.layer->table,
                               ready.layer->table + contexts * affine_size(*ready.layer, p.stack.features));
        }
        for (size_t i = 0; i < ready.layer->network.size(); ++i) {
            const StackDense& dense = ready.layer->network[i];
            ready.dense[i].pack(dense.weight, dense.row, dense.bias, dense.mask, p.backward);
            if (dense.given) ready.dense[i].pack_given(dense.given, dense.given_row, dense.given_bias);
        }
    }
}

void release(void* prepared) { delete static_cast<Prepared*>(prepared); }

// A tile's part of the tape: for each layer its input; of a network also the input of each of its dense layers, and
// what it gives. At the end, what leaves the stack.
int64_t tape_size(const void* handle, int tile) {
    const Prepared& p = *static_cast<const Prepared*>(handle);
    int64_t size = pad(p.stack.features);
    for (const Ready& ready : p.layers) size += ready.tape;
    return size * tile;
}

// Where the inputs of a network's dense layers lie, after its layer's input, and what it gives.
struct Places {
    const Ready& ready;
    const int64_t tile;
    real* const at;

    real* in(size_t i) const { return at + tile * ready.before[i]; }
    real* params() const { return at + tile * ready.before[ready.dense.size()]; }
};

// The positive part of `width` columns; in place, or from rows of another width.
inline void relu(int rows, int width, const real* from, int64_t from_row, real* to, int64_t to_row) {
    for (int r = 0; r < rows; ++r) {
        const real* a = from + r * from_row;
        real* b = to + r * to_row;
        for (int i = 0; i < width; ++i) b[i] = a[i] > 0 ? a[i] : 0.0f;
    }
}

// The contexts of some rows, without their zeros: of a one-hot context, one number of each row.
struct Given {
    std::vector<int> column;
    std::vector<real> value;
    std::vector<size_t> start{0};

    void read(const real* context, int width, int64_t from, int64_t to) {
        column.clear(), value.clear(), start.assign(1, 0);
        for (int64_t r = from; r < to; ++r) {
            const real* row = context + r * width;
            for (int c = 0; c < width; ++c)
                if (row[c] != 0.0f) column.push_back(c), value.push_back(row[c]);
            start.push_back(column.size());
        }
    }
    // `visit(row, column, value)` in the order of the rows, of the first `rows` of them.
    template <class Visit>
    void each(int rows, const Visit& visit) const {
        for (int r = 0; r < rows; ++r)
            for (size_t k = start[r]; k < start[r + 1]; ++k) visit(r, column[k], value[k]);
    }
};

// to += value * from, of a multiple of 16 numbers.
inline void add_scaled(int n, real value, const real* from, real* to) {
    const Vector factor = spread(value);
    for (int i = 0; i < n; i += VECTOR) store_vector(to + i, load_vector(to + i) + factor * load_vector(from + i));
}

// What a dense layer gives, with what the contexts add to it.
inline void forward(const Packed& dense, int rows, const Given& given, const real* x, real* y, int64_t y_row) {
    if (dense.given) {
        for (int r = 0; r < rows; ++r) std::memset(y + r * y_row, 0, sizeof(real) * dense.out_p);
        given.each(rows, [&](int r, int c, real v) {
            add_scaled(dense.out_p, v, dense.table.data() + static_cast<int64_t>(c) * dense.out_p, y + r * y_row);
        });
    }
    dense.forward(rows, x, y, y_row, dense.given > 0);
}

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

void network(const Ready& ready, const Places& at, int rows, const real* x, int width, const Given& given) {
    const StackLayer& layer = *ready.layer;
    const int last = static_cast<int>(ready.dense.size()) - 1, first_row = ready.dense[0].in_p;
    for (int r = 0; r < rows; ++r) {
        real* to = at.in(0) + static_cast<int64_t>(r) * first_row;
        const real* from = x + static_cast<int64_t>(r) * width;
        for (int j = 0; j < layer.seen; ++j) to[j] = from[layer.index[j]];
        for (int j = layer.seen; j < first_row; ++j) to[j] = 0.0f;
    }
    real* h = at.in(last);
    const int64_t h_row = ready.dense[last].in_p;
    if (layer.residual) {
        forward(ready.dense[0], rows, given, at.in(0), h, h_row);
        for (int i = 1; i < last; i += 2) {
            const Packed &open = ready.dense[i], &close = ready.dense[i + 1];
            relu(rows, open.in_p, h, h_row, at.in(i), open.in_p);
            open.forward(rows, at.in(i), at.in(i + 1), close.in_p);
            relu(rows, close.in_p, at.in(i + 1), close.in_p, at.in(i + 1), close.in_p);
            close.forward(rows, at.in(i + 1), h, h_row, true);
        }
    } else {
        for (int i = 0; i < last; ++i) {
            const int64_t row = ready.dense[i + 1].in_p;
            forward(ready.dense[i], rows, given, at.in(i), at.in(i + 1), row);
            relu(rows, ready.dense[i].out_p, at.in(i + 1), row, at.in(i + 1), row);
        }
    }
    forward(ready.dense[last], rows, given, h, at.params(), ready.dense[last].out_p);
}

// The numbers of an affine layer for one row, in `to`: those of its context, or a sum of such.
inline void affine_row(const Ready& ready, const Given& given, int r, int64_t size, real* to) {
    const real* table = ready.table.data();
    if (!ready.layer->given) {
        std::memcpy(to, table, sizeof(real) * size);
        return;
    }
    std::memset(to, 0, sizeof(real) * size);
    for (size_t k = given.start[r]; k < given.start[r + 1]; ++k) {
        const real *row = table + given.column[k] * size, v = given.value[k];
        for (int64_t i = 0; i < size; ++i) to[i] += v * row[i];
    }
}

// sum of a[i] * b[i]
inline real dot(int n, const real* a, const real* b) {
    real sum = 0.0f;
#ifndef _MSC_VER
#pragma omp simd reduction(+ : sum)
#endif
    for (int i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

// u = (I + L) v with v = (x - m) exp(-s), or back.
void affine(const Ready& ready, const Given& given, bool inverse, int d, int rows, const real* x, int width, real* u,
            real* logabsdet) {
    const StackLayer& layer = *ready.layer;
    const int64_t size = affine_size(layer, d);
    Buffer space(size + d);
    real *numbers = space.data(), *v = numbers + size;
    for (int r = 0; r < rows; ++r) {
        affine_row(ready, given, r, size, numbers);
        const real *m = numbers, *s = numbers + d, *in = x + static_cast<int64_t>(r) * width;
        real *out = u + static_cast<int64_t>(r) * width, total = 0.0f;
        for (int j = 0; j < d; ++j) total += s[j];
        logabsdet[r] += inverse ? total : -total;
        const real* low = numbers + 2 * d;
        if (!inverse) {
            for (int j = 0; j < d; ++j) v[j] = (in[j] - m[j]) * exp_(-s[j]);
            for (int j = 0; j < d; ++j) {
                out[j] = v[j] + (layer.full ? dot(j, low, v) : 0.0f);
                low += j;
            }
        } else {
            for (int j = 0; j < d; ++j) {
                v[j] = in[j] - (layer.full ? dot(j, low, v) : 0.0f);
                low += j;
            }
            for (int j = 0; j < d; ++j) out[j] = v[j] * exp_(s[j]) + m[j];
        }
        for (int j = d; j < width; ++j) out[j] = 0.0f;
    }
}

void condition(const Ready& ready, const Places& at, bool inverse, int rows, const real* x, int width, real* y,
               real* logabsdet, real* space) {
    const StackLayer& layer = *ready.layer;
    const int n_params = layer.map.params;
    const int64_t stride = ready.dense.back().out_p;
    real *table = space, *work = space + n_params * LANES;
    const int64_t* moved = layer.index + layer.seen;
    const int64_t end = rows * stride;
    if (!layer.autoregressive)
        for (int r = 0; r < rows; ++r)
            for (int j = 0; j < layer.seen; ++j) {
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
        load(at.params(), first, end, n_params, table);
        map_lanes(layer.map, inverse, table, in, work, out, l);
        for (int i = 0; i < count; ++i) {
            y[static_cast<int64_t>(row[i]) * width + moved[column[i]]] = out[i];
            logabsdet[row[i]] += l[i];
        }
    });
}

// Room for the parameters of LANES entries, their gradients, and what the map needs beside them.
int64_t space_size(const Stack& stack) {
    int64_t most = 0;
    for (const StackLayer& layer : stack.layers)
        if (layer.kind == StackLayer::CONDITIONED)
            most = std::max<int64_t>(most, 2 * layer.map.params * LANES + work_of(layer.map));
    return most;
}

// One row of a substitution, for all rows of data: values[i] minus the others, times the factors.
inline void eliminate(const double* factors, int i, int from, int to, int rows_p, real* values) {
    real* out = values + static_cast<int64_t>(i) * rows_p;
    const int step = 4 * VECTOR;
    for (int r = 0; r < rows_p; r += step) {
        const int n = std::min(4, (rows_p - r) / VECTOR);
        Vector sum[4];
        for (int v = 0; v < n; ++v) sum[v] = load_vector(out + r + VECTOR * v);
        for (int k = from; k < to; ++k) {
            const Vector factor = spread(static_cast<real>(-factors[k]));
            const real* other = values + static_cast<int64_t>(k) * rows_p + r;
            for (int v = 0; v < n; ++v) sum[v] = sum[v] + factor * load_vector(other + VECTOR * v);
        }
        for (int v = 0; v < n; ++v) store_vector(out + r + VECTOR * v, sum[v]);
    }
}

// x with L U x + b = u by substitution, which holds where an inverse matrix would lose digits.
void solve(const Ready& ready, int d, int width, int rows, const real* u, real* x, Buffer& space) {
    const int rows_p = pad(rows);
    space.assign(static_cast<size_t>(d) * rows_p, 0.0f);
    real* values = space.data();  // (features, rows)
    const real* bias = ready.dense[0].bias.data();
    for (int r = 0; r < rows; ++r)
        for (int j = 0; j < d; ++j)
            values[static_cast<int64_t>(j) * rows_p + r] = u[static_cast<int64_t>(r) * width + j] - bias[j];
    for (int i = 0; i < d; ++i) eliminate(&ready.lower[static_cast<size_t>(i) * d], i, 0, i, rows_p, values);
    for (int i = d; i-- > 0;) {
        const double* factors = &ready.upper[static_cast<size_t>(i) * d];
        eliminate(factors, i, i + 1, d, rows_p, values);
        const real diagonal = static_cast<real>(factors[i]);
        for (int r = 0; r < rows_p; ++r) values[static_cast<int64_t>(i) * rows_p + r] /= diagonal;
    }
    for (int r = 0; r < rows; ++r)
        for (int j = 0; j < width; ++j)
            x[static_cast<int64_t>(r) * width + j] =
                j < d ? values[static_cast<int64_t>(j) * rows_p + r] : 0.0f;
}

void run(const void* handle, bool inverse, int tile, int64_t rows, int64_t from, int64_t to, const real* x,
         const real* context, real* u, real* logabsdet, real* tape) {
    const Prepared& p = *static_cast<const Prepared*>(handle);
    const Stack& stack = p.stack;
    const int d = stack.features, width = pad(d), n_layers = static_cast<int>(p.layers.size());
    const int64_t per_tile = tape_size(handle, tile), size = static_cast<int64_t>(tile) * width;
    const double constant = p.logabsdet();
    // Without a tape two layers' values and one network are all that is kept, and stay in cache.
    int64_t part_size = 0;
    for (const Ready& ready : p.layers) part_size = std::max(part_size, ready.tape * tile - size);
    Buffer scratch(tape ? 0 : 2 * size + part_size), work(space_size(stack)), space;
    Given given;
    for (int64_t t = from; t < to; ++t) {
        const int64_t start = t * tile;
        const int count = static_cast<int>(std::min<int64_t>(tile, rows - start));
        real* at = tape ? tape + t * per_tile : scratch.data() + part_size;
        for (int r = 0; r < count; ++r) {
            std::memcpy(at + static_cast<int64_t>(r) * width, x + (start + r) * d, sizeof(real) * d);
            std::memset(at + static_cast<int64_t>(r) * width + d, 0, sizeof(real) * (width - d));
            logabsdet[start + r] = static_cast<real>(inverse ? -constant : constant);
        }
        if (context) given.read(context, stack.context, start, start + count);
        for (int l = 0; l < n_layers; ++l) {
            const Ready& ready = p.layers[inverse ? n_layers - 1 - l : l];
            const StackLayer& layer = *ready.layer;
            const real* now = at;
            real* part = tape ? at + size : scratch.data();
            if (!tape)
                at = scratch.data() + part_size + (l % 2 == 0 ? size : 0);
            else
                at += ready.tape * tile;
            real* next = at;
            if (layer.kind == StackLayer::PERMUTATION) {
                for (int r = 0; r < count; ++r) {
                    const real* a = now + static_cast<int64_t>(r) * width;
                    real* b = next + static_cast<int64_t>(r) * width;
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
                    ready.dense[0].forward(count, now, next, width);
            } else if (layer.kind == StackLayer::AFFINE) {
                affine(ready, given, inverse, d, count, now, width, next, logabsdet + start);
            } else {
                const Places places{ready, tile, part};
                network(ready, places, count, now, width, given);
                for (int r = 0; r < count; ++r)
                    for (int j = d; j < width; ++j) next[static_cast<int64_t>(r) * width + j] = 0.0f;
                condition(ready, places, inverse, count, now, width, next, logabsdet + start, work.data());
            }
        }
        for (int r = 0; r < count; ++r)
            std::memcpy(u + (start + r) * d, at + static_cast<int64_t>(r) * width, sizeof(real) * d);
    }
}

// -- backward

// What the way back holds. For every dense layer of the layer at hand, and every row, the gradient of what it gives.
struct Sweep {
    const Prepared& p;
    const int tile, width;
    const int64_t rows, tiles;
    const real* tape;
    std::vector<Given> contexts;   // of the tiles
    std::vector<int64_t> offsets;  // of the layers, within a tile's part of the tape
    Buffer now, next, sums;
    std::vector<Buffer> given;
    std::vector<int64_t> given_row;

    Sweep(const Prepared& prepared, int tile_, int64_t rows_, const real* context, const real* grad_u,
          const real* tape_)
        : p(prepared), tile(tile_), width(pad(p.stack.features)), rows(rows_), tiles((rows_ + tile_ - 1) / tile_),
          tape(tape_), contexts(tiles), now(tiles * tile * width), next(tiles * tile * width), sums(p.sums) {
        const int d = p.stack.features;
        for (int64_t r = 0; r < rows; ++r) {
            std::memcpy(&now[r * width], grad_u + r * d, sizeof(real) * d);
            std::memset(&now[r * width + d], 0, sizeof(real) * (width - d));
        }
        for (int64_t t = 0; context && t < tiles; ++t)
            contexts[t].read(context, p.stack.context, t * tile, t * tile + count(t));
        int64_t offset = 0;
        for (const Ready& ready : p.layers) {
            offsets.push_back(offset);
            offset += ready.tape * tile;
        }
        per_tile_ = tape_size(&p, tile);
    }
    // Room for what the dense layers of a network give. Rows are as wide as the gradient that is written there.
    void fit(const Ready& ready) {
        const size_t n = ready.dense.size();
        if (given.size() < n) given.resize(n);
        given_row.resize(n);
        for (size_t i = 0; i < n; ++i) {
            given_row[i] = i + 1 < n ? std::max(ready.dense[i].out_p, ready.dense[i + 1].in_p) : ready.dense[i].out_p;
            const size_t size = static_cast<size_t>(tiles * tile * given_row[i]);
            if (given[i].size() < size) given[i].resize(size);
        }
    }
    int count(int64_t t) const { return static_cast<int>(std::min<int64_t>(tile, rows - t * tile)); }
    // A layer's part of the tape. Only read, but places are handed out as they are for writing.
    real* at(int64_t t, int64_t layer) const { return const_cast<real*>(tape) + t * per_tile_ + offsets[layer]; }
    real* grad(size_t i, int64_t t) { return given[i].data() + t * tile * given_row[i]; }

  private:
    int64_t per_tile_;
};

// to = [more +] grad where x is positive.
inline void through_relu(int rows, int width, const real* x, int64_t x_row, const real* grad, int64_t grad_row,
                         const real* more, int64_t more_row, real* to, int64_t to_row) {
    for (int r = 0; r < rows; ++r) {
        const real *a = x + r * x_row, *g = grad + r * grad_row, *m = more + (more ? r * more_row : 0);
        real* b = to + r * to_row;
        if (more)
            for (int i = 0; i < width; ++i) b[i] = m[i] + (a[i] > 0 ? g[i] : 0.0f);
        else
            for (int i = 0; i < width; ++i) b[i] = a[i] > 0 ? g[i] : 0.0f;
    }
}

// The gradient of the contexts, from that of what a dense layer gives.
inline void add_context(const Packed& dense, int rows, const real* grad, int64_t row, real* grad_context) {
    if (!dense.given || !grad_context) return;
    for (int r = 0; r < rows; ++r)
        for (int c = 0; c < dense.given; ++c)
            grad_context[static_cast<int64_t>(r) * dense.given + c] +=
                dot(dense.out, dense.table.data() + static_cast<int64_t>(c) * dense.out_p, grad + r * row);
}

// From the gradients of the parameters to those of the network's input, which are written to `to`.
void network_backward(Sweep& s, const Ready& ready, const Places& at, int64_t t, real* grad_context, real* to,
                      Buffer& spare) {
    const StackLayer& layer = *ready.layer;
    const int rows = s.count(t), last = static_cast<int>(ready.dense.size()) - 1;
    const auto& row = s.given_row;
    // What dense layer i gives is seen by layer i + 1.
    const auto back = [&](int i, real* grad_in, int64_t in_row) {
        add_context(ready.dense[i], rows, s.grad(i, t), row[i], grad_context);
        ready.dense[i].backward(rows, s.grad(i, t), row[i], grad_in, in_row);
    };
    if (last > 0) back(last, s.grad(last - 1, t), row[last - 1]);
    if (layer.residual) {
        for (int i = last - 1; i > 0; i -= 2) {
            const int open_row = ready.dense[i - 1].in_p, close_row = ready.dense[i].in_p;
            real* closed = s.grad(i - 1, t);
            back(i, closed, row[i - 1]);
            through_relu(rows, close_row, at.in(i), close_row, closed, row[i - 1], nullptr, 0, closed, row[i - 1]);
            spare.resize(std::max(spare.size(), static_cast<size_t>(rows) * open_row));
            back(i - 1, spare.data(), open_row);
            through_relu(rows, open_row, at.in(i - 1), open_row, spare.data(), open_row, s.grad(i, t), row[i],
                         s.grad(i - 2, t), row[i - 2]);
        }
    } else {
        for (int i = last - 1; i >= 0; --i) {
            real* grad = s.grad(i, t);
            through_relu(rows, ready.dense[i].out_p, at.in(i + 1), ready.dense[i + 1].in_p, grad, row[i], nullptr, 0,
                         grad, row[i]);
            if (i > 0) back(i, s.grad(i - 1, t), row[i - 1]);
        }
    }
    back(0, to, ready.dense[0].in_p);
}

// Gradients of an affine layer: of x into `grad_x`; of its numbers, where they are wanted, into `table` (one row for
// each context), and of the contexts.
void affine_backward(const Ready& ready, const Given& given, int contexts, int d, int rows, const real* x,
                     int width, const real* grad_u, const real* grad_log, real* grad_x, real* table,
                     real* grad_context) {
    const StackLayer& layer = *ready.layer;
    const int64_t size = affine_size(layer, d);
    Buffer space(2 * size + 2 * d);
    real *numbers = space.data(), *grad = numbers + size, *v = grad + size, *grad_v = v + d;
    for (int r = 0; r < rows; ++r) {
        affine_row(ready, given, r, size, numbers);
        const real *m = numbers, *s = numbers + d, *in = x + static_cast<int64_t>(r) * width;
        const real *g = grad_u + static_cast<int64_t>(r) * width, *low = numbers + 2 * d;
        for (int j = 0; j < d; ++j) v[j] = (in[j] - m[j]) * exp_(-s[j]);
        for (int j = 0; j < d; ++j) grad_v[j] = g[j];
        real* grad_low = grad + 2 * d;
        for (int i = 0; layer.full && i < d; ++i) {
            for (int j = 0; j < i; ++j) {
                grad_v[j] += low[j] * g[i];
                grad_low[j] = g[i] * v[j];
            }
            low += i, grad_low += i;
        }
        for (int j = 0; j < d; ++j) {
            const real on_x = grad_v[j] * exp_(-s[j]);
            if (grad_x) grad_x[static_cast<int64_t>(r) * width + j] = on_x;
            grad[j] = -on_x;
            grad[d + j] = -grad_v[j] * v[j] - grad_log[r];
        }
        for (int j = d; grad_x && j < width; ++j) grad_x[static_cast<int64_t>(r) * width + j] = 0.0f;
        if (table && !layer.given)
            for (int64_t i = 0; i < size; ++i) table[i] += grad[i];
        if (table && layer.given)
            for (size_t k = given.start[r]; k < given.start[r + 1]; ++k) {
                real* to = table + given.column[k] * size;
                for (int64_t i = 0; i < size; ++i) to[i] += given.value[k] * grad[i];
            }
        if (grad_context && layer.given)
            for (int c = 0; c < contexts; ++c)
                grad_context[static_cast<int64_t>(r) * contexts + c] +=
                    dot(static_cast<int>(size), ready.table.data() + c * size, grad);
    }
}

// From the gradients of the moved features to those of the parameters, of x, and through the network.
void decondition(Sweep& s, const Ready& ready, int64_t t, real* x, const real* grad_y, const real* grad_log,
                 real* grad_x, real* grad_context, Buffer& space, Buffer& grad_in, Buffer& spare) {
    const StackLayer& layer = *ready.layer;
    const Places at{ready, s.tile, x + static_cast<int64_t>(s.tile) * s.width};
    const int rows = s.count(t), n_params = layer.map.params, used = layer.moved * n_params, width = s.width;
    const int64_t stride = ready.dense.back().out_p, end = rows * stride;
    real *table = space.data(), *grad = table + n_params * LANES, *work = grad + n_params * LANES;
    const int64_t* moved = layer.index + layer.seen;
    real* grad_params = s.grad(ready.dense.size() - 1, t);
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
        load(at.params(), first, end, n_params, table);
        map_backward_lanes(layer.map, false, table, in, gy, gl, work, gx, grad);
        for (int i = 0; i < count; ++i) {
            grad_x[static_cast<int64_t>(row[i]) * width + moved[column[i]]] = gx[i];
            real* p = grad_params + row[i] * stride + column[i] * n_params;
            for (int k = 0; k < n_params; ++k) p[k] = grad[k * LANES + i];
        }
    });
    grad_in.resize(std::max(grad_in.size(), static_cast<size_t>(rows) * ready.dense[0].in_p));
    network_backward(s, ready, at, t, grad_context, grad_in.data(), spare);
    for (int r = 0; r < rows; ++r) {
        const real* network = grad_in.data() + static_cast<int64_t>(r) * ready.dense[0].in_p;
        for (int j = 0; j < layer.seen; ++j) {
            const int64_t place = static_cast<int64_t>(r) * width + layer.index[j];
            grad_x[place] = (layer.autoregressive ? grad_x[place] : grad_y[place]) + network[j];
        }
        for (int j = s.p.stack.features; j < width; ++j) grad_x[static_cast<int64_t>(r) * width + j] = 0.0f;
    }
}

void* begin(const void* prepared, int tile, int64_t rows, const real* context, const real* grad_u,
            const real* tape) {
    return new Sweep(*static_cast<const Prepared*>(prepared), tile, rows, context, grad_u, tape);
}

void end(void* sweep) { delete static_cast<Sweep*>(sweep); }

// After a layer, `next` holds the gradient of its input, and `now` what it came from: they change places when the
// next layer begins.
void back(void* sweep, int64_t index, int64_t from, int64_t to, const real* grad_log, real* grad_context) {
    Sweep& s = *static_cast<Sweep*>(sweep);
    const Ready& ready = s.p.layers[index];
    const StackLayer& layer = *ready.layer;
    const int d = s.p.stack.features, width = s.width;
    Buffer space(space_size(s.p.stack)), grad_in, spare;
    for (int64_t t = from; t < to; ++t) {
        const int count = s.count(t);
        const real* now = s.now.data() + t * s.tile * width;
        real* next = s.next.data() + t * s.tile * width;
        if (layer.kind == StackLayer::PERMUTATION) {
            for (int r = 0; r < count; ++r) {
                const real* a = now + static_cast<int64_t>(r) * width;
                real* b = next + static_cast<int64_t>(r) * width;
                for (int j = 0; j < d; ++j) b[layer.index[j]] = a[j];
                for (int j = d; j < width; ++j) b[j] = 0.0f;
            }
        } else if (layer.kind == StackLayer::LINEAR) {
            ready.dense[0].backward(count, now, width, next, width);
        } else {
            const int64_t start = t * s.tile;
            const real* log = grad_log + start;
            real* contexts = grad_context ? grad_context + start * s.p.stack.context : nullptr;
            if (layer.kind == StackLayer::AFFINE)
                affine_backward(ready, s.contexts[t], s.p.stack.context, d, count, s.at(t, index), width, now, log,
                                next, nullptr, contexts);
            else
                decondition(s, ready, t, s.at(t, index), now, log, next, contexts, space, grad_in, spare);
        }
    }
}

int64_t parts(const void* sweep, int64_t layer) {
    const Ready& ready = static_cast<const Sweep*>(sweep)->p.layers[layer];
    int64_t n = ready.layer->kind == StackLayer::AFFINE ? 1 : 0;
    for (const Packed& dense : ready.dense) n += std::max<int64_t>(1, dense.panels());
    return n;
}

// The gradient of what the contexts add to a dense layer.
void gradient_of_table(const Packed& dense, const Given& given, int rows, const real* grad, int64_t row, real* total,
                       bool add) {
    real* table = total + dense.table_at();
    if (!add) std::memset(table, 0, sizeof(real) * dense.given * dense.out_p);
    given.each(rows, [&](int r, int c, real v) {
        add_scaled(dense.out_p, v, grad + r * row, table + static_cast<int64_t>(c) * dense.out_p);
    });
}

void weigh(void* sweep, int64_t index, int64_t from, int64_t to, const real* grad_log) {
    Sweep& s = *static_cast<Sweep*>(sweep);
    const Ready& ready = s.p.layers[index];
    if (ready.layer->kind == StackLayer::AFFINE) {
        const int d = s.p.stack.features, contexts = ready.layer->given ? s.p.stack.context : 1;
        real* table = s.sums.data() + ready.sums;
        std::memset(table, 0, sizeof(real) * contexts * affine_size(*ready.layer, d));
        for (int64_t t = 0; t < s.tiles; ++t)
            affine_backward(ready, s.contexts[t], contexts, d, s.count(t), s.at(t, index), s.width,
                            s.now.data() + t * s.tile * s.width, grad_log + t * s.tile, nullptr, table, nullptr);
        return;
    }
    const bool linear = ready.layer->kind == StackLayer::LINEAR;
    int64_t part = 0;
    for (size_t i = 0; i < ready.dense.size(); ++i) {
        const Packed& dense = ready.dense[i];
        const int64_t panels = static_cast<int64_t>(dense.panels());
        for (int64_t panel = 0; panel < std::max<int64_t>(1, panels); ++panel, ++part) {
            if (part < from || part >= to) continue;
            for (int64_t t = 0; t < s.tiles; ++t) {
                real* x = s.at(t, index);
                const real* grad = linear ? s.now.data() + t * s.tile * s.width : s.grad(i, t);
                const int64_t row = linear ? s.width : s.given_row[i];
                if (panel == 0) {
                    dense.gradient_of_bias(s.count(t), grad, row, s.sums.data(), t > 0);
                    if (dense.given) gradient_of_table(dense, s.contexts[t], s.count(t), grad, row, s.sums.data(), t > 0);
                }
                if (panel == panels) continue;  // no inputs
                const real* in = linear ? x : Places{ready, s.tile, x + static_cast<int64_t>(s.tile) * s.width}.in(i);
                dense.gradient(static_cast<size_t>(panel), s.count(t), in, grad, row, s.sums.data(), t > 0);
            }
        }
    }
}

void turn(void* sweep, int64_t layer) {
    Sweep& s = *static_cast<Sweep*>(sweep);
    if (layer + 1 < static_cast<int64_t>(s.p.layers.size())) std::swap(s.now, s.next);
    if (s.p.layers[layer].layer->kind == StackLayer::CONDITIONED) s.fit(s.p.layers[layer]);
}

void give(const void* sweep, real* grad_x) {
    const Sweep& s = *static_cast<const Sweep*>(sweep);
    const int d = s.p.stack.features;
    for (int64_t r = 0; r < s.rows; ++r)
        std::memcpy(grad_x + r * d, s.next.data() + r * s.width, sizeof(real) * d);
}

// W = L U: dL = dW U^T below the diagonal, dU = L^T dW on and above it.
void finish_linear(const Ready& ready, const real* weight, int64_t row_size, double total,
                   real* low, real* up, real* raw) {
    const size_t n = static_cast<size_t>(ready.dense[0].in);
    std::vector<double> row(n), across(n * n);
    for (size_t j = 0; j < n; ++j)
        for (size_t k = j; k < n; ++k) across[k * n + j] = ready.upper[j * n + k];
    for (size_t i = 0; i < n; ++i) {
        std::fill(row.begin(), row.end(), 0.0);
        for (size_t k = 0; k < n; ++k) {
            const double g = weight[i * row_size + k];
            const size_t end = std::min(i, k + 1);
            for (size_t j = 0; j < end; ++j) row[j] += g * across[k * n + j];
        }
        for (size_t j = 0; j < i; ++j) *low++ = static_cast<real>(row[j]);
    }
    for (size_t i = 0; i < n; ++i) {
        std::fill(row.begin(), row.end(), 0.0);
        for (size_t k = i; k < n; ++k) {
            const double l = ready.lower[k * n + i];
            for (size_t j = i; j < n; ++j) row[j] += l * weight[k * row_size + j];
        }
        const double diagonal = ready.upper[i * n + i];
        raw[i] = static_cast<real>((row[i] + total / diagonal) * ready.slope[i]);
        for (size_t j = i + 1; j < n; ++j) *up++ = static_cast<real>(row[j]);
    }
}

int64_t sums_size(const void* prepared) { return static_cast<const Prepared*>(prepared)->sums; }

void finish(const std::vector<void*>& sweeps, int64_t from, int64_t to, double total, const Addresses& gradients) {
    Sweep& s = *static_cast<Sweep*>(sweeps[0]);
    // The sums of the other sweeps are added to those of the first.
    const auto gather = [&](int64_t at, int64_t size) {
        for (size_t k = 1; k < sweeps.size(); ++k) {
            const real* other = static_cast<const Sweep*>(sweeps[k])->sums.data() + at;
            for (int64_t i = 0; i < size; ++i) s.sums[at + i] += other[i];
        }
    };
    for (int64_t l = from; l < to; ++l) {
        const Ready& ready = s.p.layers[l];
        const StackLayer& layer = *ready.layer;
        size_t parameter = 0;
        const auto place = [&] { return reinterpret_cast<real*>(static_cast<uintptr_t>(gradients[l][parameter++])); };
        if (layer.kind == StackLayer::AFFINE) {
            const int64_t contexts = layer.given ? s.p.stack.context : 1;
            gather(ready.sums, contexts * affine_size(layer, s.p.stack.features));
            std::memcpy(place(), s.sums.data() + ready.sums,
                        sizeof(real) * contexts * affine_size(layer, s.p.stack.features));
        }
        for (size_t i = 0; i < ready.dense.size(); ++i) {
            const Packed& dense = ready.dense[i];
            gather(dense.sums, dense.sums_size());
            const real *weight = s.sums.data() + dense.sums, *bias = s.sums.data() + dense.bias_at();
            const real* table = s.sums.data() + dense.table_at();
            const size_t bias_size = sizeof(real) * dense.out;
            if (layer.kind == StackLayer::LINEAR) {
                real *low = place(), *up = place(), *raw = place();
                finish_linear(ready, weight, dense.in_p, total, low, up, raw);
                std::memcpy(place(), bias, bias_size);
                continue;
            }
            const StackDense& told = layer.network[i];
            real* to = place();
            for (int o = 0; o < dense.out; ++o) {
                const real* g = weight + static_cast<int64_t>(o) * dense.in_p;
                real* out = to + static_cast<int64_t>(o) * told.row;
                // What a mask hides was never summed: it may be anything.
                if (told.mask) {
                    const real* mask = told.mask + static_cast<int64_t>(o) * dense.in;
                    for (int k = 0; k < dense.in; ++k) out[k] = mask[k] != 0.0f ? g[k] : 0.0f;
                } else {
                    std::memcpy(out, g, sizeof(real) * dense.in);
                }
            }
            std::memcpy(place(), bias, bias_size);
            if (!dense.given) continue;
            // Beside the weights of the features, or apart with a bias of their own.
            real* given = told.given_bias ? place() : to + dense.in;
            for (int o = 0; o < dense.out; ++o)
                for (int c = 0; c < dense.given; ++c)
                    given[static_cast<int64_t>(o) * told.given_row + c] = table[static_cast<int64_t>(c) * dense.out_p + o];
            if (told.given_bias) std::memcpy(place(), bias, bias_size);
        }
    }
}

}  // namespace

const BasicStackKernels<real>& stacks::MODEFLOW_NAME() {
    static const BasicStackKernels<real> kernels{prepare, pack, release, tape_size, run,    begin,    end,
                                                 turn,    back, parts,   weigh,     finish, sums_size, give};
    return kernels;
}

}  // namespace modeflow

// The way back through a stack: what it holds, and the gradients of a conditioned layer.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "conditioned.h"
#include "context.h"
#include "lanes.h"
#include "maps.h"
#include "packed.h"

namespace modeflow {
namespace {

struct BackwardPass {
    const PackedStack& packed;
    const BasicBackwardCall<real> call;
    const int tile, width;
    const int64_t rows, tiles;
    std::vector<SparseContext> contexts;  // of the tiles
    // After a layer, `grad_in` holds the gradient of its input, and `grad_out` what it came from: they change places
    // when the next layer begins.
    Buffer grad_out, grad_in;
    Buffer weight_grads;  // sums over the rows
    // For every dense layer of the layer at hand, and every row, the gradient of what it gives; rows are as wide as
    // the gradient that is written there.
    std::vector<Buffer> dense_grad;
    std::vector<int64_t> dense_grad_row;

    BackwardPass(const PackedStack& packed_, const BasicBackwardCall<real>& call_)
        : packed(packed_), call(call_), tile(call.tile), width(pad(packed.stack.features)), rows(call.rows),
          tiles((call.rows + call.tile - 1) / call.tile), contexts(tiles), grad_out(tiles * tile * width),
          grad_in(tiles * tile * width), weight_grads(packed.weight_grad_size), tape_of_tile_(packed.tape_size(tile)) {
        const int d = packed.stack.features;
        for (int64_t r = 0; r < rows; ++r) {
            std::memcpy(&grad_out[r * width], call.grad_u + r * d, sizeof(real) * d);
            std::memset(&grad_out[r * width + d], 0, sizeof(real) * (width - d));
        }
        for (int64_t t = 0; call.context && t < tiles; ++t)
            contexts[t].read(call.context, packed.stack.context, t * tile, t * tile + count(t));
        int64_t offset = 0;
        for (const PackedLayer& layer : packed.layers) {
            offsets_.push_back(offset);
            offset += layer.tape * tile;
        }
    }
    // Room for what the dense layers of a network give.
    void reserve(const PackedLayer& layer) {
        const size_t n = layer.dense.size();
        if (dense_grad.size() < n) dense_grad.resize(n);
        dense_grad_row.resize(n);
        for (size_t i = 0; i < n; ++i) {
            dense_grad_row[i] =
                i + 1 < n ? std::max(layer.dense[i].out_p, layer.dense[i + 1].in_p) : layer.dense[i].out_p;
            const size_t size = static_cast<size_t>(tiles * tile * dense_grad_row[i]);
            if (dense_grad[i].size() < size) dense_grad[i].resize(size);
        }
    }
    int count(int64_t t) const { return static_cast<int>(std::min<int64_t>(tile, rows - t * tile)); }
    // A layer's input, on its part of the tape. Only read, but places are handed out as they are for writing.
    real* input(int64_t t, int64_t layer) const {
        return const_cast<real*>(call.tape) + t * tape_of_tile_ + offsets_[layer];
    }
    Activations activations(int64_t t, int64_t layer) const {
        return {packed.layers[layer], tile, input(t, layer) + static_cast<int64_t>(tile) * width};
    }
    real* grad(size_t i, int64_t t) { return dense_grad[i].data() + t * tile * dense_grad_row[i]; }

  private:
    std::vector<int64_t> offsets_;  // of the layers, within a tile's part of the tape
    int64_t tape_of_tile_;
};

// to = [more +] grad where x is positive.
inline void relu_backward(int rows, int width, const real* x, int64_t x_row, const real* grad, int64_t grad_row,
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

// Memory that a thread needs on the way back, kept from tile to tile.
struct BackwardSpace {
    Buffer map, network, block;
};

// From the gradients of the parameters to those of the network's input, which are written to `to`.
void network_backward(BackwardPass& pass, int64_t index, int64_t t, real* grad_context, real* to, Buffer& spare) {
    const PackedLayer& packed = pass.packed.layers[index];
    const Activations at = pass.activations(t, index);
    const int rows = pass.count(t), last = static_cast<int>(packed.dense.size()) - 1;
    const auto& row = pass.dense_grad_row;
    // What dense layer i gives is seen by layer i + 1.
    const auto back = [&](int i, real* grad_in, int64_t in_row) {
        add_context_grad(packed.dense[i], rows, pass.grad(i, t), row[i], grad_context);
        packed.dense[i].backward(rows, pass.grad(i, t), row[i], grad_in, in_row);
    };
    if (last > 0) back(last, pass.grad(last - 1, t), row[last - 1]);
    if (packed.layer->residual) {
        for (int i = last - 1; i > 0; i -= 2) {
            const int open_row = packed.dense[i - 1].in_p, close_row = packed.dense[i].in_p;
            real* closed = pass.grad(i - 1, t);
            back(i, closed, row[i - 1]);
            relu_backward(rows, close_row, at.input(i), close_row, closed, row[i - 1], nullptr, 0, closed, row[i - 1]);
            spare.resize(std::max(spare.size(), static_cast<size_t>(rows) * open_row));
            back(i - 1, spare.data(), open_row);
            relu_backward(rows, open_row, at.input(i - 1), open_row, spare.data(), open_row, pass.grad(i, t), row[i],
                          pass.grad(i - 2, t), row[i - 2]);
        }
    } else {
        for (int i = last - 1; i >= 0; --i) {
            real* grad = pass.grad(i, t);
            relu_backward(rows, packed.dense[i].out_p, at.input(i + 1), packed.dense[i + 1].in_p, grad, row[i],
                          nullptr, 0, grad, row[i]);
            if (i > 0) back(i, pass.grad(i - 1, t), row[i - 1]);
        }
    }
    back(0, to, packed.dense[0].in_p);
}

// From the gradients of the moved features to those of the parameters, of x, and through the network.
void conditioned_backward(BackwardPass& pass, int64_t index, int64_t t, const real* grad_y, const real* grad_log,
                          real* grad_x, real* grad_context, BackwardSpace& space) {
    const PackedLayer& packed = pass.packed.layers[index];
    const StackLayer& layer = *packed.layer;
    const real* x = pass.input(t, index);
    const Activations at = pass.activations(t, index);
    const int rows = pass.count(t), n_params = layer.map.params, used = layer.moved * n_params, width = pass.width;
    const int64_t stride = packed.dense.back().out_p, end = rows * stride;
    real *table = space.map.data(), *grad = table + n_params * LANES, *work = grad + n_params * LANES;
    const int64_t* moved = layer.index + layer.seen;
    real* grad_params = pass.grad(packed.dense.size() - 1, t);
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
        load(at.output(), first, end, n_params, table);
        map_backward_lanes(layer.map, false, table, in, gy, gl, work, gx, grad);
        for (int i = 0; i < count; ++i) {
            grad_x[static_cast<int64_t>(row[i]) * width + moved[column[i]]] = gx[i];
            real* p = grad_params + row[i] * stride + column[i] * n_params;
            for (int k = 0; k < n_params; ++k) p[k] = grad[k * LANES + i];
        }
    });
    Buffer& grad_in = space.network;
    grad_in.resize(std::max(grad_in.size(), static_cast<size_t>(rows) * packed.dense[0].in_p));
    network_backward(pass, index, t, grad_context, grad_in.data(), space.block);
    for (int r = 0; r < rows; ++r) {
        const real* network = grad_in.data() + static_cast<int64_t>(r) * packed.dense[0].in_p;
        for (int j = 0; j < layer.seen; ++j) {
            const int64_t place = static_cast<int64_t>(r) * width + layer.index[j];
            grad_x[place] = (layer.autoregressive ? grad_x[place] : grad_y[place]) + network[j];
        }
        for (int j = pass.packed.stack.features; j < width; ++j) grad_x[static_cast<int64_t>(r) * width + j] = 0.0f;
    }
}

}  // namespace
}  // namespace modeflow

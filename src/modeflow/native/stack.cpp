// A stack of layers, forward, inverse and backward, on tiles of rows that stay in cache.
//
// The arithmetic is that of the modules `Permutation`, `LULinear`, `ConditionalAffine`, `Coupling`,
// `MaskedAutoregressive`, and of their networks `ResidualMLP`, `MADE` and `ResidualMADE`. Rows of every matrix are
// padded to a multiple of 16 numbers.
#include "stack.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "affine.h"
#include "backward.h"
#include "conditioned.h"
#include "context.h"
#include "linear.h"
#include "packed.h"

namespace modeflow {
namespace {

void* prepare(const Stack& stack, bool backward) { return new PackedStack(stack, backward); }

void pack(void* packed, int64_t from, int64_t to) { static_cast<PackedStack*>(packed)->pack(from, to); }

void release(void* packed) { delete static_cast<PackedStack*>(packed); }

int64_t tape_size(const void* packed, int tile) { return static_cast<const PackedStack*>(packed)->tape_size(tile); }

// -- forward and inverse

// `scatter`: from inputs to where the order finds them, else from where it finds them.
inline void permute(const int64_t* order, bool scatter, int d, int width, int rows, const real* x, real* y) {
    for (int r = 0; r < rows; ++r) {
        const real* a = x + static_cast<int64_t>(r) * width;
        real* b = y + static_cast<int64_t>(r) * width;
        if (scatter)
            for (int j = 0; j < d; ++j) b[order[j]] = a[j];
        else
            for (int j = 0; j < d; ++j) b[j] = a[order[j]];
        for (int j = d; j < width; ++j) b[j] = 0.0f;
    }
}

void forward(const void* handle, const BasicForwardCall<real>& call, int64_t from, int64_t to) {
    const PackedStack& p = *static_cast<const PackedStack*>(handle);
    const Stack& stack = p.stack;
    const bool inverse = call.inverse;
    const int tile = call.tile, d = stack.features, width = pad(d), n_layers = static_cast<int>(p.layers.size());
    const int64_t per_tile = p.tape_size(tile), size = static_cast<int64_t>(tile) * width;
    const double constant = p.logabsdet();
    // Without a tape two layers' values and one network are all that is kept, and stay in cache.
    int64_t network_size = 0;
    for (const PackedLayer& packed : p.layers) network_size = std::max(network_size, packed.tape * tile - size);
    Buffer scratch(call.tape ? 0 : 2 * size + network_size), work(map_space(stack)), space;
    SparseContext context;
    for (int64_t t = from; t < to; ++t) {
        const int64_t start = t * tile;
        const int count = static_cast<int>(std::min<int64_t>(tile, call.rows - start));
        real* at = call.tape ? call.tape + t * per_tile : scratch.data() + network_size;
        real* logabsdet = call.logabsdet + start;
        for (int r = 0; r < count; ++r) {
            std::memcpy(at + static_cast<int64_t>(r) * width, call.x + (start + r) * d, sizeof(real) * d);
            std::memset(at + static_cast<int64_t>(r) * width + d, 0, sizeof(real) * (width - d));
            logabsdet[r] = static_cast<real>(inverse ? -constant : constant);
        }
        if (call.context) context.read(call.context, stack.context, start, start + count);
        for (int l = 0; l < n_layers; ++l) {
            const PackedLayer& packed = p.layers[inverse ? n_layers - 1 - l : l];
            const StackLayer& layer = *packed.layer;
            const real* now = at;
            real* network = call.tape ? at + size : scratch.data();
            if (!call.tape)
                at = scratch.data() + network_size + (l % 2 == 0 ? size : 0);
            else
                at += packed.tape * tile;
            real* next = at;
            if (layer.kind == StackLayer::PERMUTATION) {
                permute(layer.index, inverse, d, width, count, now, next);
            } else if (layer.kind == StackLayer::LINEAR) {
                if (inverse)
                    solve(packed.factors, packed.dense[0].bias.data(), d, width, count, now, next, space);
                else
                    packed.dense[0].forward(count, now, next, width);
            } else if (layer.kind == StackLayer::AFFINE) {
                affine(packed, context, inverse, d, count, now, width, next, logabsdet);
            } else {
                const Activations activations{packed, tile, network};
                network_forward(packed, activations, count, now, width, context);
                for (int r = 0; r < count; ++r)
                    for (int j = d; j < width; ++j) next[static_cast<int64_t>(r) * width + j] = 0.0f;
                apply_map(packed, activations, inverse, count, now, width, next, logabsdet, work.data());
            }
        }
        for (int r = 0; r < count; ++r)
            std::memcpy(call.u + (start + r) * d, at + static_cast<int64_t>(r) * width, sizeof(real) * d);
    }
}

// -- backward

void* begin_backward(const void* packed, const BasicBackwardCall<real>& call) {
    return new BackwardPass(*static_cast<const PackedStack*>(packed), call);
}

void end_backward(void* pass) { delete static_cast<BackwardPass*>(pass); }

void begin_layer(void* handle, int64_t layer) {
    BackwardPass& pass = *static_cast<BackwardPass*>(handle);
    const auto& layers = pass.packed.layers;
    if (layer + 1 < static_cast<int64_t>(layers.size())) std::swap(pass.grad_out, pass.grad_in);
    if (layers[layer].layer->kind == StackLayer::CONDITIONED) pass.reserve(layers[layer]);
}

void input_grad(void* handle, int64_t index, int64_t from, int64_t to) {
    BackwardPass& pass = *static_cast<BackwardPass*>(handle);
    const PackedLayer& packed = pass.packed.layers[index];
    const StackLayer& layer = *packed.layer;
    const Stack& stack = pass.packed.stack;
    const int d = stack.features, width = pass.width;
    BackwardSpace space;
    space.map.resize(map_space(stack));
    for (int64_t t = from; t < to; ++t) {
        const int count = pass.count(t);
        const int64_t start = t * pass.tile;
        const real* grad_out = pass.grad_out.data() + start * width;
        real* grad_in = pass.grad_in.data() + start * width;
        const real* grad_log = pass.call.grad_log + start;
        real* grad_context = pass.call.grad_context ? pass.call.grad_context + start * stack.context : nullptr;
        if (layer.kind == StackLayer::PERMUTATION)
            permute(layer.index, true, d, width, count, grad_out, grad_in);
        else if (layer.kind == StackLayer::LINEAR)
            packed.dense[0].backward(count, grad_out, width, grad_in, width);
        else if (layer.kind == StackLayer::AFFINE)
            affine_backward(packed, pass.contexts[t], stack.context, d, count, pass.input(t, index), width, grad_out,
                            grad_log, {grad_in, nullptr, grad_context});
        else
            conditioned_backward(pass, index, t, grad_out, grad_log, grad_in, grad_context, space);
    }
}

// Parts that a dense layer's gradient is shared out in: one without inputs has its bias.
int64_t parts_of(const PackedDense& dense) { return std::max<int64_t>(1, dense.grad_panels()); }

int64_t weight_grad_parts(const void* pass, int64_t layer) {
    const PackedLayer& packed = static_cast<const BackwardPass*>(pass)->packed.layers[layer];
    int64_t n = packed.layer->kind == StackLayer::AFFINE ? 1 : 0;
    for (const PackedDense& dense : packed.dense) n += parts_of(dense);
    return n;
}

void table_grad(BackwardPass& pass, int64_t index) {
    const PackedLayer& packed = pass.packed.layers[index];
    const int d = pass.packed.stack.features, contexts = static_cast<int>(pass.packed.table_rows(*packed.layer));
    real* table = pass.weight_grads.data() + packed.grad_offset;
    std::memset(table, 0, sizeof(real) * contexts * affine_size(*packed.layer, d));
    for (int64_t t = 0; t < pass.tiles; ++t)
        affine_backward(packed, pass.contexts[t], contexts, d, pass.count(t), pass.input(t, index), pass.width,
                        pass.grad_out.data() + t * pass.tile * pass.width, pass.call.grad_log + t * pass.tile,
                        {nullptr, table, nullptr});
}

void weight_grad(void* handle, int64_t index, int64_t from, int64_t to) {
    BackwardPass& pass = *static_cast<BackwardPass*>(handle);
    const PackedLayer& packed = pass.packed.layers[index];
    if (packed.layer->kind == StackLayer::AFFINE) return table_grad(pass, index);
    const bool linear = packed.layer->kind == StackLayer::LINEAR;
    real* total = pass.weight_grads.data();
    int64_t part = 0;
    for (size_t i = 0; i < packed.dense.size(); ++i) {
        const PackedDense& dense = packed.dense[i];
        const int64_t panels = static_cast<int64_t>(dense.grad_panels());
        for (int64_t panel = 0; panel < parts_of(dense); ++panel, ++part) {
            if (part < from || part >= to) continue;
            for (int64_t t = 0; t < pass.tiles; ++t) {
                const real* grad = linear ? pass.grad_out.data() + t * pass.tile * pass.width : pass.grad(i, t);
                const int64_t row = linear ? pass.width : pass.dense_grad_row[i];
                if (panel == 0) {
                    dense.bias_grad(pass.count(t), grad, row, total, t > 0);
                    if (dense.contexts)
                        context_weight_grad(dense, pass.contexts[t], pass.count(t), grad, row, total, t > 0);
                }
                if (panel == panels) continue;  // no inputs
                const real* in = linear ? pass.input(t, index) : pass.activations(t, index).input(i);
                dense.weight_grad(static_cast<size_t>(panel), pass.count(t), in, grad, row, total, t > 0);
            }
        }
    }
}

int64_t weight_grad_size(const void* packed) { return static_cast<const PackedStack*>(packed)->weight_grad_size; }

void write_input_grad(const void* handle) {
    const BackwardPass& pass = *static_cast<const BackwardPass*>(handle);
    const int d = pass.packed.stack.features;
    for (int64_t r = 0; r < pass.rows; ++r)
        std::memcpy(pass.call.grad_x + r * d, pass.grad_in.data() + r * pass.width, sizeof(real) * d);
}

// The gradients of a dense layer of a network, from their sums to `to`; returns what comes after them.
real* write_dense_grad(const StackDense& layer, const PackedDense& dense, const real* sums, real* to) {
    const real *weight = sums + dense.grad_offset, *bias = sums + dense.bias_at();
    const real* context = sums + dense.context_grad_at();
    for (int o = 0; o < dense.out; ++o) {
        const real* g = weight + static_cast<int64_t>(o) * dense.in_p;
        real* out = to + static_cast<int64_t>(o) * layer.row;
        // What a mask hides was never summed: it may be anything.
        if (layer.mask) {
            const real* mask = layer.mask + static_cast<int64_t>(o) * dense.in;
            for (int k = 0; k < dense.in; ++k) out[k] = mask[k] != 0.0f ? g[k] : 0.0f;
        } else {
            std::memcpy(out, g, sizeof(real) * dense.in);
        }
    }
    real* bias_to = to + static_cast<int64_t>(dense.out) * layer.row;
    real* after = bias_to + dense.out;
    std::memcpy(bias_to, bias, sizeof(real) * dense.out);
    if (!dense.contexts) return after;
    // Beside the weights of the features, or apart with a bias of their own.
    real* context_to = layer.context_bias ? after : to + dense.in;
    for (int o = 0; o < dense.out; ++o)
        for (int c = 0; c < dense.contexts; ++c)
            context_to[static_cast<int64_t>(o) * layer.context_row + c] =
                context[static_cast<int64_t>(c) * dense.out_p + o];
    if (!layer.context_bias) return after;
    after += static_cast<int64_t>(dense.out) * layer.context_row;
    std::memcpy(after, bias, sizeof(real) * dense.out);
    return after + dense.out;
}

void parameter_grad(const std::vector<void*>& passes, int64_t from, int64_t to, double total, real* gradients) {
    BackwardPass& pass = *static_cast<BackwardPass*>(passes[0]);
    const int d = pass.packed.stack.features;
    real* sums = pass.weight_grads.data();
    // The sums of the other passes are added to those of the first.
    const auto gather = [&](int64_t at, int64_t size) {
        for (size_t k = 1; k < passes.size(); ++k) {
            const real* other = static_cast<const BackwardPass*>(passes[k])->weight_grads.data() + at;
            for (int64_t i = 0; i < size; ++i) sums[at + i] += other[i];
        }
    };
    for (int64_t l = from; l < to; ++l) {
        const PackedLayer& packed = pass.packed.layers[l];
        const StackLayer& layer = *packed.layer;
        real* place = gradients + packed.parameter_offset;
        if (layer.kind == StackLayer::AFFINE) {
            const int64_t size = pass.packed.table_rows(layer) * affine_size(layer, d);
            gather(packed.grad_offset, size);
            std::memcpy(place, sums + packed.grad_offset, sizeof(real) * size);
        }
        for (size_t i = 0; i < packed.dense.size(); ++i) {
            const PackedDense& dense = packed.dense[i];
            gather(dense.grad_offset, dense.grad_size());
            if (layer.kind == StackLayer::LINEAR) {
                const int64_t triangle = static_cast<int64_t>(d) * (d - 1) / 2;
                real *low = place, *up = low + triangle, *raw = up + triangle, *bias = raw + d;
                packed.factors.parameter_grad(d, sums + dense.grad_offset, dense.in_p, total, low, up, raw);
                std::memcpy(bias, sums + dense.bias_at(), sizeof(real) * dense.out);
            } else {
                place = write_dense_grad(layer.network[i], dense, sums, place);
            }
        }
    }
}

}  // namespace

const BasicStackKernels<real>& stacks::MODEFLOW_NAME() {
    static const BasicStackKernels<real> kernels{
        prepare,     pack,       release,           tape_size,   forward,          begin_backward,   end_backward,
        begin_layer, input_grad, weight_grad_parts, weight_grad, weight_grad_size, write_input_grad, parameter_grad};
    return kernels;
}

}  // namespace modeflow

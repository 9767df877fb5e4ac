// A stack with its weights packed as the kernels read them, and where things lie on a tape.
#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "linear.h"
#include "matrix.h"
#include "stack.h"

namespace modeflow {
namespace {

using Stack = BasicStack<real>;
using StackLayer = BasicStackLayer<real>;
using StackDense = BasicStackDense<real>;

struct PackedLayer {
    const StackLayer* layer;
    std::vector<PackedDense> dense;     // of a linear layer one; of a conditioned one those of the network
    LUFactors factors;                  // of a linear layer
    std::vector<real> table;            // of an affine layer, as it was
    std::vector<int64_t> tape_offsets;  // numbers on the tape before each dense layer's input, and before the output
    int64_t tape = 0;                   // numbers that a row needs on the tape
    int64_t grad_offset = 0;            // of an affine layer: where the gradient of its table is summed
    int64_t parameter_offset = 0;       // where the gradients of its parameters are written
};

struct PackedStack {
    const Stack& stack;
    bool backward;
    std::vector<PackedLayer> layers;
    int64_t weight_grad_size = 0;  // numbers of the gradients of all weights, as they are summed

    PackedStack(const Stack& stack_, bool backward_) : stack(stack_), backward(backward_) {
        const int d = stack.features;
        int64_t parameters = 0;
        for (const StackLayer& layer : stack.layers) {
            PackedLayer packed;
            packed.layer = &layer;
            packed.tape = pad(d);
            packed.parameter_offset = parameters;
            parameters += parameter_count(layer, d, stack.context);
            if (layer.kind == StackLayer::LINEAR) {
                packed.dense.resize(1);
                packed.dense[0].set(d, d, 0);
            } else if (layer.kind == StackLayer::CONDITIONED) {
                packed.dense.resize(layer.network.size());
                for (size_t i = 0; i < packed.dense.size(); ++i) {
                    const StackDense& dense = layer.network[i];
                    packed.dense[i].set(dense.in, dense.out, dense.context_weight ? stack.context : 0);
                    packed.tape_offsets.push_back(packed.tape - pad(d));
                    packed.tape += packed.dense[i].in_p;
                }
                packed.tape_offsets.push_back(packed.tape - pad(d));
                packed.tape += packed.dense.back().out_p;
            } else if (layer.kind == StackLayer::AFFINE) {
                packed.grad_offset = weight_grad_size;
                weight_grad_size += (table_rows(layer) * affine_size(layer, d) + 15) / 16 * 16;
            }
            for (PackedDense& dense : packed.dense) {
                dense.grad_offset = weight_grad_size;
                weight_grad_size += dense.grad_size();
            }
            layers.push_back(std::move(packed));
        }
    }
    PackedStack(const PackedStack&) = delete;

    // The weights as they are now, of layers [from, to).
    void pack(int64_t from, int64_t to) {
        for (int64_t l = from; l < to; ++l) {
            PackedLayer& packed = layers[l];
            const StackLayer& layer = *packed.layer;
            if (layer.kind == StackLayer::LINEAR)
                packed.factors.pack(layer.linear, layer.eps, stack.features, backward, packed.dense[0]);
            if (layer.kind == StackLayer::AFFINE)
                packed.table.assign(layer.table, layer.table + table_rows(layer) * affine_size(layer, stack.features));
            for (size_t i = 0; i < layer.network.size(); ++i) {
                const StackDense& dense = layer.network[i];
                packed.dense[i].pack(dense.weight, dense.row, dense.bias, dense.mask, backward);
                if (dense.context_weight)
                    packed.dense[i].pack_context(dense.context_weight, dense.context_row, dense.context_bias);
            }
        }
    }

    double logabsdet() const {  // of all linear layers
        double total = 0;
        for (const PackedLayer& packed : layers) total += packed.factors.logabsdet;
        return total;
    }
    // Contexts that an affine layer's table has rows for.
    int64_t table_rows(const StackLayer& layer) const { return layer.has_context ? stack.context : 1; }

    // A tile's part of the tape: for each layer its input; of a network also the input of each of its dense layers, and
    // what it gives. At the end, what leaves the stack.
    int64_t tape_size(int tile) const {
        int64_t size = pad(stack.features);
        for (const PackedLayer& packed : layers) size += packed.tape;
        return size * tile;
    }
};

// Where the inputs of a network's dense layers lie, after its layer's input, and what it gives.
struct Activations {
    const PackedLayer& packed;
    const int64_t tile;
    real* const at;

    real* input(size_t i) const { return at + tile * packed.tape_offsets[i]; }
    real* output() const { return at + tile * packed.tape_offsets[packed.dense.size()]; }
};

}  // namespace
}  // namespace modeflow

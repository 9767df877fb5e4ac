// A whole stack of layers: permutations, LU linear layers, couplings, masked autoregressive layers, and affine maps
// chosen by the context.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace modeflow {

// One dense layer of a conditioner: (out, in) weights, in rows of `row` numbers. Where the context is added to what it
// gives: (out, context) weights, in rows of `context_row`, and a bias of their own or null.
template <class Real>
struct BasicStackDense {
    int in, out, row, context_row;
    const Real *mask, *weight, *bias, *context_weight, *context_bias;  // weight and bias are never null
};

template <class Real>
struct BasicStackLayer {
    enum Kind { PERMUTATION = 0, LINEAR = 1, CONDITIONED = 2, AFFINE = 3 } kind;
    const int64_t* index;   // of a permutation: output j is input index[j]; else: what the network sees, then moves
    Real eps;               // of a linear layer: smallest diagonal
    const Real* linear[4];  // its lower and upper part, raw diagonal, bias
    const Real* table;      // of an affine layer: for each context m, s and, if full, L, below the diagonal
    bool full, has_context; // has L; has a context (else its table has one row)
    int seen, moved;        // of a conditioned layer
    bool autoregressive;    // what moves is seen too
    bool residual;          // layers of the network: the first, pairs of the blocks, the last; else plain ones
    BasicMap<Real> map;
    std::vector<BasicStackDense<Real>> network;
};

template <class Real>
struct BasicStack {
    int features, context;
    std::vector<BasicStackLayer<Real>> layers;
};

// Rows that go through the layers, `tile` of them at a time; u, or inverse x, and the log-determinants come out. The
// tape, if not null, keeps what the backward pass needs; the inverse has none.
template <class Real>
struct BasicForwardCall {
    bool inverse;
    int tile;
    int64_t rows;
    const Real *x, *context;
    Real *u, *logabsdet, *tape;
};

// Rows that go back, and where their gradients go; that of the context, zero before, or null.
template <class Real>
struct BasicBackwardCall {
    int tile;
    int64_t rows;
    const Real *context, *grad_u, *grad_log, *tape;
    Real *grad_x, *grad_context;
};

// Numbers of an affine layer for each context: m, s and, if full, L.
template <class Real>
int64_t affine_size(const BasicStackLayer<Real>& layer, int features) {
    return 2 * features + (layer.full ? static_cast<int64_t>(features) * (features - 1) / 2 : 0);
}

// Numbers of a layer's parameters.
template <class Real>
int64_t parameter_count(const BasicStackLayer<Real>& layer, int features, int context) {
    using Layer = BasicStackLayer<Real>;
    if (layer.kind == Layer::LINEAR) return static_cast<int64_t>(features) * (features - 1) + 2 * features;
    if (layer.kind == Layer::AFFINE) return (layer.has_context ? context : 1) * affine_size(layer, features);
    int64_t n = 0;
    for (const BasicStackDense<Real>& dense : layer.network) {
        n += static_cast<int64_t>(dense.out) * (dense.row + 1);
        if (dense.context_bias) n += static_cast<int64_t>(dense.out) * (dense.context_row + 1);
    }
    return n;
}

template <class Real>
struct BasicStackKernels {
    // Room for the weights, beside the stack, which must outlive it; `pack` fills layers [from, to) with the weights as they are now; `release` frees all.
    void* (*prepare)(const BasicStack<Real>&, bool backward);
    void (*pack)(void* packed, int64_t from, int64_t to);
    void (*release)(void* packed);
    // Numbers of the tape for one tile of rows.
    int64_t (*tape_size)(const void* packed, int tile);
    // Tiles [from, to).
    void (*forward)(const void* packed, const BasicForwardCall<Real>& call, int64_t from, int64_t to);
    // The way back goes layer by layer, from the last: first every tile's gradients, then those of the weights, each
    // a sum over all rows in their order. Neither depends on how the work is shared out.
    void* (*begin_backward)(const void* packed, const BasicBackwardCall<Real>& call);
    void (*end_backward)(void* pass);
    // Called before the work on a layer is shared out.
    void (*begin_layer)(void* pass, int64_t layer);
    // Gradients of the layer's input and of the context, of tiles [from, to).
    void (*input_grad)(void* pass, int64_t layer, int64_t from, int64_t to);
    // Parts [from, to) of the gradients of the layer's weights, of as many as there are; called after `input_grad`.
    int64_t (*weight_grad_parts)(const void* pass, int64_t layer);
    void (*weight_grad)(void* pass, int64_t layer, int64_t from, int64_t to);
    int64_t (*weight_grad_size)(const void* packed);  // numbers of the gradients of all weights
    // The gradient of x, after all layers.
    void (*write_input_grad)(const void* pass);
    // From the sums of passes over different rows to the gradients of the layers' own parameters, of layers [from, to).
    // In `gradients` all parameters follow one another, layer by layer. `total` is the sum of grad_log.
    void (*parameter_grad)(const std::vector<void*>& passes, int64_t from, int64_t to, double total, Real* gradients);
};

namespace stacks {
MODEFLOW_DECLARE(BasicStackKernels)
}

}  // namespace modeflow

// A whole stack of layers: permutations, LU linear layers, couplings, masked autoregressive layers, and affine maps
// chosen by the context.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace modeflow {

// One dense layer of a conditioner: (out, in) weights, in rows of `row` numbers. Where the context is added to what it
// gives: (out, context) weights, in rows of `given_row`, and a bias of their own or null.
template <class Real>
struct BasicStackDense {
    int in, out, row, given_row;
    const Real *mask, *weight, *bias, *given, *given_bias;  // all but the second and third may be null
};

template <class Real>
struct BasicStackLayer {
    enum Kind { PERMUTATION = 0, LINEAR = 1, CONDITIONED = 2, AFFINE = 3 } kind;
    const int64_t* index;   // of a permutation: output j is input index[j]; else: what the network sees, then moves
    Real eps;              // of a linear layer: smallest diagonal
    const Real* linear[4]; // its lower and upper part, raw diagonal, bias
    const Real* table;     // of an affine layer: for each context m, s and, if full, L, below the diagonal
    bool full, given;       // has L; has a context (else its table has one row)
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

// Addresses of what `StackKernels::finish` writes: for each layer, of the shapes of its parameters.
using Addresses = std::vector<std::vector<int64_t>>;

template <class Real>
struct BasicStackKernels {
    // Room for the weights; `pack` fills layers [from, to) with the weights as they are now; `release` frees all.
    void* (*prepare)(BasicStack<Real>, bool backward);
    void (*pack)(void* prepared, int64_t from, int64_t to);
    void (*release)(void* prepared);
    // Numbers of the tape for one tile of rows.
    int64_t (*tape_size)(const void* prepared, int tile);
    // u (or, inverse, x) and the log-determinant of tiles [from, to). The tape, if not null, keeps what `backward`
    // needs; the inverse has none.
    void (*run)(const void* prepared, bool inverse, int tile, int64_t rows, int64_t from, int64_t to, const Real* x,
                const Real* context, Real* u, Real* logabsdet, Real* tape);
    // The way back goes layer by layer, from the last: first every tile's gradients, then those of the weights, each
    // a sum over all rows in their order. Neither depends on how the work is shared out.
    void* (*begin)(const void* prepared, int tile, int64_t rows, const Real* context, const Real* grad_u,
                   const Real* tape);
    void (*end)(void* sweep);
    // Called before the work on a layer is shared out.
    void (*turn)(void* sweep, int64_t layer);
    // Gradients of the layer's input and of the context (zero before, or null), of tiles [from, to).
    void (*back)(void* sweep, int64_t layer, int64_t from, int64_t to, const Real* grad_log, Real* grad_context);
    // Parts [from, to) of the gradients of the layer's weights, of `parts` in all; called after `back`.
    int64_t (*parts)(const void* sweep, int64_t layer);
    void (*weigh)(void* sweep, int64_t layer, int64_t from, int64_t to, const Real* grad_log);
    // From the sums of sweeps over different rows to the layers' own parameters, of layers [from, to). `total` is the
    // sum of grad_log.
    void (*finish)(const std::vector<void*>& sweeps, int64_t from, int64_t to, double total,
                   const Addresses& gradients);
    int64_t (*sums_size)(const void* prepared);  // numbers of the sums of a sweep
    // The gradient of x, after all layers.
    void (*give)(const void* sweep, Real* grad_x);
};

namespace stacks {
MODEFLOW_DECLARE(BasicStackKernels)
}

}  // namespace modeflow

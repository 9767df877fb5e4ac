// A whole stack of coupling layers: permutations, LU linear layers, spline couplings with residual networks.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace modeflow {

struct StackLayer {
    enum Kind { PERMUTATION = 0, LINEAR = 1, COUPLING = 2 } kind;
    const int64_t* index;   // of a permutation: output j is input index[j]; of a coupling: kept, then moved
    float eps;              // of a linear layer: smallest diagonal
    int kept, moved, hidden, blocks;
    Spline spline;
    // Linear: lower, upper, raw diagonal, bias. Coupling: weight and bias of the first layer, of both layers of
    // every block, of the last layer. Weights are (out, in).
    std::vector<const float*> parameters;
};

struct Stack {
    int features, context;
    std::vector<StackLayer> layers;
};

// Addresses of what `StackKernels::finish` writes: for each layer, of the shapes of its parameters.
using Addresses = std::vector<std::vector<int64_t>>;

struct StackKernels {
    // Packs the weights as they are now; `release` frees that.
    void* (*prepare)(Stack);
    void (*release)(void* prepared);
    // Floats of the tape for one tile of rows.
    int64_t (*tape_size)(const void* prepared, int tile);
    // u (or, inverse, x) and the log-determinant of tiles [from, to). The tape, if not null, keeps what `backward`
    // needs; the inverse has none.
    void (*run)(const void* prepared, bool inverse, int tile, int64_t rows, int64_t from, int64_t to, const float* x,
                const float* context, float* u, float* logabsdet, float* tape);
    int64_t (*sums_size)(const void* prepared);
    // Gradients of x and of the context (zero before, or null); those of the packed weights are added to `sums`.
    void (*backward)(const void* prepared, int tile, int64_t rows, int64_t from, int64_t to, const float* grad_u,
                     const float* grad_log, const float* tape, float* grad_x, float* grad_context, float* sums);
    // From the sums (added up over groups of tiles) to the layers' gradients. `total` is the sum of grad_log.
    void (*finish)(const void* prepared, const float* sums, double total, const Addresses& gradients);
};

const StackKernels& base_stack();
const StackKernels& avx2_stack();
const StackKernels& avx512_stack();

}  // namespace modeflow

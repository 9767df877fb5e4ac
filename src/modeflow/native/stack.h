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
    std::vector<float*> gradients;  // of the same shapes; only for `backward`
};

struct Stack {
    int features, context;
    std::vector<StackLayer> layers;
};

struct StackKernels {
    // Floats of the tape for one tile of rows.
    int64_t (*tape_size)(const Stack&, int tile);
    // Packs the weights as they are now; `release` frees that.
    void* (*prepare)(const Stack&);
    void (*release)(void* prepared);
    // u and the log-determinant of tiles [from, to). The tape, if not null, keeps what `backward` needs.
    void (*forward)(const void* prepared, int tile, int64_t rows, int64_t from, int64_t to, const float* x,
                    const float* context, float* u, float* logabsdet, float* tape);
    void (*inverse)(const void* prepared, int tile, int64_t rows, int64_t from, int64_t to, const float* u,
                    const float* context, float* x, float* logabsdet);
    int64_t (*sums_size)(const void* prepared);
    // Gradients of x and of the context (zero before, or null); those of the packed weights are added to `sums`.
    void (*backward)(const void* prepared, int tile, int64_t rows, int64_t from, int64_t to, const float* grad_u,
                     const float* grad_log, const float* tape, float* grad_x, float* grad_context, float* sums);
    // Where `finish` writes: an address for each parameter of each layer.
    void (*set_gradients)(void* prepared, const std::vector<std::vector<int64_t>>& addresses);
    // From the sums (added up over threads) to the layers' gradients. `total` is the sum of grad_log.
    void (*finish)(const void* prepared, const float* sums, double total);
};

const StackKernels& base_stack();
const StackKernels& avx2_stack();
const StackKernels& avx512_stack();

}  // namespace modeflow

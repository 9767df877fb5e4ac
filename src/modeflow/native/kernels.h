// What the native kernels offer. Every array is float32, contiguous and row by row; counts are in elements.
#pragma once
#include <cstdint>

namespace modeflow {

struct Spline {
    int bins;                 // K; an entry has 3K - 1 parameters: K widths, K heights, K - 1 slopes
    float bound;              // half-width B of the interval
    float min_width, min_height, min_slope;
    float offset;             // log(expm1(1 - min_slope)): makes a raw slope of zero a slope of one
};

// An elementwise map with parameters from outside; `params` of each entry.
struct Map {
    enum Kind { SPLINE = 0, AFFINE = 1, ADDITIVE = 2, MIXTURE = 3 } kind;
    int params;
    Spline spline;
    int components;           // of a mixture
    float most, most_slope;   // soft bounds of log-scales, and of a mixture's last one
};

// One masked layer of a MADE. Units are sorted by degree, so that what a unit sees is a prefix of the layer
// before it. `until[m]` units have a degree of at most m.
struct Dense {
    const float* weight;      // (rows, columns)
    const float* bias;        // (rows)
    int rows, columns;
    const int64_t* until;     // (features), of the rows
};

struct Made {
    int features, params;     // D, and parameters of each feature
    bool residual;            // layers: initial, then pairs of the blocks; else plain hidden layers
    int n_hidden;
    const Dense* hidden;
    Dense final;              // until is not used
    const float* context_first;   // (rows, width of the first layer) to add, or null
    const float* context_final;   // (rows, D * params) to add, or null
};

struct StackKernels;  // stack.h

struct Kernels {
    const char* name;
    const StackKernels* stack;
    // y and the log-derivative of n entries.
    void (*elementwise)(const Map&, bool inverse, int64_t n, const float* x, const float* params, float* y,
                        float* logderivative);
    // Gradients of x and of the parameters, from those of y and of the log-derivative.
    void (*elementwise_backward)(const Map&, bool inverse, int64_t n, const float* x, const float* params,
                                 const float* grad_y, const float* grad_log, float* grad_x, float* grad_params);
    // x and the log-determinant of the inverse of a masked autoregressive layer, each hidden unit once.
    void (*autoregressive_inverse)(const Made&, const Map&, int64_t rows, const float* u, float* x,
                                   float* logabsdet);
    // Sum of the squares of n numbers, in double precision.
    double (*squares)(int64_t n, const float* x);
    // exp, log, log(1 + exp) of n numbers (kind 0, 1, 2), as the kernels compute them.
    void (*elementary)(int kind, int64_t n, const float* x, float* y);
};

#define MODEFLOW_JOIN_(a, b) a##b
#define MODEFLOW_JOIN(a, b) MODEFLOW_JOIN_(a, b)

const Kernels& base_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();

}  // namespace modeflow

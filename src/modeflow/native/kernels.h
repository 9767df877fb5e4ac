// What the native kernels offer, for float32 and float64. Arrays are contiguous and row by row; counts are in
// elements.
#pragma once
#include <cstdint>

namespace modeflow {

template <class Real>
struct BasicSpline {
    int bins;                 // K; an entry has 3K - 1 parameters: K widths, K heights, K - 1 slopes
    Real bound;              // half-width B of the interval
    Real min_width, min_height, min_slope;
    Real offset;             // log(expm1(1 - min_slope)): makes a raw slope of zero a slope of one
};

// An elementwise map with parameters from outside; `params` of each entry.
template <class Real>
struct BasicMap {
    enum Kind { SPLINE = 0, AFFINE = 1, ADDITIVE = 2, MIXTURE = 3 } kind;
    int params;
    BasicSpline<Real> spline;
    int components;           // of a mixture
    Real most, most_slope;   // soft bounds of log-scales, and of a mixture's last one
};

// One masked layer of a MADE. Units are sorted by degree, so that what a unit sees is a prefix of the layer
// before it. `until[m]` units have a degree of at most m.
template <class Real>
struct BasicDense {
    const Real* weight;      // (rows, columns)
    const Real* bias;        // (rows)
    int rows, columns;
    const int64_t* until;     // (features), of the rows
};

template <class Real>
struct BasicMade {
    int features, params;     // D, and parameters of each feature
    bool residual;            // layers: initial, then pairs of the blocks; else plain hidden layers
    int n_hidden;
    const BasicDense<Real>* hidden;
    BasicDense<Real> final;              // until is not used
    const Real* context_first;   // (rows, width of the first layer) to add, or null
    const Real* context_final;   // (rows, D * params) to add, or null
};

// A level of a tree of states. Places stand by depth, the root first; arrays are (places, rows, states), and those of
// messages and ratios have no root: that of place p stands at p - 1.
template <class Real>
struct BasicTreeLevel {
    int64_t rows;
    int states;
    int64_t first, last;      // places of the level
    const int64_t* children;  // those of place p are children[p] to children[p + 1] - 1
};

// Gaussians of all states of each feature: x is (features, rows), the others are (features, states).
template <class Real>
struct BasicGaussianLeaves {
    int64_t features, rows;
    int states;
    const Real *x, *mean, *inverse;  // inverse scales
    const Real* constant;            // log-density at the mean, or null for gradients
};

// A step of Adam over n entries, see `adam.h`. Arrays hold one number for each.
template <class Real>
struct BasicAdamStep {
    const Real* gradient;
    const Real* decays;                   // one where the parameter decays, zero elsewhere; or null
    Real *parameters, *first, *second;    // and averages of the gradient and of its square
    Real* average;                        // of the parameters, or null
    Real scale, share;                    // the gradient is multiplied by; what decays loses
    Real first_rest, second_kept, second_rest, size, root, eps;  // 1 - β₁; β₂; 1 - β₂; see `AdamFields`
    Real pull;                            // by which the average moves to the parameters
};

template <class Real>
struct BasicStackKernels;  // stack.h

template <class Real>
struct BasicKernels {
    const char* name;
    const BasicStackKernels<Real>* stack;
    // y and the log-derivative of n entries.
    void (*elementwise)(const BasicMap<Real>&, bool inverse, int64_t n, const Real* x, const Real* params, Real* y,
                        Real* logderivative);
    // Gradients of x and of the parameters, from those of y and of the log-derivative.
    void (*elementwise_backward)(const BasicMap<Real>&, bool inverse, int64_t n, const Real* x, const Real* params,
                                 const Real* grad_y, const Real* grad_log, Real* grad_x, Real* grad_params);
    // x and the log-determinant of the inverse of a masked autoregressive layer, each hidden unit once.
    void (*autoregressive_inverse)(const BasicMade<Real>&, const BasicMap<Real>&, int64_t rows, const Real* u, Real* x,
                                   Real* logabsdet);
    // Rows [from, to) of a level on the way up: e from leaves and messages, the logarithm of what it is divided by
    // added to `top`; a logarithm of e is at least `lowest`.
    void (*tree_evidence)(const BasicTreeLevel<Real>&, const Real* leaves, const Real* messages, Real lowest,
                          Real* evidence, Real* top, int64_t from, int64_t to);
    // Likewise on the way down: posteriors times e, unless that is null, and divided by the messages of each child.
    void (*tree_ratios)(const BasicTreeLevel<Real>&, const Real* evidence, const Real* messages, Real* posterior,
                        Real* ratios, int64_t from, int64_t to);
    // Log-densities (features, rows, states) of rows [from, to) of all (feature, row).
    void (*gaussian_log_prob)(const BasicGaussianLeaves<Real>&, Real* log_prob, int64_t from, int64_t to);
    // Sums over rows of gradients times z, and times z² - 1, (features, states); a unit is 32 states or less of a
    // feature.
    void (*gaussian_grad)(const BasicGaussianLeaves<Real>&, const Real* gradient, Real* first, Real* second,
                          int64_t from, int64_t to);
    // The gradient of x, rows as of `gaussian_log_prob`.
    void (*gaussian_input_grad)(const BasicGaussianLeaves<Real>&, const Real* gradient, Real* grad_x, int64_t from,
                                int64_t to);
    // Sum of the squares of n numbers, in double precision.
    double (*squares)(int64_t n, const Real* x);
    // A step of Adam, of entries [from, to).
    void (*adam)(const BasicAdamStep<Real>&, int64_t from, int64_t to);
    // exp, log, log(1 + exp) of n numbers (kind 0, 1, 2), as the kernels compute them.
    void (*elementary)(int kind, int64_t n, const Real* x, Real* y);
};

#define MODEFLOW_JOIN_(a, b) a##b
#define MODEFLOW_JOIN(a, b) MODEFLOW_JOIN_(a, b)
// avx512_float, say: of the instruction set and the type of numbers that a source is compiled for.
#define MODEFLOW_NAME MODEFLOW_JOIN(MODEFLOW_JOIN(MODEFLOW_ISA, _), MODEFLOW_REAL)

#define MODEFLOW_DECLARE(kind)      \
    const kind<float>& base_float();   \
    const kind<float>& avx2_float();   \
    const kind<float>& avx512_float(); \
    const kind<double>& base_double(); \
    const kind<double>& avx2_double(); \
    const kind<double>& avx512_double();
MODEFLOW_DECLARE(BasicKernels)

}  // namespace modeflow

// What Python tells the kernels, by name and for either type of number: sizes, settings, and addresses of tensors.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels.h"
#include "stack.h"

namespace modeflow {

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// An elementwise map. What its kind has no use for is zero.
struct MapFields {
    BasicMap<double>::Kind kind;
    int pieces, params;  // bins or components; parameters of an entry
    double tail_bound, min_bin_width, min_bin_height, min_derivative;
    double max_log_scale, max_log_slope;

    template <class Real>
    BasicMap<Real> as() const {
        BasicMap<Real> map{};
        map.kind = static_cast<typename BasicMap<Real>::Kind>(kind);
        map.params = params;
        map.components = pieces;
        map.most = static_cast<Real>(max_log_scale);
        map.most_slope = static_cast<Real>(max_log_slope);
        if (map.kind == BasicMap<Real>::SPLINE)
            map.spline = {pieces,
                          static_cast<Real>(tail_bound),
                          static_cast<Real>(min_bin_width),
                          static_cast<Real>(min_bin_height),
                          static_cast<Real>(min_derivative),
                          static_cast<Real>(std::log(std::expm1(1.0 - min_derivative)))};
        return map;
    }
};

// A masked layer of an autoregressive network, for its inverse.
struct MaskedDenseFields {
    int inputs, outputs;
    uintptr_t weight, bias, until;

    template <class Real>
    BasicDense<Real> as() const {
        return {at<const Real>(weight), at<const Real>(bias), outputs, inputs, at<const int64_t>(until)};
    }
};

// An autoregressive network, for its inverse.
struct MadeFields {
    int features;
    bool residual;
    std::vector<MaskedDenseFields> hidden;
    MaskedDenseFields final;
    uintptr_t context_first, context_final;  // or null
};

// A level of a tree of states.
struct TreeLevelFields {
    int64_t rows;
    int states;
    int64_t first, last;
    uintptr_t children;

    template <class Real>
    BasicTreeLevel<Real> as() const {
        return {rows, states, first, last, at<const int64_t>(children)};
    }
};

// Gaussians of all states of each feature.
struct GaussianLeavesFields {
    int64_t features, rows;
    int states;
    uintptr_t x, mean, inverse, constant;

    template <class Real>
    BasicGaussianLeaves<Real> as() const {
        return {features, rows, states, at<const Real>(x), at<const Real>(mean), at<const Real>(inverse),
                at<const Real>(constant)};
    }
};

// A step of Adam. With β₁ⁿ and β₂ⁿ after n steps: the size is the learning rate over 1 - β₁ⁿ, the root that of 1 - β₂ⁿ.
struct AdamFields {
    double beta1, beta2, eps;
    double size, root;
    double scale, share, pull;  // of the gradient; of what decays; of the average

    template <class Real>
    BasicAdamStep<Real> as() const {
        BasicAdamStep<Real> step{};
        step.scale = static_cast<Real>(scale), step.share = static_cast<Real>(share);
        step.first_rest = static_cast<Real>(1 - beta1);
        step.second_kept = static_cast<Real>(beta2), step.second_rest = static_cast<Real>(1 - beta2);
        step.size = static_cast<Real>(size), step.root = static_cast<Real>(root), step.eps = static_cast<Real>(eps);
        step.pull = static_cast<Real>(pull);
        return step;
    }
};

// A dense layer of a network in a stack: the context is added by columns beside those of the inputs, or by a layer of
// its own, or not at all.
struct DenseFields {
    int inputs, outputs, context_columns;
    uintptr_t weight, bias, mask, context_weight, context_bias;

    template <class Real>
    BasicStackDense<Real> as(int context) const {
        BasicStackDense<Real> dense{};
        dense.in = inputs, dense.out = outputs, dense.row = inputs + context_columns;
        dense.mask = at<const Real>(mask), dense.weight = at<const Real>(weight), dense.bias = at<const Real>(bias);
        dense.context_row = context_columns ? dense.row : context;
        dense.context_weight = context_columns ? dense.weight + inputs : at<const Real>(context_weight);
        dense.context_bias = at<const Real>(context_bias);
        return dense;
    }
};

// A layer of a stack. What its kind has no use for is zero.
struct LayerFields {
    BasicStackLayer<double>::Kind kind;
    uintptr_t index;
    double eps;
    uintptr_t lower, upper, raw_diagonal, bias, table;
    bool full, has_context;
    int seen, moved;
    bool autoregressive, residual;
    MapFields map;
    std::vector<DenseFields> network;

    template <class Real>
    BasicStackLayer<Real> as(int context) const {
        BasicStackLayer<Real> layer{};
        layer.kind = static_cast<typename BasicStackLayer<Real>::Kind>(kind);
        layer.index = at<const int64_t>(index);
        layer.eps = static_cast<Real>(eps);
        const uintptr_t linear[] = {lower, upper, raw_diagonal, bias};
        for (int i = 0; i < 4; ++i) layer.linear[i] = at<const Real>(linear[i]);
        layer.table = at<const Real>(table);
        layer.full = full, layer.has_context = has_context;
        layer.seen = seen, layer.moved = moved;
        layer.autoregressive = autoregressive, layer.residual = residual;
        layer.map = map.as<Real>();
        for (const DenseFields& dense : network) layer.network.push_back(dense.as<Real>(context));
        return layer;
    }
};

}  // namespace modeflow

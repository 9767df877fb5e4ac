// Python's way to the kernels: addresses and sizes in, nothing of torch. `modeflow/native/__init__.py` is the
// only caller and checks types, shapes and contiguity.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "dispatch.h"
#include "kernels.h"
#include "pool.h"
#include "stack.h"

namespace nb = nanobind;
using namespace modeflow;

namespace {

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

template <class Real>
BasicSpline<Real> spline_of(int bins, double bound, double width, double height, double slope) {
    return {bins,
            static_cast<Real>(bound),
            static_cast<Real>(width),
            static_cast<Real>(height),
            static_cast<Real>(slope),
            static_cast<Real>(std::log(std::expm1(1.0 - slope)))};
}

// kind, then bins (of a spline) or components (of a mixture); bound, smallest width, height and slope, or soft bounds.
template <class Real>
BasicMap<Real> map_of(int kind, int count, const std::vector<double>& constants) {
    using Map = BasicMap<Real>;
    Map map{};
    map.kind = static_cast<typename Map::Kind>(kind);
    const auto constant = [&](size_t i) { return i < constants.size() ? constants[i] : 0.0; };
    switch (map.kind) {
        case Map::SPLINE:
            map.spline = spline_of<Real>(count, constant(0), constant(1), constant(2), constant(3));
            map.params = 3 * count - 1;
            break;
        case Map::AFFINE: map.params = 2; break;
        case Map::ADDITIVE: map.params = 1; break;
        case Map::MIXTURE: map.params = 3 * count + 2; break;
    }
    map.components = count;
    map.most = static_cast<Real>(constant(0));
    map.most_slope = static_cast<Real>(constant(1));
    return map;
}

using Constants = std::vector<double>;

template <class Real>
void elementwise(int kind, int count, const Constants& constants, bool inverse, int64_t n, uintptr_t x,
                 uintptr_t params, uintptr_t y, uintptr_t logderivative, int threads) {
    const BasicMap<Real> map = map_of<Real>(kind, count, constants);
    nb::gil_scoped_release release;
    Pool::instance().run(n, 2048, 16, threads, [&](int64_t from, int64_t to) {
        kernels_of<Real>().elementwise(map, inverse, to - from, at<const Real>(x) + from,
                            at<const Real>(params) + from * map.params, at<Real>(y) + from,
                            at<Real>(logderivative) + from);
    });
}

template <class Real>
void elementwise_backward(int kind, int count, const Constants& constants, bool inverse, int64_t n, uintptr_t x,
                          uintptr_t params, uintptr_t grad_y, uintptr_t grad_log, uintptr_t grad_x,
                          uintptr_t grad_params, int threads) {
    const BasicMap<Real> map = map_of<Real>(kind, count, constants);
    nb::gil_scoped_release release;
    Pool::instance().run(n, 2048, 16, threads, [&](int64_t from, int64_t to) {
        kernels_of<Real>().elementwise_backward(map, inverse, to - from, at<const Real>(x) + from,
                                     at<const Real>(params) + from * map.params, at<const Real>(grad_y) + from,
                                     at<const Real>(grad_log) + from, at<Real>(grad_x) + from,
                                     at<Real>(grad_params) + from * map.params);
    });
}

// By blocks, whatever the threads: the result does not depend on their number.
template <class Real>
double sum_of_squares(int64_t n, uintptr_t x, int threads) {
    constexpr int64_t BLOCK = 1 << 15;
    const int64_t blocks = (n + BLOCK - 1) / BLOCK;
    std::vector<double> sums(static_cast<size_t>(blocks));
    nb::gil_scoped_release release;
    Pool::instance().run(blocks, 4, 1, threads, [&](int64_t from, int64_t to) {
        for (int64_t b = from; b < to; ++b)
            sums[b] = kernels_of<Real>().squares(std::min(BLOCK, n - b * BLOCK), at<const Real>(x) + b * BLOCK);
    });
    double total = 0;
    for (double part : sums) total += part;
    return total;
}

template <class Real>
void elementary(int kind, int64_t n, uintptr_t x, uintptr_t y) {
    kernels_of<Real>().elementary(kind, n, at<const Real>(x), at<Real>(y));
}

// Each layer as (weight, bias, rows, columns, until).
using Layer = std::vector<int64_t>;

template <class Real>
BasicDense<Real> dense_of(const Layer& layer) {
    return {at<const Real>(static_cast<uintptr_t>(layer[0])),
                 at<const Real>(static_cast<uintptr_t>(layer[1])), static_cast<int>(layer[2]),
                 static_cast<int>(layer[3]), at<const int64_t>(static_cast<uintptr_t>(layer[4]))};
}

template <class Real>
void autoregressive_inverse(int features, bool residual, const std::vector<Layer>& hidden, const Layer& final,
                            uintptr_t context_first, uintptr_t context_final, int kind, int count,
                            const Constants& constants, int64_t rows, uintptr_t u, uintptr_t x, uintptr_t logabsdet,
                            int threads) {
    std::vector<BasicDense<Real>> layers;
    for (const Layer& layer : hidden) layers.push_back(dense_of<Real>(layer));
    const BasicMap<Real> map = map_of<Real>(kind, count, constants);
    const int64_t first = layers.empty() ? 0 : layers[0].rows;
    const BasicMade<Real> made{features, map.params, residual, static_cast<int>(layers.size()), layers.data(), dense_of<Real>(final),
                    at<const Real>(context_first), at<const Real>(context_final)};
    nb::gil_scoped_release release;
    Pool::instance().run(rows, 16, 16, threads, [&](int64_t from, int64_t to) {
        BasicMade<Real> part = made;
        if (part.context_first) part.context_first += from * first;
        if (part.context_final) part.context_final += from * features * map.params;
        kernels_of<Real>().autoregressive_inverse(part, map, to - from, at<const Real>(u) + from * features,
                                       at<Real>(x) + from * features, at<Real>(logabsdet) + from);
    });
}

// A stack with weights packed as they were, for one forward and backward pass.
template <class Real>
struct Handle {
    const int features, context;
    const BasicStackKernels<Real>* kernels;
    void* packed;

    Handle(const Handle&) = delete;
    Handle(BasicStack<Real>&& stack, bool backward)
        : features(stack.features), context(stack.context), kernels(kernels_of<Real>().stack),
          packed(kernels->prepare(std::move(stack), backward)) {}
    ~Handle() { kernels->release(packed); }
};

// Every layer as its kind and, of a permutation, the address of its index; of a linear layer, addresses of its
// parameters; of an affine one, whether it has correlations and a context, and the address of its table; of a
// conditioned one, address of its index, features seen, features moved, whether autoregressive, whether residual, kind
// of its map, bins or components, and for each dense layer of its network: inputs, outputs, how the context is added (0
// not, 1 by columns beside those of the inputs, 2 by a layer of its own), address of the mask, then of the parameters.
// Constants: eps, or those of the map.
template <class Real>
Handle<Real>* make_stack(int features, int context, bool backward, const std::vector<std::vector<int64_t>>& layers,
                   const std::vector<Constants>& constants, int threads) {
    using StackLayer = BasicStackLayer<Real>;
    BasicStack<Real> stack{features, context, {}};
    for (size_t i = 0; i < layers.size(); ++i) {
        const int64_t* l = layers[i].data();
        const int64_t* end = l + layers[i].size();
        StackLayer layer{};
        const auto address = [](int64_t a) { return at<const Real>(static_cast<uintptr_t>(a)); };
        layer.kind = static_cast<typename StackLayer::Kind>(*l++);
        if (layer.kind == StackLayer::LINEAR) {
            layer.eps = static_cast<Real>(constants[i][0]);
            for (const Real*& parameter : layer.linear) parameter = address(*l++);
        } else if (layer.kind == StackLayer::AFFINE) {
            layer.full = l[0] != 0, layer.has_context = l[1] != 0, layer.table = address(l[2]);
        } else {
            layer.index = at<const int64_t>(static_cast<uintptr_t>(*l++));
        }
        if (layer.kind == StackLayer::CONDITIONED) {
            layer.seen = static_cast<int>(l[0]), layer.moved = static_cast<int>(l[1]);
            layer.autoregressive = l[2] != 0, layer.residual = l[3] != 0;
            layer.map = map_of<Real>(static_cast<int>(l[4]), static_cast<int>(l[5]), constants[i]);
            for (l += 6; l < end;) {
                BasicStackDense<Real> dense{};
                dense.in = static_cast<int>(l[0]), dense.out = static_cast<int>(l[1]);
                const bool beside = l[2] == 1, apart = l[2] == 2;
                dense.mask = address(l[3]), dense.weight = address(l[4]), dense.bias = address(l[5]);
                dense.row = dense.in + (beside ? context : 0);
                dense.context_row = beside ? dense.row : context;
                if (beside) dense.context_weight = dense.weight + dense.in;
                l += 6;
                if (apart) dense.context_weight = address(*l++), dense.context_bias = address(*l++);
                layer.network.push_back(dense);
            }
        }
        stack.layers.push_back(std::move(layer));
    }
    nb::gil_scoped_release release;
    const auto n = static_cast<int64_t>(stack.layers.size());
    auto handle = std::make_unique<Handle<Real>>(std::move(stack), backward);
    Pool::instance().run(n, 1, 1, threads, [&](int64_t from, int64_t to) {
        handle->kernels->pack(handle->packed, from, to);
    });
    return handle.release();
}

template <class Real>
int64_t stack_tape(const Handle<Real>& h, int tile) { return h.kernels->tape_size(h.packed, tile); }

template <class Real>
void stack_run(const Handle<Real>& h, bool inverse, int tile, int64_t rows, uintptr_t x, uintptr_t context, uintptr_t u,
               uintptr_t logabsdet, uintptr_t tape, int threads) {
    const BasicForwardCall<Real> call{inverse,        tile,           rows,
                                      at<const Real>(x), at<const Real>(context),
                                      at<Real>(u),    at<Real>(logabsdet), at<Real>(tape)};
    nb::gil_scoped_release release;
    Pool::instance().run((rows + tile - 1) / tile, 1, 1, threads, [&](int64_t from, int64_t to) {
        h.kernels->forward(h.packed, call, from, to);
    });
}

template <class Real>
void stack_backward(const Handle<Real>& h, int tile, int64_t rows, uintptr_t context, uintptr_t grad_u,
                    uintptr_t grad_log, uintptr_t tape, uintptr_t grad_x, uintptr_t grad_context, const Addresses& gradients,
                    int threads) {
    nb::gil_scoped_release release;
    const BasicStackKernels<Real>& k = *h.kernels;
    const auto layers = static_cast<int64_t>(gradients.size());
    const int64_t tiles = (rows + tile - 1) / tile, tape_of_tile = k.tape_size(h.packed, tile);
    // Small sums: groups of tiles go back on their own, each through all layers. Large ones are made once, and the work
    // on every layer is shared out. Which of the two does not depend on the threads, and so neither do the results.
    const int64_t most = std::min<int64_t>(tiles, 8);
    const bool small = k.weight_grad_size(h.packed) * most <= (1 << 19);
    const int64_t groups = small ? most : 1;
    struct Passes {
        const BasicStackKernels<Real>& k;
        std::vector<void*> all;
        ~Passes() {
            for (void* pass : all) k.end_backward(pass);
        }
    } passes{k, std::vector<void*>(static_cast<size_t>(groups), nullptr)};
    Pool& pool = Pool::instance();
    pool.run(groups, 1, 1, threads, [&](int64_t first, int64_t last) {
        for (int64_t g = first; g < last; ++g) {
            const int64_t from = tiles * g / groups, to = tiles * (g + 1) / groups, start = from * tile;
            const int64_t some = std::min(rows, to * tile) - start;
            const auto part = [&](uintptr_t a, int64_t width) { return a ? at<Real>(a) + start * width : nullptr; };
            void* pass = k.begin_backward(
                h.packed, {tile, some, part(context, h.context), part(grad_u, h.features), part(grad_log, 1),
                           at<const Real>(tape) + from * tape_of_tile, part(grad_x, h.features),
                           part(grad_context, h.context)});
            passes.all[static_cast<size_t>(g)] = pass;
            for (int64_t l = layers; l-- > 0;) {
                k.begin_layer(pass, l);
                const int64_t parts = k.weight_grad_parts(pass, l);  // none: a permutation, not worth sharing
                pool.run(to - from, 1, 1, small || !parts ? 1 : threads,
                         [&](int64_t a, int64_t b) { k.input_grad(pass, l, a, b); });
                pool.run(parts, 1, 1, small ? 1 : threads, [&](int64_t a, int64_t b) { k.weight_grad(pass, l, a, b); },
                         true);
            }
            k.write_input_grad(pass);
        }
    });
    double total = 0;
    for (int64_t r = 0; r < rows; ++r) total += at<const Real>(grad_log)[r];
    pool.run(layers, 1, 1, threads, [&](int64_t from, int64_t to) {
        k.parameter_grad(passes.all, from, to, total, gradients);
    });
}

// One module for each type of number, with the same names.
template <class Real>
void define(nb::module_ m) {
    m.def("elementwise", &elementwise<Real>);
    m.def("elementwise_backward", &elementwise_backward<Real>);
    m.def("sum_of_squares", &sum_of_squares<Real>);
    m.def("elementary", &elementary<Real>);
    m.def("autoregressive_inverse", &autoregressive_inverse<Real>);
    nb::class_<Handle<Real>>(m, "Stack");
    m.def("make_stack", &make_stack<Real>, nb::rv_policy::take_ownership);
    m.def("stack_tape", &stack_tape<Real>);
    m.def("stack_run", &stack_run<Real>);
    m.def("stack_backward", &stack_backward<Real>);
}

}  // namespace

NB_MODULE(_kernels, m) {
    nb::set_leak_warnings(false);  // a graph that lives to the end of the program is not an error
    define<float>(m.def_submodule("float32"));
    define<double>(m.def_submodule("float64"));
    m.def("instruction_set", [] { return std::string(INSTRUCTION_SETS[active_instruction_set]); });
    m.def("available", &available_instruction_sets);
    m.def("use", [](const std::string& name) {
        if (!use_instruction_set(name)) throw nb::value_error("no such instruction set here");
    });
}

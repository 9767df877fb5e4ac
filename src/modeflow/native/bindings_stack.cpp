// Python's way through a stack of layers: described once, packed for every call.
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "bindings.h"
#include "dispatch.h"
#include "fields.h"
#include "pool.h"
#include "stack.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace modeflow {
namespace {

// A stack as it was described: it reads the tensors at these addresses whenever it is packed.
template <class Real>
struct DescribedStack {
    std::shared_ptr<const BasicStack<Real>> stack;

    DescribedStack(int features, int context, const std::vector<LayerFields>& layers) {
        auto built = std::make_shared<BasicStack<Real>>(BasicStack<Real>{features, context, {}});
        for (const LayerFields& layer : layers) built->layers.push_back(layer.as<Real>(context));
        stack = std::move(built);
    }
};

// A stack with weights packed as they were, for one forward and backward pass.
template <class Real>
struct Packed {
    const std::shared_ptr<const BasicStack<Real>> stack;
    const BasicStackKernels<Real>* kernels;
    void* packed;

    Packed(const Packed&) = delete;
    Packed(std::shared_ptr<const BasicStack<Real>> stack_, bool backward)
        : stack(std::move(stack_)), kernels(kernels_of<Real>().stack), packed(kernels->prepare(*stack, backward)) {}
    ~Packed() { kernels->release(packed); }
};

template <class Real>
Packed<Real>* pack(const DescribedStack<Real>& described, bool backward, int threads) {
    nb::gil_scoped_release release;
    const auto n = static_cast<int64_t>(described.stack->layers.size());
    auto packed = std::make_unique<Packed<Real>>(described.stack, backward);
    Pool::instance().run(n, 1, 1, threads,
                         [&](int64_t from, int64_t to) { packed->kernels->pack(packed->packed, from, to); });
    return packed.release();
}

template <class Real>
int64_t tape_size(const Packed<Real>& p, int tile) {
    return p.kernels->tape_size(p.packed, tile);
}

template <class Real>
void forward(const Packed<Real>& p, bool inverse, int tile, int64_t rows, uintptr_t x, uintptr_t context, uintptr_t u,
             uintptr_t logabsdet, uintptr_t tape, int threads) {
    const BasicForwardCall<Real> call{
        inverse,      tile, rows, at<const Real>(x), at<const Real>(context), at<Real>(u), at<Real>(logabsdet),
        at<Real>(tape)};
    nb::gil_scoped_release release;
    Pool::instance().run((rows + tile - 1) / tile, 1, 1, threads,
                         [&](int64_t from, int64_t to) { p.kernels->forward(p.packed, call, from, to); });
}

// Passes that go back on their own, each over tiles of its own.
template <class Real>
struct Passes {
    const BasicStackKernels<Real>& kernels;
    std::vector<void*> all;

    Passes(const BasicStackKernels<Real>& kernels_, int64_t n)
        : kernels(kernels_), all(static_cast<size_t>(n), nullptr) {}
    Passes(const Passes&) = delete;
    ~Passes() {
        for (void* pass : all) kernels.end_backward(pass);
    }
};

template <class Real>
void run_backward(const Packed<Real>& p, const BasicBackwardCall<Real>& call, Real* gradients, int threads) {
    const BasicStackKernels<Real>& k = *p.kernels;
    const auto layers = static_cast<int64_t>(p.stack->layers.size());
    const int tile = call.tile, features = p.stack->features, contexts = p.stack->context;
    const int64_t rows = call.rows, tiles = (rows + tile - 1) / tile, tape_of_tile = k.tape_size(p.packed, tile);
    // Small sums: groups of tiles go back on their own, each through all layers. Large ones are made once, and the work
    // on every layer is shared out. Which of the two does not depend on the threads, and so neither do the results.
    const int64_t most = std::min<int64_t>(tiles, 8);
    const bool small = k.weight_grad_size(p.packed) * most <= (1 << 19);
    const int64_t groups = small ? most : 1;
    Passes<Real> passes(k, groups);
    Pool& pool = Pool::instance();
    pool.run(groups, 1, 1, threads, [&](int64_t first, int64_t last) {
        for (int64_t g = first; g < last; ++g) {
            const int64_t from = tiles * g / groups, to = tiles * (g + 1) / groups, start = from * tile;
            BasicBackwardCall<Real> part = call;
            part.rows = std::min(rows, to * tile) - start;
            part.tape += from * tape_of_tile;
            part.grad_u += start * features, part.grad_log += start, part.grad_x += start * features;
            if (part.context) part.context += start * contexts;
            if (part.grad_context) part.grad_context += start * contexts;
            void* pass = k.begin_backward(p.packed, part);
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
    for (int64_t r = 0; r < rows; ++r) total += call.grad_log[r];
    pool.run(layers, 1, 1, threads,
             [&](int64_t from, int64_t to) { k.parameter_grad(passes.all, from, to, total, gradients); });
}

template <class Real>
void backward(const Packed<Real>& p, int tile, int64_t rows, uintptr_t context, uintptr_t grad_u, uintptr_t grad_log,
              uintptr_t tape, uintptr_t grad_x, uintptr_t grad_context, uintptr_t gradients, int threads) {
    nb::gil_scoped_release release;
    run_backward<Real>(p,
                       {tile, rows, at<const Real>(context), at<const Real>(grad_u), at<const Real>(grad_log),
                        at<const Real>(tape), at<Real>(grad_x), at<Real>(grad_context)},
                       at<Real>(gradients), threads);
}

}  // namespace

template <class Real>
void define_stack(nb::module_ m) {
    nb::class_<Packed<Real>>(m, "PackedStack")
        .def("tape_size", &tape_size<Real>, "tile"_a)
        .def("forward", &forward<Real>, nb::kw_only(), "inverse"_a, "tile"_a, "rows"_a, "x"_a, "context"_a, "u"_a,
             "logabsdet"_a, "tape"_a, "threads"_a)
        .def("backward", &backward<Real>, nb::kw_only(), "tile"_a, "rows"_a, "context"_a, "grad_u"_a, "grad_log"_a,
             "tape"_a, "grad_x"_a, "grad_context"_a, "gradients"_a, "threads"_a);
    nb::class_<DescribedStack<Real>>(m, "Stack")
        .def(nb::init<int, int, const std::vector<LayerFields>&>(), nb::kw_only(), "features"_a, "context_features"_a,
             "layers"_a)
        .def("pack", &pack<Real>, nb::kw_only(), "backward"_a, "threads"_a, nb::rv_policy::take_ownership)
        // How many numbers `backward` writes to `gradients`: those of all parameters, one after the other.
        .def_prop_ro("parameter_count", [](const DescribedStack<Real>& s) {
            int64_t n = 0;
            for (const auto& layer : s.stack->layers) n += parameter_count(layer, s.stack->features, s.stack->context);
            return n;
        });
}

template void define_stack<float>(nb::module_);
template void define_stack<double>(nb::module_);

}  // namespace modeflow

// Python's way to the kernels: addresses and sizes in, nothing of torch. `modeflow.accelerate` is the only caller and
// checks types, shapes and contiguity.
#include "bindings.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <string>
#include <vector>

#include "dispatch.h"
#include "fields.h"
#include "kernels.h"
#include "pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace modeflow {
namespace {

template <class Real>
void elementwise(const MapFields& fields, bool inverse, int64_t n, uintptr_t x, uintptr_t params, uintptr_t y,
                 uintptr_t logderivative, int threads) {
    const BasicMap<Real> map = fields.as<Real>();
    nb::gil_scoped_release release;
    Pool::instance().run(n, 2048, 16, threads, [&](int64_t from, int64_t to) {
        kernels_of<Real>().elementwise(map, inverse, to - from, at<const Real>(x) + from,
                                       at<const Real>(params) + from * map.params, at<Real>(y) + from,
                                       at<Real>(logderivative) + from);
    });
}

template <class Real>
void elementwise_backward(const MapFields& fields, bool inverse, int64_t n, uintptr_t x, uintptr_t params,
                          uintptr_t grad_y, uintptr_t grad_log, uintptr_t grad_x, uintptr_t grad_params, int threads) {
    const BasicMap<Real> map = fields.as<Real>();
    nb::gil_scoped_release release;
    Pool::instance().run(n, 2048, 16, threads, [&](int64_t from, int64_t to) {
        kernels_of<Real>().elementwise_backward(
            map, inverse, to - from, at<const Real>(x) + from, at<const Real>(params) + from * map.params,
            at<const Real>(grad_y) + from, at<const Real>(grad_log) + from, at<Real>(grad_x) + from,
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

// `decays` and `average` may be null.
template <class Real>
void adam(const AdamFields& fields, int64_t n, uintptr_t gradient, uintptr_t decays, uintptr_t parameters,
          uintptr_t first, uintptr_t second, uintptr_t average, int threads) {
    BasicAdamStep<Real> step = fields.as<Real>();
    step.gradient = at<const Real>(gradient), step.decays = at<const Real>(decays);
    step.parameters = at<Real>(parameters), step.first = at<Real>(first), step.second = at<Real>(second);
    step.average = at<Real>(average);
    nb::gil_scoped_release release;
    Pool::instance().run(n, 1 << 15, 64, threads,
                         [&](int64_t from, int64_t to) { kernels_of<Real>().adam(step, from, to); });
}

template <class Real>
void elementary(int kind, int64_t n, uintptr_t x, uintptr_t y) {
    kernels_of<Real>().elementary(kind, n, at<const Real>(x), at<Real>(y));
}

template <class Real>
void autoregressive_inverse(const MadeFields& network, const MapFields& fields, int64_t rows, uintptr_t u, uintptr_t x,
                            uintptr_t logabsdet, int threads) {
    std::vector<BasicDense<Real>> layers;
    for (const MaskedDenseFields& layer : network.hidden) layers.push_back(layer.as<Real>());
    const BasicMap<Real> map = fields.as<Real>();
    const int features = network.features;
    const int64_t first = layers.empty() ? 0 : layers[0].rows;
    const BasicMade<Real> made{features,
                               map.params,
                               network.residual,
                               static_cast<int>(layers.size()),
                               layers.data(),
                               network.final.as<Real>(),
                               at<const Real>(network.context_first),
                               at<const Real>(network.context_final)};
    nb::gil_scoped_release release;
    Pool::instance().run(rows, 16, 16, threads, [&](int64_t from, int64_t to) {
        BasicMade<Real> part = made;
        if (part.context_first) part.context_first += from * first;
        if (part.context_final) part.context_final += from * features * map.params;
        kernels_of<Real>().autoregressive_inverse(part, map, to - from, at<const Real>(u) + from * features,
                                                  at<Real>(x) + from * features, at<Real>(logabsdet) + from);
    });
}

// One module for each type of number, with the same names.
template <class Real>
void define(nb::module_ m) {
    m.def("elementwise", &elementwise<Real>, nb::kw_only(), "map"_a, "inverse"_a, "n"_a, "x"_a, "params"_a, "y"_a,
          "logderivative"_a, "threads"_a);
    m.def("elementwise_backward", &elementwise_backward<Real>, nb::kw_only(), "map"_a, "inverse"_a, "n"_a, "x"_a,
          "params"_a, "grad_y"_a, "grad_log"_a, "grad_x"_a, "grad_params"_a, "threads"_a);
    m.def("autoregressive_inverse", &autoregressive_inverse<Real>, nb::kw_only(), "network"_a, "map"_a, "rows"_a,
          "u"_a, "x"_a, "logabsdet"_a, "threads"_a);
    m.def("sum_of_squares", &sum_of_squares<Real>, "n"_a, "x"_a, "threads"_a);
    m.def("adam", &adam<Real>, nb::kw_only(), "step"_a, "n"_a, "gradient"_a, "decays"_a, "parameters"_a, "first"_a,
          "second"_a, "average"_a, "threads"_a);
    m.def("elementary", &elementary<Real>, "kind"_a, "n"_a, "x"_a, "y"_a);
    define_stack<Real>(m);
    define_tree<Real>(m);
}

}  // namespace
}  // namespace modeflow

NB_MODULE(_kernels, m) {
    using namespace modeflow;
    nb::set_leak_warnings(false);  // a graph that lives to the end of the program is not an error
    define_fields(m);
    define<float>(m.def_submodule("float32"));
    define<double>(m.def_submodule("float64"));
    m.def("instruction_set", [] { return std::string(INSTRUCTION_SETS[active_instruction_set]); });
    m.def("available", &available_instruction_sets);
    m.def("use", [](const std::string& name) {
        if (!use_instruction_set(name)) throw nb::value_error("no such instruction set here");
    });
}

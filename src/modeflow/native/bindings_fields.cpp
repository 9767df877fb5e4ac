// Python's names for what `fields.h` holds.
#include <nanobind/stl/vector.h>

#include <new>
#include <vector>

#include "bindings.h"
#include "fields.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace modeflow {
namespace {

using MapKind = BasicMap<double>;
using LayerKind = BasicStackLayer<double>;

MapFields spline(int bins, double tail_bound, double min_bin_width, double min_bin_height, double min_derivative) {
    return {MapKind::SPLINE, bins, 3 * bins - 1, tail_bound, min_bin_width, min_bin_height, min_derivative, 0, 0};
}
MapFields affine(double max_log_scale) { return {MapKind::AFFINE, 0, 2, 0, 0, 0, 0, max_log_scale, 0}; }
MapFields additive() { return {MapKind::ADDITIVE, 0, 1, 0, 0, 0, 0, 0, 0}; }
MapFields mixture(int components, double max_log_scale, double max_log_slope) {
    return {MapKind::MIXTURE, components, 3 * components + 2, 0, 0, 0, 0, max_log_scale, max_log_slope};
}

LayerFields permutation(uintptr_t order) {
    LayerFields layer{};
    layer.kind = LayerKind::PERMUTATION, layer.index = order;
    return layer;
}
LayerFields linear(double eps, uintptr_t lower, uintptr_t upper, uintptr_t raw_diagonal, uintptr_t bias) {
    LayerFields layer{};
    layer.kind = LayerKind::LINEAR, layer.eps = eps;
    layer.lower = lower, layer.upper = upper, layer.raw_diagonal = raw_diagonal, layer.bias = bias;
    return layer;
}
LayerFields context_affine(bool full, bool has_context, uintptr_t table) {
    LayerFields layer{};
    layer.kind = LayerKind::AFFINE, layer.full = full, layer.has_context = has_context, layer.table = table;
    return layer;
}
LayerFields conditioned(uintptr_t index, int seen, int moved, bool autoregressive, bool residual, const MapFields& map,
                        const std::vector<DenseFields>& network) {
    LayerFields layer{};
    layer.kind = LayerKind::CONDITIONED, layer.index = index, layer.seen = seen, layer.moved = moved;
    layer.autoregressive = autoregressive, layer.residual = residual, layer.map = map, layer.network = network;
    return layer;
}

}  // namespace

void define_fields(nb::module_ m) {
    nb::class_<MapFields>(m, "Map")
        .def_static("spline", &spline, nb::kw_only(), "bins"_a, "tail_bound"_a, "min_bin_width"_a, "min_bin_height"_a,
                    "min_derivative"_a)
        .def_static("affine", &affine, nb::kw_only(), "max_log_scale"_a)
        .def_static("additive", &additive)
        .def_static("mixture", &mixture, nb::kw_only(), "components"_a, "max_log_scale"_a, "max_log_slope"_a)
        .def_ro("n_params", &MapFields::params);

    nb::class_<MaskedDenseFields>(m, "MaskedDense")
        .def(
            "__init__",
            [](MaskedDenseFields* self, int inputs, int outputs, uintptr_t weight, uintptr_t bias, uintptr_t until) {
                new (self) MaskedDenseFields{inputs, outputs, weight, bias, until};
            },
            nb::kw_only(), "inputs"_a, "outputs"_a, "weight"_a, "bias"_a, "until"_a);

    nb::class_<MadeFields>(m, "Made").def(
        "__init__",
        [](MadeFields* self, int features, bool residual, const std::vector<MaskedDenseFields>& hidden,
           const MaskedDenseFields& final, uintptr_t context_first, uintptr_t context_final) {
            new (self) MadeFields{features, residual, hidden, final, context_first, context_final};
        },
        nb::kw_only(), "features"_a, "residual"_a, "hidden"_a, "final"_a, "context_first"_a, "context_final"_a);

    nb::class_<TreeLevelFields>(m, "TreeLevel")
        .def(
            "__init__",
            [](TreeLevelFields* self, int64_t rows, int states, int64_t first, int64_t last, uintptr_t children) {
                new (self) TreeLevelFields{rows, states, first, last, children};
            },
            nb::kw_only(), "rows"_a, "states"_a, "first"_a, "last"_a, "children"_a);

    nb::class_<GaussianLeavesFields>(m, "GaussianLeaves")
        .def(
            "__init__",
            [](GaussianLeavesFields* self, int64_t features, int64_t rows, int states, uintptr_t x, uintptr_t mean,
               uintptr_t inverse, uintptr_t constant) {
                new (self) GaussianLeavesFields{features, rows, states, x, mean, inverse, constant};
            },
            nb::kw_only(), "features"_a, "rows"_a, "states"_a, "x"_a, "mean"_a, "inverse"_a, "constant"_a);

    nb::class_<AdamFields>(m, "AdamStep")
        .def(
            "__init__",
            [](AdamFields* self, double beta1, double beta2, double eps, double size, double root, double scale,
               double share, double pull) {
                new (self) AdamFields{beta1, beta2, eps, size, root, scale, share, pull};
            },
            nb::kw_only(), "beta1"_a, "beta2"_a, "eps"_a, "size"_a, "root"_a, "scale"_a, "share"_a, "pull"_a);

    nb::class_<DenseFields>(m, "Dense").def(
        "__init__",
        [](DenseFields* self, int inputs, int outputs, int context_columns, uintptr_t weight, uintptr_t bias,
           uintptr_t mask, uintptr_t context_weight, uintptr_t context_bias) {
            new (self)
                DenseFields{inputs, outputs, context_columns, weight, bias, mask, context_weight, context_bias};
        },
        nb::kw_only(), "inputs"_a, "outputs"_a, "context_columns"_a, "weight"_a, "bias"_a, "mask"_a,
        "context_weight"_a, "context_bias"_a);

    nb::class_<LayerFields>(m, "Layer")
        .def_static("permutation", &permutation, nb::kw_only(), "order"_a)
        .def_static("linear", &linear, nb::kw_only(), "eps"_a, "lower"_a, "upper"_a, "raw_diagonal"_a, "bias"_a)
        .def_static("context_affine", &context_affine, nb::kw_only(), "full"_a, "has_context"_a, "table"_a)
        .def_static("conditioned", &conditioned, nb::kw_only(), "index"_a, "seen"_a, "moved"_a, "autoregressive"_a,
                    "residual"_a, "map"_a, "network"_a);
}

}  // namespace modeflow

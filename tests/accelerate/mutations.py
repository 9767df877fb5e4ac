"""Flows that the native kernel takes, and what a user may do to them after their first call."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from modeflow.flows import MAF, NSF, FlowPlusPlus, RealNVP
from modeflow.nets import MADE, ResidualMADE, ResidualMLP
from modeflow.testing import perturb
from modeflow.transforms import (
    AffineElementwise,
    Coupling,
    LULinear,
    MaskedAutoregressive,
    Permutation,
    RQSplineElementwise,
)

D = 4


def coupling_flow():
    return NSF(D, layers=2, hidden_features=16, bins=4, blocks=1)


def autoregressive_flow():
    return NSF(D, layers=2, hidden_features=16, bins=4, blocks=1, coupling=False)


def plain_made_flow():
    return MAF(D, layers=2, hidden_features=(16, 16))


def context_flow():
    return NSF(D, 2, layers=2, hidden_features=16, bins=4, blocks=1, context_affine="diagonal")


FLOWS = {
    "coupling": coupling_flow,
    "autoregressive": autoregressive_flow,
    "made": plain_made_flow,
    "context": context_flow,
    "mixture": lambda: FlowPlusPlus(D, layers=2, hidden_features=16, components=3),
    "affine": lambda: RealNVP(D, layers=2, hidden_features=16),
}


def layers_of(flow):
    return flow.transform.transforms


def main_of(flow):
    """The second of the layers with a network."""
    return [t for t in layers_of(flow) if isinstance(t, Coupling | MaskedAutoregressive)][1]


def place_of(flow, layer):
    return next(i for i, t in enumerate(layers_of(flow)) if t is layer)


def lu_of(flow):
    return next(t for t in layers_of(flow) if isinstance(t, LULinear))


def linears_of(module):
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


class Doubled(nn.Module):
    """A parametrisation that is not the identity."""

    def forward(self, weight):
        return 2 * weight


class Shifted(LULinear):
    def forward(self, x, context=None):
        u, logabsdet = super().forward(x, context)
        return u + 1, logabsdet

    def inverse(self, u, context=None):
        return super().inverse(u - 1, context)


class Halved(ResidualMLP):
    def forward(self, x, context=None):
        return 0.5 * super().forward(x, context)


class HalvedMADE(ResidualMADE):
    def forward(self, x, context=None):
        return 0.5 * super().forward(x, context)


class Louder(nn.Linear):
    def forward(self, x):
        return 1.5 * super().forward(x)


class Wider(RQSplineElementwise):
    """Another map by a method that is neither forward nor inverse."""

    def _call(self, x, params, inverse):
        return super()._call(x, 0.5 * params, inverse)


class Steeper(AffineElementwise):
    def _log_scale(self, raw):
        return 0.5 * super()._log_scale(raw)


def replace_layer(flow):
    layers_of(flow)[place_of(flow, lu_of(flow))] = perturb(LULinear(D), 0.5, 7)


def append_layer(flow):
    layers_of(flow).append(perturb(LULinear(D), 0.5, 7))


def delete_layer(flow):
    del layers_of(flow)[place_of(flow, main_of(flow))]


def insert_layer(flow):
    layers_of(flow).insert(1, Permutation.reverse(D))


def swap_layers(flow):
    layers = layers_of(flow)
    first, second = [i for i, t in enumerate(layers) if isinstance(t, Coupling | MaskedAutoregressive)][:2]
    layers[first], layers[second] = layers[second], layers[first]


def replace_all_layers(flow):
    flow.transform.transforms = nn.ModuleList(reversed(layers_of(flow)))


def replace_conditioner(flow):
    layer = main_of(flow)
    layer.conditioner = perturb(copy.deepcopy(layer.conditioner), 0.5, 8)


def replace_by_another_kind(flow):
    layer = main_of(flow)
    n = layer.elementwise.n_params
    if isinstance(layer, Coupling):
        made = ResidualMLP(layer.n_kept, layer.n_moved * n, 24, layer.context_features, 2)
    else:
        made = MADE(D, n, (20, 12), layer.context_features)
    layer.conditioner = perturb(made, 0.3, 8)


def replace_linear(flow):
    net = main_of(flow).conditioner
    for parent in net.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, perturb(Louder(child.in_features, child.out_features), 0.3, 3))
                return


def replace_parameter(flow):
    layer = linears_of(main_of(flow))[-1]
    layer.weight = nn.Parameter(0.3 * torch.randn_like(layer.weight))


def drop_bias(flow):
    main_of(flow).conditioner.final.bias = None


def change_activation(flow):
    net = main_of(flow).conditioner
    for module in net.modules():
        if hasattr(module, "activation"):
            module.activation = torch.tanh


def change_activation_of_a_block(flow):
    for block in getattr(main_of(flow).conditioner, "blocks", ()):
        block.activation = torch.tanh


def tail_bound(flow):
    main_of(flow).elementwise.tail_bound = 0.7


def smallest_bins(flow):
    main_of(flow).elementwise.min_bin_width = main_of(flow).elementwise.min_derivative = 0.1


def bins_setting_alone(flow):
    """Without parameters for them the number of bins is a note: PyTorch goes by the parameters."""
    main_of(flow).elementwise.bins = 9


def more_bins(flow):
    layer = main_of(flow)
    layer.elementwise = RQSplineElementwise(6, 2.0)
    replace_by_another_kind(flow)


def subclassed_elementwise(flow):
    layer = main_of(flow)
    layer.elementwise = Wider(4) if isinstance(layer.elementwise, RQSplineElementwise) else Steeper()


def scale_bound(flow):
    elementwise = main_of(flow).elementwise
    for name in ("max_log_scale", "max_log_slope"):
        if hasattr(elementwise, name):
            setattr(elementwise, name, 0.05)


def lu_eps(flow):
    lu_of(flow).eps = 0.7


def subclassed_lu(flow):
    shifted = Shifted(D)
    shifted.load_state_dict(lu_of(flow).state_dict())
    layers_of(flow)[place_of(flow, lu_of(flow))] = shifted


def class_of_layer(flow):
    lu_of(flow).__class__ = Shifted


def class_of_conditioner(flow):
    net = main_of(flow).conditioner
    net.__class__ = Halved if isinstance(net, ResidualMLP) else HalvedMADE


def method_of_layer(flow):
    lu, before = lu_of(flow), lu_of(flow).forward
    lu.forward = lambda x, context=None: (before(x)[0] + 1, before(x)[1])
    back = lu.inverse
    lu.inverse = lambda u, context=None: back(u - 1)


def method_of_conditioner(flow):
    net = main_of(flow).conditioner
    before = net.forward
    net.forward = lambda x, context=None: 0.5 * before(x, context)


def method_of_elementwise(flow):
    elementwise = main_of(flow).elementwise
    forward, inverse = elementwise.forward, elementwise.inverse
    elementwise.forward = lambda x, params: forward(x, 0.5 * params)
    elementwise.inverse = lambda u, params: inverse(u, 0.5 * params)


def hook_on_layer(flow):
    main_of(flow).register_forward_hook(lambda m, a, out: (out[0] + 1, out[1]))


def hook_on_linear(flow):
    linears_of(main_of(flow))[-1].register_forward_hook(lambda m, a, out: 0.5 * out)


def hook_before_linear(flow):
    linears_of(main_of(flow))[0].register_forward_pre_hook(lambda m, a: (0.5 * a[0],))


def hook_on_gradient(flow):
    linears_of(main_of(flow))[-1].register_full_backward_hook(lambda m, i, o: tuple(2 * g for g in i))


def parametrised_linear(flow):
    parametrize.register_parametrization(linears_of(main_of(flow))[-1], "weight", Doubled())


def parametrised_lu(flow):
    parametrize.register_parametrization(lu_of(flow), "lower", Doubled())


def weight_norm(flow):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.utils.weight_norm(linears_of(main_of(flow))[-1])
    layer.weight_g.data *= 1.5


def weight_norm_by_parametrisation(flow):
    layer = nn.utils.parametrizations.weight_norm(linears_of(main_of(flow))[-1])
    layer.parametrizations.weight.original0.data *= 1.5


def spectral_norm(flow):
    nn.utils.parametrizations.spectral_norm(linears_of(main_of(flow))[-1]).eval()


def old_spectral_norm(flow):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.spectral_norm(linears_of(main_of(flow))[-1]).eval()


def pruned(flow):
    prune.random_unstructured(linears_of(main_of(flow))[-1], "weight", 0.5)


def changed_order(flow):
    permutation = next((t for t in layers_of(flow) if isinstance(t, Permutation)), None)
    if permutation is not None:
        permutation.order = permutation.order.flip(0).clone()
        permutation.reverse_order = permutation.order.argsort()


def changed_mask(flow):
    """Feature 2 no longer sees feature 1: still autoregressive, but not what the degrees say."""
    layer = next((m for m in linears_of(main_of(flow)) if hasattr(m, "mask")), None)
    if layer is not None:
        layer.mask[:, 1] = 0


def plain_attribute(flow):
    layer = linears_of(main_of(flow))[-1]
    weight = layer.weight.detach().clone() * 0.5
    del layer.weight
    layer.weight = weight


def double(flow):
    flow.double()


MUTATIONS = [
    value
    for name, value in sorted(globals().items())
    if callable(value) and getattr(value, "__code__", None) and value.__code__.co_varnames[:1] == ("flow",)
    if value.__module__ == __name__ and name not in ("layers_of", "main_of", "place_of", "lu_of")
]


def applies_to(mutation, name):
    """Some flows have no linear layer between the others, or another map."""
    lu = mutation in (lu_eps, replace_layer, subclassed_lu, class_of_layer, method_of_layer, parametrised_lu)
    spline = mutation in (tail_bound, smallest_bins, bins_setting_alone, more_bins)
    if (lu and name in ("made", "affine", "mixture")) or (spline and name not in SPLINES):
        return False
    if mutation in (subclassed_elementwise, method_of_elementwise):  # its inverse is a search by its forward
        return name != "mixture"
    if mutation is class_of_conditioner:
        return name != "made"
    return mutation is not scale_bound or name in ("made", "mixture", "affine")


SPLINES = ("coupling", "autoregressive", "context")

#: Changes that change no number, in some of the flows at least.
UNSEEN = {
    double,
    bins_setting_alone,
    changed_order,
    changed_mask,
    change_activation_of_a_block,
    spectral_norm,
    old_spectral_norm,
    replace_linear,
}

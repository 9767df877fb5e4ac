"""What layers say of themselves: of their own class alone, and only where all within is what it says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from mutations import FLOWS, D, autoregressive_flow, coupling_flow, layers_of, main_of
from plans import parts_of
from torch import nn
from torch.nn import functional as F

import modeflow.accelerate
from modeflow.accelerate import (
    LU,
    AffineMap,
    LogisticMixtureMap,
    SplineMap,
    constant,
    description_of,
    kernel_takes,
    parameter,
)
from modeflow.accelerate.maps import AdditiveMap
from modeflow.accelerate.runs import Run, cut
from modeflow.native import kernels, use_native
from modeflow.nets import MADE, MLP, ResidualMADE, ResidualMLP
from modeflow.testing import perturb
from modeflow.transforms import (
    AffineElementwise,
    Composite,
    Coupling,
    LogisticMixtureElementwise,
    LULinear,
    MaskedAutoregressive,
    Permutation,
    Transform,
)

pytestmark = pytest.mark.skipif(kernels is None, reason="the kernels were not built")


class Undescribed(Coupling):
    """A subclass that changes nothing, as far as anyone can tell."""


class Scaled(LULinear):
    """A subclass that is another map, and says which: that of an LU layer with other parameters."""

    def native_description(self):
        return LULinear.native_description(self)


class Diagonal(Transform):
    """A layer of one's own that says what it is: an LU layer whose triangles are zero."""

    def __init__(self):
        super().__init__()
        self.raw = nn.Parameter(torch.full((D,), 3.0))
        self.shift = nn.Parameter(torch.zeros(D))
        self.register_buffer("zeros", torch.zeros(D * (D - 1) // 2))

    def forward(self, x, context=None):
        scale = 0.5 + F.softplus(self.raw)
        return scale * x + self.shift, scale.log().sum().expand(len(x))

    def native_description(self):
        zeros = [constant(self.zeros), constant(self.zeros)]
        return LU(D, 0.5, *zeros, parameter(self, "raw", D), parameter(self, "shift", D))


def test_a_subclass_is_another_layer_until_it_describes_itself():
    assert description_of(perturb(Scaled(D))) is not None
    assert description_of(LULinear(D)) is not None

    class Heir(LULinear):
        pass

    class Further(Scaled):
        pass

    assert description_of(Heir(D)) is None and description_of(Further(D)) is None
    layer = main_of(coupling_flow())
    layer.__class__ = Undescribed
    assert description_of(layer) is None and cut([layer]) == [layer]


def test_a_layer_of_ones_own_goes_natively_if_it_says_what_it_is():
    coupling = perturb(main_of(coupling_flow()), 0.3)
    own = perturb(Diagonal(), 0.3)
    (run,) = cut([own, coupling])
    assert isinstance(run, Run)
    x = torch.randn(9, D)
    both = Composite([own, coupling])
    with torch.no_grad():
        ours = both(x)
        with use_native(False):
            modules = both(x)
    for a, b in zip(ours, modules, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("part", ["conditioner", "elementwise"])
def test_a_part_that_does_not_describe_itself_leaves_its_layer_undescribed(part):
    layer = main_of(coupling_flow())
    found = getattr(layer, part)
    found.__class__ = type("Heir", (type(found),), {})
    assert description_of(found) is None and description_of(layer) is None


@pytest.mark.parametrize("make", [coupling_flow, autoregressive_flow])
def test_an_unknown_module_within_leaves_a_layer_undescribed(make):
    layer = main_of(make())
    assert description_of(layer) is not None
    layer.conditioner.extra = nn.Tanh()
    assert description_of(layer) is None
    del layer.conditioner.extra
    assert description_of(layer) is not None
    layer.conditioner.forward = lambda *_: None
    assert description_of(layer) is None


def test_networks_say_what_they_are_made_of():
    net = description_of(ResidualMLP(3, 10, 16, 2, blocks=2))
    assert net.residual and net.joined() and (net.inputs, net.outputs) == (3, 10)
    assert [(d.inputs, d.outputs) for d in net.layers] == [(3, 16), *[(16, 16)] * 4, (16, 10)]
    assert [d.context_columns for d in net.layers] == [2, 0, 0, 0, 0, 0]
    for made, residual in ((MADE(3, 5, (8, 9), 2), False), (ResidualMADE(3, 5, 8, 2), True)):
        net = description_of(made)
        assert net.residual == residual and (net.inputs, net.outputs) == (3, 15) and net.joined()
        assert all(d.masked for d in net.layers)
        assert [d.context is not None for d in net.layers] == [True, *[False] * (len(net.layers) - 2), True]
    for unknown in (
        ResidualMLP(3, 10, 16, 2, gate=True),
        ResidualMLP(3, 10, 16, activation=torch.tanh),
        MADE(3, 5, activation=F.elu),
        ResidualMADE(3, 5, context_features=2, gate=True),
        MLP(3, 10),
    ):
        assert description_of(unknown) is None


def test_layers_that_do_not_fit_each_other_are_not_joined():
    wide, narrow = Permutation.reverse(D + 1), main_of(coupling_flow())
    parts = cut([wide, narrow])
    assert parts[0] is wide and isinstance(parts[1], Run) and parts[1].layers == [narrow]


@pytest.mark.parametrize("what", ["outputs", "inputs", "context", "features"])
def test_a_network_of_another_shape_is_not_read_as_it_lies(what):
    layer = main_of(coupling_flow())
    n = layer.elementwise.n_params
    kept, moved = layer.n_kept, layer.n_moved
    if what == "outputs":
        layer.conditioner = ResidualMLP(kept, moved * n - 1, 16)
    elif what == "inputs":
        layer.conditioner = ResidualMLP(kept + 1, moved * n, 16)
    elif what == "context":
        layer.conditioner = ResidualMLP(kept, moved * n, 16, 3)
    else:
        layer = main_of(autoregressive_flow())
        layer.conditioner.features = 2
    assert cut([layer]) == [layer]


def test_maps_have_the_parameters_that_the_kernels_count():
    for map_ in (
        SplineMap(7, 3.0, 1e-3, 1e-3, 1e-3),
        AffineMap(3.0),
        AdditiveMap(),
        LogisticMixtureMap(4, 3.0, 2.0),
    ):
        assert map_.native().n_params == map_.n_params
        x = torch.randn(5)
        assert kernel_takes(x, torch.randn(5, map_.n_params), map_)
        assert not kernel_takes(x, torch.randn(5, map_.n_params + 1), map_)
        assert not kernel_takes(x, torch.randn(4, map_.n_params), map_)
        assert not kernel_takes(x, torch.randn(5, map_.n_params).double(), map_)


def test_a_subclass_of_a_mixture_is_a_map_of_its_own():
    class Halved(LogisticMixtureElementwise):
        def forward(self, x, params):
            return super().forward(x, 0.5 * params)

    map_, x = Halved(3), torch.randn(6)
    params = torch.randn(6, map_.n_params)
    u, _ = map_(x, params)
    assert description_of(map_) is None
    assert torch.equal(u, LogisticMixtureElementwise(3)(x, 0.5 * params)[0])
    assert torch.allclose(map_.inverse(u, params)[0], x, atol=1e-3)


@pytest.mark.parametrize("name", list(FLOWS))
def test_numbers_of_another_type_are_refused_by_pytorch(name):
    """The kernel would read the parameters as numbers of the input's type."""
    flow = perturb(FLOWS[name]())
    parts_of(flow)
    run = next(part for part in parts_of(flow) if isinstance(part, Run))
    x = torch.randn(5, D, dtype=torch.float64)
    context = torch.zeros(5, flow.context_features) if flow.context_features else None
    with pytest.raises(RuntimeError), torch.no_grad():
        run(x, context)
    if context is not None:
        with pytest.raises(RuntimeError), torch.no_grad():
            run(x.float(), context.double())


def test_an_autoregressive_network_of_ones_own_is_not_taken_apart():
    class Heir(MADE):
        def forward(self, x, context=None):
            return 0.5 * super().forward(x, context)

    layer = MaskedAutoregressive(perturb(Heir(3, 2, (8,)), 0.5), AffineElementwise())
    x = torch.randn(5, 3)
    with torch.no_grad():
        assert torch.allclose(layer.inverse(layer(x)[0])[0], x, atol=1e-5)


def test_the_room_names_no_layer_and_no_network():
    names = set()
    for file in Path(modeflow.accelerate.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modeflow."):
                names.add(node.module)
    outside = {name for name in names if not name.startswith("modeflow.accelerate")}
    assert outside == {"modeflow.native", "modeflow.nets.description", "modeflow.nets.stepwise"}


def test_nothing_of_a_plan_is_kept_by_the_layers():
    flow = coupling_flow()
    before = [set(vars(layer)) for layer in layers_of(flow)]
    parts_of(flow)
    assert before == [set(vars(layer)) for layer in layers_of(flow)]

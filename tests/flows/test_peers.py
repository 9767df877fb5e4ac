"""The same weights in another library give the same numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeflow.densities import Flow, StandardNormal
from modeflow.nets import MLP
from modeflow.nets.conv import ConvNet
from modeflow.transforms import (
    ActNorm,
    AdditiveElementwise,
    AffineElementwise,
    Composite,
    Coupling,
    ImageCoupling,
    Invertible1x1,
    LULinear,
    MaskedAutoregressive,
    Permutation,
    Planar,
    Radial,
    RQSplineElementwise,
    SigmoidAffineElementwise,
    SquaresElementwise,
    Squeeze,
    rational_quadratic_spline,
)

DOUBLE = torch.float64
# nflows gives a raw zero another slope; ours is one.
OFFSET = math.log(math.expm1(1 - 1e-3))


@pytest.mark.parametrize("bins", [2, 4, 10])
@pytest.mark.parametrize("inverse", [False, True])
def test_spline_equals_nflows(bins, inverse):
    theirs = pytest.importorskip("nflows.transforms.splines.rational_quadratic")
    params = 2 * torch.randn(5000, 3 * bins - 1, dtype=DOUBLE)
    x = 8 * torch.rand(5000, dtype=DOUBLE) - 4
    w, h, d = params.split((bins, bins, bins - 1), -1)
    expected = theirs.unconstrained_rational_quadratic_spline(
        x, w, h, d + OFFSET, inverse=inverse, tail_bound=3.0
    )
    for a, b in zip(rational_quadratic_spline(x, params, inverse=inverse), expected, strict=True):
        assert (a - b).abs().max() < 1e-5
        assert (a - b).abs().median() < 1e-12


class TheirNet(nn.Module):
    """Calls one of our networks the way nflows calls its own, in its order of parameters."""

    def __init__(self, net, outputs, params, bins):
        super().__init__()
        self.net, self.outputs, self.params, self.bins = net, outputs, params, bins

    def forward(self, x, context=None):
        raw = self.net(x, context).unflatten(-1, (self.outputs, self.params))
        w, h, d = raw.split((self.bins, self.bins, self.bins - 1), -1)
        return torch.cat((w, h, d + OFFSET), -1).flatten(1)


def test_coupling_spline_flow_equals_nflows():
    transforms = pytest.importorskip("nflows.transforms")
    bins, features, context = 6, 4, 2
    kind = RQSplineElementwise(bins, 3.0)
    ours, theirs = [], []
    for i in range(3):
        mask = torch.tensor([True, True, False, False]).roll(i)
        nets = []

        def make(inputs, outputs, width, nets=nets):
            nets.append(MLP(inputs, outputs, (16,), width))
            return nets[-1]

        ours.append(Coupling(mask, kind, make, context))
        # nflows transforms where its mask is positive, and passes the rest.
        layer = transforms.PiecewiseRationalQuadraticCouplingTransform(
            (~mask).int().tolist(),
            lambda i, o, nets=nets: TheirNet(nets[0], 2, kind.n_params, bins),
            num_bins=bins, tails="linear", tail_bound=3.0,
        )  # fmt: skip
        order = torch.randperm(features)
        ours.append(Permutation(order))
        theirs += [layer, transforms.Permutation(order)]
        lu = LULinear(features)
        with torch.no_grad():
            for p in lu.parameters():
                p.add_(0.3 * torch.randn_like(p))
        other = transforms.LULinear(features, identity_init=True)
        with torch.no_grad():
            other.lower_entries.copy_(lu.lower)
            other.upper_entries.copy_(lu.upper)
            other.unconstrained_upper_diag.copy_(lu.raw_diagonal)
            other.bias.copy_(lu.bias)
        ours.append(lu)
        theirs.append(other)
    base = pytest.importorskip("nflows.distributions").StandardNormal([features])
    peer = pytest.importorskip("nflows.flows").Flow(transforms.CompositeTransform(theirs), base)
    flow = Flow(Composite(ours), StandardNormal(features), context)
    flow, peer = flow.double(), peer.double()
    x, c = 1.5 * torch.randn(300, features, dtype=DOUBLE), torch.randn(300, context, dtype=DOUBLE)
    a, b = flow.log_prob(x, c), peer.log_prob(x, context=c)
    assert a.std() > 0.5
    assert (a - b).abs().max() < 1e-5
    assert (a - b).abs().median() < 1e-11
    u = torch.randn(50, features, dtype=DOUBLE)
    other_way = peer._transform.inverse(u, context=c[:50])[0]
    assert (flow.transform.inverse(u, c[:50])[0] - other_way).abs().max() < 1e-5


class Hyper(nn.Module):
    """The masked network of a zuko layer, called as a conditioner of ours."""

    def __init__(self, net, features):
        super().__init__()
        self.net, self.features = net, features

    def forward(self, x, context=None):
        x = x if context is None else torch.cat((x, context), -1)
        return self.net(x).unflatten(-1, (self.features, -1))


class Joined(nn.Module):
    """The network of a zuko coupling, called as a conditioner of ours."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, context=None):
        return self.net(torch.cat((x, context), -1))


@pytest.mark.parametrize("context", [0, 3])
def test_autoregressive_layer_equals_zuko(context):
    zuko = pytest.importorskip("zuko")
    peer = zuko.flows.autoregressive.MaskedAutoregressiveTransform(
        4, context, hidden_features=(32, 32)
    ).double()
    with torch.no_grad():
        for p in peer.parameters():
            p.mul_(2.0)
    ours = MaskedAutoregressive(Hyper(peer.hyper, 4), AffineElementwise(), context)
    x = torch.randn(200, 4, dtype=DOUBLE)
    c = torch.randn(200, context, dtype=DOUBLE) if context else None
    u, logabsdet = ours(x, c)
    expected, expected_logabsdet = peer(c).call_and_ladj(x)
    assert logabsdet.std() > 0.05
    assert (u - expected).abs().max() < 1e-12
    assert (logabsdet - expected_logabsdet).abs().max() < 1e-12
    assert (ours.inverse(u, c)[0] - peer(c).inv(expected)).abs().max() < 1e-10


def test_the_offset_of_the_slopes():
    assert 1e-3 + F.softplus(torch.tensor(OFFSET, dtype=DOUBLE)).item() == pytest.approx(1.0)


def test_coupling_layer_equals_zuko():
    zuko = pytest.importorskip("zuko")
    mask = torch.tensor([True, False, True, False])
    peer = zuko.flows.coupling.GeneralCouplingTransform(4, 2, mask, hidden_features=(32,)).double()
    with torch.no_grad():
        for p in peer.parameters():
            p.mul_(2.0)
    ours = Coupling(mask, AffineElementwise(), lambda *_: Joined(peer.hyper), 2)
    x, c = torch.randn(200, 4, dtype=DOUBLE), torch.randn(200, 2, dtype=DOUBLE)
    u, logabsdet = ours(x, c)
    expected, expected_logabsdet = peer(c).call_and_ladj(x)
    assert logabsdet.std() > 0.05
    assert (u - expected).abs().max() < 1e-12
    assert (logabsdet - expected_logabsdet).abs().max() < 1e-12


def test_additive_coupling_equals_nflows():
    transforms = pytest.importorskip("nflows.transforms")
    mask = torch.tensor([True, True, False])
    net = MLP(2, 1, (16,)).double()
    ours = Coupling(mask, AdditiveElementwise(), lambda *_: net)

    def theirs(inputs, outputs):
        adapter = nn.Module()
        adapter.forward = lambda x, context=None: net(x)
        return adapter

    peer = transforms.AdditiveCouplingTransform((~mask).int().tolist(), theirs)
    x = torch.randn(100, 3, dtype=DOUBLE)
    assert (ours(x)[0] - peer(x)[0]).abs().max() < 1e-12
    assert ours(x)[0].sub(x).abs().max() > 1e-3
    assert peer(x)[1].abs().max() == 0
    assert ours(x)[1].abs().max() == 0


def test_sum_of_squares_equals_zuko():
    zuko = pytest.importorskip("zuko")
    terms, degree, bound = 3, 2, 2.0
    a = 0.5 * torch.randn(400, terms, degree + 1, dtype=DOUBLE)
    peer = zuko.transforms.SOSPolynomialTransform(a, slope=1e-6, bound=bound)
    ours = SquaresElementwise(terms, degree)
    # theirs is the mean of (1 + Σ a (t/bound)^l)²; ours a sum of squares of which the first starts at one,
    # of coefficients that are softly bounded.
    coefficients = a / bound ** torch.arange(degree + 1)
    coefficients[..., 0] += 1
    coefficients = coefficients / math.sqrt(terms)
    coefficients[:, 0, 0] -= 1
    raw = coefficients / (1 - coefficients.abs() / ours.max_coefficient)
    params = torch.cat((torch.zeros(400, 1, dtype=DOUBLE), raw.flatten(1)), 1)
    x = 8 * torch.rand(400, dtype=DOUBLE) - 4
    u, logderivative = ours.forward(x, params)
    expected, expected_logderivative = peer.call_and_ladj(x)
    assert (u - expected).abs().max() < 1e-10
    assert (logderivative - expected_logderivative).abs().max() < 1e-10


def test_planar_equals_normflows():
    peers = pytest.importorskip("normflows.flows")
    ours = Planar(3).double()
    with torch.no_grad():
        ours.raw.copy_(torch.randn(7))
        u, w, b = ours._params(None)
        # Their constraint is softplus without an offset; undo it to reach the same direction.
        along = (w * u).sum()
        inner = torch.log(torch.expm1(along + 1))
        free = u + (inner - along) * w / w.square().sum()
    peer = peers.Planar((3,), u=free, w=w, b=b.reshape(1))
    x = torch.randn(100, 3, dtype=DOUBLE)
    for mine, other in zip(ours(x), peer(x), strict=True):
        assert mine.abs().max() > 0.1
        assert (mine - other).abs().max() < 1e-10


def test_radial_equals_normflows():
    peers = pytest.importorskip("normflows.flows")
    ours = Radial(3).double()
    peer = peers.Radial((3,)).double()
    with torch.no_grad():
        ours.raw.copy_(torch.randn(5))
        centre, alpha, _ = ours._params(None)
        peer.z_0.copy_(centre)
        peer.alpha.copy_(alpha)
        peer.beta.copy_(ours.raw[-1:])
    x = torch.randn(100, 3, dtype=DOUBLE)
    for mine, other in zip(ours(x), peer(x), strict=True):
        assert mine.abs().max() > 0.1
        assert (mine - other).abs().max() < 1e-9


def test_glow_step_equals_normflows():
    nf = pytest.importorskip("normflows")
    theirs = nf.flows.GlowBlock(4, 8, leaky=0.0, init_zeros=False, use_lu=False).double()
    coupling, mix, norm = theirs.flows
    norm.data_dep_init_done = torch.tensor(1.0)
    norm.s.data, norm.t.data = 0.3 * torch.randn_like(norm.s), torch.randn_like(norm.t)

    net = ConvNet(2, 4, hidden_channels=8).double()
    map_ = coupling.flows[1].param_map.net
    for ours, layer in zip((net.first, net.second, net.final), (map_[0], map_[2], map_[4]), strict=True):
        ours.weight.data, ours.bias.data = layer.weight.data.clone(), layer.bias.data.clone()
    # They subtract the shift that we add.
    net.final.weight.data[0::2] *= -1
    net.final.bias.data[0::2] *= -1
    actnorm, linear = ActNorm(4).double(), Invertible1x1(4, lu=False).double()
    actnorm.bias.data, actnorm.log_scale.data = -norm.t.data.flatten(), -norm.s.data.flatten()
    linear.weight.data = mix.W.data.clone()
    half = ImageCoupling((4, 2, 3), "channel", SigmoidAffineElementwise(), lambda *sizes: net)
    step = Composite([actnorm, linear, half]).eval()  # in training, actnorm would set itself

    x = torch.randn(6, 4, 2, 3, dtype=DOUBLE)
    u, logabsdet = step(x)
    expected, theirs_logabsdet = theirs.inverse(x)
    assert torch.allclose(u, expected, atol=1e-10)
    assert torch.allclose(logabsdet, theirs_logabsdet.expand(6), atol=1e-10)
    y = torch.randn(2, 3, 4, 6, dtype=DOUBLE)
    assert torch.equal(Squeeze()(y)[0], nf.flows.Squeeze().inverse(y)[0])

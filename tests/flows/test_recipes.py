"""Recipes: what they promise, the registry, compiling, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from modeflow.errors import ConfigError
from modeflow.flows import FLOWS, MAF, NSF, RealNVP, build_flow, flow_recipe
from modeflow.models import DiscreteNVF
from modeflow.nets import MLP
from modeflow.testing import jacobian, perturb
from modeflow.training import seeded
from modeflow.transforms import AffineElementwise, ConditionalAffine, Coupling, MaskedAutoregressive


def few(key, layers=2):
    """Options that make a flow small."""
    if FLOWS[key].event == "image":
        return {"hidden_channels": 8} | ({"couplings": [1, 1, 0]} if key == "flowpp-image" else {})
    if key in ("ffjord", "score-sde"):
        return {"steps": layers}
    return {} if key == "made" else {"layers": layers}


#: Flows of which docs/model.md says that they do not start close to the mixture of their states.
ELSEWHERE = {"radial", "student-base", "gmm-base", "aef-noisy", "score-sde"}


@pytest.mark.parametrize("key", [k for k, info in FLOWS.items() if info.event == "vector" and k != "ffjord"])
def test_how_close_a_flow_starts_to_the_mixture_of_its_states(key):
    with seeded(0):
        model = DiscreteNVF(3, 2, flow=key, flow_options=few(key)).double().eval()
    affine = next(
        (m for m in model.modules() if isinstance(m, ConditionalAffine) and m.context_features), None
    )
    if affine is None:
        assert key in ELSEWHERE
        return
    means = torch.tensor([[2.0, 0.0, -1.0], [-2.0, 1.0, 1.0]], dtype=torch.float64)
    variance = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.3, 0.6]], dtype=torch.float64)
    for k in range(2):
        affine.set_gaussian(k, means[k], variance[k].diag())
    parts = torch.distributions.Independent(torch.distributions.Normal(means, variance.sqrt()), 1)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2, dtype=torch.float64)), parts
    )
    with seeded(1), torch.no_grad():
        x = mixture.sample((200,))
        gap = float((model.log_prob(x) - mixture.log_prob(x)).mean())
    if key not in ELSEWHERE:
        assert abs(gap) < 0.01


@pytest.mark.parametrize("key", FLOWS)
@pytest.mark.parametrize(("features", "context"), [(1, 0), (1, 2), (3, 0), (6, 2)])
def test_registered_flows_build_and_score(key, features, context):
    options = few(key)
    if FLOWS[key].event == "image":
        options["shape"] = [features, 2, 2]
        features *= 4
    flow = build_flow(key, features, context, options)
    c = torch.randn(4, context) if context else None
    x = torch.randn(4, features)
    assert flow.log_prob(x, c).shape == (4,)
    assert flow.sample(2, c).shape[-1] == features
    assert flow_recipe(key.upper()).key == key
    assert flow_recipe(FLOWS[key].name).name == FLOWS[key].name
    # The constant of a resampled base is an integral over a grid up to two features.
    assert flow.exactness == ("exact" if key == "resampled-base" and features < 3 else FLOWS[key].density)


VECTOR = [key for key in FLOWS if FLOWS[key].event == "vector"]


# Neither is near it before training: a measurement with little noise, components that start apart.
@pytest.mark.parametrize("key", [key for key in VECTOR if key not in ("aef-noisy", "gmm-base")])
def test_flows_start_near_a_standard_normal(key):
    torch.manual_seed(0)
    flow = build_flow(key, 4, 3, few(key) if key == "score-sde" else {})
    x = torch.randn(200, 4)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(-1)
    assert (flow.log_prob(x, torch.randn(200, 3)) - normal).abs().mean() < 0.2


@pytest.mark.parametrize("key", [key for key in VECTOR if key not in ("made", "score-sde")])
def test_every_noise_coordinate_depends_on_every_feature(key):
    # Five features, three layers: with no layer's features left behind. (A shift needs more: NICE.)
    flow = perturb(build_flow(key, 5, 0, few(key, 5 if key == "nice" else 3)), 0.2).double()
    x = torch.randn(32, 5, dtype=torch.float64, requires_grad=True)
    assert (jacobian(flow.transform(x)[0], x).abs() > 1e-9).any(0).all()


@pytest.mark.parametrize("key", ["glow", "realnvp-image", "nsf-image", "marprior", "flowpp-image"])
def test_every_noise_coordinate_depends_on_every_pixel(key):
    flow = perturb(build_flow(key, 16, 0, {"hidden_channels": 8}), 0.2).double()
    x = torch.randn(16, 16, dtype=torch.float64, requires_grad=True)
    assert (jacobian(flow.transform(x)[0], x).abs() > 1e-9).any(0).all()


@pytest.mark.parametrize("key", FLOWS)
def test_every_flow_serves_as_the_likelihood_of_nvf(key):
    """Islands are found at the start, whatever the flow, and rows far away stay finite."""
    rng = np.random.default_rng(0)
    centres = 6 * np.stack([np.cos(np.arange(6)), np.sin(np.arange(6))], 1)
    z = rng.integers(6, size=600)
    image = FLOWS[key].event == "image"
    points = centres[z] + 0.2 * rng.normal(size=(600, 2))
    x = torch.from_numpy(np.hstack([points, rng.normal(size=(600, 2))]) if image else points).float()
    x = (x - x.mean(0)) / x.std(0)
    with seeded(0):
        options = few(key, 4) if key == "score-sde" or image else None
        model = DiscreteNVF(x.shape[1], 6, flow=key, flow_options=options)
        model.start(x, 0, 100)
        loss = model.objective(x, None, 0)
        loss.value.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with torch.no_grad():
        state = model.posterior(x).argmax(1)
        far = model.log_prob(3 * x)
        assert not torch.isnan(far).any()
        assert (far < model.log_prob(x).min()).float().mean() > 0.9
    assert all(len(set(state[torch.from_numpy(z == k)].tolist())) == 1 for k in range(6))


def test_options_reach_the_layers():
    flow = NSF(4, 2, layers=3, bins=5, tail_bound=7.0, dropout=0.25)
    couplings = [m for m in flow.modules() if isinstance(m, Coupling)]
    assert len(couplings) == 3
    assert {m.elementwise.bins for m in couplings} == {5}
    assert {m.elementwise.tail_bound for m in couplings} == {7.0}
    assert {m.p for m in flow.modules() if isinstance(m, nn.Dropout)} == {0.25}
    assert any(isinstance(m, ConditionalAffine) for m in flow.modules())
    flow = NSF(4, 2, layers=2, coupling=False, context_affine="none")
    assert sum(isinstance(m, MaskedAutoregressive) for m in flow.modules()) == 2
    assert not any(isinstance(m, ConditionalAffine) for m in flow.modules())
    assert MAF(3, hidden_features=32).transform is not None


def test_the_seed_of_a_recipe_fixes_its_permutations():
    def orders(seed):
        return [b.tolist() for n, b in RealNVP(8, seed=seed).named_buffers() if n.endswith(".order")]

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NSF(0), "features must be an integer of 1 or more, received 0"),
        (lambda: NSF(2, layers=0), "layers must be an integer of 1 or more"),
        (lambda: NSF(2, bins=2.5), "bins must be an integer of 1 or more, received 2.5"),
        (lambda: NSF(2, bins=1000), "received 1000 bins"),
        (lambda: NSF(2, tail_bound=-1.0), "tail_bound must be positive, received -1.0"),
        (lambda: NSF(True), "features must be an integer"),
        (lambda: RealNVP(2, hidden_features=-3), "hidden_features must be"),
        (lambda: MAF(2, hidden_features=(8, 0)), "hidden_features must be"),
        (lambda: RealNVP(3, mixing="lr"), "mixing must be 'lu', 'permutation' or 'reverse', received 'lr'"),
        (lambda: build_flow("nsf-couplng", 2), "'nsf-couplng' is not known; did you mean 'nsf-coupling'"),
        (lambda: build_flow("realnvp", 2, 0, {"layer": 3}), "did you mean 'layers'"),
        (lambda: build_flow("nsf-coupling", 2, 0, {"coupling": False}), "not an option of nsf-coupling"),
        (lambda: build_flow("maf", 2, 0, {"features": 3}), "not an option of maf"),
    ],
)
def test_what_recipes_refuse(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.slow
@torch.no_grad()
def test_a_coupling_layer_compiles_to_native_code():
    """One layer through the default backend; the whole table goes through a quicker one."""
    layer = Coupling(torch.tensor([True, False]), AffineElementwise(), lambda i, o, c: MLP(i, o, (8,), c), 1)
    perturb(layer, 0.2)
    x, c = torch.randn(16, 2), torch.randn(16, 1)
    torch.compiler.reset()
    compiled = torch.compile(layer.forward, fullgraph=True)
    try:
        got = compiled(x, c)
    except Exception as error:
        if "compiler" in str(error).lower() and "not found" in str(error).lower():
            pytest.skip(f"no C++ compiler: {error}")
        raise
    for a, b in zip(got, layer(x, c), strict=True):
        assert torch.allclose(a, b, atol=1e-5)

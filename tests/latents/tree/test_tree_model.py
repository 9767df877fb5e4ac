"""The model of a tree as a latent like others: start, training, files, temperatures, descriptions."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from modeflow.densities import Feature, Leaves
from modeflow.densities.leaf_kinds import log_mass
from modeflow.errors import ConfigError, DataError, ShapeError
from modeflow.estimators import NVF
from modeflow.latents import LeafLikelihood, Tree, TreeLatentModel, TreeOptions, TreePrior
from modeflow.models import TableModel, TreeNVF
from modeflow.training import TrainConfig, Trainer
from small_trees import ANGLE, CELLS, CODE, FLOW, REAL, flow_model, leaves_model, rows_of

NAN = math.nan


def planted(n: int = 1500) -> np.ndarray:
    rng = np.random.default_rng(0)
    z = rng.integers(0, 4, n)
    return np.c_[
        3.0 * z + 0.3 * rng.normal(size=n), np.sin(2.0 * z) + 0.2 * rng.normal(size=n), rng.normal(size=n)
    ]


# -- leaves ---------------------------------------------------------------------------------------


def test_log_mass_in_the_tails_and_of_narrow_cells():
    """Against mpmath's values, to 40 digits."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 40
    cases = [
        (-1.0, 1.0),
        (8.0, 8.5),
        (-9.0, -8.0),
        (30.0, 31.0),
        (-30.1, -30.0),
        (0.5, 0.5 + 1e-7),
        (5.0, 5.001),
        (-0.001, 0.002),
    ]
    for a, b in cases:
        # The tail on the side where nothing cancels.
        low, high = (a, b) if a + b < 0 else (-b, -a)
        exact = mpmath.log(
            (mpmath.erfc(-mpmath.mpf(high) / mpmath.sqrt(2)) - mpmath.erfc(-mpmath.mpf(low) / mpmath.sqrt(2)))
            / 2
        )
        found = log_mass(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
        assert float(found) == pytest.approx(float(exact), rel=1e-8, abs=1e-8)
        ends = torch.tensor([a, b])
        if float(ends.diff()) > 1e-4 and abs(a) < 10:
            assert float(log_mass(*ends)) == pytest.approx(float(exact), rel=1e-4, abs=1e-3)
    a = torch.linspace(-6, 6, 25, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: log_mass(t, t + 0.3), a)
    assert torch.autograd.gradcheck(lambda t: log_mass(t, t + 1e-6), a, eps=1e-5, atol=1e-4)


def test_gradients_of_all_leaves():
    features = (REAL, ANGLE, CODE, CELLS, Feature(cells=(0.0,)))
    model = leaves_model(features, (-1, 0, 0, 1, 1))
    rows = rows_of(features, 4)
    rows[2, 0] = NAN
    parameters = [p.requires_grad_() for p in model.parameters()]

    def value(*_):
        return model.log_prob(rows)

    assert torch.autograd.gradcheck(value, tuple(parameters), atol=1e-5)
    for parameter in parameters:
        assert bool(torch.isfinite(torch.autograd.grad(value().sum(), parameter)[0]).all())


def test_gradient_reaches_what_is_under_the_leaves():
    model = flow_model((REAL, CODE, REAL), (1, -1, 1))
    rows = rows_of((REAL, CODE, REAL), 6)
    (-model.log_prob(rows).mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


def test_what_leaves_refuse():
    leaves = Leaves((REAL, CODE), 3)
    with pytest.raises(DataError, match="row 2 of the batch has code 3 where whole numbers 0 to 2"):
        leaves.log_probs(torch.tensor([[0.0, 1.0], [0.0, 3.0]]))
    with pytest.raises(DataError, match=r"code 0.5"):
        leaves.log_probs(torch.tensor([[0.0, 0.5]]))
    with pytest.raises(ShapeError, match=r"\(B, 2\)"):
        leaves.log_probs(torch.zeros(2, 3))
    with pytest.raises(ConfigError, match="flag=0 must be the index of a feature that is a code"):
        Leaves((REAL, Feature(flag=0)), 3)
    with pytest.raises(ConfigError, match="at least one"):
        Leaves((), 3)
    with pytest.raises(ConfigError, match="min_scale must be above 0"):
        Leaves((REAL,), 3, 0.0)
    for wrong in ({"levels": -1}, {"levels": 2, "circular": True}, {"cells": (1.0, 1.0)}, {"levels": 2.5}):
        with pytest.raises(ConfigError):
            Feature(**wrong)


# -- start and training -----------------------------------------------------------------------------


def test_start_uses_all_states_and_is_sensible():
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, 3000)
    angle = np.mod(z * 2.0 + 0.3 * rng.normal(size=3000) + np.pi, 2 * np.pi) - np.pi
    x = torch.from_numpy(
        np.c_[z + 0.1 * rng.normal(size=3000), z, angle, z + 0.2 * rng.normal(size=3000)]
    ).float()
    x[::5, 0] = NAN
    features = (REAL, CODE, ANGLE, Feature(cells=(-0.5, 0.5, 1.5, 2.5)))
    torch.manual_seed(0)
    model = TreeOptions(states=8, likelihood="leaves").model(features, 1, None)
    before = float(model.log_prob(x).mean().detach())
    model.start(x, 0)
    after = float(model.log_prob(x).mean().detach())
    assert after > before + 1
    # Its tables know which values go together, although its states are wide.
    shuffled = torch.stack([column[torch.randperm(len(x))] for column in x.mT], 1)
    assert after > float(model.log_prob(shuffled).mean().detach()) + 0.2
    share = model.node_posterior(x).mean(0)
    assert bool((share > 0.01).all())
    scale = model.likelihood.leaves.kinds[0].scale()
    assert float((scale / x[:, 0][~x[:, 0].isnan()].std()).min().detach()) > 0.25
    again = TreeOptions(states=8, likelihood="leaves").model(features, 1, None)
    again.start(x, 0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("likelihood", ["leaves", "flow"])
def test_training_improves_on_the_start(likelihood):
    x = torch.from_numpy(planted()).float()
    x = (x - x.mean(0)) / x.std(0)
    torch.manual_seed(0)
    model = TreeNVF(3, 8, likelihood=likelihood, flow_options=FLOW)
    model.start(x, 0)
    start = float(model.log_prob(x[1000:]).mean().detach())
    config = TrainConfig(max_epochs=8, batch_size=128, learning_rate=2e-3, warmup_steps=0, seed=0)
    Trainer(config, quiet=True).fit(model, x[:1000], x[1000:])
    assert float(model.log_prob(x[1000:]).mean().detach()) > start + 0.05


# -- as other latents ---------------------------------------------------------------------------------


def test_tree_is_kept_in_the_state():
    model = leaves_model((REAL, CODE, REAL), (1, 2, -1))
    other = TreeOptions(states=3, likelihood="leaves").model((REAL, CODE, REAL), 1, None).double()
    assert other.prior.tree != model.prior.tree
    other.load_state_dict(model.state_dict())
    assert other.prior.tree == model.prior.tree
    rows = rows_of((REAL, CODE, REAL), 5)
    torch.testing.assert_close(other.log_prob(rows), model.log_prob(rows), rtol=0, atol=0)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin.log_prob(rows), model.log_prob(rows), rtol=0, atol=0)
    with pytest.raises(ConfigError, match="expected a tree of 3 features"):
        model.prior.set_tree(Tree.star(4))


def test_description_contexts_and_temperatures():
    features = (REAL, CODE, ANGLE)
    model = leaves_model(features, (1, -1, 0))
    found = model.describe()
    assert (found.kind, found.words, found.count, found.unit) == (
        "tree",
        "a tree of 3 × 3 states",
        3,
        "state",
    )
    assert model.n_states == 1
    rows = rows_of(features, 40)
    z = model.read(rows)
    assert torch.equal(z, model.node_posterior(rows).argmax(-1))
    assert torch.equal(model.infer(rows), z.double())
    mean = model.reconstruct(rows)
    assert bool((mean[:, 0] == model.likelihood.leaves.kinds[0].mean[0][z[:, 0]]).all())
    context, drawn = model.draw(200, torch.Generator().manual_seed(0), temperature=0.2)
    assert drawn.shape == (200, 3)
    # A low temperature draws likelier states.
    usual = model.prior.log_prob(model.draw(200, torch.Generator().manual_seed(0))[0]).mean()
    assert float(model.prior.log_prob(context).mean().detach()) > float(usual.detach()) + 0.3
    cold = model.likelihood.sample(1, context, temperature=0.0)[0]
    assert torch.equal(cold, model.likelihood.sample(1, context, temperature=0.0)[0])
    with pytest.raises(ConfigError, match="latent is tree; fit with latent=discrete"):
        model.draw_state(1, 2)
    told = model.measure(rows)["tree"]
    assert told["edges"] == [[1, 0], [0, 2]]
    assert all(1 <= u <= 3 for u in told["used"])
    assert model.sample(0).shape == (0, 3)
    assert model.complete(rows[:0]).shape == (0, 3)


def test_parts_that_do_not_fit():
    leaves = LeafLikelihood(Leaves((REAL, REAL), 3))
    for prior in (TreePrior(Tree.star(3), 3), TreePrior(Tree.star(2), 4)):
        with pytest.raises(ConfigError, match="does not fit leaves of 2 features of 3"):
            TreeLatentModel(prior, leaves)
    for wrong in ({"states": 0}, {"likelihood": "flows"}, {"min_scale": 0.0}):
        with pytest.raises(ConfigError):
            TreeOptions(**wrong)
    assert TableModel(2, "tree", latent_options={"states": 4}).prior.n_states == 4


@pytest.mark.parametrize("likelihood", ["leaves", "flow"])
def test_estimator_fits_saves_and_loads(likelihood, tmp_path):
    X = planted(600)
    options = {"states": 6, "likelihood": likelihood}
    model = NVF(latent="tree", latent_options=options, max_epochs=3, random_state=0).fit(X)
    scores = model.score_samples(X)
    assert model.density_kind_ == "exact"
    assert model.n_states_ == 1
    loaded = NVF.load(model.save(tmp_path / "model.safetensors"))
    np.testing.assert_array_equal(loaded.score_samples(X), scores)
    assert loaded.latent_.prior.tree == model.latent_.prior.tree
    rows, z = loaded.sample(50, random_state=1)
    assert rows.shape == z.shape == (50, 3)
    assert np.isfinite(loaded.score_samples(rows)).all()
    assert loaded.encode(X[:7]).shape == (7, 3)
    assert loaded.reconstruct(X[:7]).shape == (7, 3)

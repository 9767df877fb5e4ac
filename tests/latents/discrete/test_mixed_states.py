"""States of mixed rows: all cells sum to one, integrals, samples, absent and missing cells, the start."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from modeflow.densities import AutoregressiveCodes, Feature
from modeflow.errors import ConfigError, DataError
from modeflow.estimators import NVF
from modeflow.latents.discrete.mixed import numbers_of
from modeflow.models import DiscreteNVF, TableModel
from modeflow.nets import ResidualMADE
from modeflow.nets.stepwise import Stepwise, in_steps
from modeflow.testing import perturb

NAN = math.nan
REAL, ANGLE = Feature(), Feature(circular=True)
CODES = (Feature(levels=2), Feature(levels=3), Feature(levels=4))
#: The last real is absent where the second code is not 0.
ROW = (REAL, ANGLE, *CODES[:2], Feature(flag=3))
SPLINES = {
    "layers": 2,
    "hidden_features": 16,
    "blocks": 1,
    "bins": 4,
    "mixing": "reverse",
    "context_affine": "none",
}


def mixed(features=CODES, k=3, dtype=torch.float64, spread=0.7, **options):
    torch.manual_seed(0)
    sizes = {"code_features": 16, "encoder_features": (8,), **options}
    model = DiscreteNVF(features, k, flow="nsf-autoregressive", flow_options=SPLINES, **sizes)
    return perturb(model, spread, seed=1).to(dtype).eval()


def cells(features=CODES, dtype=torch.float64) -> Tensor:
    return torch.tensor(list(itertools.product(*(range(f.levels) for f in features)))).to(dtype)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_probabilities_of_all_cells_sum_to_one(k, dtype, allowed):
    model = mixed(k=k, dtype=dtype)
    with torch.no_grad():
        log_prob = model.log_prob(cells(dtype=dtype))
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=allowed)
    # Far from uniform, so that the sum says something.
    assert float(log_prob.std()) > 0.3


@pytest.mark.parametrize("k", [1, 3])
def test_with_a_real_the_integral_is_one_too(k):
    model = mixed((*CODES, REAL), k, spread=0.3)
    axis = torch.linspace(-9, 9, 1001, dtype=torch.float64)
    rows = torch.cat((cells().repeat_interleave(len(axis), 0), axis.repeat(24).unsqueeze(1)), 1)
    with torch.no_grad():
        total = float(model.log_prob(rows).exp().sum()) * float(axis[1] - axis[0])
    assert total == pytest.approx(1, abs=1e-4)


def test_with_an_angle_and_an_absent_real_it_is_one():
    model = mixed(ROW, 2, spread=0.2)
    turn = (torch.arange(24, dtype=torch.float64) + 0.5) * 2 * math.pi / 24 - math.pi
    axis = torch.linspace(-7, 7, 81, dtype=torch.float64)
    step, total = float(axis[1] - axis[0]), 0.0
    with torch.no_grad():
        for one, two in itertools.product((0.0, 1.0), (0.0, 1.0, 2.0)):
            code = [torch.tensor([v]).double() for v in (one, two)]
            last = axis if two == 0 else torch.tensor([NAN]).double()
            rows = torch.cartesian_prod(axis, turn, *code, last)
            volume = step * (2 * math.pi / 24) * (step if two == 0 else 1.0)
            total += float(model.log_prob(rows).exp().sum()) * volume
    assert total == pytest.approx(1, abs=2e-3)


def test_samples_are_as_frequent_as_their_probabilities():
    """Pearson's χ² of 20,000 samples in 24 cells, at a false-alarm rate of 1e-6."""
    for k in (1, 3):
        model, n = mixed(k=k), 20_000
        drawn = model.sample(n, generator=torch.Generator().manual_seed(k))
        with torch.no_grad():
            expected = n * model.log_prob(cells()).exp()
        place = (drawn[:, None] == cells()).all(-1).to(torch.long).argmax(1)
        seen = torch.bincount(place, minlength=24).double()
        assert float(((seen - expected).square() / expected).sum()) < chi2.ppf(1 - 1e-6, 23)


def test_samples_of_mixed_rows_follow_their_density():
    """``E_p[p(moved x) / p(x)] = 1`` for turns of the angle, within five standard errors."""
    model, n = mixed(ROW, 2, spread=0.4), 4_000
    drawn = model.sample(n, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, 4].isnan(), drawn[:, 3] > 0)
    with torch.no_grad():
        log_prob = model.log_prob(drawn)
        assert bool(log_prob.isfinite().all())
        for turn in (1.0, 2.5, 4.0):
            moved = drawn.clone()
            moved[:, 1] = torch.remainder(drawn[:, 1] + math.pi + turn, 2 * math.pi) - math.pi
            ratio = (model.log_prob(moved) - log_prob).exp()
            error = float(ratio.std()) / math.sqrt(n)
            assert error < 0.2 and float(ratio.mean()) == pytest.approx(1, abs=5 * error)


def test_all_states_at_once_are_each_state():
    model = mixed(ROW, 3)
    rows = model.sample(20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        each = model.log_likelihoods(rows, torch.arange(3))
        for k in range(3):
            z = torch.eye(3).double()[k].expand(20, -1)
            torch.testing.assert_close(each[:, k], model.likelihood.log_prob(rows, z), rtol=0, atol=1e-12)


def test_a_code_depends_on_those_before_it_alone():
    density = perturb(AutoregressiveCodes((3, 2, 1, 4), 2, hidden_features=8).double(), 1.0).eval()
    context = torch.randn(2, generator=torch.Generator().manual_seed(0)).double()
    x = cells((Feature(levels=3), Feature(levels=2), Feature(levels=1), Feature(levels=4)))
    with torch.no_grad():
        whole = density.log_prob(x, context).exp().view(3, 2, 1, 4)
        # The marginal of the first codes is what a chain cut there says: later ones do not matter.
        out = density.net(density._told(x.long()), context.expand(len(x), -1)).view(3, 2, 1, 4, -1)
    first = whole.sum((1, 2, 3))
    theta = torch.cat((torch.zeros(1).double(), out[0, 0, 0, 0, :2]))
    torch.testing.assert_close(first, theta.softmax(0), rtol=0, atol=1e-12)
    assert bool((out[..., :2] == out[0, 0, 0, 0, :2]).all())
    assert not bool((out[..., 2] == out[0, 0, 0, 0, 2]).all())


def test_the_network_of_codes_is_evaluated_feature_by_feature():
    widths = (2, 1, 0, 3)
    net = perturb(ResidualMADE(4, widths, 12, 2, inputs=widths, direct=True).double(), 1.0).eval()
    generator = torch.Generator().manual_seed(0)
    x, c = (torch.randn(5, n, generator=generator).double() for n in (6, 2))
    with torch.no_grad():
        layers = net.stepwise_layers(c)
        assert layers is not None and in_steps(net, layers) and not layers.native
        steps, whole, end = Stepwise(layers, 5), net(x, c), 0
        for d, width in enumerate(widths):
            here = slice(end, end + width)
            torch.testing.assert_close(steps.params(d), whole[:, here], rtol=0, atol=1e-12)
            steps.put(d, x[:, here])
            end += width
    assert net.native_description() is None
    net.direct.mask[0, 0] = 1.0  # now the first code sees itself
    assert not in_steps(net, layers)


def test_codes_start_at_their_frequencies():
    density = AutoregressiveCodes((2, 3)).double()
    rows = torch.tensor([[0.0, 1.0], [1.0, 2.0], [1.0, 2.0], [1.0, 0.0]]).double()
    density.start(rows)
    with torch.no_grad():
        found = density.log_prob(cells(CODES[:2])).exp().view(2, 3).sum(1)
    torch.testing.assert_close(found, torch.tensor([1.5, 3.5]).double() / 5, rtol=0, atol=1e-2)


def test_what_is_missing_or_no_code_is_said():
    model = mixed(ROW, 2)
    rows = model.sample(3, generator=torch.Generator().manual_seed(0))
    for column, message in (
        (0, r"feature 0 is missing in row 2 of the batch.*latent='tree'"),
        (1, r"feature 1 is missing in row 2 of the batch.*latent='tree'"),
        (2, r"code 0 is missing in row 2 of the batch.*latent='tree'"),
    ):
        wrong = rows.clone()
        wrong[1, column] = NAN
        with pytest.raises(DataError, match=message):
            model.log_prob(wrong)
    rows[0, 3] = 5.0
    with pytest.raises(DataError, match="code 5 where whole numbers 0 to 2"):
        model.log_prob(rows)
    with pytest.raises(ConfigError, match="none in cells"):
        DiscreteNVF((Feature(cells=(0.0,)), REAL), 2)
    with pytest.raises(ConfigError, match="need a flow of bijective layers"):
        DiscreteNVF((CODES[0], REAL), 2, flow="score-sde")
    with pytest.raises(ConfigError, match="splines and permutations alone"):
        DiscreteNVF(ROW, 2)
    with pytest.raises(ConfigError, match="levels must list"):
        AutoregressiveCodes(())
    with pytest.raises(ConfigError, match="code_dropout must lie in"):
        TableModel(CODES, latent_options={"code_dropout": 1.0})


def test_numbers_and_the_start():
    rows = torch.tensor([[0.5, math.pi / 2, 1.0, 0.0, 2.0], [0.1, 0.0, 0.0, 2.0, NAN]])
    numbers = numbers_of(rows, ROW)
    expected = torch.tensor([[0.5, 0, 1, 1, 1, 0, 0, 2.0], [0.1, 1, 0, 0, 0, 0, 1, 0.0]])
    torch.testing.assert_close(numbers, expected, rtol=0, atol=1e-6)
    torch.manual_seed(0)
    model = mixed(k=2, spread=0.0)
    groups = torch.arange(300) % 3 == 0
    codes = torch.where(groups, 0.0, 1.0).unsqueeze(1).repeat(1, 3).double()
    model.start(codes, 0, steps=200)
    share = model.state_probs().sort().values
    assert share.tolist() == pytest.approx([101 / 302, 201 / 302], abs=1e-6)
    q = model.approximate_posterior(codes).argmax(1)
    assert bool((q[groups] == q[0]).all()) and bool((q[~groups] != q[0]).all())


def table(n=600):
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, n)
    word = np.where(z == 0, np.array(["a", "b"])[rng.integers(0, 2, n)], "c")
    return pd.DataFrame({"x": rng.normal(4.0 * z, 1.0), "word": word, "flag": rng.random(n) < 0.2 + 0.6 * z})


def test_tables_with_words_are_fitted_by_states(tmp_path):
    small = {"max_epochs": 8, "flow_options": {"layers": 1, "hidden_features": 8}, "random_state": 0}
    fitted = NVF(2, **small).fit(table())
    assert fitted.latent_.describe().kind == "discrete" and fitted.n_states_ == 2
    rows = table()
    scores = fitted.score_samples(rows)
    assert np.isfinite(scores).all()
    # The rows were drawn from a density of entropy 2.96; of the columns alone it is 3.8.
    assert -3.15 < scores.mean() < -2.8
    drawn = fitted.sample(50)[0]
    assert list(drawn.columns) == list(rows.columns) and set(drawn["word"]) <= {"a", "b", "c"}
    assert fitted.predict_proba(rows[:5]).shape == (5, 2)
    fitted.save(tmp_path / "model.nvf")
    again = NVF.load(tmp_path / "model.nvf")
    np.testing.assert_allclose(again.score_samples(rows[:9]), scores[:9], rtol=0, atol=1e-9)
    with pytest.raises(ConfigError, match="'discrete' takes complete rows, and 'x' has missing cells"):
        NVF(2, **small).fit(rows.assign(x=rows["x"].where(rows["x"] > -1)))


def test_numbers_of_states_are_compared_from_one():
    small = {"max_epochs": 1, "flow_options": {"layers": 1, "hidden_features": 8}, "random_state": 0}
    fitted = NVF(latent="discrete", max_states=2, **small).fit(table(200))
    assert {trial["n_states"] for trial in fitted.selection_} == {1, 2}
    assert fitted.selection_[0]["n_states"] == 1

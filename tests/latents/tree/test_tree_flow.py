"""A flow over a tree: its determinant, reals that are absent, and what it refuses."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import chi2

from modeflow.densities import Feature, Leaves, StandardNormal
from modeflow.errors import ConfigError, DataError
from modeflow.flows import NSF
from modeflow.latents import FlowOverLeaves, TreeOptions
from modeflow.latents.tree.likelihood import RowContext, identity_beyond
from modeflow.models import DiscreteNVF, TableModel, TreeNVF
from small_trees import ANGLE, CELLS, CODE, FLOW, REAL, flow_model, rows_of

NAN = math.nan
MIXED = (REAL, CODE, REAL, ANGLE, CELLS)
#: The second real exists where the code is 0.
FLAGGED = (REAL, Feature(levels=2), Feature(flag=1), CODE)


def test_determinant_is_that_of_autograd():
    model = flow_model(MIXED, (1, -1, 1, 0, 0))
    rows = rows_of(MIXED, 5)
    u, logabsdet = model.likelihood.straighten(rows)
    torch.testing.assert_close(u[:, [1, 3, 4]], rows[:, [1, 3, 4]], rtol=0, atol=0)

    def reals(x, row):
        whole = torch.stack((x[0], row[1], x[1], row[3], row[4])).unsqueeze(0)
        return model.likelihood.straighten(whole)[0][0, [0, 2]]

    for row, value in zip(rows, logabsdet.tolist(), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x, row=row: reals(x, row), row[[0, 2]])
        assert value == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-9)
        assert abs(value) > 1e-3
    torch.testing.assert_close(model.likelihood.bend(u), rows, rtol=0, atol=1e-8)


def test_density_integrates_to_one_over_reals_and_codes():
    features = (REAL, Feature(levels=2), REAL)
    model = flow_model(features, (1, -1, 0), spread=0.1)
    axis = torch.linspace(-8, 8, 321, dtype=torch.float64)
    total = 0.0
    with torch.no_grad():
        for code in (0.0, 1.0):
            for x in axis.split(100):
                grid = torch.cartesian_prod(x, torch.tensor([code]).double(), axis)
                total += float(model.log_prob(grid).exp().sum()) * float(axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1, abs=1e-4)


def test_absent_reals_pass_and_contribute_nothing():
    model = flow_model(FLAGGED, (1, -1, 1, 2))
    rows = rows_of(FLAGGED, 40)
    absent = rows[:, 1] == 1
    assert 5 < int(absent.sum()) < 35
    u, logabsdet = model.likelihood.straighten(rows)
    assert bool((u[:, 2].isnan() == absent).all())
    # Whatever stands in an absent cell is not looked at.
    other = rows.clone()
    other[absent, 2] = NAN
    torch.testing.assert_close(model.log_prob(other), model.log_prob(rows), rtol=0, atol=0)
    # What stands for it passes all layers, and the determinant is that of the real that is there.
    for row, value in zip(other[absent][:4], logabsdet[absent].tolist(), strict=False):
        slope = torch.autograd.functional.jacobian(
            lambda x, row=row: model.likelihood.straighten(torch.cat((x, row[1:])).unsqueeze(0))[0][0, :1],
            row[:1],
        )
        assert value == pytest.approx(float(slope.log()), abs=1e-9)
    assert torch.equal(model.likelihood.bend(u).isnan()[:, 2], absent)
    back = model.likelihood.bend(u)
    torch.testing.assert_close(back[~absent], rows[~absent], rtol=0, atol=1e-8)


def test_density_with_absent_reals_integrates_to_one():
    model = flow_model(FLAGGED, (1, -1, 1, 2), spread=0.1)
    axis = torch.linspace(-8, 8, 321, dtype=torch.float64)
    step, total = float(axis[1] - axis[0]), 0.0
    with torch.no_grad():
        for code in (0.0, 1.0, 2.0):
            one = torch.cartesian_prod(axis, *(torch.tensor([v]).double() for v in (1.0, NAN, code)))
            total += float(model.log_prob(one).exp().sum()) * step
            for x in axis.split(100):
                both = torch.cartesian_prod(x, torch.zeros(1).double(), axis, torch.tensor([code]).double())
                total += float(model.log_prob(both).exp().sum()) * step**2
    assert total == pytest.approx(1, abs=1e-4)


def test_samples_are_absent_where_their_flag_says_so():
    model = flow_model(FLAGGED, (1, -1, 1, 2))
    drawn = model.sample(500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, 2].isnan(), drawn[:, 1] == 1)
    assert bool(torch.isfinite(model.log_prob(drawn)).all())


def test_samples_match_the_density():
    """Pearson's χ² of 20,000 samples in blocks of one real and a code, at a false-alarm rate of 1e-6."""
    features = (REAL, Feature(levels=2))
    model = flow_model(features, (1, -1), spread=0.1)
    n = 20_000
    drawn = model.sample(n, generator=torch.Generator().manual_seed(0))
    edges = torch.linspace(-3, 3, 13).double()
    fine = torch.linspace(-30, 30, 12_001, dtype=torch.float64)[:-1] + 0.0025
    expected, seen = [], []
    block = torch.searchsorted(edges, fine)
    for code in (0.0, 1.0):
        with torch.no_grad():
            density = model.log_prob(torch.stack((fine, torch.full_like(fine, code)), 1)).exp() * 0.005
        expected.append(torch.zeros(14).double().index_add(0, block, density))
        of_code = drawn[drawn[:, 1] == code, 0].contiguous()
        seen.append(torch.bincount(torch.searchsorted(edges, of_code), minlength=14).double())
    mass, counts = torch.cat(expected), torch.cat(seen)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-4)
    many = mass * n > 8
    statistic = ((counts - n * mass).square() / (n * mass))[many].sum()
    assert int(many.sum()) > 12
    assert float(statistic) < chi2.ppf(1 - 1e-6, int(many.sum()))


def test_cells_that_are_missing_beside_a_real_are_refused():
    model = flow_model(MIXED, (1, -1, 1, 0, 0))
    rows = rows_of(MIXED, 6)
    for feature, message in ((1, "feature 1"), (2, "feature 2"), (3, "feature 3"), (4, "feature 4")):
        some = rows.clone()
        some[5, feature] = NAN
        with pytest.raises(DataError, match=rf"{message} is missing in row 6 .*likelihood='leaves'"):
            model.log_prob(some)
    flagged = flow_model(FLAGGED, (1, -1, 1, 2))
    rows = torch.tensor([[0.1, NAN, NAN, 1.0]]).double()
    assert not bool(flagged.sums_out(rows))
    with pytest.raises(DataError, match="feature 1 is missing in row 1"):
        flagged.log_prob(rows)


def test_rows_without_a_real_have_the_sum_over_them():
    """By quadrature over both reals; codes that are missing beside them are summed out."""
    features = (REAL, Feature(levels=2), REAL, CODE)
    model = flow_model(features, (1, -1, 0, 1), spread=0.1)
    axis = torch.linspace(-8, 8, 241, dtype=torch.float64)
    step = float(axis[1] - axis[0])
    for first, last in ((0.0, 2.0), (1.0, 0.0)):
        total = 0.0
        for x in axis.split(100):
            codes = (torch.tensor([v]).double() for v in (first, last))
            grid = torch.cartesian_prod(x, next(codes), axis, next(codes))
            with torch.no_grad():
                total += float(model.log_prob(grid).exp().sum()) * step**2
        hidden = torch.tensor([[NAN, first, NAN, last]]).double()
        assert bool(model.sums_out(hidden))
        assert float(model.log_prob(hidden).detach().exp()) == pytest.approx(total, abs=1e-4)
    both = torch.tensor([[NAN, 0.0, NAN, v] for v in range(3)] + [[NAN, 0.0, NAN, NAN]]).double()
    with torch.no_grad():
        found = model.log_prob(both).exp()
    assert float(found[3]) == pytest.approx(float(found[:3].sum()), rel=1e-9)


def test_rows_with_absent_and_hidden_reals_are_sums_too():
    model = flow_model(FLAGGED, (1, -1, 1, 2), spread=0.1)
    axis = torch.linspace(-8, 8, 321, dtype=torch.float64)
    one = torch.cartesian_prod(axis, *(torch.tensor([v]).double() for v in (1.0, NAN, 2.0)))
    with torch.no_grad():
        total = float(model.log_prob(one).exp().sum()) * float(axis[1] - axis[0])
        rows = torch.tensor([[NAN, 1.0, NAN, 2.0], [NAN, 0.0, NAN, 2.0], [NAN, NAN, NAN, 2.0]]).double()
        found = model.log_prob(rows).exp()
    assert bool(model.sums_out(rows).all())
    assert float(found[0]) == pytest.approx(total, abs=1e-4)
    assert float(found[2]) == pytest.approx(float(found[0] + found[1]), rel=1e-9)
    partly = torch.tensor([[0.3, 0.0, NAN, 2.0], [0.3, 1.0, NAN, 2.0], [0.3, 1.0, NAN, NAN]]).double()
    assert model.sums_out(partly).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_drawn_given_a_code_follow_bayes(dtype):
    """Pearson's χ² of 20,000 rows given a code, blocks of the real and the other code, false alarm 1e-6."""
    features = (REAL, Feature(levels=2), CODE)
    model = flow_model(features, (1, -1, 0), spread=0.1)
    n = 20_000
    given = torch.tensor([[NAN, NAN, 1.0]]).double()
    with torch.no_grad():
        edges = torch.linspace(-3, 3, 9).double()
        fine = torch.linspace(-30, 30, 12_001, dtype=torch.float64)[:-1] + 0.0025
        block = torch.searchsorted(edges, fine)
        expected, evidence = [], float(model.log_prob(given).exp())
        for code in (0.0, 1.0):
            rows = torch.stack((fine, torch.full_like(fine, code), torch.ones_like(fine)), 1)
            density = model.log_prob(rows).exp() * 0.005 / evidence
            expected.append(torch.zeros(10).double().index_add(0, block, density))
    drawn = model.to(dtype).complete(given.to(dtype).repeat(n, 1), torch.Generator().manual_seed(0)).double()
    assert bool((drawn[:, 2] == 1).all()) and not bool(drawn.isnan().any())
    counts = torch.cat(
        [
            torch.bincount(torch.searchsorted(edges, drawn[drawn[:, 1] == v, 0].contiguous()), minlength=10)
            for v in (0.0, 1.0)
        ]
    )
    mass = torch.cat(expected)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-4)
    many = mass * n > 8
    statistic = ((counts - n * mass).square() / (n * mass))[many].sum()
    assert int(many.sum()) > 5
    assert float(statistic) < chi2.ppf(1 - 1e-6, int(many.sum()))


def test_what_may_be_absent_tells_the_flow_so():
    features = (Feature(levels=2), Feature(levels=3, flag=0), Feature(circular=True, flag=0), CELLS, REAL)
    context = RowContext(features)
    rows = torch.tensor([[0.0, 0.0, 0.0, 0.3, 1.0], [1.0, NAN, NAN, 0.3, 1.0]])
    found = context(rows)
    assert found.shape == (2, context.features) == (2, 1 + 2 + 2 + 1 + 2)
    assert found[:, -2:].tolist() == [[1, 1], [0, 0]]
    model = flow_model(features, (-1, 0, 0, 0, 1))
    rows = rows.double()
    other = rows.clone()
    other[1, 1:3] = 1.0  # whatever stands in an absent cell
    torch.testing.assert_close(model.log_prob(other), model.log_prob(rows), rtol=0, atol=0)


def test_a_row_whose_angle_does_not_exist_is_complete():
    """The direction of calm wind: such a row was taken for one with a hole."""
    features = (Feature(levels=2), Feature(circular=True, flag=0), REAL)
    model = flow_model(features, (-1, 0, 1))
    rows = torch.tensor([[1.0, NAN, 0.3], [0.0, NAN, 0.3], [0.0, 1.0, 0.3]]).double()
    assert model.sums_out(rows).tolist() == [True, False, True]
    assert bool(torch.isfinite(model.log_prob(rows[[0, 2]])).all())


def test_completion_leaves_absent_reals_absent():
    features = FLAGGED
    model = TreeOptions(states=3, likelihood="leaves").model(features, 1, None).double()
    rows = (
        torch.tensor([[0.1, 1.0, NAN, 1.0], [0.1, 0.0, NAN, NAN], [NAN, NAN, NAN, NAN]])
        .double()
        .repeat(50, 1)
    )
    filled = model.complete(rows, torch.Generator().manual_seed(0))
    assert torch.equal(filled[:, 2].isnan(), filled[:, 1] == 1)
    assert not bool(filled[:, [0, 1, 3]].isnan().any())


@pytest.mark.parametrize(
    ("features", "flow", "message"),
    [
        (
            FLAGGED,
            {"mixing": "lu"},
            "LULinear: use flow='nsf-autoregressive' with flow_options mixing='reverse'",
        ),
        (FLAGGED, {"context_affine": "diagonal"}, "ConditionalAffine"),
    ],
)
def test_absent_reals_need_splines_alone(features, flow, message):
    with pytest.raises(ConfigError, match=message):
        TreeNVF(features, 3, flow_options={**FLOW, **flow})
    reals = tuple(Feature() for _ in features)
    assert TreeNVF(reals, 3, flow_options={**FLOW, **flow}).likelihood.outside != 6.0


def test_other_flows():
    spline = TreeNVF(
        (REAL, CODE),
        3,
        flow="nsf-coupling",
        flow_options={**FLOW, "mixing": "permutation", "context_affine": "none", "tail_bound": 4.0},
    )
    assert identity_beyond(spline.likelihood.transform) == 4.0
    assert bool(
        torch.isfinite(
            TreeNVF(3, 4, flow="maf", flow_options={"layers": 1}).log_prob(torch.zeros(2, 3))
        ).all()
    )
    with pytest.raises(ConfigError, match="choose another flow, or likelihood='leaves'"):
        FlowOverLeaves(Leaves((REAL, REAL), 3), RowContext((REAL, REAL)), StandardNormal(2))
    with pytest.raises(ConfigError, match="expected a flow of 1 reals with context_features=2"):
        FlowOverLeaves(Leaves((REAL, CODE), 3), RowContext((REAL, CODE)), NSF(2))


def test_only_codes_ask_for_no_flow():
    model = TreeNVF((CODE, CODE), 3)
    rows = torch.tensor(list(itertools.product(range(3), range(3)))).float()
    assert float(model.log_prob(rows).exp().sum().detach()) == pytest.approx(1, abs=1e-5)


def test_other_latents_take_reals_alone():
    with pytest.raises(ConfigError, match="latent='continuous' takes columns of numbers alone"):
        TableModel((REAL, CODE), "continuous")
    assert TableModel((REAL, REAL), "discrete", 2).event_shape == DiscreteNVF(2, 2).event_shape

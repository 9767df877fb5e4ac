"""Rows with missing cells under a flow: the bound against sums and quadrature, draws against Bayes' rule."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from modeflow.densities import Feature, Flow, Leaves, Preprocessed, StandardNormal
from modeflow.errors import ConfigError, DataError
from modeflow.flows import NSF
from modeflow.latents import (
    FlowOverLeaves,
    ImportanceTree,
    LeafLikelihood,
    Tree,
    TreeLatentModel,
    TreeOptions,
    TreePrior,
)
from modeflow.latents.tree.likelihood import RowContext
from modeflow.models import TreeNVF
from modeflow.transforms import Cells, Composite, LULinear, Permutation
from small_trees import ANGLE, CELLS, CODE, FLOW, REAL, flow_model, holed_model, leaves_model, rows_of

NAN = math.nan
MIXED = (REAL, CODE, REAL, ANGLE, CELLS)
#: The second real exists where the first code is 0.
FLAGGED = (REAL, Feature(levels=2), Feature(flag=1), CODE)


def check_bound(model: ImportanceTree, rows: torch.Tensor, exact: torch.Tensor, draws: int) -> None:
    """The estimate of p is unbiased, the bound below log p in the mean, and tight with many draws.

    Five standard errors over rows and draws are allowed: a false alarm in 2e-6.
    """
    with torch.no_grad():
        few, many = model.bound(rows, 1), model.bound(rows, draws)
        ratio = model.log_weights(rows, 64)[1] - exact
    weight = ratio.exp().mean(0)  # rows are independent, draws of a row are not
    assert abs(float(weight.mean()) - 1) < 5 * float(weight.std()) / math.sqrt(len(rows))
    gap_few, gap_many = exact - few, exact - many
    assert float(gap_few.mean()) > 3 * float(gap_few.std()) / math.sqrt(len(rows))
    assert float(gap_many.mean()) > -5 * float(gap_many.std()) / math.sqrt(len(rows))
    assert abs(float(gap_many.mean())) < 0.05 < float(gap_few.mean())


def test_a_missing_code_is_summed_out():
    features = (REAL, CODE, REAL, CODE)
    model = holed_model(features, (1, -1, 1, 2))
    rows = rows_of(features, 300)
    rows[:, 1] = NAN
    rows[150:, 3] = NAN
    exact = []
    for row in rows:
        unknown = [range(3) if math.isnan(row[i]) else [float(row[i])] for i in (1, 3)]
        full = torch.stack([torch.stack([row[0], row.new_tensor(a), row[2], row.new_tensor(b)])
                            for a, b in itertools.product(*unknown)])  # fmt: skip
        exact.append(model.log_prob(full).detach().logsumexp(0))
    check_bound(model, rows, torch.stack(exact), 256)


def test_a_missing_real_is_integrated_out():
    features = (REAL, CODE, REAL)
    model = holed_model(features, (1, -1, 1), spread=0.1)
    rows = rows_of(features, 200)
    rows[:, 0] = NAN
    axis = torch.linspace(-15, 15, 1501, dtype=torch.float64)
    step = float(axis[1] - axis[0])
    exact = []
    with torch.no_grad():
        for row in rows:
            full = torch.cat((axis[:, None], row[1:].expand(len(axis), 2)), 1)
            exact.append(model.log_prob(full).logsumexp(0) + math.log(step))
    check_bound(model, rows, torch.stack(exact), 256)


def test_a_missing_flag_leaves_open_whether_there_is_a_value():
    model = holed_model(FLAGGED, (1, -1, 1, 2), spread=0.1)
    rows = rows_of(FLAGGED, 200)
    rows[:, 1:3] = NAN
    axis = torch.linspace(-15, 15, 1501, dtype=torch.float64)
    step = float(axis[1] - axis[0])
    exact = []
    with torch.no_grad():
        for row in rows:
            there = row.repeat(len(axis), 1)
            there[:, 1], there[:, 2] = 0.0, axis
            absent = row.clone()
            absent[1] = 1.0
            total = model.log_prob(there).logsumexp(0) + math.log(step)
            exact.append(torch.logaddexp(total, model.log_prob(absent[None])[0]))
    check_bound(model, rows, torch.stack(exact), 256)
    # What is there says that its flag is 0, and then nothing is missing.
    full = rows_of(FLAGGED, 20)
    full[:, 1] = 0.0
    unsaid = full.clone()
    unsaid[:, 1] = NAN
    torch.testing.assert_close(model.log_prob(unsaid), model.log_prob(full), rtol=0, atol=1e-9)


def test_where_no_real_is_known_the_tree_says_all_exactly():
    features = (REAL, CODE, CELLS)
    model = holed_model(features, (1, -1, 1), spread=0.1)
    twin = flow_model(features, (1, -1, 1), spread=0.1)
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("proposal")})
    rows = rows_of(features, 6)
    rows[:, 0] = NAN
    axis = torch.linspace(-15, 15, 3001, dtype=torch.float64)
    full = rows.repeat_interleave(len(axis), 0)
    full[:, 0] = axis.repeat(len(rows))
    with torch.no_grad():
        sums = model.log_prob(full).view(len(rows), -1).logsumexp(1) + math.log(float(axis[1] - axis[0]))
        torch.testing.assert_close(model.log_prob(rows), sums, rtol=0, atol=1e-4)
        torch.testing.assert_close(twin.log_prob(rows), sums, rtol=0, atol=1e-4)
        rows[:3, 1], rows[3:, 2] = NAN, NAN
        codes = torch.tensor([[NAN, a, float(rows[0, 2])] for a in range(3)]).double()
        assert float(model.log_prob(rows[:1])) == pytest.approx(float(model.log_prob(codes).logsumexp(0)))
    filled = twin.complete(rows, torch.Generator().manual_seed(0))
    assert not bool(filled.isnan().any()) and bool(twin.log_prob(filled).isfinite().all())


def linear_flow(scale: float = 2.0) -> tuple[ImportanceTree, torch.Tensor]:
    """One state a feature under a linear map: a Gaussian, and its covariance; q: wide, independent."""
    torch.manual_seed(3)
    features = (REAL, REAL, REAL)
    transform = Composite([LULinear(3), Permutation.reverse(3)])
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    over = FlowOverLeaves(Leaves(features, 1), RowContext(features), Flow(transform, StandardNormal(3)))
    other = LeafLikelihood(Leaves(features, 1))
    with torch.no_grad():
        for leaves, wide in ((over.leaves, 1.0), (other.leaves, scale)):
            leaf = leaves.kinds[0]
            leaf.mean.zero_(), leaf.raw_scale.fill_(math.log(wide - leaf.min_scale))
    priors = (TreePrior(Tree.star(3), 1), TreePrior(Tree((1, 2, -1)), 1))
    model = ImportanceTree(priors[0], over, TreeLatentModel(priors[1], other)).double().eval()
    eye = torch.eye(3, dtype=torch.float64)
    inverse = transform.inverse(eye)[0] - transform.inverse(torch.zeros_like(eye))[0]
    shift = transform.inverse(torch.zeros(1, 3).double())[0]
    return model, torch.cat((inverse.mT @ inverse, shift)).detach()


def test_a_gaussian_is_the_exact_gaussian():
    """Cells missing at random of Gaussian rows, against the closed form."""
    model, told = linear_flow()
    covariance, mean = told[:3], told[3]
    whole = torch.distributions.MultivariateNormal(mean, covariance)
    torch.manual_seed(0)
    rows = whole.sample((300,))
    torch.testing.assert_close(model.log_prob(rows).detach(), whole.log_prob(rows), rtol=0, atol=1e-6)
    # Which cell is missing depends on the first, which is always there.
    rows[rows[:, 0] > mean[0], 1] = NAN
    rows[rows[:, 0] <= mean[0], 2] = NAN
    exact = torch.empty(len(rows)).double()
    for kept in ([0, 2], [0, 1]):
        some = ~rows[:, kept].isnan().any(1)
        part = torch.distributions.MultivariateNormal(mean[kept], covariance[kept][:, kept])
        exact[some] = part.log_prob(rows[some][:, kept])
    check_bound(model, rows, exact, 512)


def test_with_its_own_conditional_as_proposal_one_draw_is_exact():
    """A flow that is the identity over the tree that proposes: all weights are p(x_o)."""
    features = (REAL, CODE, REAL, ANGLE)
    leaves = leaves_model(features, (1, -1, 1, 2))
    context = RowContext(features)
    flow = Flow(Composite([Permutation.reverse(2)]), StandardNormal(2), context.features)
    over = FlowOverLeaves(copy.deepcopy(leaves.likelihood.leaves), context, flow)
    model = ImportanceTree(copy.deepcopy(leaves.prior), over, leaves, draws=1).double().eval()
    rows = rows_of(features, 60)
    rows[torch.rand(60, 4, generator=torch.Generator().manual_seed(1)) < 0.4] = NAN
    torch.testing.assert_close(model.log_prob(rows), leaves.log_prob(rows), rtol=0, atol=1e-9)
    told = model.measure(rows)["tree"]
    assert told["draws"] == told["effective_draws"] == 1
    torch.testing.assert_close(
        holed_model(MIXED, (1, -1, 1, 0, 0)).node_posterior(rows_of(MIXED, 3)).sum(-1),
        torch.ones(3, 5).double(),
    )
    model.draws = 8
    assert model.measure(rows)["tree"]["effective_draws"] == pytest.approx(8)
    torch.testing.assert_close(
        model.log_prob_and_cost(rows)[0], leaves.log_prob(rows).detach(), rtol=0, atol=1e-9
    )


def test_complete_rows_are_as_without_a_proposal():
    model = holed_model(MIXED, (1, -1, 1, 0, 0))
    plain = flow_model(MIXED, (1, -1, 1, 0, 0))
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("proposal")})
    rows = rows_of(MIXED, 50)
    assert torch.equal(model.log_prob(rows), plain.log_prob(rows))
    assert torch.equal(model.node_posterior(rows), plain.node_posterior(rows))
    for one, other in zip(model.log_prob_and_cost(rows), plain.log_prob_and_cost(rows), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(*(m.sample(20, generator=torch.Generator().manual_seed(0)) for m in (model, plain)))
    some = rows.clone()
    some[::3, 1] = NAN
    kept = torch.arange(50) % 3 > 0
    torch.testing.assert_close(model.log_prob(some)[kept], plain.log_prob(rows)[kept], rtol=0, atol=1e-12)
    assert (plain.marginals, plain.exactness) == ("exact", "exact")
    assert (model.marginals, model.exactness, model.draws) == ("lower bound", "lower bound", 16)
    with pytest.raises(DataError, match=r"feature 1 is missing in row 1 .*proposal=True"):
        plain.log_prob(some)


def test_a_row_has_one_score_in_every_batch():
    model = holed_model(MIXED, (1, -1, 1, 0, 0))
    rows = rows_of(MIXED, 80)
    rows[torch.rand(80, 5, generator=torch.Generator().manual_seed(1)) < 0.3] = NAN
    rows[3] = rows[2]
    with torch.no_grad():
        found = model.log_prob(rows)
        assert found[2] == found[3] and len(found.unique()) > 70
        order = torch.randperm(80, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(model.log_prob(rows[order]), found[order], rtol=0, atol=1e-10)
        alone = torch.cat([model.log_prob(row[None]) for row in rows[:20]])
        torch.testing.assert_close(alone, found[:20], rtol=0, atol=1e-10)
        # Whichever NaN a cell holds.
        other = torch.where(rows.isnan(), -torch.tensor(NAN).double(), rows)
        assert torch.equal(model.log_prob(other), found)
        # In single precision too; a draw on the border of two states may fall to the other side.
        single = copy.deepcopy(model).float().log_prob(rows.float())
        assert float((single - found).abs().quantile(0.95)) < 1e-3
    fresh = model.train().log_prob(rows), model.log_prob(rows)
    assert not torch.equal(*fresh)


def test_its_noise_is_not_that_of_what_is_around_it():
    """Cells of a lattice are drawn from too: every draw of those has other draws of the missing cells."""
    model = holed_model((REAL, REAL, REAL), (1, -1, 1), draws=16)
    whole = Preprocessed(Cells(torch.tensor([0.5, 0.0, 0.0])), model, draws=4).eval()
    rows = rows_of((REAL, REAL, REAL), 30)
    rows[:, 1] = NAN
    seen = []
    ask = model.proposal.fill

    def spy(u, up, noise):
        seen.append(noise)
        return ask(u, up, noise)

    model.proposal.fill = spy
    with torch.no_grad():
        first, second = whole.log_prob(rows), whole.log_prob(rows.flip(0)).flip(0)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-10)
    assert len(seen) == 8 and len(torch.stack(seen[:4]).unique()) == 4 * 30 * 6
    assert whole.exactness == "lower bound"


# -- draws ------------------------------------------------------------------------------------------


def test_completed_codes_have_the_frequencies_of_bayes():
    """Pearson's χ² of 2,000 completions, each one of 256 draws, at a false-alarm rate of 1e-6."""
    features = (Feature(levels=2), Feature(levels=3), REAL, Feature(levels=2))
    model = holed_model(features, (1, -1, 1, 0), draws=256)
    n = 2000
    row = torch.tensor([NAN, NAN, 0.7, 1.0]).double()
    filled = model.complete(row.repeat(n, 1), torch.Generator().manual_seed(1))
    assert torch.equal(filled[:, 2:], row[2:].repeat(n, 1))
    cells = torch.tensor([[a, b, 0.7, 1.0] for a in range(2) for b in range(3)]).double()
    p = model.log_prob(cells).detach().softmax(0)
    proposed = model.proposal.log_prob(cells).detach().softmax(0)
    seen = torch.bincount((filled[:, 0] * 3 + filled[:, 1]).long(), minlength=6).double()

    def statistic(share):
        return float(((seen - n * share).square() / (n * share)).sum())

    assert statistic(p) < chi2.ppf(1 - 1e-6, 5) < statistic(proposed)


def test_completed_reals_follow_their_conditional():
    """Kolmogorov–Smirnov distance of 2,000 completions to the conditional, at a false-alarm rate of 1e-6."""
    features = (REAL, Feature(levels=3), REAL)
    model = holed_model(features, (1, -1, 1), spread=0.1, draws=256)
    n = 2000
    row = torch.tensor([NAN, 1.0, -0.3]).double()
    filled = model.complete(row.repeat(n, 1), torch.Generator().manual_seed(2))[:, 0].sort().values
    x = torch.linspace(-15, 15, 6001, dtype=torch.float64)
    grid = torch.stack([x, torch.full_like(x, 1.0), torch.full_like(x, -0.3)], 1)

    def distance(of):
        cdf = of.log_prob(grid).detach().softmax(0).cumsum(0)
        at = torch.from_numpy(np.interp(filled.numpy(), x.numpy(), cdf.numpy()))
        return float((at - (torch.arange(n) + 0.5) / n).abs().max())

    # P(distance > d) <= 2 exp(-2 n d²)
    assert distance(model) < math.sqrt(math.log(2e6) / (2 * n)) + 1e-3 < distance(model.proposal)


def test_completions_together_have_the_frequencies_of_bayes_too():
    """The share of a code in 200 completions of a row, over 300 rows that are alike: five standard errors (a
    false alarm in 2e-6 for each of three); they spread less than as many draws on their own."""
    model = holed_model((REAL, CODE, REAL), (1, -1, 1))
    row = torch.tensor([[0.4, NAN, -0.2]]).double()
    cells = row.repeat(3, 1)
    cells[:, 1] = torch.arange(3)
    p = model.log_prob(cells).detach().softmax(0)
    drawn = model.completions(row.repeat(300, 1), 200, torch.Generator().manual_seed(3))
    assert drawn.shape == (200, 300, 3) and torch.equal(
        drawn[:, :, [0, 2]], row[:, [0, 2]].expand(200, 300, 2)
    )
    for level in range(3):
        share = (drawn[:, :, 1] == level).double().mean(0)
        error = float(share.std()) / math.sqrt(300)
        # What is left of the bias with 200 draws is far below the error.
        assert abs(float(share.mean() - p[level])) < 5 * error + 2e-3


def test_completion_keeps_what_is_there_and_what_is_absent():
    model = holed_model(FLAGGED, (1, -1, 1, 2))
    cells = [
        [0.1, 1.0, NAN, 1.0],
        [0.1, 0.0, NAN, NAN],
        [NAN, NAN, NAN, 2.0],
        [0.3, NAN, NAN, 0.0],
        [0.3, NAN, 0.2, 0.0],
    ]
    rows = torch.tensor(cells).double().repeat(50, 1)
    filled = model.complete(rows, torch.Generator().manual_seed(0))
    assert torch.equal(filled[:, 2].isnan(), filled[:, 1] == 1)
    assert not bool(filled[:, [0, 1, 3]].isnan().any())
    known = ~rows.isnan()
    assert torch.equal(filled[known], rows[known])
    assert bool((filled[4::5, 1] == 0).all()) and 0 < int(filled[3::5, 1].sum()) < 50
    assert model.complete(rows[:0]).shape == (0, 4)
    again = model.complete(rows, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, filled, equal_nan=True, rtol=0, atol=0)


def test_posteriors_of_states_are_means_over_completions():
    """Against the sum over the missing code, with many draws."""
    features = (REAL, CODE, REAL)
    model = holed_model(features, (1, -1, 1), draws=4096)
    row = torch.tensor([[0.4, NAN, -0.2]]).double()
    full = row.repeat(3, 1)
    full[:, 1] = torch.arange(3)
    share = model.log_prob(full).detach().softmax(0)
    expected = (share[:, None, None] * model.node_posterior(full)).sum(0)
    torch.testing.assert_close(model.node_posterior(row)[0], expected, rtol=0, atol=0.01)
    cost = (share * model.log_prob_and_cost(full)[1]).sum()
    assert float(model.log_prob_and_cost(row)[1]) == pytest.approx(float(cost), abs=0.02)


# -- fitting ----------------------------------------------------------------------------------------


def test_stages_move_one_part_each():
    x = rows_of((REAL, REAL, CODE), 200).float()
    x[torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) < 0.2] = NAN
    torch.manual_seed(0)
    model = TreeNVF((REAL, REAL, CODE), 4, flow_options=FLOW, proposal=True)
    model.start(x, 0)
    assert torch.equal(model.proposal.prior.transitions, model.prior.transitions)
    assert model.proposal.prior.tree == model.prior.tree
    model.train()
    for number, stage in enumerate(model.stages):
        model.at_stage(stage, number)
        model.zero_grad()
        loss = model.objective(x)
        loss.value.backward()
        moved = {name.startswith("proposal.") for name, p in model.named_parameters() if p.grad is not None}
        assert moved == {stage == "proposal"}
        with torch.no_grad():
            model.eval()
            scored = model.validation_log_prob(x)
            expected = model.proposal.log_prob(x) if stage == "proposal" else model.bound(x, 4)
            assert torch.equal(scored, expected)
            model.train()
    model.at_stage()
    torch.manual_seed(2)
    both = model.objective(x)
    assert all(p.requires_grad for p in model.parameters())
    assert float(both.value.detach()) == pytest.approx(float(both.terms["nll"] + both.terms["proposal"]))
    other = TreeOptions(states=3, likelihood="leaves").model((REAL, REAL, CODE), 1, None)
    model.proposal = other  # of fewer states: it starts on the rows by itself
    before = other.prior.transitions.clone()
    model.start(x, 0)
    assert not torch.equal(other.prior.transitions, before)


def test_parts_that_do_not_fit():
    features = (REAL, REAL)
    flow = flow_model(features, (-1, 0))
    leaves = leaves_model(features, (-1, 0))
    for proposal in (flow, leaves_model((REAL, CODE), (-1, 0))):
        with pytest.raises(ConfigError, match="a proposal is a tree without a flow, over the same features"):
            ImportanceTree(flow.prior, flow.likelihood, proposal)
    with pytest.raises(ConfigError, match="draws must be an integer of 1 or more"):
        ImportanceTree(flow.prior, flow.likelihood, leaves, draws=0)
    with pytest.raises(ConfigError, match="proposal must be True, False or 'auto', received 'yes'"):
        TreeOptions(proposal="yes")
    with pytest.raises(ConfigError, match="draws"):
        TreeOptions(draws=0)
    assert not isinstance(TreeNVF((CODE, CODE), 3, proposal=True), ImportanceTree)
    assert not isinstance(TreeNVF(2, 3, proposal=True, likelihood="leaves"), ImportanceTree)
    assert NSF(2).event_shape == (2,)

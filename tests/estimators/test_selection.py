"""The number of states: which is chosen, at what cost, and that nothing changes a model that was chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import make_moons
from sklearn.metrics import adjusted_rand_score
from small_estimators import FAST, FLOW, islands

from modeflow import NVF, FlowDensity
from modeflow.data import Schema
from modeflow.domains import TableDomain
from modeflow.errors import ConfigError
from modeflow.estimators import ensembles
from modeflow.estimators.fitting import Fit, FitData
from modeflow.estimators.selection import Selection
from modeflow.estimators.settings import (
    FLOW_CHOICES,
    HOLED_CHOICES,
    MIXED_CHOICES,
    TREE_CHOICES,
    Settings,
)
from modeflow.estimators.trials import (
    Candidate,
    Choice,
    Choices,
    most_states,
    trees_beside,
    usual_tree_states,
)
from modeflow.latents.discrete import start
from modeflow.latents.discrete.prune import prune_dead_states

SMALL = {**FAST, "latent_options": {"encoder_features": (16,)}, "max_states": 4}


def blobs(n, seed, weights=(0.6, 0.25, 0.1, 0.05)):
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0], [8, 0], [0, 8], [8, 8]])
    k = rng.choice(len(weights), n, p=weights)
    return centres[k] + rng.normal(size=(n, 2)), k


def test_the_number_of_states_is_the_number_of_islands():
    x, truth = blobs(900, 0)
    estimator = NVF("auto", **{**SMALL, "max_states": 8, "max_epochs": 4}).fit(x)
    assert estimator.n_states_ == 4
    assert adjusted_rand_score(truth, estimator.predict(x)) > 0.98
    tried = {c["n_states"]: c for c in estimator.selection_}
    assert {1, 4, 5} <= set(tried)
    assert [k for k, c in tried.items() if c["chosen"]] == [4]
    assert tried[4]["rows"] in (450, 900)  # scored by models that had not seen them
    assert tried[1]["difference"] < -2 * tried[1]["difference_error"]
    assert tried[1]["rows"] == 450  # hopeless on one half


def test_of_many_rows_some_are_compared_by(monkeypatch):
    monkeypatch.setattr("modeflow.estimators.selection._MOST_ROWS", 600)
    x, truth = blobs(1500, 0, (0.3, 0.3, 0.2, 0.2))
    weight = np.random.default_rng(0).uniform(0.5, 1.5, len(x))
    surveys, survey = [], start.survey
    monkeypatch.setattr(start, "survey", lambda rows: surveys.append(len(rows)) or survey(rows))
    estimator = NVF("auto", **{**SMALL, "max_epochs": 4}).fit(x, sample_weight=weight)
    assert estimator.n_states_ == 4
    # Looked for in the rows that are compared by, in a half for all that are fitted to it, and for the fit.
    assert [c["halves"] for c in estimator.selection_] == [1] * 5
    assert len(surveys) == 3
    assert adjusted_rand_score(truth, estimator.predict(x)) > 0.98
    assert {c["rows"] for c in estimator.selection_} <= {300, 600}


def test_islands_that_are_no_gaussians_are_kept_through_training():
    x, truth = make_moons(800, noise=0.06, random_state=0)
    flow = {**FLOW, "layers": 3, "hidden_features": 24}
    options = {**SMALL, "max_epochs": 25, "learning_rate": 5e-3, "flow_options": flow}
    estimator = NVF(2, **options).fit(x)
    assert adjusted_rand_score(truth, estimator.predict(x)) > 0.98


def test_one_state_is_a_legal_answer():
    x = np.random.default_rng(0).normal(size=(600, 2))
    estimator = NVF("auto", **{**SMALL, "max_epochs": 12}).fit(x)
    assert estimator.n_states_ == 1


def test_every_row_is_scored_by_the_half_it_is_not_in():
    x, _ = blobs(300, 1)
    x = np.c_[x, np.arange(300.0)]
    estimator = NVF("auto", **SMALL)
    settings = Settings.of(estimator, 3)
    domain = TableDomain(Schema.infer(x, ("a", "b", "row"), "none"))
    selection = Selection(settings, FitData(x[:270], x[270:], None, None, domain), None, True, False)
    seen = [{*part.train[:, 2], *part.validation[:, 2]} for part in selection._parts]
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == 300
    for place, half in enumerate(selection.halves):
        assert set(selection._values[half][:, 2]) == seen[place]
        assert not {*selection._parts[place].train[:, 2]} & {*selection._parts[place].validation[:, 2]}


def test_differences_are_paired_and_weighted():
    estimator = NVF("auto", **SMALL)
    settings = Settings.of(estimator, 3)
    x, _ = blobs(60, 1)
    weight = np.random.default_rng(0).uniform(0.5, 2, 60)
    domain = TableDomain(Schema.infer(x, ("a", "b"), "none"))
    selection = Selection(
        settings, FitData(x[:50], x[50:], weight[:50], weight[50:], domain), None, True, False
    )
    rng = np.random.default_rng(1)
    one, two = Choice("f", 1), Choice("f", 2)
    a, b = rng.normal(size=60), rng.normal(size=60)
    b[40:] = np.nan
    selection.trials = {(one, 1): Candidate("f", 1, scores=a), (two, 1): Candidate("f", 2, scores=b)}
    mean, error, whole = selection._compare(one, two, 1)
    d, w = (a - b)[:40], selection.weight[:40]
    assert not whole
    assert mean == pytest.approx(np.average(d, weights=w))
    assert error == pytest.approx(np.sqrt((w**2 * (d - mean) ** 2).sum()) / w.sum())


def test_a_state_has_thirty_rows_at_the_least():
    assert most_states(32, 10_000) == 32
    assert most_states(32, 100) == 3
    assert most_states(32, 10) == 1


@pytest.mark.parametrize("kind", [NVF, FlowDensity])
def test_the_flow_is_chosen_and_stored(kind, tmp_path):
    x = islands(300)
    options = {k: v for k, v in SMALL.items() if kind is NVF or k in FAST}
    states = {"n_states": 2} if kind is NVF else {}
    estimator = kind(**states, **{**options, "flow": "auto"}).fit(x)
    assert {c["flow"] for c in estimator.selection_} == set(FLOW_CHOICES)
    assert estimator.flow_ in ("nsf-autoregressive", "nsf-coupling")
    loaded = kind.load(estimator.save(tmp_path / "m.safetensors"))
    assert loaded.flow_ == estimator.flow_
    assert np.array_equal(loaded.score_samples(x), estimator.score_samples(x))


def untried(stacking="auto"):
    """A selection for 200 rows that has tried nothing."""
    x, _ = blobs(200, 1)
    data = FitData(x[:180], x[180:], None, None, TableDomain(Schema.infer(x, ("a", "b"), "none")))
    return Selection(Settings.of(NVF(stacking=stacking), 3), data, None, True, False)


def trials_of(monkeypatch, gains, rivals=(), **left):
    """What is chosen of recipes whose scores are so much better than the first's, by the length of training
    and the number of states."""
    selection = untried()
    noise = np.random.default_rng(0).normal(0, 0.1, 200)

    def tried(self, choice, length, halves=2):
        scores = np.full(200, np.nan)
        scored = self.halves[1] if halves == 1 else np.arange(200)
        gain = gains[choice.flow](length, choice.n_states)
        scores[scored] = gain + (0 if choice.flow == next(iter(gains)) else noise[scored])
        trial = Candidate(choice.flow, choice.n_states, length, halves=halves, scores=scores)
        self.trials[choice, length] = trial

    monkeypatch.setattr(Selection, "_try", tried)
    # As many rows as K = 128 needs.
    monkeypatch.setattr("modeflow.estimators.selection.trees_beside", lambda k, _: trees_beside(k, 5000))
    flows = [flow for flow in gains if flow not in rivals]
    return selection.run(Choices(flows, rivals=rivals, **left)), selection.trials


@pytest.mark.parametrize("gain,needed", [(0.3, 1), (0.02, 2)])
def test_shorter_trainings_do_not_decide_the_flow(monkeypatch, gain, needed):
    """On kin40k the deep flow was ahead after a short one, and far behind after twice as many steps.

    The noise has a standard error of .01 on one half: .3 nats are decided there.
    """
    gains = {
        "deep": lambda *_: 0.0,
        "slow": lambda length, _: -0.1 if length == 1 else gain,
        "bad": lambda *_: -1,
    }
    choice, trials = trials_of(monkeypatch, gains)
    assert choice.flow == "slow"
    halves = {c.flow: t.halves for (c, length), t in trials.items() if length == 2}
    assert halves == {"deep": needed, "slow": needed, "bad": 1}
    choice, trials = trials_of(monkeypatch, {**gains, "slow": lambda *_: -0.2})
    assert choice.flow == "deep" and {t.halves for t in trials.values()} == {1}
    # Flows that are alike after a short training are not trained for longer.
    choice, trials = trials_of(monkeypatch, {flow: lambda *_: 0.0 for flow in gains})
    assert choice.flow == "deep" and {length for _, length in trials} == {1}


def test_a_rival_must_be_clearly_better_after_a_longer_training(monkeypatch):
    """Two errors, and .01 nats a column, of all rows (the noise has an error of .007), or three of a half."""
    for gain, chosen, halves in (
        (0.3, "tree", 1),
        (0.04, "tree", 2),
        (0.012, "deep", 2),
        (-0.1, "deep", None),
    ):
        gains = {"deep": lambda *_: 0.0, "tree": lambda length, _, g=gain: g if length == 3 else 1.2 * g}
        choice, trials = trials_of(monkeypatch, gains, rivals=("tree",))
        assert choice.flow == chosen
        assert {c.flow: t.halves for (c, length), t in trials.items() if length == 3}.get("tree") == halves


def test_one_state_takes_part_in_the_longer_comparison(monkeypatch):
    """Many Gaussians are good at once: on sml, 3,000 rows, one flow was behind them at first, and 5 nats
    ahead of them in the end."""
    for later, states in ((0.5, 1), (-0.5, 4)):
        gains = {"deep": lambda length, k, late=later: (late if length == 3 else -1.0) if k == 1 else 0.0}
        choice, trials = trials_of(monkeypatch, gains, n_states="auto")
        assert choice.n_states == states
        assert {c.n_states for c, length in trials if length == 3} == {1, 4}


def selection_of(scores, stacking="auto", **state):
    """One that has tried what has these scores, by choice and length of training."""
    selection = untried(stacking)
    for (choice, length), values in scores.items():
        selection.trials[choice, length] = Candidate(choice.flow, choice.n_states, length, scores=values)
    vars(selection).update({"_open": True, **state})
    return selection


def test_a_lead_that_melts_is_none(monkeypatch):
    """On sml, 3,000 rows, 24 states were 3.3 nats ahead of one, then .3, and 4.3 behind in the end."""
    flat, three, many, one = np.zeros(200), Choice("deep", 3), Choice("deep", 24), Choice("deep", 1)
    for before, left in ((3.3, one), (0.4, many)):
        scores = {(three, n): flat - 2 for n in (1, 3)} | {(one, n): flat for n in (1, 3)}
        selection = selection_of({**scores, (many, 1): flat + before, (many, 3): flat + 0.3})
        monkeypatch.setattr(selection, "_best_of", lambda *_: many)
        assert selection._longer([three, one, many]) == left
        assert selection.trials[left, 3].difference == 0  # the table is of what is taken
        assert selection.trials[many, 3].difference == pytest.approx(0.3 if left == one else 0)
        monkeypatch.setattr(selection, "_best_of", lambda *_: three)  # the first stays
        assert selection._longer([three, one, many]) == three


BEST, OTHER, ALIKE = Choice("deep", 1), Choice("tree", 16), Choice("deep", 2)


def test_what_adds_most_is_fitted_beside():
    rng = np.random.default_rng(0)
    best = rng.normal(0, 2, 200)
    other, alike = best + rng.normal(-0.5, 2, 200), best - 0.01
    half = np.where(np.arange(200) % 2 == 0, other, np.nan)
    scores = {(BEST, 3): best, (OTHER, 3): half, (ALIKE, 3): alike}
    selection = selection_of(scores)
    known = ~np.isnan(half)
    least = max(
        np.logaddexp(best + np.log1p(-w), other + np.log(w))[known].mean()
        for w in np.linspace(0.01, 0.99, 99)
    )
    promise = selection._promise(BEST, OTHER)
    assert promise == pytest.approx(least - best[known].mean(), abs=2e-3) and promise > 0.05
    assert selection.second(BEST) == OTHER
    assert selection_of({(BEST, 3): best, (ALIKE, 3): alike}).second(BEST) is None
    # Beside a tree a flow, though another tree promises more; a rival in that is no plain flow.
    tree, another = Choice("tree", 16), Choice("nsf-autoregressive over a tree", 16)
    found = selection_of({(tree, 3): best, (another, 3): best + rng.normal(0.5, 2, 200), (BEST, 3): half})
    assert found._promise(tree, another) > found._promise(tree, BEST)
    assert found.second(tree) == BEST and found.second(another) == BEST
    assert selection_of(scores, interrupted=True).second(BEST) is None
    assert selection_of(scores, _open=False).second(BEST) is None  # flows alone were to be chosen from
    # Where nothing stands beside a model, one that was ahead after a short training alone is of no use.
    many = selection_of({(BEST, 1): best, (BEST, 3): best, (ALIKE, 1): best + 1}, stacking=False)
    assert many.second(BEST) is None
    # Nor is one that is behind.
    assert selection_of(scores, stacking=False).second(BEST) is None


def test_the_plain_flow_is_fitted_beside_what_few_steps_favour():
    """Beside trees, and more states than islands that it would overtake if it went on as it did."""
    flat = np.zeros(200)
    plain, tree, states = Choice("deep", 1), Choice("tree", 16), Choice("deep", 8)
    over = Choice("nsf-autoregressive over a tree", 16)
    for best, gained, seen, second in (
        (tree, 0.0, 1, plain),
        (states, 0.6, 2, plain),
        (states, 0.1, 2, None),
        (states, 0.6, 8, None),  # these are the islands
    ):
        scores = {(best, n): flat for n in (1, 3)} | {
            (plain, 3): flat - 3,
            (plain, 1): flat - 3 - 1.6 * gained,
        }
        scores |= {(over, 3): flat - 9}
        selection = selection_of(scores, _seen=seen, _plain={plain})
        assert selection._promise(best, plain) < 0.01 and 20 < selection._end < 200
        assert selection.second(best) == second


@pytest.mark.parametrize("stacking", ["auto", False])
def test_what_gains_faster_is_fitted_too(stacking):
    """Behind by one at length 3, and nearer than at length 2; one doubling of three fifths lies between."""
    flat = np.zeros(200)
    for gained, second in ((0.8, OTHER), (0.1, None)):
        scores = {(BEST, 2): flat, (BEST, 3): flat, (OTHER, 3): flat - 1, (OTHER, 2): flat - 1 - gained}
        selection = selection_of(scores, stacking)
        assert 20 < selection._end < 200
        assert selection.second(BEST) == second
        # Only rows that all four were scored on say who comes nearer.
        more = {**scores, (OTHER, 2): np.where(np.arange(200) < 100, flat - 1 - gained, np.nan)}
        more[BEST, 2] = np.where(np.arange(200) < 100, 0.0, -9.0)
        assert selection_of(more, stacking).second(BEST) == second
        # One that gains as fast as the best does not come nearer.
        scores[BEST, 2] = flat - gained
        assert selection_of(scores, stacking).second(BEST) is None


class Finals:
    """A choice of one state, that may yet be beaten by four; so many are the blobs."""

    options: ClassVar = {**SMALL, "flow": "nsf-coupling", "max_epochs": 3, "random_state": 3}

    def __init__(self, monkeypatch, tmp_path, second=4):
        self.x, _ = blobs(300, 0)
        self.folder = tmp_path
        monkeypatch.setattr(Selection, "run", lambda *_: Choice("nsf-coupling", 1))
        monkeypatch.setattr(
            Selection, "second", lambda *_: Choice("nsf-coupling", second) if second else None
        )

    def fit(self, resume=False, **options):
        return NVF("auto", **{**self.options, **options}).fit(self.x, run_dir=self.folder, resume=resume)


def test_the_better_of_two_finalists_is_kept(monkeypatch, tmp_path):
    finals = Finals(monkeypatch, tmp_path)
    one = NVF(1, **finals.options).fit(finals.x)
    four = NVF(4, **finals.options).fit(finals.x)
    assert four.validation_["value"] > one.validation_["value"] + 0.3  # (islands far apart)
    both = finals.fit()
    assert both.n_states_ == 4 and both.validation_ == four.validation_
    np.testing.assert_array_equal(both.score_samples(finals.x), four.score_samples(finals.x))
    same = Finals(monkeypatch, tmp_path / "same", second=1).fit()
    assert same.n_states_ == 1 and same.validation_ == one.validation_
    assert finals.fit(ensemble=2).n_states_ == 2  # one state each


def test_finalists_have_the_same_beside_them(monkeypatch, tmp_path):
    finals = Finals(monkeypatch, tmp_path)
    made, companions_of = [], ensembles.companions_of
    monkeypatch.setattr(ensembles, "companions_of", lambda *a: made.append(1) or companions_of(*a))
    both = finals.fit(stacking=True)
    assert both.n_states_ == 4 and len(made) == 1
    four = NVF(4, **finals.options, stacking=True).fit(finals.x)
    kept = both.validation_["value"] > four.validation_["value"]
    assert kept == (both.beside_ is not None) == both.training_["second"]["kept"]
    np.testing.assert_allclose(both.predict_proba(finals.x), four.predict_proba(finals.x), atol=1e-9)
    # What adds nothing does not stay.
    monkeypatch.setattr(ensembles, "_LEAST", 10.0)
    alone = finals.fit(stacking=True)
    assert alone.beside_ is None and alone.validation_ == four.validation_
    told = alone.training_["second"]
    assert not told["kept"] and told["n_states"] == 1 and told["training"]["steps"] > 0
    np.testing.assert_array_equal(alone.score_samples(finals.x), four.score_samples(finals.x))


def test_an_interrupted_finalist_is_resumed(monkeypatch, tmp_path):
    finals = Finals(monkeypatch, tmp_path / "a")
    whole = finals.fit()
    finals.folder = tmp_path / "b"
    fit, orders = ensembles._fit, []

    def interrupted(order, member):
        orders.append(order)
        if len(orders) < 2:
            return fit(order, member)
        monkeypatch.setattr(ensembles, "_fit", fit)
        found = fit(replace(order, folder=None), member)
        found.history.interrupted = True
        return found

    monkeypatch.setattr(ensembles, "_fit", interrupted)
    first = finals.fit()
    assert first.n_states_ == 1 and first.training_["interrupted"]
    again = finals.fit(resume=True)
    assert again.n_states_ == 4 and not again.training_["interrupted"]
    np.testing.assert_array_equal(again.score_samples(finals.x), whole.score_samples(finals.x))


FLOW_TREE, HOLED_TREE = next(iter(TREE_CHOICES)), list(HOLED_CHOICES)[1]


def test_half_or_twice_the_states_of_a_tree_must_be_clearly_better(monkeypatch):
    """.01 nats for each of two columns (the noise is the same, so no error); both halves where close."""
    tree = {"tree_states": 64, "other_trees": True}
    for best, gain, chosen in ((128, 0.04, 128), (32, 0.04, 32), (128, 0.015, 64), (16, 1.0, 64)):
        gains = {"tree": lambda _, k, best=best, gain=gain: gain * (k == best)}
        choice, trials = trials_of(monkeypatch, gains, **tree)
        assert choice == Choice("tree", chosen)
        assert {c.n_states for c, _ in trials} == {32, 64, 128}
        found = {c.n_states: t.halves for (c, _), t in trials.items()}
        assert found == {k: 2 if gain == 0.015 and k in (64, best) else 1 for k in (32, 64, 128)}
        assert [c.n_states for (c, _), t in trials.items() if t.chosen] == [chosen]
    # Where it is not asked for, and where rows do not suffice, nothing is trained for it.
    assert trials_of(monkeypatch, gains, tree_states=7) == (Choice("tree", 7), {})
    assert Choices(["tree"], tree_states=7).only == Choice("tree", 7)
    assert Choices(["tree"], **tree).only is None
    few = trials_of(monkeypatch, gains, tree_states=128, other_trees=True)
    assert few == (Choice("tree", 128), {})


def test_the_states_of_a_tree_are_asked_of_the_kind_that_was_chosen(monkeypatch):
    gains = {
        FLOW_TREE: lambda _, k: 0.1 * (k == 128),
        "tree": lambda *_: -0.3,
        "flat states": lambda *_: -0.3,
    }
    tree = {"tree_states": 64, "other_trees": True, "n_states": "auto"}
    choice, trials = trials_of(monkeypatch, gains, ("flat states",), **tree)
    assert choice == Choice(FLOW_TREE, 128)
    assert {c for c, _ in trials if c.flow != FLOW_TREE} == {Choice("tree", 64), Choice("flat states", 1)}
    assert {t.halves for (c, _), t in trials.items() if c.flow == "flat states"} == {1}  # hopeless there


def test_flat_states_that_are_clearly_better_than_a_tree_are_taken_with_their_number(monkeypatch):
    gains = {FLOW_TREE: lambda *_: 0.0, "flat states": lambda _, k: {1: 0.3, 4: 0.5}.get(k, 0.4)}
    tree = {"tree_states": 64, "other_trees": True, "n_states": "auto"}
    choice, trials = trials_of(monkeypatch, gains, ("flat states",), **tree)
    assert choice.flow == "flat states" and choice.n_states > 1
    assert {c.n_states for c, _ in trials if c.flow == FLOW_TREE} == {64}
    little = {**gains, "flat states": lambda *_: 0.015}
    assert trials_of(monkeypatch, little, ("flat states",), **tree)[0] == Choice(FLOW_TREE, 64)


def test_trees_of_few_rows_have_fewer_states():
    """Thirty rows a state, from 16 to 64; twice as many are tried where they have as many rows."""
    assert [usual_tree_states(n) for n in (50, 900, 960, 1919, 1920, 10**6)] == [16, 16, 32, 32, 64, 64]
    assert trees_beside(64, 3839) == [] and trees_beside(64, 3840) == [32, 128]


def recipes(more=None, options=(), **params):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=60), "b": rng.normal(size=60)} | (more or {}))
    estimator = NVF(**params, **({"latent_options": options} if options else {}))
    domain, values = estimator._kind(frame).learn(estimator, frame)
    data = FitData(values[:50], values[50:], None, None, domain)
    found = estimator._choices(Settings.of(estimator, 0), data)
    return tuple(found.flows), tuple(found.rivals)


def test_the_rows_say_what_is_chosen_from():
    flows, trees = tuple(FLOW_CHOICES), tuple(TREE_CHOICES)
    words = {"word": ["x", "y", "z"] * 20}
    holes = {"c": np.where(np.arange(60) % 7, np.linspace(0, 1, 60), np.nan)}
    assert recipes() == (flows, trees)
    flat = tuple(MIXED_CHOICES)
    assert recipes(words) == (trees, flat)
    assert recipes(words, latent="tree") == (trees, ())
    assert recipes(holes) == recipes(holes, latent="tree") == (("tree", HOLED_TREE), ())
    assert recipes(holes | words) == (("tree", HOLED_TREE), ())
    assert recipes(holes, options={"proposal": False}) == (("tree",), ())
    assert recipes(holes, options={"likelihood": "flow"}) == ((HOLED_TREE,), ())
    assert recipes(n_states=3) == recipes(latent="discrete") == (flows, ())
    assert recipes(latent="tree") == (trees, ())
    assert recipes(options={"likelihood": "leaves"}) == (("tree",), ())
    assert recipes(flow="maf") == (("maf",), ())
    said = {"word": "categorical"}
    with pytest.raises(ConfigError, match="'word' is none: latent='tree'"):
        recipes(words, latent="continuous", columns=said)
    assert recipes(words, latent="discrete", columns=said) == (flat, ())


# -- nothing changes a model after it was chosen unless it is no worse


def test_rare_islands_are_not_switched_off():
    """Once 30 far rows of 10,000 were said to be "no data", and scored -406."""
    rng = np.random.default_rng(0)
    x = np.r_[rng.normal(0, 1, (1990, 2)), rng.normal(20, 1, (10, 2))]
    estimator = NVF(2, **SMALL).fit(x)
    assert estimator.n_states_ == 2
    assert estimator.dead_states_ == []
    assert estimator.score_samples(x[-10:]).mean() > -12


def pruned(model, train, validation):
    return prune_dead_states(model.model, *(model.encode(rows)[0] for rows in (train, validation)))


def fitted(n_states=3):
    estimator = NVF(n_states, **SMALL).fit(islands())
    model = estimator.model_
    return model, torch.from_numpy(islands()), torch.from_numpy(islands(100, 1))


def test_states_that_hold_nothing_are_switched_off():
    model, train, validation = fitted()
    affine = model.model.likelihood.transform.transforms[0]
    with torch.no_grad():
        affine.table[1, :2] += 500  # far from all rows
        model.model.prior.logits[1] = model.model.prior.logits.max() - 6
        before = [model.log_prob(rows).double().mean() for rows in (train, validation)]
        assert pruned(model, train, validation) == [1]
        after = [model.log_prob(rows).double().mean() for rows in (train, validation)]
    assert model.model.prior.active.tolist() == [True, False, True]
    assert all(a >= b for a, b in zip(after, before, strict=True))


def test_a_state_that_one_row_of_either_needs_stays():
    model, train, validation = fitted()
    affine = model.model.likelihood.transform.transforms[0]
    with torch.no_grad():
        affine.table[1, :2] += 500
        model.model.prior.logits[1] = model.model.prior.logits.max() - 6
        # A row of validation that this state alone explains.
        row = model.decode(model.model.sample_with_states(1, None, 1)[0].double())
        assert pruned(model, train, torch.cat([validation, row])) == []
        assert pruned(model, torch.cat([train, row]), validation) == []


def test_training_that_is_not_clearly_better_than_its_start_is_undone():
    x = np.random.default_rng(0).normal(size=(300, 2))
    settings = Settings.of(NVF(2, latent="discrete", **SMALL), 0)
    data = FitData(x[:200], x[200:], None, None, TableDomain(Schema.infer(x, ("a", "b"), "none")))
    fit = Fit(settings, data, 2)
    fit.run()
    start, weight = fit._start, next(iter(fit.model.model.likelihood.parameters()))

    def settle(by):
        """With weights that are so far from the start."""
        fit.model.load_state_dict(start)
        with torch.no_grad():
            weight.add_(by)
        fit.history.best_epoch = 2
        return fit.settle(), all(torch.equal(v, start[k]) for k, v in fit.model.state_dict().items())

    assert settle(0.5) == (True, True)
    assert fit.history.best_epoch == 0
    with torch.no_grad():  # the other way round: a bad start
        weight.add_(0.5)
    start = {k: v.clone() for k, v in fit.model.state_dict().items()}
    fit._start = start
    assert settle(-0.5) == (False, False)
    assert fit.history.best_epoch == 2

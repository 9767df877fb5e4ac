"""The contract of a domain: over those there are, and by a third that is added from outside."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import torch
from curves_domain import CurveDensity, CurveDomain, curves_known

from modeflow import NVF, ImageDensity
from modeflow.cli import main
from modeflow.data import Schema
from modeflow.domains import DOMAINS, ImageDomain, MixedDomain, TableDomain, domain_of
from modeflow.domains.base import LEAST_SCORED, held_out
from modeflow.errors import DataError
from modeflow.estimators.base import DensityEstimator
from modeflow.nets.randomness import seeded

FLOW = {"layers": 1, "hidden_features": 8, "blocks": 1, "bins": 4}


def table(n=40):
    rng = np.random.default_rng(0)
    return np.column_stack([rng.normal(size=n), rng.integers(0, 9, n)])


def pictures(n=40):
    return np.random.default_rng(0).integers(0, 4, (n, 4, 6, 3)).astype(np.uint8)


def people(n=40):
    """Words, a hole in every kind of column that a model sees, a lattice, a constant."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "height": rng.normal(170, 9, n),
            "city": rng.choice(["Oslo", "Rome"], n),
            "age": rng.integers(20, 60, n),
            "unit": "cm",
        }
    )
    frame.loc[3, ["height", "city"]] = [np.nan, None]
    return frame


#: Per domain: an estimator that is not fitted, and rows.
CASES = {
    "table": (lambda: NVF(2), table),
    "image": (lambda: ImageDensity(levels=4), pictures),
    "mixed": (lambda: NVF(), people),
    "curve": (lambda: CurveDensity(2), lambda: table() @ np.ones((2, 5)) + np.arange(5)),
}


@pytest.fixture(params=CASES)
def case(request):
    make, rows = CASES[request.param]
    estimator, X = make(), rows()
    with curves_known():
        domain, values = estimator._kind(X).learn(estimator, X)
        yield domain, values, estimator, X


def test_every_domain_has_a_case():
    assert set(DOMAINS) < set(CASES)


def test_rows_come_back_as_they_were(case):
    domain, values, estimator, X = case
    x = domain.to_tensor(values)
    assert len(x) == len(X)
    back = domain.from_tensor(x)
    if isinstance(X, pd.DataFrame):
        pd.testing.assert_frame_equal(back, X)
    else:
        np.testing.assert_array_equal(np.asarray(back), X)
    np.testing.assert_array_equal(domain.validate(estimator, X), values)
    np.testing.assert_array_equal(domain.validation(X), values)


def test_what_was_learned_is_plain_and_comes_back(case):
    domain, values, estimator, X = case
    content = json.loads(json.dumps(domain.to_dict()))
    again = type(domain).from_dict(content)
    assert again == domain and again.to_dict() == domain.to_dict()
    json.dumps(domain.facts)
    fresh = type(estimator)()
    again.remember(fresh)
    np.testing.assert_array_equal(again.validate(fresh, X), values)


def test_other_rows_are_refused(case):
    domain, _, estimator, X = case
    with pytest.raises((DataError, ValueError)):
        domain.validate(estimator, X.iloc[:, 1:] if isinstance(X, pd.DataFrame) else X[:, :-1])


def test_preprocessing_and_noise_are_part_of_the_density(case):
    """What the model is trained on lies in the cell of its row; its Jacobian is that of the map."""
    domain, values, _, _ = case
    rows = domain.to_tensor(values)
    transform = domain.preprocessing()
    with seeded(0):
        domain.fit_preprocessing(transform, rows, None, False)
        u, logabsdet = transform(rows)
        again = transform(rows)[0]
    assert u.shape == rows.shape and logabsdet.shape == (len(values),)
    np.testing.assert_allclose(transform.sample(u).double(), rows.double(), atol=1e-6)
    # Fresh for every batch while training, and none where it is not asked for.
    assert (transform.exactness == "exact") == torch.equal(u.nan_to_num(9), again.nan_to_num(9))
    transform.eval()
    assert torch.equal(transform(rows)[0].nan_to_num(9), transform(rows)[0].nan_to_num(9))


def test_a_likelihood_is_told_in_the_units_of_the_domain(case):
    domain, _, _, _ = case
    log_prob = -np.linspace(10, 20, 30)
    cost = np.full(30, 2.0) if domain.costs else None
    found = domain.summarise(log_prob, "lower bound", cost)
    assert found.kind == "lower bound" and found.n == 30
    assert found.value == pytest.approx(domain.told(log_prob).mean())
    assert domain.likelihood(found.to_dict()) == found
    columns = domain.scores(log_prob, cost, "lower bound")
    assert all(len(column) == 30 for column in columns.values())
    np.testing.assert_array_equal(next(iter(columns.values())), log_prob)


def test_a_trivial_density_is_one(case):
    """On the rows that it was made from no model is worse than it by more than chance."""
    domain, values, _, _ = case
    rival = domain.trivial(values, values, None)
    assert rival.log_prob.shape == (len(values),) and rival.per_unit > 0 and rival.name


def test_so_few_rows_are_scored_of_a_training_that_was_interrupted():
    class Parts:
        train, validation, test = (np.zeros((n, 4, 6, 3)) for n in (5000, 1500, 1200))
        sizes = (5000, 1500, 1200)

    class Frames(Parts):
        train, validation, test = (pd.DataFrame(np.zeros((n, 2))) for n in (5000, 1500, 1200))

    image = ImageDomain((3, 4, 6), 4)
    assert {k: len(v) for k, v in image.scored(Parts, False).items()} == {"validation": 1500, "test": 1200}
    assert {len(v) for v in image.scored(Parts, True).values()} == {LEAST_SCORED}


def test_rows_are_held_out_at_random_and_once():
    rest, held = held_out(50, 0.2, 3, "row")
    assert len(held) == 10 and sorted([*rest, *held]) == list(range(50))
    assert not np.array_equal(held_out(50, 0.2, 4, "row")[1], held)
    with pytest.raises(DataError, match="2 images are too few"):
        held_out(2, 0.2, 0, "image")


def test_files_with_words_or_holes_are_mixed(tmp_path):
    for text, kind in (
        ("a,b\n1,2\n", TableDomain),
        ("a,b\n1,\n2,3\n", MixedDomain),
        ("a\nx\ny\n", MixedDomain),
    ):
        for name, packed in (("t.csv", text.encode()), ("t.csv.gz", gzip.compress(text.encode()))):
            (tmp_path / name).write_bytes(packed)
            assert domain_of(tmp_path / name) is kind


def test_what_no_other_accepts_is_a_table(tmp_path):
    assert domain_of("moons") is TableDomain and domain_of(None) is TableDomain
    assert domain_of("images/digits") is ImageDomain
    np.save(tmp_path / "a.curves.npy", np.zeros((4, 5)))
    assert domain_of(tmp_path / "a.curves.npy") is TableDomain
    with curves_known():
        assert domain_of(tmp_path / "a.curves.npy") is CurveDomain


def test_a_frame_is_remembered_by_its_library():
    frame = pd.DataFrame({"a": table()[:, 0], "n": table()[:, 1]})
    domain, values = TableDomain.learn(NVF(2), frame)
    assert domain.schema == Schema.infer(values, ("a", "n"), "auto")
    drawn = domain.from_tensor(domain.to_tensor(values))
    assert isinstance(drawn, pd.DataFrame) and list(drawn.columns) == ["a", "n"]
    assert drawn["n"].dtype == np.int64


def test_estimators_name_a_domain():
    for kind in (NVF, ImageDensity, CurveDensity):
        assert issubclass(kind, DensityEstimator) and kind.domain in (*DOMAINS.values(), CurveDomain)


def test_a_third_domain_goes_from_fit_to_report_without_a_line_in_the_others(tmp_path, capsys):
    rng = np.random.default_rng(0)
    data, run = tmp_path / "c.curves.npy", tmp_path / "run"
    side = rng.integers(2, size=(200, 1))
    np.save(data, 4 * side + np.sin(np.arange(3)) + rng.normal(0, 0.5, (200, 3)))

    def call(*args):
        capsys.readouterr()
        assert main([str(a) for a in args]) == 0
        return json.loads(capsys.readouterr().out)

    small = ["--set", "n_states=2", "--set", "flow=nsf-coupling", "--set", "flow_options.layers=1"]
    # Its report, beside what every run has, would be a line of `modeflow.report.gather.KINDS`.
    with curves_known():
        told = call("fit", data, "-o", run, "--set", "max_epochs=2", *small, "--set", "smooth=2", "--json")
        assert told["domain"] == "curve" and told["length"] == 3 and told["n_states"] == 2
        again = call("fit", "--config", run, "-o", tmp_path / "again", "--json")
        assert again["log_likelihood"] == told["log_likelihood"]
        scored = call("score", run, data, "-o", tmp_path / "s.csv", "--json")
        assert scored["log_likelihood"]["n"] == 200 and len(scored["least_likely_curves"]) == 5
        assert (tmp_path / "s.csv").read_text().startswith("curve,nats")
        call("sample", run, "-o", tmp_path / "new.npy", "--json")
        assert np.load(tmp_path / "new.npy").shape == (5, 3)
        assert len(call("assign", run, data, "--json")["states"]) == 2
        page = call("report", run, "--json")
        assert page["log_likelihood"] == told["log_likelihood"] and page["measures"]
        assert "200 curves of 3 points" in (run / "report.html").read_text()
        plain = call(
            "fit", data, "-o", tmp_path / "plain", "--model", "realnvp", "--set", "max_epochs=1", "--json"
        )
        assert plain["n_states"] == 1


def test_rows_are_held_out_of_every_group():
    groups = np.repeat([0, 1, 2, 3], [80, 30, 9, 1])
    mixed = np.random.default_rng(1).permutation(groups)
    for seed in range(5):
        rest, held = held_out(120, 0.1, seed, "row", mixed)
        assert len(held) == 12 and sorted([*rest, *held]) == list(range(120))
        counts = np.bincount(mixed[held], minlength=4)
        # Of each group a tenth of its rows but the first, up to a row.
        assert (np.abs(counts - 12 * np.array([79, 29, 8, 0]) / 116) < 1).all() and counts[3] == 0
    assert not np.array_equal(held, held_out(120, 0.1, 0, "row", mixed)[1])
    # Groups of one row each cannot be shared out.
    assert len(held_out(20, 0.2, 0, "row", np.arange(20))[1]) == 4

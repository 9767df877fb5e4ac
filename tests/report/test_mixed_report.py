"""The report of a mixed table: what is drawn of each kind of column, the tree, fidelity, and the page."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json

import numpy as np
import polars as pl
import pytest
from test_report import parsed, prose

from modeflow.data.columns import Categorical, Circular, Datetime, Integer, Positive, Real, Steps, TableSchema
from modeflow.report import MixedReport, gather, render_report
from modeflow.report.fidelity import agreement_of, agreement_section
from modeflow.report.marginals import marginal_of, plot_marginal
from modeflow.report.trees import TreeView, place_nodes, plot_tree, tree_section
from modeflow.runs import RunConfig, fit_run, load_run


def table(n=240, seed=0):
    """A category, a number that depends on it, holes, an atom, angles, dates, a column of one value."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    size = np.round(kind * 5 + rng.normal(size=n), 3)
    rain = np.where(rng.random(n) < 0.6, 0.0, np.round(rng.gamma(2.0, 3.0, n), 3) + 0.001)
    return pl.DataFrame(
        {
            "kind": np.array(["ash <b>", "elm", "oak"])[kind],
            "size": pl.Series([None if h else v for h, v in zip(rng.random(n) < 0.1, size, strict=True)]),
            "rain": rain,
            "wind": np.round(rng.uniform(0, 360, n), 2),
            "day": [dt.date(2020, 1, 1) + dt.timedelta(int(d)) for d in rng.integers(0, 300, n)],
            "one": ["same"] * n,
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    table().write_csv(folder / "t.csv")
    config = RunConfig.build(
        {
            "data": str(folder / "t.csv"),
            "columns": {"wind": "circular(360)", "rain": {"kind": "positive", "atoms": [0.0]}},
            "latent_options": {"states": 4, "likelihood": "leaves"},
            "score_draws": 2,
            "max_epochs": 2,
            "test": 0.25,
        }
    )
    return fit_run(config, folder / "run")


@pytest.fixture(scope="module")
def report(run):
    found = gather(load_run(run.path))
    assert isinstance(found, MixedReport)
    return found


def test_the_page_of_a_run(report):
    page = render_report(report)
    found = parsed(page)
    expected = [
        "Likelihood", "Likelihood of each part", "Columns: data beside samples", "Missing cells",
        "Tree of columns", "What if", "Fidelity of samples", "Rows to share", "Measures", "Training",
        "Kinds of columns", "How to repeat this", "Definitions",
    ]  # fmt: skip
    assert [h for h in found.headings if not h.startswith("Warning")] == expected
    assert all(u.startswith(("data:image/", "#")) for u in found.urls)
    assert all(image["alt"] for image in found.images)
    # likelihoods, columns, missing, tree, what if, training
    assert len(found.images) == 1 + 5 + 1 + 1 + len(report.answers) + 1 and report.answers
    text = prose(page)
    for words in (
        "independent columns", "circular(360)", "atom 0", "wNMI", "training rows", "Not modelled: one",
        "5 edges", "% missing", "rain_atom", "on 60 test rows",
    ):  # fmt: skip
        assert words in text, words
    assert "ash <b>" not in page and "ash &lt;b&gt;" in page
    assert not any(w in text for w in ("<script", "http://", "https://"))


def test_the_summary_is_json(report):
    told = json.loads(json.dumps(report.summary(), allow_nan=False))
    assert set(told["log_likelihood"]) == {"train", "validation", "test"}
    assert [row["name"] for row in told["likelihoods"]][1] == "independent columns"
    assert told["fidelity"]["rows"] == 60 and {"shape", "trend"} <= set(told["fidelity"]["samples"])
    assert len(told["tree"]) == 5 and told["tree"][0][2] >= told["tree"][-1][2]


def test_a_terminal_is_told_the_same_in_words(report):
    lines = report.lines()
    shape = report.agreement
    scores = (shape.samples.shape.score, shape.training.shape.score)
    assert f"Shape        {scores[0]:.4f}   {scores[1]:.4f}   columns, one by one" in lines
    assert any("than independent columns" in line or "from independent columns" in line for line in lines)
    assert set(report.sharing.verdict) <= set(lines)


def test_prices_are_drawn_on_a_logarithmic_axis():
    """Skewed cents with a few zeros; not times, not counts whose values are farther apart than the bins."""
    rng = np.random.default_rng(0)
    prices = np.round(np.exp(rng.normal(3, 1.2, 500)), 2)
    prices[:10] = 0
    for step, values, scale in (
        (0.01, prices, "log"),
        (1.0, np.round(prices), "linear"),
        (0.0, -prices, "linear"),
    ):
        column = Steps(name="x", step=step) if step else Real(name="x")
        figure = plot_marginal(marginal_of(column, values, values))
        assert figure.axes[-1].get_xscale() == scale
    outside = (
        plot_marginal(marginal_of(Steps(name="x", step=0.01), prices, prices)).axes[-1].get_title("right")
    )
    assert outside.startswith("outside: 2")


def test_an_atom_that_no_row_has_is_a_bar_at_zero():
    column = Positive(name="x", atoms=(1.0,))
    figure = plot_marginal(marginal_of(column, np.linspace(2, 3, 50), np.linspace(2, 3, 50)))
    assert figure.axes[0].get_ylim() == (0, 0.01)


def test_months_are_drawn_at_their_dates():
    column = Datetime(name="t", step="month")
    months = np.repeat(np.arange(300.0, 420.0), 3)
    axes = plot_marginal(marginal_of(column, months, months)).axes[0]
    first, last = (t / 86400 for t in column.seconds(np.array([300.0, 419.0])))
    left, right = axes.get_xlim()
    assert first - 300 < left < first and last < right < last + 300


def test_the_tree_joins_what_depends(report):
    strongest = report.tree.edges[0]
    assert set(strongest[:2]) == {"kind", "size"} and strongest[2] > 0.5
    assert report.tree.kinds == ["levels", "number", "number", "angle", "number", "atom?"]


def test_missing_cells_are_told_only_where_there_are_any(report):
    assert [m.name for m in report.marginals if m.missing] == ["size"]
    full = [m for m in report.marginals if not m.missing][:1]
    found = [s.title for s in dataclasses.replace(report, marginals=full, tree=None).sections()]
    assert "Missing cells" not in found and "Tree of columns" not in found and "Fidelity of samples" in found


def test_without_baselines_the_model_stands_alone(run):
    alone = gather(run, baselines=False)
    assert len(alone.likelihoods) == 1 and alone.headline()[1] == ""


# -- columns ------------------------------------------------------------------------------------------


def test_levels_are_sorted_by_frequency_and_the_rare_are_one():
    column = Categorical(name="c", levels=tuple(f"l{k}" for k in range(20)))
    data = np.repeat(np.arange(20.0), np.arange(1, 21))
    found = marginal_of(column, np.append(data, np.nan), np.zeros(4))
    assert [b.name for b in found.bars[:2]] == ["l19", "l18"] and found.bars[-1].name == "6 others"
    assert len(found.bars) == 15 and found.rare == 6
    assert sum(b.data for b in found.bars) == pytest.approx(1)
    assert found.bars[-1].data == pytest.approx(21 / 210) and found.bars[-1].samples == 1
    assert found.missing == pytest.approx(1 / 211)


def test_ordered_levels_keep_their_order():
    column = Integer(name="n", levels=(1.0, 2.0, 5.0))
    found = marginal_of(column, np.array([2.0, 2, 0]), np.array([1.0, 1]))
    assert [(b.name, b.samples) for b in found.bars] == [("1", 0), ("2", 1), ("5", 0)]


def test_many_numbers_of_few_values_are_a_histogram():
    column = Integer(name="n", levels=tuple(float(v) for v in range(10, 50)))
    found = marginal_of(column, np.array([0.0, 39.0]), np.array([1.0]))
    assert found.data.tolist() == [10, 49] and found.samples.tolist() == [11] and found.step == 1


def test_atoms_stand_beside_the_other_numbers():
    column = Positive(name="p", atoms=(0.0, -1.0))
    found = marginal_of(column, np.array([0.0, 0, 0, -1, 2.5]), np.array([0.0, 3.5]))
    assert [(b.name, b.data, b.samples) for b in found.bars] == [("0", 0.6, 0.5), ("−1", 0.2, 0.0)]
    assert found.data.tolist() == [2.5] and found.samples.tolist() == [3.5]


@pytest.mark.parametrize(
    ("column", "data"),
    [
        (Real(name="r"), np.linspace(-1, 1, 50)),
        (Real(name="gone"), np.full(5, np.nan)),
        (Positive(name="skewed", atoms=(1.0,)), np.exp(np.linspace(-2, 9, 80))),
        (Circular(name="w", period=360.0), np.linspace(0, 359, 90)),
        (Circular(name="m", period=12.0, origin=1.0, step=1.0), np.arange(1.0, 13)),
        (Datetime(name="d", step="day"), np.arange(100) * 86400.0),
        (Integer(name="i"), np.arange(500.0)),
        (Categorical(name="long", levels=("a" * 90, "$x$")), np.array([0.0, 1, 1])),
    ],
)
def test_every_kind_is_drawn(column, data):
    figure = plot_marginal(marginal_of(column, data, data[::2]))
    figure.canvas.draw()
    assert figure.axes


# -- the tree -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_nodes_of_one_depth_do_not_meet(seed):
    rng = np.random.default_rng(seed)
    parents = [-1, *(int(rng.integers(0, k)) for k in range(1, 30))]
    depth, row = place_nodes(parents, rng.random(30))
    assert all(depth[k] == depth[p] + 1 for k, p in enumerate(parents) if p >= 0)
    for d in set(depth):
        at = np.sort([r for r, e in zip(row, depth, strict=True) if e == d])
        assert (np.diff(at) >= 1 - 1e-9).all()


def random_tree(count, chain):
    rng = np.random.default_rng(1)
    parents = [-1, *(k - 1 if chain else int(rng.integers(0, k)) for k in range(1, count))]
    names = [f"a column of name {k}" for k in range(count)]
    return TreeView(names, ["number"] * count, parents, [0.0, *rng.random(count - 1)])


@pytest.mark.parametrize("chain", [False, True])
def test_boxes_of_nodes_do_not_overlap_and_lie_in_the_picture(chain):
    figure = plot_tree(random_tree(12 if chain else 30, chain))
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in figure.axes[0].texts if t.get_text().startswith("a column")]
    page = figure.bbox
    assert len(boxes) == (12 if chain else 30)
    for k, a in enumerate(boxes):
        assert page.x0 <= a.x0 and a.x1 <= page.x1 and page.y0 <= a.y0 and a.y1 <= page.y1
        assert not any(a.overlaps(b) for b in boxes[k + 1 :])


def test_many_nodes_are_a_table():
    section = tree_section(random_tree(60, False))
    assert not section.pictures and section.table.open and len(section.table.rows) == 59
    assert len(tree_section(random_tree(5, False)).pictures) == 1


# -- fidelity -----------------------------------------------------------------------------------------


def test_fidelity_of_copies_and_of_other_rows():
    frame = table(300).drop("one")
    schema = TableSchema.infer(frame, {"wind": "circular(360)"})
    x = schema.encode(frame)
    same = agreement_of(schema, x, x, x, 5000)
    assert same.rows == 300 and same.holes
    rng = np.random.default_rng(0)
    apart = np.stack([column[rng.permutation(300)] for column in np.nan_to_num(x).T], 1)
    torn = agreement_of(schema, x, apart, x, 5000)
    assert torn.training.mutual_information.score > 0.99 > 0.8 > torn.samples.mutual_information.score
    text = " ".join(agreement_section(torn).items)
    assert "Shape, columns that agree least" in text and "kind and size" in text
    few = agreement_of(schema, x, apart, x, 50)
    assert few.rows == 50


def test_a_table_of_one_column_has_no_pairs():
    schema = TableSchema.infer({"a": np.array([0.5, 1.25, 7.75, 3.0] * 10)})
    x = schema.encode({"a": np.array([0.5, 1.25, 7.75, 3.0] * 10)})
    found = agreement_of(schema, x, x, x, 100)
    assert found.samples.trend is None and len(agreement_section(found).table.rows) == 1

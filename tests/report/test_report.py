"""The page: whole, self-contained, well formed, the same every time, and honest in its words."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from example_reports import ring, table

from modeflow.errors import ConfigError, DataError, ShapeError
from modeflow.report import (
    DensityGrid,
    LikelihoodRow,
    describe_columns,
    find_worst,
    plot_density,
    plot_pairs,
    plot_panel_of_curves,
    plot_state_usage,
    render_report,
    save_picture,
    tabulate_states,
    write_report,
)
from modeflow.report.canvas import label
from modeflow.report.curves import curves_of
from modeflow.report.words import compare, duration, in_column, quantity

VOID = {
    "meta",
    "img",
    "br",
    "hr",
    "link",
    "input",
    "path",
    "rect",
    "line",
    "circle",
    "use",
    "polyline",
    "col",
}


class Balanced(HTMLParser):
    """Refuses tags that are not closed in order; collects headings, images and links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.urls: list[str] = []
        self.in_heading = False

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "img":
            self.images.append(found)
        self.urls += [v for k, v in attrs if k in ("src", "href") and v]
        if tag not in VOID:
            self.open.append(tag)
        self.in_heading = tag == "h2"

    def handle_startendtag(self, tag, attrs):
        self.urls += [v for k, v in attrs if k in ("src", "href") and v]

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.open, tag
        assert self.open.pop() == tag
        self.in_heading = False

    def handle_data(self, data):
        if self.in_heading:
            self.headings.append(data.strip())


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    return parser


EXAMPLES = {
    "ring": lambda: ring(rows=1500),
    "one column": lambda: table(1, rows=800),
    "two columns": lambda: table(2, rows=800),
    "ten columns": lambda: table(10, rows=800),
    "fifty columns": lambda: table(50, rows=800),
    "many states": lambda: table(3, modes=32, rows=1500),
    "one state": lambda: table(3, modes=1, idle=0, rows=800),
    "no states": lambda: dataclasses.replace(table(3, modes=1, idle=0, rows=800), states=[]),
}


@functools.cache
def rendered(name: str) -> str:
    return render_report(EXAMPLES[name]())


def prose(page: str) -> str:
    """The page without its pictures."""
    return re.sub(r"data:image/[^\"')]+", "", page)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_is_whole_and_loads_nothing(name):
    data, page = EXAMPLES[name](), rendered(name)
    found = parsed(page)
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "<title>" in page
    assert all(u.startswith(("data:image/", "#")) for u in found.urls)
    assert not re.search(r"url\((?!['\"]?data:)", page)
    assert "<script" not in page
    assert all(image.get("alt") for image in found.images)
    assert found.images
    words = " ".join(found.headings)
    assert "Likelihood" in words
    assert "Worst rows" in words
    assert ("States" in words) == bool(data.states)
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b|https?:|//www", prose(page))


def test_the_same_report_twice():
    assert render_report(EXAMPLES["ring"]()) == rendered("ring")


def test_names_from_the_data_are_escaped():
    data = table(3, rows=300)
    data.columns = ["<script>alert(1)</script>", "a & b", "'\"x\"'"]
    for column, name in zip(data.data_summary.columns, data.columns, strict=True):
        column.name = name
    data.title = "<b>title</b>"
    page = render_report(data)
    parsed(page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<b>title</b>" not in page


def test_likelihoods_carry_kind_error_and_rows():
    page = rendered("ring")
    assert "−2.861" in page or "−2.86" in page
    assert "exact" in page
    assert "lower bound" in prose(rendered("ten columns"))


def test_nothing_is_cut_off_on_a_narrow_screen():
    # The rules by which a page of 400 pixels was looked at: pictures shrink, and in a table whose rows become
    # blocks every cell says which column it is of.
    page = rendered("ring")
    narrow = page[page.index("@media (max-width: 40rem)") :]
    assert "figure.wide img, figure.chart img { min-width: 0; }" in narrow
    stacked = re.findall(r'<table class="stack">(.*?)</table>', page, re.S)
    assert len(stacked) == 2
    for part in stacked:
        headers = re.findall(r'<th scope="col"[^>]*>([^<]+)</th>', part)[1:]
        for row in re.findall(r'<tr[^>]*>\s*<th scope="row">.*?</tr>', part, re.S):
            cells = re.findall(r"<td[^>]*>", row)
            assert [re.search('data-label="([^"]+)"', cell)[1] for cell in cells] == headers


def test_bounds_are_not_compared_as_if_exact():
    ours = LikelihoodRow("NVF", -12.4, 0.1, "lower bound", 1000, role="model")
    above = compare(ours, LikelihoodRow("flow", -13.4, 0.1, "exact", 1000))
    below = compare(ours, LikelihoodRow("flow", -11.4, 0.1, "exact", 1000))
    # A lower bound that is higher proves something; one that is lower does not.
    assert above.verdict != below.verdict


def test_bounds_by_the_same_offsets_are_compared_in_pairs():
    def row(name, role="baseline", own="exact", **options):
        kind = "lower bound"
        return LikelihoodRow(name, -12.0, 0.1, kind, 1000, role=role, own_kind=own, **options)

    ours = row("NVF", "model")
    pair = {"difference": -0.5, "difference_standard_error": 0.1}
    worse = compare(ours, row("mixture", **pair))
    assert worse.verdict == "worse" and "both dequantised alike" in worse.words
    # A bound of its own remains one, and so do offsets that are not shared.
    assert compare(row("NVF", "model", "lower bound"), row("mixture", **pair)).verdict == "not decided"
    apart = LikelihoodRow("other", -11.0, 0.1, "lower bound", 1000, own_kind="exact")
    assert compare(ours, apart).verdict == "not decided"


BARE = {
    "likelihoods": [],
    "history": [],
    "samples": None,
    "sample_states": None,
    "density": None,
    "worst_rows": [],
    "states": [],
    "warnings": [],
    "truth": [],
}


def test_what_is_missing_is_left_out():
    page = render_report(dataclasses.replace(ring(rows=300), **BARE))
    headings = " ".join(parsed(page).headings)
    assert "No training history was recorded" in page
    assert "No likelihood was measured" in page
    for absent in ("Worst", "States", "Likelihood", "truth", "Warning", "beside samples"):
        assert absent not in headings
    bare = dataclasses.replace(ring(rows=300), **BARE, data=None, data_states=None)
    assert parsed(render_report(bare)).images == []


def test_every_section_of_a_full_report():
    page = rendered("ring")
    headings = parsed(page).headings
    expected = ["Likelihood", "Beside the truth", "Data beside samples", "Training", "States", "Columns"]
    assert headings == [*expected, "Worst rows", "How to repeat this", "Definitions"]
    links = re.findall(r'href="#([^"]+)"', page)
    assert all(f'id="{link}"' in page for link in links)
    text = prose(page)
    for words in ("modeflow 0.1.0", "seed 0", "3 min 12 s", "modeflow fit ring8", "0.034 %", "n_states: 8"):
        assert words in text
    assert "prefers-color-scheme: dark" in text
    assert '<meta name="viewport"' in text


def test_tables_have_captions_and_headers():
    page = rendered("ring")
    for found in re.findall(r"<table>.*?</table>", page, flags=re.DOTALL):
        assert "<caption>" in found
        assert re.search(r'<th scope="row"', found)
        assert "<th>" not in found
        rows = re.findall(r"<tr.*?</tr>", found.split("<tbody>")[1], flags=re.DOTALL)
        assert len({len(re.findall(r"<t[hd][ >]", row)) for row in rows}) == 1


def test_notes_and_warnings_are_shown_and_escaped():
    data = dataclasses.replace(
        ring(rows=300),
        **{
            **BARE,
            "warnings": ["a < b"],
            "notes": ["seen & noted"],
            "truth": [{"name": "entropy", "value": 3.0, "best": "2.800"}],
        },
    )
    page = render_report(data)
    assert "a &lt; b" in page
    assert "seen &amp; noted" in page
    assert "2.800" in page


def test_writing(tmp_path):
    bare = dataclasses.replace(ring(rows=300), **BARE, data=None, data_states=None)
    path = write_report(bare, tmp_path / "r.html")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    assert write_report(bare, tmp_path).name == "report.html"
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        write_report(bare, tmp_path / "file" / "r.html")


def test_a_failed_write_keeps_the_old_page(tmp_path, monkeypatch):
    bare = dataclasses.replace(ring(rows=300), **BARE, data=None, data_states=None)
    path = write_report(bare, tmp_path / "r.html")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match="No space left"):
        write_report(dataclasses.replace(bare, title="another"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_plots_leave_the_users_settings_alone(tmp_path):
    before = copy.deepcopy(dict(matplotlib.rcParams))
    data = ring(rows=400)
    figure = plot_density(
        data.data, data.samples, data.density, data.data_states, data.sample_states, data.columns
    )
    save_picture(figure, tmp_path / "a.png")
    save_picture(
        plot_pairs(data.data, data.samples, data.data_states, data.sample_states, data.columns),
        tmp_path / "b.svg",
    )
    ((name, curves), *_) = curves_of(data.history).items()
    save_picture(plot_panel_of_curves(name, curves), tmp_path / "c.png")
    save_picture(plot_state_usage(data.states), tmp_path / "d.png")
    assert all((tmp_path / n).stat().st_size > 1000 for n in ("a.png", "b.svg", "c.png", "d.png"))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("n", [0, 1, 2])
def test_hardly_any_rows(n):
    data = dataclasses.replace(ring(rows=300), history=[])
    small = dataclasses.replace(data, data=data.data[:n], data_states=data.data_states[:n])
    parsed(render_report(small))


def test_numbers_that_are_not_finite():
    data = ring(rows=300)
    data.data[3] = np.nan
    data.samples[5] = np.inf
    data.density.log_density[:50] = -np.inf
    data.history[4]["validation_log_likelihood"] = float("nan")
    parsed(render_report(data))


def test_bad_values_are_named():
    with pytest.raises(ConfigError, match="exakt"):
        LikelihoodRow("x", 0.0, kind="exakt")
    with pytest.raises(ShapeError, match="the grid needs"):
        DensityGrid(np.arange(3.0), np.arange(4.0), np.zeros((3, 4)))


def test_the_history_of_the_trainer():
    log = [
        {"epoch": e, "step": 9 * e, "train_loss": 3.0 - e, "validation": e - 3.0, "learning_rate": 1e-3,
         "seconds": 1.0, "usage_entropy": 0.0, "nan_only": float("nan")}
        for e in range(3)
    ]  # fmt: skip
    found = {name.split(",")[0].split(" (")[0]: curves for name, curves in curves_of(log).items()}
    assert list(found) == ["Log-likelihood", "Loss and its terms", "States in use"]
    assert found["Log-likelihood"] == {"validation": [(0, -3), (1, -2), (2, -1)]}
    assert list(found["Loss and its terms"]) == ["train_loss"]
    assert found["States in use"] == {"effective states": [(0, 1), (1, 1), (2, 1)]}


def test_rows_from_arrays():
    values = np.array([[0.0, 1.0], [0.0, 3.0], [5.0, np.nan]])
    columns = describe_columns(values, ["a", "b"])
    assert [c.kind for c in columns] == ["integer", "integer"]
    assert (columns[1].mean, columns[1].missing) == (2.0, 1)
    q = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.0, 1.0, 0.0]])
    soft = tabulate_states(values, q, [0.5, 0.3, 0.2], test_states=[0, 0, 1], test_log_density=[-1, -3, -5])
    assert [s.rows for s in soft] == [2, 1, 0]
    assert [s.usage for s in soft] == pytest.approx([0.5, 0.5, 0.0])
    assert [s.log_density for s in soft] == [-2.0, -5.0, None]
    assert soft[0].mean == [0.0, 2.0]
    assert soft[2].dead
    hard = tabulate_states(values, q.argmax(1), n_states=3)
    assert [s.usage for s in hard] == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert hard[0].prior_weight is None
    worst = find_worst(values, [-1.0, -9.0, -np.inf], [0, 0, 1], 2, numbers=[40, 50, 60])
    assert [(w.row, w.state) for w in worst] == [(61, 1), (51, 0)]
    with pytest.raises(ShapeError):
        find_worst(values, [-1.0])
    with pytest.raises(ShapeError):
        tabulate_states(values, q[:2])


@pytest.mark.parametrize("width", [1, 2])
def test_a_grid_around_the_data(width):
    x = np.random.default_rng(0).normal(size=(500, width))
    grid = DensityGrid.around(lambda rows: -0.5 * (rows**2).sum(1), x, 20)
    assert grid.log_density.shape == (20,) * width
    i = (3, 5)[:width]
    point = [grid.xs[i[-1]]] + ([] if grid.ys is None else [grid.ys[i[0]]])
    assert grid.log_density[i] == pytest.approx(-0.5 * np.sum(np.square(point)))
    with pytest.raises(ShapeError, match="one or two columns"):
        DensityGrid.around(np.sum, np.zeros((4, 3)))


def test_numbers_as_words():
    assert [in_column(v, 2.8) for v in (0.0019, -0.0019, -4.0131)] == ["0.00", "0.00", "−4.01"]
    assert in_column(12345.678, 493.4) == "12,346"
    assert in_column(3.0, 0.4, "integer") == "3"
    assert in_column(None, 1.0) == in_column(float("nan"), 1.0) == "–"
    assert quantity(float("-inf")) == "−∞"
    assert [duration(s) for s in (4.12, 192.4, 7500.0)] == ["4.1 s", "3 min 12 s", "2 h 5 min"]
    names = [label(f"a very long name of a column from an export {j}", 16) for j in range(3)]
    assert len(set(names)) == 3
    assert all(len(n) == 16 for n in names)


def browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def browse(page: Path) -> subprocess.CompletedProcess[str]:
    command = [
        str(browser()), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={page.parent / 'profile'}", "--enable-logging=stderr", "--v=0", "--dump-dom",
        page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


@pytest.mark.browser
@pytest.mark.skipif(browser() is None, reason="no headless browser is installed")
def test_a_browser_renders_it_without_errors(tmp_path):
    page = tmp_path / "r.html"
    page.write_text(rendered("ring"), encoding="utf-8")
    result = browse(page)
    assert result.returncode == 0
    assert "Likelihood" in result.stdout
    assert "CONSOLE" not in result.stderr
    assert "Not allowed to load" not in result.stderr
    assert "Refused to" not in result.stderr


@pytest.mark.browser
@pytest.mark.skipif(browser() is None, reason="no headless browser is installed")
def test_the_browser_check_would_see_an_error(tmp_path):
    """The page's own policy refuses scripts, and the log that the test above reads says so."""
    page = tmp_path / "r.html"
    page.write_text(rendered("ring").replace("</main>", "<script>x</script></main>"), encoding="utf-8")
    result = browse(page)
    assert "CONSOLE" in result.stderr

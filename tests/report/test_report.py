"""The page: whole, self-contained, well formed, the same every time, and honest in its words."""

from __future__ import annotations

import copy
import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from example_reports import ring, table

from modeflow.errors import ConfigError, ShapeError
from modeflow.report import (
    DensityGrid,
    LikelihoodRow,
    plot_density,
    plot_learning_curves,
    plot_pairs,
    plot_state_usage,
    render_report,
    save_picture,
    write_report,
)
from modeflow.report.words import compare

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
    "ring": ring,
    "one column": lambda: table(1),
    "two columns": lambda: table(2),
    "ten columns": lambda: table(10),
    "fifty columns": lambda: table(50),
    "many states": lambda: table(3, modes=32),
    "one state": lambda: dataclasses.replace(table(3, modes=1, idle=0), states=[]),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_is_whole_and_loads_nothing(name):
    data = EXAMPLES[name]()
    page = render_report(data)
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
    text = re.sub(r"data:[^\"')]+", "", page)
    assert not re.search(r"\bnan\b|>None<", text)


def test_the_same_report_twice():
    assert render_report(ring()) == render_report(ring())


def test_names_from_the_data_are_escaped():
    data = table(3)
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
    page = render_report(ring())
    assert "−2.861" in page or "−2.86" in page
    assert "exact" in page
    page = render_report(table(3))
    assert "lower bound" in page


def test_bounds_are_not_compared_as_if_exact():
    ours = LikelihoodRow("NVF", -12.4, 0.1, "lower bound", 1000, role="model")
    above = compare(ours, LikelihoodRow("flow", -13.4, 0.1, "exact", 1000))
    below = compare(ours, LikelihoodRow("flow", -11.4, 0.1, "exact", 1000))
    # A lower bound that is higher proves something; one that is lower does not.
    assert above.verdict != below.verdict


def test_what_is_missing_is_left_out():
    data = dataclasses.replace(
        ring(),
        history=[],
        samples=None,
        sample_states=None,
        density=None,
        worst_rows=[],
        states=[],
        warnings=[],
    )
    page = render_report(data)
    headings = " ".join(parsed(page).headings)
    assert "No training history was recorded" in page
    assert "Worst" not in headings
    assert "States" not in headings


def test_writing(tmp_path):
    path = write_report(ring(rows=300), tmp_path / "r.html")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    assert write_report(ring(rows=300), tmp_path).name == "report.html"
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        write_report(ring(rows=300), tmp_path / "file" / "r.html")


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
    save_picture(plot_learning_curves(data.history), tmp_path / "c.png")
    save_picture(plot_state_usage(data.states), tmp_path / "d.png")
    assert all((tmp_path / n).stat().st_size > 1000 for n in ("a.png", "b.svg", "c.png", "d.png"))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("n", [0, 1, 2])
def test_hardly_any_rows(n):
    data = ring(rows=300)
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


def browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


@pytest.mark.browser
@pytest.mark.skipif(browser() is None, reason="no headless browser is installed")
@pytest.mark.parametrize("name", ["ring", "ten columns"])
def test_a_browser_renders_it_without_errors(tmp_path, name):
    page = write_report(EXAMPLES[name](), tmp_path / "r.html")
    command = [
        str(browser()), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert result.returncode == 0
    assert "Likelihood" in result.stdout
    assert "CONSOLE" not in result.stderr
    assert "Not allowed to load" not in result.stderr

"""Every kind of report is one page of the same parts; a new kind gives its own sections and nothing else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from example_reports import digits, ring
from markupsafe import Markup
from test_report import parsed, prose

from modeflow.report import Column, Definition, Report, Section, Table, gather, render_report, write_report
from modeflow.report.gather import KINDS
from modeflow.report.page import about
from modeflow.report.sections import measured

SCALE = Definition("Scale", Markup("What a <em>string</em> is weighed with."))
MEASURES = [
    {"name": "area under the curve", "value": 0.91234, "standard_error": 0.012, "best": 1},
    {"name": "copies <of> rows", "value": 3},
]


def plain_ring():
    """The table without its pictures, which take long to draw."""
    nothing = {"data": None, "data_states": None, "samples": None, "sample_states": None, "density": None}
    return dataclasses.replace(ring(rows=300), **nothing, history=[])


KINDS_SHOWN = {"table": plain_ring, "image": digits}


@dataclass(kw_only=True)
class Strings(Report):
    """A third kind: nothing but what is abstract."""

    unit = "string"

    def fitted(self):
        return "Fitted to strings."

    def headline(self):
        return "0.5 bits a letter", "less than a coin's & more than none"

    def sections(self):
        table = Table("Letters", "Every letter", [Column("letter", str.upper), Column("n", len, True)], ["a"])
        both = {"definitions": (SCALE,)}
        return [Section("letters", "Letters", ("a < b",), table=table, **both), Section("b", "B", **both)]


def strings(**given):
    return Strings(title="Strings", model="n-gram", **given)


def test_a_third_kind_gives_its_sections_and_gets_the_rest():
    page = render_report(strings(command="modeflow fit strings", seed=3, seconds=2.0, warnings=["odd"]))
    found = parsed(page)
    expected = ["Warning", "Letters", "B", "Training", "How to repeat this", "Definitions"]
    assert found.headings == expected
    for words in (
        "Fitted to strings.", "0.5 bits a letter", "coin&#39;s &amp; more", "a &lt; b", "<caption>Every",
        '<th scope="row">A</th>', '<td class="n">1</td>', "No training history was recorded.", "n-gram.",
        "modeflow fit strings", "seed 3, fitted in 2 s",
    ):  # fmt: skip
        assert words in page, words
    assert page.count("<dt>Scale</dt>") == 1 and "<em>string</em>" in page
    assert "States" not in page and "Measures" not in page and not found.images
    assert all(f'id="{link[1:]}"' in page for link in found.urls)


@pytest.mark.parametrize("kind", [*KINDS_SHOWN, "string"])
def test_what_is_measured_is_shown_for_every_kind(kind):
    report = strings() if kind == "string" else KINDS_SHOWN[kind]()
    report = dataclasses.replace(report, measures=MEASURES)
    page = render_report(report)
    assert "Measures" in parsed(page).headings
    assert "area under the curve" in page and "0.912 ± 0.012" in page and "copies &lt;of&gt; rows" in page
    assert report.summary()["measures"] == MEASURES
    assert "area under the curve: 0.912 ± 0.012 (best: 1)" in report.lines()
    assert "copies <of> rows: 3" in report.lines()
    none = dataclasses.replace(report, measures=[])
    assert "Measures" not in parsed(render_report(none)).headings and "measures" not in none.summary()


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (None, 0.1, "–"),
        ("3 of 4", 0.1, "3 of 4"),
        (0.5, None, "0.5"),
        (-0.5, 0.25, "−0.50 ± 0.25"),
        (7, None, "7"),
    ],
)
def test_a_measure_in_words(value, error, text):
    assert measured({"name": "x", "value": value, "standard_error": error}) == text


def test_the_measures_of_a_run_reach_its_report():
    result = {
        "measures": MEASURES, "n_parameters": 7,
        "codes": {"per_image": 4, "used": 3, "perplexity": 2.5}, "latent": {"count": 8},
    }  # fmt: skip
    config = {"seed": 5, "max_epochs": 8}
    config_of_run = type("Config", (dict,), {"settings": {**config, "none": None}})(config)
    run = SimpleNamespace(
        result=result,
        config=config_of_run,
        command="modeflow fit --config 'a run/config.yaml'",
        warnings=["w"],
        estimator=SimpleNamespace(history_=[]),
    )
    told = about(run)
    values = [m["value"] for m in told["measures"]]
    assert values == ["3 (perplexity 2.5)", 0.91234, 3]
    assert "of 8" in told["measures"][0]["name"]
    assert told["parameters"] == config and (told["seed"], told["n_parameters"]) == (5, 7)
    assert told["command"] == run.command
    strings(**told)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_gathered_by_what_its_data_are(kind, monkeypatch):
    run = SimpleNamespace(config=SimpleNamespace(domain=SimpleNamespace(name=kind)))
    monkeypatch.setitem(KINDS, kind, lambda run, **options: (kind, run, options))
    options = {"baselines": False, "quiet": False, "announce": print}
    assert gather(run, **options) == (kind, run, options)


def test_the_page_of_images():
    page = render_report(digits())
    found = parsed(page)
    expected = [
        "Likelihood",
        "Pictures",
        "Measures",
        "Training",
        "States",
        "How to repeat this",
        "Definitions",
    ]
    assert [h for h in found.headings if h != "Warning"] == expected
    assert all(u.startswith(("data:image/", "#")) for u in found.urls)
    assert all(image["alt"] for image in found.images)
    assert len(found.images) == 2 + 1 + 1  # pictures, the learning curve, the use of the states
    text = prose(page)
    for words in (
        "200 training, 50 validation and 50 test images of 1 × 8 × 8, 17 levels; 12,345 parameters, fitted",
        "2.3540 ± 0.0123 bits per dimension on 50 test images, 0.0270 of it for z",
        "upper bound of the bits", "test, ELBO (above: IWAE, 16 draws)", "test: VAE", "3.4560", "picture 1",
        "about 1", "Temperature", "Fréchet distance", "State, usage, prior weight", "33.3 %",
        "State 2 holds no training image", "seed 0, fitted in 10 s",
    ):  # fmt: skip
        assert words in text, words
    assert not any(w in text for w in ("<script", "http://", "https://", "None", "nan"))
    assert "figure.pixels img { image-rendering: pixelated" in page and '<figure class="pixels">' in page
    assert "States" not in parsed(render_report(digits(states=0))).headings


def test_learning_curves_of_images_are_bits_and_leave_out_the_untrained_model():
    (lines,) = digits().curves().values()
    bits = 64 * 0.6931471805599453
    assert lines["nll"][0] == (1, pytest.approx(119 / bits))
    assert lines["validation"][-1] == (5, pytest.approx(120 / bits))
    short = dataclasses.replace(digits(), history=digits().history[:2])
    assert short.curves() == {} and "Too few epochs" in render_report(short)


def test_long_settings_are_folded_away():
    def repeat(count):
        page = render_report(strings(parameters={f"name{k}": k for k in range(count)}))
        return page[page.index('id="repeat"') : page.index('id="definitions"')]

    assert "<details>" in repeat(40) and "name39: 39" in repeat(40)
    assert "<details>" not in repeat(20)


def test_every_kind_is_written_by_the_same_function(tmp_path):
    for kind, make in KINDS_SHOWN.items():
        (tmp_path / kind).mkdir()
        path = write_report(make(), tmp_path / kind)
        assert path.name == "report.html" and path.read_text(encoding="utf-8").rstrip().endswith("</html>")

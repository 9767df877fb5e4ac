"""README and docs: their numbers are those of the results, their links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_no_number_was_typed_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    documents = runpy.run_path(str(ROOT / "benchmarks" / "page.py"))["documents"]()
    stale = [path.name for path, text in documents.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run benchmarks/page.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_companion_has_a_page():
    from modeflow.models import COMPANIONS

    for name, system in COMPANIONS.items():
        text = (ROOT / "docs" / "models" / f"{name}.md").read_text(encoding="utf-8")
        assert f"--model {name}" in text and f"modeflow.models.{system.recipe}" in text
        assert all(f"## {part}" in text for part in ("Equation", "When to use it", "Cost", "The exact check"))


def test_every_flow_has_a_page():
    from modeflow.flows import FLOWS

    overview = (ROOT / "docs" / "flows.md").read_text(encoding="utf-8")
    for key, info in FLOWS.items():
        page = (ROOT / "docs" / "flows" / f"{key}.md").read_text(encoding="utf-8")
        assert f"`{key}`" in overview
        assert f"`{info.name}`" in page
        for part in ("## Equation", "## Cost", "## When to use it", "## Reference", "https://arxiv.org/"):
            assert part in page, (key, part)
        if info.event == "vector":
            assert f"../images/flows/{key}.png" in page


EXPERIMENTS = ROOT / "src" / "modeflow" / "runs" / "published"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("nsf-*.yaml")), ids=lambda p: p.stem)
def test_published_settings_build(path):
    from modeflow.data import BENCHMARKS
    from modeflow.flows import build_flow
    from modeflow.runs import RunConfig, read_config

    config = RunConfig.build(read_config(path))
    table = BENCHMARKS[config["data"]]
    flow = build_flow(config["model"], table.columns, options=config["flow_options"])
    assert flow.event_shape == (table.columns,)
    # As many steps as published, up to half an epoch.
    steps = {"nsf-coupling-miniboone": 200_000, "nsf-autoregressive-miniboone": 250_000}
    per_epoch = -(-table.rows[0] // config["batch_size"])
    assert abs(config["max_epochs"] * per_epoch - steps.get(path.stem, 400_000)) <= per_epoch / 2
    assert config.estimator().max_epochs == config["max_epochs"]


@pytest.mark.parametrize(
    "path", [EXPERIMENTS / f"{name}.yaml" for name in ("glow-cifar10", "nvf-cifar10", "nvf-fashion-mnist")]
)
def test_settings_of_images_are_known(path):
    from modeflow.data import IMAGE_SETS
    from modeflow.estimators.settings import Settings
    from modeflow.flows import image_flow
    from modeflow.runs import RunConfig, read_config

    config = RunConfig.build(read_config(path))
    known = IMAGE_SETS[config["data"].removeprefix("images/")]
    estimator = config.estimator()
    assert set(Settings.of(estimator, 0).groups) == {"latent_options", "likelihood_options", "training"}
    options = {**estimator.flow_options, "steps": 1, "hidden_channels": 8}
    assert image_flow(estimator.flow, known.shape, 0, options).event_shape == known.shape


def test_the_measured_settings_are_those_of_the_configuration(monkeypatch):
    from modeflow.runs import RunConfig, read_config

    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    measured = runpy.run_path(str(ROOT / "benchmarks" / "images.py"), run_name="images")
    config = RunConfig.build(read_config(EXPERIMENTS / "nvf-fashion-mnist.yaml"))
    estimator = config.estimator()
    for name, value in {**measured["MODELS"]["nvf"], **measured["FIT"]}.items():
        if name in estimator.groups():  # what is left out has its default
            assert config[name] == estimator.groups()[name].of(value, name).to_dict(), name
        elif name not in ("random_state", "device"):
            assert config[name] == value, name


def test_the_navigation_has_every_page():
    """Pages of flows and of the API reference too, which are many."""
    loaded = importlib.util.spec_from_file_location("docs_nav", ROOT / "docs" / "_nav.py")
    hook = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(hook)
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = re.findall(r"[\w/-]+\.md", str(hook.filled(nav, ROOT / "docs")))
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)

"""The report of a run on images: one page, nothing loaded from elsewhere, no script."""

from __future__ import annotations

import base64
import io
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modeflow._version import __version__
from modeflow.data import check_writable, image_grid
from modeflow.experiments import Run
from modeflow.experiments.image_runs import images_of, split_of
from modeflow.metrics import BitsPerDim, GenerationScores, nearest_images, score_samples_of
from modeflow.report import words
from modeflow.report.canvas import to_svg, write_atomic
from modeflow.report.page import template_environment

__all__ = ["ImageReport", "gather_images", "render_image_report", "write_image_report"]

#: Images shown in a panel, and drawn to be measured.
_SHOWN, _MEASURED = 64, 2000
#: Pairs that are interpolated, and images on the way.
_PAIRS, _STEPS = 6, 10
_COOL = 0.7


@dataclass
class Panel:
    """A picture of images: a data URI, what it shows, and a caption."""

    uri: str
    alt: str
    caption: str
    wide: bool = False


@dataclass
class ImageReport:
    """Everything the page of a run on images shows."""

    title: str
    fitted: str
    result: dict[str, Any]
    panels: list[Panel] = field(default_factory=list)
    scores: GenerationScores | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    #: Test bits per dimension of other models on the same images, by name.
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    version: str = __version__


def gather_images(run: Run, announce: Callable[[str], None] | None = None, quiet: bool = True) -> ImageReport:
    """Collect what the report of a run on images shows: draws, decodes and measures.

    Arguments:
        run: from `load_run` or `fit_run`, on images. announce: called with a line before each long step.
        quiet: no progress bar.

    Raises:
        DataError: if the data of the run is not where it was.
    """
    say = announce or (lambda line: None)
    estimator, config = run.estimator, run.config
    estimator.verbose = not quiet
    data = images_of(config)
    split = split_of(data, config)
    seed = config["seed"] + 1
    count = min(_MEASURED, len(split.test))
    say(f"drawing {count} images and measuring them")
    samples, _ = estimator.sample(count, random_state=seed)
    scores = score_samples_of(samples, split.train, split.test, data.levels)
    has_z = estimator.latent in ("continuous", "sequential") or estimator.n_states_ > 1
    drawn = {"prior_temperature": _COOL} if has_z else {}
    cool, _ = estimator.sample(_SHOWN, random_state=seed, temperature=_COOL, **drawn)

    def panel(images: np.ndarray, alt: str, caption: str, columns: int = 8, wide: bool = False) -> Panel:
        return Panel(to_uri(image_grid(images, columns, data.levels)), alt, caption, wide)

    panels = [
        panel(split.train[:_SHOWN], "images of the training part", "training images"),
        panel(samples[:_SHOWN], "images drawn from the model", "samples of the density (temperature 1)"),
        panel(cool, "images drawn at a lower temperature", f"samples at temperature {_COOL}"),
    ]
    if estimator.latent != "none":
        shown = split.test[:16]
        back = estimator.reconstruct(shown)
        panels.append(
            panel(
                _above(shown, back),
                "test images, each above its reconstruction",
                "test images, and below each what z alone gives back",
            )
        )
        a, b = split.test[:_PAIRS], split.test[_PAIRS : 2 * _PAIRS]
        if len(b):
            ways = estimator.interpolate(a[: len(b)], b, _STEPS)
            panels.append(
                panel(
                    ways.reshape(-1, *ways.shape[2:]),
                    "images on the way from one test image to another",
                    "from one test image to another, by z",
                    _STEPS,
                )
            )
    if getattr(estimator, "n_states_", 1) > 1:
        rows = [
            estimator.sample(8, state=k, random_state=seed)[0] for k in range(min(estimator.n_states_, 16))
        ]
        every = np.concatenate(rows)
        panels.append(panel(every, "samples of every state", "samples of each state, a row a state"))
    _, nearest = nearest_images(samples[:8], split.train, data.levels)
    panels.append(
        panel(
            _above(samples[:8], split.train[nearest]),
            "samples, each above its nearest training image",
            "samples, and below each the nearest training image",
        )
    )
    settings = {k: v for k, v in config.settings.items() if v is not None}
    file = shlex.quote(str(run.path / "config.yaml"))
    sizes = run.result["rows"]
    return ImageReport(
        title=f"{_name(config)} fitted to {data.name}",
        fitted=(
            f"{sizes['train']:,} training, {sizes['validation']:,} validation and {sizes['test']:,} test "
            f"images of {' × '.join(map(str, data.shape))}, {data.levels} levels; "
            f"{run.result['n_parameters']:,} parameters, fitted in {words.duration(run.result['seconds'])}."
        ),
        result=run.result,
        panels=panels,
        scores=scores,
        history=estimator.history_,
        parameters=settings,
        command=f"modeflow fit --config {file} -o {shlex.quote(str(run.path) + '-again')}",
        notes=list(data.notes),
        warnings=run.warnings,
    )


def _above(upper: np.ndarray, lower: np.ndarray, columns: int = 8) -> np.ndarray:
    """Rows of `columns` images, each with its partners below it."""
    rows = [part[i : i + columns] for i in range(0, len(upper), columns) for part in (upper, lower)]
    return np.concatenate(rows)


def _name(config: Any) -> str:
    model = config["model"]
    if model == "nvf":
        return f"NVF with a {config['latent']} latent"
    return {"vae": "VAE", "vq-vae": "VQ-VAE", "discrete-vae": "Discrete VAE"}.get(
        model, f"Plain flow {model}"
    )


def to_uri(picture: np.ndarray) -> str:
    """A picture as a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _curves(report: ImageReport) -> list[Panel]:
    """Learning curves in bits per dimension."""
    from modeflow.report import curves

    dims = float(np.prod(report.result["shape"])) * np.log(2)
    lines: dict[str, list[tuple[float, float]]] = {}
    for epoch, row in enumerate(report.history):
        for key in ("nll", "code_length", "kl", "validation"):
            value = row.get(key)
            # Epoch 0 is the model before it was trained: it would set the scale of the axis.
            if value is not None and epoch:
                sign = -1 if key == "validation" else 1
                lines.setdefault(key, []).append((epoch, sign * value / dims))
    if not any(len(points) > 1 for points in lines.values()):
        return []
    name = "Bits per dimension (lower is better)"
    alt = f"{name} over {words.plural(len(report.history), 'epoch')}: {', '.join(lines)}"
    return [Panel(to_svg(curves.plot_panel_of_curves(name, lines)), alt, name)]


def _rows(report: ImageReport) -> list[dict[str, str]]:
    found = []
    bits_of = report.result["bits_per_dim"]
    known = {"test": bits_of["test"], "validation": bits_of["validation"]}
    bounds = report.result.get("bounds")
    if bounds:
        known[f"test, ELBO (above: IWAE, {bounds['draws']} draws)"] = bounds["elbo"]
    known |= {f"test: {name}": row for name, row in report.others.items()}
    for part, row in known.items():
        bits = BitsPerDim.from_dict(row)
        found.append(
            {
                "part": part,
                "value": f"{bits.value:.4f} ± {bits.standard_error:.4f}",
                "kind": {"exact": "exact", "lower bound": "upper bound of the bits"}.get(
                    bits.kind, bits.kind
                ),
                "latent": f"{bits.code_length:.4f}" if bits.code_length else "–",
                "n": f"{bits.n:,}",
            }
        )
    return found


def _measures(report: ImageReport) -> list[tuple[str, str, str]]:
    """Name, this model's value, and what a perfect one would have."""
    rows: list[tuple[str, str, str]] = []
    s = report.scores
    if s is not None:
        m = s.memorisation
        rows += [
            (
                f"Fréchet distance in the features {s.features} ({s.n:,} images; not FID)",
                f"{s.frechet:.2f}",
                f"{s.frechet_test:.2f} (training images)",
            ),
            (
                "precision: samples that look like test images",
                f"{s.precision_recall.precision:.3f}",
                "about 1",
            ),
            ("recall: test images that samples cover", f"{s.precision_recall.recall:.3f}", "about 1"),
            (
                "distance to the nearest training image (median, share of the range)",
                f"{m.generated:.3f}",
                f"{m.test:.3f} (test images)",
            ),
            (
                "samples nearer to a training image than 99 % of the test images",
                f"{100 * m.closer:.1f} % ± {100 * m.standard_error:.1f}",
                "1 %",
            ),
            ("samples that equal a training image", str(m.copies), "0"),
        ]
    if "reconstruction_rmse" in report.result:
        rows.append(
            (
                "error of z alone on test images (root mean square, share of the range)",
                f"{report.result['reconstruction_rmse']:.3f}",
                "",
            )
        )
    codes = report.result.get("codes")
    if codes:
        rows.append(
            (
                f"codes in use, of {report.parameters.get('n_codes', '?')} ({codes['per_image']} an image)",
                f"{codes['used']} (perplexity {codes['perplexity']:.1f})",
                "",
            )
        )
    return rows


def render_image_report(report: ImageReport) -> str:
    """The page as HTML."""
    import yaml

    test = _rows(report)[0]
    headline = f"{test['value']} bits per dimension on {test['n']} test images"
    if test["latent"] != "–":
        headline += f", {test['latent']} of it for z"
    return (
        template_environment()
        .get_template("images.html.jinja")
        .render(
            d=report,
            headline=headline,
            rows=_rows(report),
            measures=_measures(report),
            learning=_curves(report),
            config=yaml.safe_dump(report.parameters, sort_keys=False, allow_unicode=True).rstrip(),
        )
    )


def write_image_report(report: ImageReport, path: str | os.PathLike[str]) -> Path:
    """Write the page, all at once or not at all; returns its path.

    Raises:
        DataError: the file cannot be written.
    """
    target = check_writable(Path(path).expanduser())
    return write_atomic(target, render_image_report(report).encode("utf-8"))

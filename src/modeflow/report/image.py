"""The report of images: bits per dimension, samples, reconstructions, and measures of the samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from modeflow.data import ImageSplit, image_grid
from modeflow.metrics import BitsPerDim, GenerationScores, nearest_images, score_samples_of
from modeflow.models import COMPANIONS
from modeflow.report import words
from modeflow.report.contents import StateRow
from modeflow.report.latent import latent_pictures
from modeflow.report.page import Report, about
from modeflow.report.sections import Column, Definition, Picture, Section, Table, kind
from modeflow.report.tabulate import tabulate_states
from modeflow.runs import Run

__all__ = ["ImageReport", "gather_image"]

#: Images shown in a panel; drawn to be measured; whose states are counted.
_SHOWN, _MEASURED, _COUNTED = 64, 2000, 2000
#: Pairs that are interpolated, and images on the way; states whose samples are shown.
_PAIRS, _STEPS, _STATES = 6, 10, 16
_COOL = 0.7

_LIKELIHOOD_TERMS = (
    Definition(
        "Bits per dimension",
        "Minus the logarithm to base two of the probability of an image, divided by its number of values "
        "(channels times height times width). Of a lower bound on the probability these bits are an upper "
        "bound.",
    ),
    Definition(
        "What z costs",
        "The part of these bits that says z: the length of the codes under their prior, or the divergence "
        "of the posterior from the prior. A likelihood that leaves it out can be made as small as one "
        "likes.",
    ),
)
_TEMPERATURE = Definition(
    "Temperature",
    "The noise of the flow, or the spread of pixels, multiplied by it. Only temperature 1 samples the "
    "density.",
)
_MEASURE_TERMS = (
    Definition(
        "Fréchet distance",
        "The distance between Gaussians fitted to features of samples and of test images. The features are "
        "those of a small classifier of digits, clothes and letters, so it is to be compared with itself "
        "alone, at equal numbers of images. It is not FID.",
    ),
    Definition(
        "Precision and recall",
        "The share of samples within the third neighbour's distance of a test image, and the reverse, in "
        "the same features.",
    ),
)


@dataclass(kw_only=True)
class ImageReport(Report):
    """Everything the report of a run on images shows.

    Attributes:
        result: what was measured as the run was fitted.
        pictures: of data, samples and what z knows. scores: of the samples.
        others: test bits per dimension of other models on the same images, by name.
    """

    unit: ClassVar[str] = "image"
    measure_definitions: ClassVar = _MEASURE_TERMS

    result: dict[str, Any]
    pictures: list[Picture] = field(default_factory=list)
    scores: GenerationScores | None = None
    others: dict[str, dict[str, Any]] = field(default_factory=dict)

    def fitted(self) -> str:
        r = self.result
        sizes, shape = r["rows"], " × ".join(map(str, r["shape"]))
        text = (
            f"{sizes['train']:,} training, {sizes['validation']:,} validation and {sizes['test']:,} test "
            f"images of {shape}, {r['levels']} levels; {words.integer(self.n_parameters)} parameters"
        )
        return text + ("." if self.seconds is None else f", fitted in {words.duration(self.seconds)}.")

    def headline(self) -> tuple[str, str]:
        test = self._bits()["test"]
        text = f"{_value(test)} bits per dimension on {test.n:,} test images"
        return text + (f", {test.code_length:.4f} of it for z" if test.code_length else ""), ""

    def _bits(self) -> dict[str, BitsPerDim]:
        """Every likelihood that the page shows, by what was scored."""
        measured, bounds = self.result["bits_per_dim"], self.result.get("bounds")
        rows = {"test": measured["test"], "validation": measured["validation"]}
        if bounds:
            rows[f"test, ELBO (above: IWAE, {bounds['draws']} draws)"] = bounds["elbo"]
        rows |= {f"test: {name}": row for name, row in self.others.items()}
        return {part: BitsPerDim.from_dict(row) for part, row in rows.items()}

    def sections(self) -> list[Section]:
        of_bits = {"lower bound": "upper bound of the bits"}
        columns = [
            Column("images", lambda r: r[0]),
            Column("bits per dimension", lambda r: _value(r[1]), True),
            Column("kind", lambda r: kind(of_bits.get(r[1].kind, r[1].kind))),
            Column("of it for z", lambda r: f"{r[1].code_length:.4f}" if r[1].code_length else "–", True),
            Column("images", lambda r: f"{r[1].n:,}", True),
        ]
        table = Table(
            "Bits per dimension",
            "Bits per dimension of validation and test images",
            columns,
            list(self._bits().items()),
            css=lambda r: "model" if r[0] == "test" else "",
            stacked=True,
        )
        note = (
            "At the images' own channels, size and levels, what z costs included; ± is a standard error "
            "over all images of the part."
        )
        bits = Section("likelihood", "Likelihood", table=table, note=note, definitions=_LIKELIHOOD_TERMS)
        return [bits, Section("pictures", "Pictures", pictures=self.pictures, definitions=(_TEMPERATURE,))]

    def curves(self) -> dict[str, dict[str, list[tuple[float, float]]]]:
        """Learning curves in bits per dimension."""
        dims = float(np.prod(self.result["shape"])) * np.log(2)
        lines: dict[str, list[tuple[float, float]]] = {}
        for epoch, row in enumerate(self.history):
            for key in ("nll", "code_length", "kl", "validation"):
                value = row.get(key)
                # Epoch 0 is the model before it was trained: it would set the scale of the axis.
                if value is not None and epoch:
                    sign = -1 if key == "validation" else 1
                    lines.setdefault(key, []).append((epoch, sign * value / dims))
        if not any(len(points) > 1 for points in lines.values()):
            return {}
        return {"Bits per dimension (lower is better)": lines}

    def summary(self) -> dict[str, Any]:
        samples = None if self.scores is None else self.scores.to_dict()
        return {"bits_per_dim": self.result["bits_per_dim"], "samples": samples, **super().summary()}

    def lines(self) -> list[str]:
        return [str(self._bits()["test"]), *super().lines()]


def _value(bits: BitsPerDim) -> str:
    return f"{bits.value:.4f} ± {bits.standard_error:.4f}"


def _of_samples(s: GenerationScores) -> list[dict[str, Any]]:
    """Measures of samples, and what a perfect model would have."""
    m, both = s.memorisation, s.precision_recall
    frechet = f"Fréchet distance in the features {s.features} ({s.n:,} images; not FID)"
    nearest = "distance to the nearest training image (median, share of the range)"
    closer = "samples nearer to a training image than 99 % of the test images, per cent"
    rows = [
        (frechet, s.frechet, f"{s.frechet_test:.2f} (training images)"),
        ("precision: samples that look like test images", both.precision, "about 1"),
        ("recall: test images that samples cover", both.recall, "about 1"),
        (nearest, m.generated, f"{m.test:.3f} (test images)"),
        (closer, 100 * m.closer, 1, 100 * m.standard_error),
        ("samples that equal a training image", m.copies, 0),
    ]
    return [dict(zip(("name", "value", "best", "standard_error"), row, strict=False)) for row in rows]


def gather_image(
    run: Run,
    *,
    baselines: bool = True,
    quiet: bool = True,
    announce: Callable[[str], None] | None = None,
) -> ImageReport:
    """Collect what the report of a run on images shows: draws, decodes and measures; see `gather`.

    `baselines` is not used: no model is fitted beside one of images.
    """
    estimator, config = run.estimator, run.config
    estimator.verbose = not quiet
    data = config.domain.load(config.settings)
    # Whole images, also where pixels were hidden from the model: it is they that samples are to be like.
    split = config.domain.split(data, {**config.settings, "hide": None, "mask": None})
    assert isinstance(split, ImageSplit)
    count = min(_MEASURED, len(split.test))
    if announce is not None:
        announce(f"drawing {count} images and measuring them")
    samples, _ = estimator.sample(count, random_state=config["seed"] + 1)
    scores, told = score_samples_of(samples, split.train, split.test, data.levels), about(run)
    return ImageReport(
        **{**told, "measures": [*_of_samples(scores), *told["measures"]]},
        title=f"{_name(config)} fitted to {data.name}",
        model=_name(config),
        notes=list(data.notes),
        result=run.result,
        pictures=_pictures(estimator, split, samples, config["seed"] + 1),
        scores=scores,
        states=_states(estimator, split),
    )


def _pictures(estimator: Any, split: ImageSplit, samples: np.ndarray, seed: int) -> list[Picture]:
    """Data and samples; what z alone knows of an image, the way between two, and samples of every state."""

    def panel(images: np.ndarray, alt: str, caption: str, columns: int = 8) -> Picture:
        return Picture.pixels(image_grid(images, columns, estimator.domain_.levels), alt, caption)

    latent = estimator.latent_.describe().kind
    has_states, has_z = estimator.n_states_ > 1, latent in ("continuous", "codes")
    prior = getattr(estimator.latent_, "prior", None)
    cooled = (has_z or has_states) and (prior is None or prior.tempers)
    drawn = {"prior_temperature": _COOL} if cooled else {}
    cool, _ = estimator.sample(_SHOWN, random_state=seed, temperature=_COOL, **drawn)
    found = [
        panel(split.train[:_SHOWN], "images of the training part", "training images"),
        panel(samples[:_SHOWN], "images drawn from the model", "samples of the density (temperature 1)"),
        panel(cool, "images drawn at a lower temperature", f"samples at temperature {_COOL}"),
    ]
    if latent != "none":
        shown = split.test[:16]
        alt = "test images, each above its reconstruction"
        back = _above(shown, estimator.reconstruct(shown))
        found.append(panel(back, alt, "test images, and below each what z alone gives back"))
        a, b = split.test[:_PAIRS], split.test[_PAIRS : 2 * _PAIRS]
        if len(b):
            ways = estimator.interpolate(a[: len(b)], b, _STEPS)
            alt = "images on the way from one test image to another"
            every = ways.reshape(-1, *ways.shape[2:])
            found.append(panel(every, alt, "from one test image to another, by z", _STEPS))
    if has_states:
        states = range(min(estimator.n_states_, _STATES))
        every = np.concatenate([estimator.sample(8, state=k, random_state=seed)[0] for k in states])
        found.append(panel(every, "samples of every state", "samples of each state, a row a state"))
    _, nearest = nearest_images(samples[:8], split.train, estimator.domain_.levels)
    alt = "samples, each above its nearest training image"
    pairs = _above(samples[:8], split.train[nearest])
    found.append(panel(pairs, alt, "samples, and below each the nearest training image"))
    if latent == "continuous":
        found += latent_pictures(estimator.encode(split.test[:_MEASURED]))
    return found


def _above(upper: np.ndarray, lower: np.ndarray, columns: int = 8) -> np.ndarray:
    """Rows of `columns` images, each with its partners below it."""
    rows = [part[i : i + columns] for i in range(0, len(upper), columns) for part in (upper, lower)]
    return np.concatenate(rows)


def _states(estimator: Any, split: ImageSplit) -> list[StateRow]:
    if estimator.n_states_ < 2:
        return []
    train, test = split.train[:_COUNTED], split.test[:_COUNTED]
    return tabulate_states(
        None,
        estimator.encode(train),
        estimator.weights_.tolist(),
        test_states=estimator.encode(test),
        test_log_density=estimator.score_samples(test),
    )


def _name(config: Any) -> str:
    model = config["model"]
    if model == "nvf":
        return f"NVF with a {config['latent']} latent"
    return COMPANIONS[model].title if model in COMPANIONS else f"Plain flow {model}"

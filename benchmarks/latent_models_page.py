"""docs/latent_models.md, from results/latent_models.json: bounds, what they decide, and published values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latent_contestants import CONTESTANTS, Contestant
from markdown_parts import number, place, table

GROUPS = {
    "bernoulli": "Probabilities of binarised images",
    "gaussian": "Densities about zeros and ones",
    "pinwheel": "Collapse: a pinwheel in two dimensions",
}
#: What is claimed, the better model, the worse, and by whom.
CLAIMS = (
    ("VLAE above VAE", "vlae", "vae", "Park et al. 2019"),
    ("S-VAE above VAE at d = 2", "s-vae-2", "vae-2", "Davidson et al. 2018"),
    ("IAF posterior above a diagonal one", "flow-vae-iaf", "vae", "Kingma et al. 2016"),
    ("flow prior above a Gaussian one", "vae-flow-prior", "vae", "Xie et al. 2023, and others before"),
    ("IWAE above VAE", "iwae", "vae", "Burda et al. 2016"),
    ("LAE, by its last layer, above VAE", "lae-layer", "vae", "Taniguchi et al. 2022"),
    (
        "a diffusion bridge no worse than an autoregressive prior",
        "bridge-vq-vae",
        "vq-vae",
        "Cohen et al. 2022",
    ),
)
#: Of these "no worse" is claimed.
NO_WORSE = ("bridge-vq-vae",)
#: Other pairs of interest: nobody's claim here.
PAIRS = (
    ("mixture prior, over a Gaussian one", "vae-mixture-prior", "vae"),
    ("spline posterior, over a diagonal one", "flow-vae-nsf", "vae"),
    ("planar posterior, over a diagonal one", "flow-vae-planar", "vae"),
    ("radial posterior, over a diagonal one", "flow-vae-radial", "vae"),
    ("MAF posterior, over a diagonal one", "flow-vae-maf", "vae"),
    ("latent flow, over the VAE with a flow prior", "latent-flow", "vae-flow-prior"),
    ("VAE, ours over that of pythae", "vae", "pythae-vae"),
    ("IAF posterior, ours over that of pythae", "flow-vae-iaf", "pythae-iaf"),
    ("S-VAE, ours over that of pythae", "s-vae-2", "pythae-svae-2"),
)
#: Of LIDVAE: the model, what it is beside, and what of z is compared.
USES = (
    ("LIDVAE uses more numbers of z than a VAE of the same noise", "lidvae", "vae-gaussian", "active"),
    (
        "LIDVAE keeps z where a VAE of Gaussian noise lets go of it",
        "pinwheel-lidvae", "pinwheel-vae", "mutual_information",
    ),
    (
        "LIDVAE keeps z where a VAE whose decoder is a flow lets go of it",
        "pinwheel-lidvae", "pinwheel-vae-flow", "mutual_information",
    ),
)  # fmt: skip
#: Epochs below which a model has only begun.
_FEWEST_EPOCHS = 4
#: Mutual information, nats, from which a difference is one.
LEAST = 0.1
#: Negative log-likelihoods on MNIST, nats.
PUBLISHED = (
    ("VAE", 89.8, "a layer or two of 200 to 400 units or small convolutions, diagonal posterior"),
    ("IWAE", 86.8, "the same, another objective"),
    ("HVAE", 86.2, "the same, Hamiltonian steps"),
    ("VampPrior", 85.8, "the same, a mixture of posteriors for the prior"),
    ("PIWAE", 84.6, "the same, another objective for the encoder"),
    ("VAE, IAF posterior", 79.9, "residual convolutional networks, several layers of z"),
    ("VAE, flow decoder", 79.5, "another kind of decoder"),
    ("variational lossy autoencoder (Chen)", 79.0, "autoregressive decoder and flow prior"),
)


class Found:
    """Results by model and seed.

    Arguments:
        content: of the file. contestants: what they are of.
    """

    def __init__(
        self, content: Mapping[str, Any], contestants: Mapping[str, Contestant] = CONTESTANTS
    ) -> None:
        self.content, self.contestants = content, contestants
        self.runs: dict[str, dict[int, dict[str, Any]]] = {}
        for run in content["runs"]:
            if "error" not in run:
                self.runs.setdefault(run["model"], {})[run["seed"]] = run
        self.failed = [run for run in content["runs"] if "error" in run]

    def of(self, group: str) -> list[str]:
        """Models of a group, the highest bound first."""
        names = [name for name in self.runs if self.contestants[name].group == group]
        return sorted(names, key=lambda name: -self.bound(name)[0])

    def mean(self, name: str, key: str) -> float | None:
        """Mean over seeds of a number; None where it has none."""
        values = [run.get(key) for run in self.runs[name].values()]
        return None if None in values else float(np.mean(values))

    def bound(self, name: str) -> tuple[float, float]:
        """Mean over seeds and test images, and its standard error over images."""
        groups = np.mean([run["groups"] for run in self.runs[name].values()], 0)
        return float(np.mean([r["test"]["value"] for r in self.runs[name].values()])), _error(groups)

    def course(self, name: str) -> dict[int, float]:
        """Mean over seeds of the validation, by epoch, where all of them have it."""
        curves = [{int(e): v for e, _, v in run["curve"]} for run in self.runs[name].values()]
        common = set.intersection(*(set(c) for c in curves))
        return {e: float(np.mean([c[e] for c in curves])) for e in sorted(common)}

    def difference(self, better: str, worse: str) -> tuple[list[float], float, float] | None:
        """Of each seed that both have, the mean, and its standard error; None for fewer than two seeds.

        The error adds that over groups of images, paired, and that of the mean over seeds.
        """
        if better not in self.runs or worse not in self.runs:
            return None
        one, other = self.runs[better], self.runs[worse]
        seeds = sorted(set(one) & set(other))
        if len(seeds) < 2:
            return None
        each = [one[s]["test"]["value"] - other[s]["test"]["value"] for s in seeds]
        paired = np.mean([np.subtract(one[s]["groups"], other[s]["groups"]) for s in seeds], 0)
        spread = float(np.std(each, ddof=1)) / len(each) ** 0.5
        return each, float(np.mean(each)), float(np.hypot(_error(paired), spread))


def _error(groups: Any) -> float:
    return float(np.std(groups, ddof=1) / np.sqrt(len(groups)))


def verdict(each: Sequence[float], mean: float, error: float, no_worse: bool = False) -> str:
    """What a difference says of a claim: two standard errors from zero, and all seeds on that side."""
    if mean > 2 * error and min(each) > 0:
        return "holds"
    if mean < -2 * error and max(each) < 0:
        return "does not hold"
    return "holds, within the error" if no_worse and mean > 0 else "undecided"


def used(found: Found, better: str, worse: str, key: str) -> tuple[list[float], list[float], str] | None:
    """What two models use of z, by seed, and what that says."""
    if better not in found.runs or worse not in found.runs:
        return None
    seeds = sorted(set(found.runs[better]) & set(found.runs[worse]))
    if len(seeds) < 2:
        return None
    one, other = ([found.runs[name][s][key] for s in seeds] for name in (better, worse))
    gaps, least = np.subtract(one, other), 0 if key == "active" else LEAST
    said = "holds" if min(gaps) > least else "does not hold" if max(gaps) < -least else "undecided"
    return one, other, said


def _seeds(values: Sequence[float], digits: int) -> str:
    return ", ".join(number(v, digits) for v in values)


def claims(content: Mapping[str, Any]) -> list[list[str]]:
    """Rows of a table: the claim, who claims it, the differences by seed, their mean, and the verdict."""
    found, rows = Found(content), []
    for text, better, worse, who in CLAIMS:
        gap = found.difference(better, worse)
        if gap is not None:
            mean = f"{number(gap[1], 2)} ± {gap[2]:.2f}"
            rows.append([text, who, _seeds(gap[0], 2), mean, verdict(*gap, better in NO_WORSE)])
    for text, better, worse, key in USES:
        gap_of = used(found, better, worse, key)
        if gap_of is not None:
            one, other, said = gap_of
            digits = 0 if key == "active" else 2
            each = f"{_seeds(one, digits)} against {_seeds(other, digits)}"
            unit = "active units" if key == "active" else "nats of mutual information"
            rows.append([text, "Wang et al. 2021", each, unit, said])
    return rows


def pairs(content: Mapping[str, Any]) -> list[list[str]]:
    """Rows of a table: other pairs, their differences by seed, and the mean."""
    found, rows = Found(content), []
    for text, better, worse in PAIRS:
        gap = found.difference(better, worse)
        if gap is not None:
            rows.append([text, _seeds(gap[0], 2), f"{number(gap[1], 2)} ± {gap[2]:.2f}"])
    return rows


def equal_epochs(content: Mapping[str, Any]) -> list[str]:
    """Models at the same epochs, by their validation images: the dear one sees fewer in the same time."""
    found, sentences = Found(content), []
    for dear, cheap in (("vlae", "vae"), ("s-vae-2", "vae-2"), ("flow-vae-iaf", "vae")):
        if not {dear, cheap} <= set(found.runs):
            continue
        one, other = found.course(dear), found.course(cheap)
        shared = [e for e in sorted(set(one) & set(other)) if e & (e - 1) == 0]
        if shared:
            last = shared[-1]
            titles = (CONTESTANTS[name].title for name in (dear, cheap))
            sentences.append(
                f"{next(titles)} {number(one[last], 2)} and {next(titles)} {number(other[last], 2)} after {last} epochs"
            )
    if not sentences:
        return []
    return [
        "In the same time a dear model sees fewer epochs. At the same number of them, the bound by 8 draws of the validation images is, in "
        f"nats: {'; '.join(sentences)}.",
        "",
    ]


def _cells(found: Found, name: str, group: str) -> list[str]:
    runs = list(found.runs[name].values())
    value, error = found.bound(name)
    contestant, kind = found.contestants[name], runs[0]["test"]["kind"]

    def cell(key: str, digits: int) -> str:
        mean = found.mean(name, key)
        return "–" if mean is None else number(mean, digits)

    elbo = [r["elbo"]["value"] for r in runs if "elbo" in r]
    use = "–"
    if all("active" in r for r in runs):
        use = f"{_seeds([r['active'] for r in runs], 0)} of {runs[0]['dimensions']}"
    elif "codes" in runs[0]:
        use = f"{_seeds([r['codes']['used'] for r in runs], 0)} codes"
    elif "states_used" in runs[0]:
        use = f"{_seeds([r['states_used'] for r in runs], 0)} states"
    bound = f"{number(value, 2)} ± {error:.2f}"
    first = [
        f"{contestant.title} ({contestant.z})",
        bound,
        kind,
        "–" if not elbo else number(np.mean(elbo), 2),
    ]
    spent = [cell("seconds_an_epoch", 2), _seeds([r["epochs"] for r in runs], 0)]
    if group == "pinwheel":
        return [*first, cell("mutual_information", 2), use, *spent]
    wrong = np.mean([r["wrong_pixels"]["value"] for r in runs])
    sampled = [cell("frechet", 1)] if group == "bernoulli" else []
    size = f"{runs[0]['parameters'] / 1e6:.2f}"
    return [*first, cell("rate", 1), use, number(wrong, 1), *sampled, *spent, size]


def _header(group: str) -> list[str]:
    first = ["model (z)", "test, nats", "kind", "ELBO"]
    spent = ["s an epoch", "epochs"]
    if group == "pinwheel":
        return [*first, "mutual information", "active", *spent]
    sampled = ["Fréchet"] if group == "bernoulli" else []
    return [*first, "z costs", "active or used", "wrong pixels", *sampled, *spent, "million parameters"]


_SAYS = {
    "bernoulli": "*z costs*: the mean of log q(z|x) − log p(z), or of the code's length, nats. *Active*: numbers of z whose mean under q "
    "varies from image to image by more than 0.01. *Wrong pixels*: of 784, where an image and its reconstruction differ, rounded. "
    "*Fréchet*: of 2,000 samples, in the features of the small classifier that comes with the package; it is not FID.",
    "gaussian": "A Gaussian of scale 0.3 about what the decoder says. A density, not a probability: nothing here is comparable with the "
    "table above.",
    "pinwheel": "Five arms. A decoder that is a flow fits them without z, so that nothing holds on to z; the map of LIDVAE is one to one. "
    "Nothing was done against collapse: no warm-up, no free bits. *Mutual information* is that of z and x under q, at most log 128. "
    "A z that is used need not make a better density: see the bounds.",
}


def lines(content: dict[str, Any]) -> list[str]:
    """The page."""
    s, found = content["settings"], Found(content)
    page = [
        "# Latent-variable models, measured",
        "",
        f"Every latent-variable recipe of `modeflow.models`, at one size and one budget. Binarised MNIST: a fixed part of {s['train']:,} "
        f"training images, {s['validation']:,} others for early stopping, and {s['test']:,} test images, scored once; each pixel was drawn "
        "once with the probability of its grey (a fixed binarisation, but not that of the literature). Encoder and decoder have two hidden "
        f"layers of 400 units (VQ-VAE-2 is convolutional, 32 channels). Adam at {s['learning_rate']:g}, {s['batch_size']} images a step, "
        f"averaged weights, no warm-up of the KL term; {s['seconds']:.0f} seconds by the clock for every fit, fewer where "
        f"{s['patience']} epochs brought nothing. Two seeds each. Several fits shared a processor or a GPU: seconds are what they took there.",
        "",
        f"Bounds are by {s['draws']} importance-weighted draws (a lower bound of the log-likelihood, nats); of states the sum is exact; of codes it "
        "is log p(x, z) of the nearest. ± is the standard error over test images, of the mean of the seeds.",
        "",
    ]
    for group, title in GROUPS.items():
        names = found.of(group)
        if names:
            body = [_cells(found, name, group) for name in names]
            page += [f"## {title}", "", _SAYS[group], "", *table(_header(group), body), ""]
    said = claims(content)
    if said:
        page += [
            "## What the papers claim",
            "",
            "Differences of test bounds on the same images, by seed, and their mean ± standard error (of paired differences over images, and of "
            "the mean over seeds, added). *Holds*, or *does not hold*: the mean is two errors from zero, and all seeds are on its side. Two "
            "seeds say little of how a training varies.",
            "",
            *table(["claim", "of", "by seed", "mean", ""], said),
            "",
            *equal_epochs(content),
        ]
    others = pairs(content)
    if others:
        page += ["Beside these:", "", *table(["", "by seed", "mean, nats"], others), ""]
    page += [
        "## As published",
        "",
        "Negative log-likelihoods on MNIST as they are quoted; they were not looked up in their papers. Conditions differ from ours: 50,000 or "
        "60,000 training images, where we have 20,000; the published or a dynamic binarisation; trainings of hours to convergence; and the last "
        "three have residual convolutional or autoregressive networks. They say where the field is, not how our rows compare.",
        "",
        *table(
            ["model", "nats", "what it is"], [[name, f"{value:.1f}", what] for name, value, what in PUBLISHED]
        ),
        "",
    ]
    if found.failed:
        body = [[f"{r['model']}, seed {r['seed']}", r["error"]] for r in found.failed]
        page += ["## What failed", "", *table(["", ""], body), ""]
    devices = sorted({run["trained_on"] for runs in found.runs.values() for run in runs.values()})
    return [
        *page,
        f"Trained on {', '.join(devices)}. {place(content)}",
        "",
        "`python benchmarks/latent_models.py`",
        "",
    ]


def longer(content: dict[str, Any]) -> list[str]:
    """A section on trainings of more time, of those models that had not come to an end before."""
    begun = [run for run in content["runs"] if run.get("epochs", 0) < _FEWEST_EPOCHS and "error" not in run]
    content = {**content, "runs": [run for run in content["runs"] if run not in begun]}
    s, found = content["settings"], Found(content)
    names = found.of("bernoulli")
    lone = [name for name in names if len(found.runs[name]) < 2]
    runs = [run for seeds in found.runs.values() for run in seeds.values()]
    spent = [run["processor_seconds"] for run in runs if run["stopped"] == "patience"]
    ended = (
        f" {len(spent)} of {len(runs)} trainings ended by themselves, after {min(spent):.0f} to {max(spent):.0f} seconds."
        if spent
        else ""
    )
    few = f" One seed of {', '.join(CONTESTANTS[n].title for n in lone)}, two of the others." if lone else ""
    if more := [name for name in names if len(found.runs[name]) > 2]:
        few += f" A third seed of {' and '.join(CONTESTANTS[n].title for n in more)}: two had left it undecided which is ahead."
    page = [
        "## Ten minutes of a processor",
        "",
        f"The same images and sizes, {s['seconds']:.0f} seconds of one processor a training (time that the process has had, others ran beside "
        f"it), for models that 120 seconds ended before they were done, and the VAE.{few}{ended} The networks of the IAF have 320 hidden "
        "units and hear of x by and by; those above had 32, and came after the VAE.",
        "",
        *table(_header("bernoulli"), [_cells(found, name, "bernoulli") for name in names]),
        "",
        *_begun(begun),
    ]
    if said := claims(content):
        page += [*table(["claim", "of", "by seed", "mean", ""], said), ""]
    every = " ".join([*names, *dict.fromkeys(run["model"] for run in begun)])
    command = (
        f"`python benchmarks/latent_models.py --seconds {s['seconds']:.0f} --processor --models {every}`"
    )
    return [*page, place(content), "", command, ""]


def _begun(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is said of models that were stopped before a comparison would mean anything."""
    said = []
    for name in dict.fromkeys(run["model"] for run in runs):
        mine = [run for run in runs if run["model"] == name]
        epochs = max(run["epochs"] for run in mine)
        bounds = ", ".join(number(run["test"]["value"], 1) for run in mine)
        said += [
            f"{CONTESTANTS[name].title} saw {epochs} epoch{'s' * (epochs > 1)} in that time on one core, and had {bounds} nats: "
            "it is not compared here. (At equal epochs: above.)",
            "",
        ]
    return said


def show(content: dict[str, Any]) -> None:
    """Print the results, and what they say of the claims."""
    found = Found(content)
    for group, title in GROUPS.items():
        names = found.of(group)
        if names:
            rows = [_header(group), *(_cells(found, name, group) for name in names)]
            _print(title, rows)
    _print("claims", claims(content))
    _print("beside these", pairs(content))
    print("\n".join(equal_epochs(content)))
    _print("failed", [[f"{r['model']}, seed {r['seed']}", r["error"]] for r in found.failed])


def _print(title: str, rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    print(f"\n{title}")
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

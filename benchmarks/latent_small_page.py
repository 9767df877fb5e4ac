"""Sections of docs/latent_models.md: the small size, the spread of q, and a digit that was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latent_models_page import Found, verdict
from latent_small import SMALL
from markdown_parts import number, place, table

#: What is claimed, the better model, the worse, by whom; and of which "no worse" is claimed.
CLAIMS = (
    ("AEF above the VAE of the same networks", "aef", "vae", "Silvestri et al. 2023"),
    ("AEF above VAE, grey", "grey-aef", "grey-vae", "Silvestri et al. 2023"),
    ("AEF above VAE, both with a flow prior, grey", "grey-aef-flow-prior", "grey-vae-flow-prior", "the same"),
    ("funnel above the VAE of the same networks", "funnel", "vae", "Klein et al. 2021, of flows"),
    ("funnel above VAE, grey", "grey-funnel", "grey-vae", "the same"),
    ("funnel above VAE, both with a flow prior, grey", "grey-funnel-flow-prior", "grey-vae-flow-prior", ""),
    ("a diffusion bridge no worse than an autoregressive prior", "bridge-vq-vae", "vq-vae", "Cohen et al. 2022"),
    ("VLAE above VAE", "vlae", "vae", "Park et al. 2019"),
    ("IAF posterior above a diagonal one", "flow-vae-iaf", "vae", "Kingma et al. 2016"),
    ("flow prior above a Gaussian one", "vae-flow-prior", "vae", "Xie et al. 2023, and others before"),
    ("flow prior above a Gaussian one, grey", "grey-vae-flow-prior", "grey-vae", "the same"),
    ("LAE above VAE", "lae", "vae", "Taniguchi et al. 2022"),
    ("S-VAE above VAE at d = 2", "s-vae-2", "vae-2", "Davidson et al. 2018"),
    ("latent flow above VAE", "latent-flow", "vae", "Xie et al. 2023, of samples"),
    ("LIDVAE above VAE, grey, one scale a pixel", "grey-lidvae", "grey-vae-shared", "nobody: of the use of z"),
)  # fmt: skip
#: Of the use of z: the model, and what it is beside.
USES = (("LIDVAE uses no fewer numbers of z than a VAE of the same noise", "grey-lidvae", "grey-vae-shared"),)
NO_WORSE = ("bridge-vq-vae",)
#: Seconds of which there may be other results.
LONGER = (30, 60)
GROUPS = {"bits": "Binarised digits, 8 × 8", "grey": "Grey digits, 8 × 8, as numbers"}


def _rows(found: Found, group: str) -> list[list[str]]:
    rows = []
    for name in found.of(group):
        runs = list(found.runs[name].values())
        value, error = found.bound(name)
        elbo = [r["elbo"]["value"] for r in runs if "elbo" in r]
        if all("active" in r for r in runs):
            used = f"{', '.join(str(r['active']) for r in runs)} of {runs[0]['dimensions']}"
        elif "codes" in runs[0]:
            used = f"{', '.join(str(r['codes']['used']) for r in runs)} codes"
        else:
            used = "–"
        rate, contestant = found.mean(name, "rate"), found.contestants[name]
        rows.append(
            [
                f"{contestant.title} ({contestant.z})",
                f"{number(value, 2)} ± {error:.2f}",
                runs[0]["test"]["kind"],
                number(float(np.mean(elbo)), 2) if elbo and runs[0]["test"]["kind"] != "exact" else "–",
                "–" if rate is None else number(rate, 1),
                used,
                ", ".join(f"{r['epochs']}{'*' if r['stopped'] == 'patience' else ''}" for r in runs),
                f"{runs[0]['parameters'] / 1e3:.0f}",
            ]
        )
    return rows


def _earliest(found: Found) -> str:
    """At which epochs the grey ones were best: of so few images an exact code of eight pixels learns the noise soon."""
    best = {name: [r["best_epoch"] for r in runs.values()] for name, runs in found.runs.items()}
    names = [name for name in ("grey-vae", "grey-aef", "grey-funnel") if name in best]
    if len(names) < 2:
        return ""
    told = "; ".join(f"{found.contestants[n].title} at {', '.join(map(str, best[n]))}" for n in names)
    return (
        f" Of the grey ones validation was best after these epochs: {told}. AEF and funnel overfit soon: they have to code eight pixels and their noise exactly, "
        "and nothing blurs what the decoder sees, where a VAE adds the noise of q."
    )


_SAYS = {
    "bits": "Each pixel drawn with the probability of its grey: 8 times of each training image, 2 and 4 times of the others. Nats of an image "
    "of 64 pixels, by 500 draws of z; of codes log p(x, z) of the nearest. AEF and funnel are "
    '`VAE(64, 8, posterior="aef")` and `posterior="funnel"`: the encoder, decoder and prior of the VAE, 8 pixels as the core, made continuous by '
    "noise within their level: what is averaged over is that noise (the funnel's encoder ends in 25 numbers for each of z, not 2).",
    "grey": "Level plus one uniform noise, as numbers; nats of the density of these. Scales of pixels are predicted by the decoder, unless said. "
    "Of AEF and funnel this is exact, a bound of the others, by as many draws.",
}  # fmt: skip


def _decided(found: Found) -> list[str]:
    """A table of what is claimed, and what the runs say of it."""
    body = []
    for text, better, worse, who in CLAIMS:
        gap = found.difference(better, worse)
        if gap is not None:
            each = ", ".join(number(v, 2) for v in gap[0])
            mean = f"{number(gap[1], 2)} ± {gap[2]:.2f}"
            body.append([text, who, each, mean, verdict(*gap, better in NO_WORSE)])
    for text, better, worse in USES:
        if {better, worse} <= set(found.runs):
            one, other = ([r["active"] for r in found.runs[name].values()] for name in (better, worse))
            each = f"{', '.join(map(str, one))} against {', '.join(map(str, other))}"
            said = "holds" if min(one) >= max(other) else "does not hold"
            body.append([text, "Wang et al. 2021", each, "active units", said])
    return [*table(["claim", "of", "by seed", "mean, nats", ""], body), ""] if body else []


def _bounds(found: Found, level: str) -> list[str]:
    """A table of each group."""
    header = [
        "model (z)", "test, nats", "kind", "ELBO", "z costs", "active or used", "epochs", "thousand parameters",
    ]  # fmt: skip
    page = []
    for group, title in GROUPS.items():
        body = _rows(found, group)
        if body:
            says = [_SAYS[group], ""] if level == "###" else []
            page += [f"{level} {title}", "", *says, *table(header, body), ""]
    return page


def small(content: Mapping[str, Any]) -> list[str]:
    """The small size."""
    s, found = content["settings"], Found(content, SMALL)
    page = [
        "## Small, at equal processor time",
        "",
        "Models that the tables above have no row of, and those of every claim, at a size at which dear ones can be trained on a processor at all. "
        f"The 1,797 digits of scikit-learn, 8 × 8: {s['train']:,} images to learn from, 277 for early stopping, {s['test']} scored once. "
        "Two hidden layers of 128 units each way and z in R⁸ for all, unless said; "
        f"{s['processor_seconds']:.0f} seconds of one processor for every fit, counted by "
        "the time that the process has had (others ran beside it), validation with it. Two seeds each. This says what a model makes of a small "
        "set in a short time, not what it can be brought to; nothing here is comparable with the tables above.",
        "",
        *_bounds(found, "###"),
        "Epochs with * ended because 40 of them brought nothing; a model with one number there has one seed. ± is over 40 groups of images, of the "
        "mean of the seeds. In the same time a dear model sees fewer epochs: VLAE, the bridge, LAE and the latent flow are far from where they would end."
        + _earliest(found),
        "",
    ]
    decided = _decided(found)
    if decided:
        page += ["By the rule above, paired:", "", *decided]
    if found.failed:
        page += [*table(["failed", ""], [[r["model"], r["error"]] for r in found.failed]), ""]
    return [*page, f"{place(dict(content))}", "", "`python benchmarks/latent_small.py`", ""]


def longer(content: Mapping[str, Any]) -> list[str]:
    """The small size, of more seconds: pairs that fewer left undecided, or in which one model was cut short."""
    seconds, found = content["settings"]["processor_seconds"], Found(content, SMALL)
    return [
        f"### The same for {seconds:.0f} seconds",
        "",
        f"Everything as above, but {seconds:.0f} seconds of a processor: pairs of which one model had been cut short.",
        "",
        *_bounds(found, "####"),
        *_decided(found),
        f"{place(dict(content))}",
        "",
        f"`python benchmarks/latent_small.py --seconds {seconds:.0f}`",
        "",
    ]


def _both(runs: Sequence[Mapping[str, Any]], key: str, digits: int) -> str:
    return " / ".join(
        f"{number(r[key]['value'], digits)} ± {r[key]['standard_error']:.{digits}f}" for r in runs
    )


def said(runs: Sequence[Mapping[str, Any]]) -> str:
    """What they say of the claim: the climb's variance nearer the right one than the reverse divergence's, by two errors, in all."""

    def off(name: str) -> list[tuple[float, float]]:
        of = [r["log_variance_ratio"] for r in runs if r["objective"] == name]
        return [(abs(each["value"]), each["standard_error"]) for each in of]

    def covers(name: str) -> str:
        found = [r["coverage"]["value"] for r in runs if r["objective"] == name]
        return f"{100 * min(found):.0f} to {100 * max(found):.0f} %"

    climb, reverse = "transport score climbing", "reverse divergence (ELBO)"
    gaps = [(r - c, 2 * (e + f)) for (c, e), (r, f) in zip(off(climb), off(reverse), strict=True)]
    holds = "holds" if all(gap > error for gap, error in gaps) else "is undecided"
    if all(gap < -error for gap, error in gaps):
        holds = "does not hold"
    return (
        f"The claim {holds}, by both models and both seeds: where it says 90 %, the climb covers {covers(climb)}, the reverse divergence {covers(reverse)}, "
        f'the sleep phase (`objective="wake-sleep"`) {covers("asleep")}, and the wake phase by 8 draws {covers("wake, 8 draws")}. Rows are of the model itself here, as '
        "dreams are."
    )


def spread(content: Mapping[str, Any]) -> list[str]:
    """Whether q is as wide as the posterior."""
    s, runs = content["settings"], content["runs"]
    page = [
        "## Is the spread of q that of the posterior?",
        "",
        "Transport score climbing is said to have calibrated uncertainty where the evidence lower bound is too sure of itself (Zhang et al. 2022). Two "
        "models whose posterior is known, z in two dimensions, x in three: linear (its posterior has correlation −0.64), and a fixed random network "
        f"(by quadrature). One family, a diagonal Gaussian by a network (64, 64), {s['steps']:,} steps on {s['rows']:,} rows; then {s['test']:,} other rows with the z that "
        "they were drawn with. *Variance* is that of q over that of p(z|x), geometric mean, 1 is right; *coverage* how often the middle 90 % of q "
        "holds z; *forward* KL(p(z|x) ‖ q), estimated at those z, beside which the best of the family has what the first line of each says. Two seeds.",
        "",
    ]
    body = []
    for kind in dict.fromkeys(r["model"] for r in runs):
        of_kind = [r for r in runs if r["model"] == kind]
        first = [next(r for r in of_kind if r["seed"] == seed) for seed in (0, 1)]
        body.append([f"{kind}: the best of the family", "1", "", _both(first, "best", 3), ""])
        for name in dict.fromkeys(r["objective"] for r in of_kind):
            some = [r for r in of_kind if r["objective"] == name]
            ratio = " / ".join(
                f"{np.exp(r['log_variance_ratio']['value']):.3f} ± "
                f"{np.exp(r['log_variance_ratio']['value']) * r['log_variance_ratio']['standard_error']:.3f}"
                for r in some
            )
            cells = [_both(some, "coverage", 3), _both(some, "forward", 3)]
            body.append([f"{kind}: {name}", ratio, *cells, f"{np.mean([r['seconds'] for r in some]):.0f}"])
    header = ["", "variance", "coverage of 0.9", "forward divergence, nats", "seconds"]
    return [
        *page,
        *table(header, body),
        "",
        said(runs),
        "",
        place(dict(content)),
        "",
        "`python benchmarks/calibrated.py`",
        "",
    ]


#: AUPRC of a VAE as published, by the digit left out: numbers of z, and the digits 0 to 9.
TONNAER = {
    2: (0.75, 0.21, 0.76, 0.64, 0.23, 0.45, 0.69, 0.27, 0.47, 0.15),
    32: (0.27, 0.06, 0.57, 0.38, 0.24, 0.31, 0.46, 0.11, 0.45, 0.17),
}
#: The same as Pang et al. 2020 (arXiv:2006.08205) quote or have them, of the digits 1, 4, 5, 7 and 9.
QUOTED = {
    "VAE": (0.063, 0.337, 0.325, 0.148, 0.104),
    "MEG (Kumar et al. 2019)": (0.281, 0.401, 0.402, 0.290, 0.342),
    "BiGAN-σ (Zenati et al. 2018)": (0.287, 0.443, 0.514, 0.347, 0.307),
    "energy-based prior (Pang et al. 2020)": (0.336, 0.630, 0.619, 0.463, 0.413),
}
_QUOTED_DIGITS = (1, 4, 5, 7, 9)


def left_out(content: Mapping[str, Any]) -> list[str]:
    """A digit that was left out."""
    s, runs = content["settings"], content["runs"]

    def cell(run: Mapping[str, Any], key: str) -> str:
        return f"{run[key]['value']:.3f} ± {run[key]['standard_error']:.3f}"

    models = list(dict.fromkeys(r["model"] for r in runs))
    of = {(r["model"], r["digit"]): r for r in runs}
    digits = [d for d in range(10) if all((m, d) in of for m in models)]
    first = of[models[0], digits[0]]
    page = [
        "## A digit left out",
        "",
        "The latent flow is used to find odd images by log p(x, z_K) (Xie et al. 2023). MNIST: in turn one digit is left out; a model learns from 9,000 images "
        "of the nine others (1,000 more for early stopping), out of four fifths of all 70,000, and ranks "
        f"the last fifth, {first['ranked']:,} images with the digit that it has never seen among them. AUPRC, the higher the better; its error is by bootstrap. "
        f"Both have a generator of two hidden layers of 128, z in R¹⁶ and scale 0.3 of pixels from −1 to 1; {s['processor_seconds']:.0f} seconds of one processor "
        "for every fit, one seed.",
        "",
    ]
    keys = [(models[0], "pixels"), *((m, "joint") for m in models)]
    body = [
        [str(d), f"{of[models[0], d]['share']:.3f}", *(cell(of[m, d], key) for m, key in keys)]
        for d in digits
    ]
    means = [f"{np.mean([of[m, d][key]['value'] for d in digits]):.3f}" for m, key in keys]
    body.append(["mean", f"{np.mean([of[models[0], d]['share'] for d in digits]):.3f}", *means])
    published = [f"{v:.2f}" for v in TONNAER[2]], [f"{v:.2f}" for v in TONNAER[32]]
    for row in body[:-1]:
        row += [each[int(row[0])] for each in published]
    body[-1] += [f"{np.mean([TONNAER[n][d] for d in digits]):.2f}" for n in (2, 32)]
    header = ["left out", "share", "distance of pixels", *(f"{m}, log p(x, z)" for m in models)]
    header += ["VAE, 2 numbers, published", "VAE, 32 numbers, published"]
    epochs = "; ".join(f"{m} {np.mean([of[m, d]['epochs'] for d in digits]):.0f}" for m in models)
    better = [d for d in digits if of[models[0], d]["joint"]["value"] > of[models[1], d]["joint"]["value"]]
    told = [
        [name, *(f"{v:.3f}" for v in values), f"{np.mean(values):.3f}"] for name, values in QUOTED.items()
    ]
    own = [
        [f"{m}, here", *(f"{of[m, d]['joint']['value']:.3f}" for d in _QUOTED_DIGITS),
         f"{np.mean([of[m, d]['joint']['value'] for d in _QUOTED_DIGITS]):.3f}"]
        for m in models if set(_QUOTED_DIGITS) <= set(digits)
    ]  # fmt: skip
    return [
        *page,
        *table(header, body),
        "",
        f"*Distance of pixels*: to the mean of the training images, which knows nothing of digits; *share*: what chance has; z is the end of the chain, or the "
        f"encoder's mean. Epochs, mean: {epochs}; the latent flow, whose steps are dear, is far from where it would end. The {models[0]} is above the {models[1]} for {len(better)} of {len(digits)} digits.",
        "",
        "Published: a VAE ranked by its ELBO, with 2 and with 32 numbers of z ([Tonnaer's thesis](https://books.ipskampprinting.nl/thesis/603556-Tonnaer/65), table 3.4), "
        "and, of five digits, what Pang et al. 2020 have and quote, from memory, not looked up. Conditions differ, and not all are known to us: "
        "there models learn from all images of the nine digits, for longer and with larger networks, and the parts are drawn otherwise. The figures of Xie et al. 2023 for "
        "the latent flow are not known to us.",
        "",
        *table(["left out", *map(str, _QUOTED_DIGITS), "mean"], [*told, *own]),
        "",
        place(dict(content)),
        "",
        "`python benchmarks/leave_one_digit.py`",
        "",
    ]


def sections(read: Any, there: Any) -> list[str]:
    """All of them of which there are results.

    Arguments:
        read: of a file of results by its name. there: whether there is one.
    """
    page: list[str] = []
    parts = (
        ("latent_small", small),
        *((f"latent_small_{seconds}", longer) for seconds in LONGER),
        ("calibrated", spread),
        ("leave_one_digit", left_out),
    )
    for name, write in parts:
        if there(name):
            page += write(read(name))
    return page

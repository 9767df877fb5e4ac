"""Examples 1 and 2 and Figure 3 of the NVF paper: exact optimal maps beside what trained flows do.

The data is ½N(−μ, σ²) + ½N(μ, σ²). The increasing map from N(0, 1) to it has slope T'(0) = σ exp(μ²/2σ²) at
zero, without bound as the modes part; given the state, the map is affine with slope σ. A base with modes of
its own, ½N(−ν, t²) + ½N(ν, t²), lowers the slope to (σ/t) exp(μ²/2σ² − ν²/2t²): a base that knows the
modes is the other way out. Writes ``results/jacobian.json`` and ``docs/images/jacobian.png``.

Run: python benchmarks/jacobian.py
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from common import write
from modeflow.estimators import NVF, FlowDensity

SIGMA = 0.5
MUS = (0.5, 1.0, 1.5, 2.0, 2.5)
FLOW = {"layers": 3, "hidden_features": 32}
FIT: dict[str, Any] = {
    "max_epochs": 40,
    "batch_size": 256,
    "training": {"patience": 10},
    "random_state": 0,
    "flow_options": FLOW,
}
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "jacobian.png"


#: (ν, t) of mixture bases; the first is the standard normal.
BASES = ((0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (4.0, 1.0))


def cdf(x: float, mu: float, sigma: float = SIGMA) -> float:
    return float(0.5 * norm.cdf(x, -mu, sigma) + 0.5 * norm.cdf(x, mu, sigma))


def density(x: np.ndarray, mu: float) -> np.ndarray:
    return np.asarray(0.5 * norm.pdf(x, -mu, SIGMA) + 0.5 * norm.pdf(x, mu, SIGMA))


def optimal_map(eps: np.ndarray, mu: float, nu: float = 0.0, t: float = 1.0) -> np.ndarray:
    """``T(ε) = F^{-1}(F_ε(ε))`` by root finding; symmetric, so that only one tail is needed."""
    end = mu + 12 * SIGMA

    def root(e: float) -> float:
        level = cdf(e, nu, t)
        return float(brentq(lambda x: cdf(x, mu) - level, -end, end, xtol=1e-14))

    return -np.sign(eps) * np.array([root(e) for e in -np.abs(eps)])


def optimal_slope(mu: float, nu: float = 0.0, t: float = 1.0) -> float:
    """``T'(0) = p_ε(0) / p(0) = (σ/t) exp(μ²/2σ² - ν²/2t²)``."""
    return SIGMA / t * math.exp(mu**2 / (2 * SIGMA**2) - nu**2 / (2 * t**2))


def numeric_slope(mu: float, nu: float = 0.0, t: float = 1.0) -> float:
    """The slope of the exact curve at zero, by a difference small against its bend."""
    h = 1e-3 * SIGMA / optimal_slope(mu, nu, t)
    return float(optimal_map(np.array([h]), mu, nu, t)[0] / h)


def trained_map(estimator: Any, eps: np.ndarray, state: int | None) -> np.ndarray:
    """x = T(ε) of a fitted model, increasing in ε; for NVF that of one state."""
    inner = estimator.model_.model
    context = None
    if state is not None:
        context = (
            torch.nn.functional.one_hot(torch.tensor(state), inner.n_states).float().expand(len(eps), -1)
        )
    with torch.no_grad():
        u = torch.from_numpy(eps).float().unsqueeze(1)
        x = estimator.model_.decode(inner.likelihood.transform.inverse(u, context)[0].double())
    values = x.squeeze(1).numpy()
    return values if values[-1] > values[0] else values[::-1]


def steepest(eps: np.ndarray, x: np.ndarray) -> float:
    return float(np.max(np.diff(x) / np.diff(eps)))


def main() -> None:
    rng = np.random.default_rng(0)
    eps = np.linspace(-4, 4, 4001)
    records, curves = [], {}
    for mu in MUS:
        x = (rng.choice([-mu, mu], 20_000) + rng.normal(0, SIGMA, 20_000))[:, None]
        test = (rng.choice([-mu, mu], 20_000) + rng.normal(0, SIGMA, 20_000))[:, None]
        entropy = -np.log(density(test[:, 0], mu)).mean()
        gap = mu - 3 * SIGMA
        record: dict[str, Any] = {"mu": mu, "sigma": SIGMA, "slope_exact": optimal_slope(mu)}
        record["slope_of_exact_curve"] = numeric_slope(mu)
        models = {"plain": FlowDensity(**FIT), "nvf": NVF(2, **FIT)}
        for name, estimator in models.items():
            estimator.fit(x)
            record[f"{name}_gap_nats"] = float(-estimator.score_samples(test).mean() - entropy)
            if gap > 0:  # mass where the truth has (nearly) none: |x| < mu - 3 sigma
                samples = estimator.sample(100_000)[0][:, 0]
                record[f"{name}_leak"] = float(np.mean(np.abs(samples) < gap))
                record["true_leak"] = float(cdf(gap, mu) - cdf(-gap, mu))
        plain = trained_map(models["plain"], eps, None)
        states = [trained_map(models["nvf"], eps, k) for k in range(models["nvf"].n_states_)]
        record["plain_steepest"] = steepest(eps, plain)
        record["nvf_steepest"] = max(steepest(eps, s) for s in states)
        # Accuracy of the posterior over states against the true component's posterior mode.
        state, truth = models["nvf"].predict(test), (test[:, 0] > 0).astype(int)
        record["nvf_state_agreement"] = float(max(np.mean(state == truth), np.mean(state != truth)))
        records.append(record)
        curves[mu] = (plain, states)
        print({k: round(v, 5) for k, v in record.items()}, flush=True)
    picture(eps, curves)
    note = "leak: share of samples with |x| < mu - 3 sigma; steepest: largest slope of the map on [-4, 4]"
    bases = [
        {
            "nu": nu,
            "t": t,
            "mu": 2.0,
            "slope_exact": optimal_slope(2.0, nu, t),
            "slope_of_exact_curve": numeric_slope(2.0, nu, t),
        }
        for nu, t in BASES
    ]
    settings = {"flow": FLOW, "rows": 20_000}
    content = {"settings": settings, "note": note, "runs": records, "bases": bases}
    print(f"wrote {write('jacobian', content)}")


def picture(eps: np.ndarray, curves: dict[float, Any]) -> None:
    """Exact maps and slopes beside those of the trained models."""
    from modeflow.report.canvas import new_figure, save_picture, styled

    @styled
    def draw() -> Any:
        figure = new_figure(11, 7.6)
        left, middle, right, base = (figure.add_subplot(2, 2, i) for i in (1, 2, 3, 4))
        colours = ("#0072b2", "#009e73", "#e69f00", "#d55e00", "#cc79a7")
        shown = eps[::20]
        for colour, (mu, (plain, _)) in zip(colours, curves.items(), strict=True):
            left.plot(shown, optimal_map(shown, mu), color=colour, label=f"μ = {mu}")
            middle.plot(shown, optimal_map(shown, mu), color=colour, linewidth=0.8, linestyle="--")
            middle.plot(eps, plain, color=colour)
        left.set_title("exact map T = F⁻¹(Φ(ε))")
        left.legend()
        middle.set_title("trained plain flow (exact dashed)")
        mu = max(curves)
        for k, curve in enumerate(curves[mu][1]):
            right.plot(eps, curve, color=colours[k], label=f"trained, state {k}")
            centre = mu if curve[len(curve) // 2] > 0 else -mu
            right.plot(eps, centre + SIGMA * eps, color="black", linewidth=0.8, linestyle="--")
        right.set_title(f"trained NVF, μ = {mu} (exact dashed)")
        right.legend()
        for colour, (nu, t) in zip(colours, BASES, strict=False):
            label = "N(0, 1)" if nu == 0 else f"½N(−{nu:g}, 1) + ½N({nu:g}, 1)"
            base.plot(shown, optimal_map(shown, 2.0, nu, t), color=colour, label=label)
        base.set_title("exact map from a base with modes, μ = 2")
        base.legend()
        for axes in (left, middle, right, base):
            axes.set_xlabel("ε")
            axes.set_ylabel("x")
        return figure

    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    save_picture(draw(), PICTURE)


if __name__ == "__main__":
    main()

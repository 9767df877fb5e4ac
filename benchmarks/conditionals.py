r"""Conditionals of one column: p(y | x) of a number by CRPS and log-score, p(class | x) of a label.

One joint density of all columns, asked for one of them given the others, beside what is fitted to that one
alone. Not to win, to know: what a joint density costs where one column is asked for. At most 5,000 rows of a
table, drawn by the seed, a fifth of them for testing.

Numbers. "NVF, leaves" is a tree of states with leaves, "NVF, flow" a flow over it, with a proposal from whose
draws those of the column are taken; both by `predict_column`, and `log_prob_given` for the log-score. Rivals:
gradient boosting of the pinball loss (scikit-learn, one model for each of 20 quantiles), quantile forests and
NGBoost (a normal distribution), all with their defaults and categories one-hot; "marginal" knows no x.

- *CRPS*, :math:`\int (F(t) - 1[t \ge y])^2 dt = E|Y - y| - \tfrac12 E|Y - Y'|`, in standard deviations of
  the training targets: of draws without bias, of levels and of the normal distribution exactly, of quantiles
  as twice their mean pinball loss (levels (k - ½)/20).
- *Log-score*: mean of log(p(cell of y | x) / step), nats, y in the same unit, the cell being that of the
  target's lattice; quantiles have a distribution that is linear between them and exponential beyond. All are
  mixed with 1 % of a normal distribution of the training targets, so that nobody's is minus infinity.
- *In 95 %*: share between the quantiles of 2.5 and 97.5 %.

Labels: accuracy, log-loss, expected calibration error, as in `classify`; a table with holes among them.
Gradient boosting has its defaults and is told which columns are categories.

Run: python benchmarks/conditionals.py [--tables abalone] [--methods ...] [--seeds 0]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from classify import calibration_error
from common import data_file, earlier_runs, write
from imputation import load
from modeflow import NVF

SETTINGS: dict[str, Any] = {"test": 0.2, "quantiles": 20, "floor": 0.01, "calibration_bins": 15}
#: Tables by their targets; of numbers the step of the target's lattice.
NUMBERS = {"abalone": ("Class_Rings", 1.0), "power": ("x0", 0.002), "protein": ("x9", 0.001)}
LABELS = {"adult": "income", "credit_g": "class", "titanic": "survived"}
_TITANIC = ["survived", "pclass", "sex", "age", "sibsp", "parch", "fare", "embarked"]


def rows_of(name: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test rows, all columns."""
    if name == "titanic":
        table = pd.read_csv(data_file("mixed/titanic3.csv.gz"))[_TITANIC]
        table = table.sample(len(table), random_state=seed)
    else:
        table = load(name, seed)[0]
    cut = round(SETTINGS["test"] * len(table))
    return table[cut:].reset_index(drop=True), table[:cut].reset_index(drop=True)


def density(**options: Any) -> NVF:
    """Ours, a tree of states."""
    return NVF(latent="tree", device="cpu", **options)


OURS: dict[str, dict[str, Any]] = {
    "NVF, leaves": {"likelihood": "leaves"},
    "NVF, flow": {"likelihood": "flow", "proposal": True},
}


# -- a number -------------------------------------------------------------------------------------


@dataclass
class Forecast:
    """What is said of every test row, ``(N,)`` each.

    Attributes:
        crps: in the units of the target. density: of the target's cell, per unit. inside: of 95 %.
    """

    crps: np.ndarray
    density: np.ndarray
    inside: np.ndarray


def of_draws(draws: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CRPS without bias of draws ``(N, m)``, and whether y is between their outer quantiles."""
    m = draws.shape[1]
    ordered = np.sort(draws, 1)
    # The mean distance of two draws, from their order.
    between = 2 * (ordered * (2 * np.arange(1, m + 1) - m - 1)).sum(1) / (m * (m - 1))
    low, high = np.quantile(draws, (0.025, 0.975), axis=1)
    return np.abs(draws - y[:, None]).mean(1) - between / 2, (low <= y) & (y <= high)


def of_levels(levels: np.ndarray, p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of probabilities ``(N, L)`` of increasing numbers ``(L,)``, exactly."""
    below = p.cumsum(1)
    between = 2 * (below[:, :-1] * (1 - below[:, :-1]) * np.diff(levels)).sum(1)
    crps = (p * np.abs(levels - y[:, None])).sum(1) - between / 2
    low, high = (levels[np.argmax(below >= q - 1e-12, axis=1)] for q in (0.025, 0.975))
    return crps, (low <= y) & (y <= high)


def of_quantiles(q: np.ndarray, y: np.ndarray, step: float) -> Forecast:
    """The same of quantiles ``(N, n)`` at levels (k - ½)/n, with the density of the cell of y."""
    n = q.shape[1]
    levels = (np.arange(n) + 0.5) / n
    q = np.sort(q, 1)
    away = y[:, None] - q
    crps = 2 * np.maximum(levels * away, (levels - 1) * away).mean(1)
    # Quantiles that are one make a jump, all of which lies in one cell.
    q = q + 1e-6 * step * np.arange(n)

    def share(t: np.ndarray) -> np.ndarray:
        inside = np.array([np.interp(t[i], q[i], levels) for i in range(len(t))])
        tail = levels[0]
        left = tail * np.exp((np.minimum(t, q[:, 0]) - q[:, 0]) / (n * tail * (q[:, 1] - q[:, 0])))
        right = tail * np.exp((q[:, -1] - np.maximum(t, q[:, -1])) / (n * tail * (q[:, -1] - q[:, -2])))
        return np.where(t < q[:, 0], left, np.where(t > q[:, -1], 1 - right, inside))

    density = (share(y + step / 2) - share(y - step / 2)) / step
    return Forecast(crps, density, (q[:, 0] <= y) & (y <= q[:, -1]))


def one_hot(train: pd.DataFrame, test: pd.DataFrame, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers as they are, categories one-hot."""
    both = pd.get_dummies(pd.concat([train, test]).drop(columns=target)).astype(float).to_numpy()
    return both[: len(train)], both[len(train) :]


def joint(kind: str) -> Callable[..., Forecast]:
    """Ours."""

    def forecast(train: pd.DataFrame, test: pd.DataFrame, target: str, step: float, seed: int) -> Forecast:
        model = density(latent_options=OURS[kind], random_state=seed).fit(train)
        y = test[target].to_numpy(float)
        said = model.predict_column(target, test, random_state=seed)
        if said.draws is not None:
            crps, inside = of_draws(said.draws, y)
        else:
            assert said.levels is not None and said.probabilities is not None
            crps, inside = of_levels(np.array(said.levels, float), said.probabilities, y)
        feature = model.schema_.features()[model.schema_.names.index(target)]
        on_lattice = bool(feature.levels or feature.step)
        found = np.exp(model.log_prob_given(test, [target]))
        return Forecast(crps, found / (step if on_lattice else 1.0), inside)

    return forecast


def boosted(train: pd.DataFrame, test: pd.DataFrame, target: str, step: float, seed: int) -> Forecast:
    """Gradient boosting, a model for each quantile."""
    x, new = one_hot(train, test, target)
    n = SETTINGS["quantiles"]
    models = [
        HistGradientBoostingRegressor(loss="quantile", quantile=(k + 0.5) / n, random_state=seed)
        for k in range(n)
    ]
    found = [model.fit(x, train[target]).predict(new) for model in models]
    return of_quantiles(np.column_stack(found), test[target].to_numpy(float), step)


def forest(train: pd.DataFrame, test: pd.DataFrame, target: str, step: float, seed: int) -> Forecast:
    """A quantile forest."""
    from quantile_forest import RandomForestQuantileRegressor

    x, new = one_hot(train, test, target)
    n = SETTINGS["quantiles"]
    model = RandomForestQuantileRegressor(random_state=seed).fit(x, train[target].to_numpy(float))
    levels = [(k + 0.5) / n for k in range(n)]
    return of_quantiles(model.predict(new, quantiles=levels), test[target].to_numpy(float), step)


def natural(train: pd.DataFrame, test: pd.DataFrame, target: str, step: float, seed: int) -> Forecast:
    """NGBoost, a normal distribution."""
    from ngboost import NGBRegressor

    x, new = one_hot(train, test, target)
    model = NGBRegressor(verbose=False, random_state=seed).fit(x, train[target].to_numpy(float))
    said, y = model.pred_dist(new).params, test[target].to_numpy(float)
    loc, scale = said["loc"], said["scale"]
    z = (y - loc) / scale
    crps = scale * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    mass = norm.cdf((y + step / 2 - loc) / scale) - norm.cdf((y - step / 2 - loc) / scale)
    return Forecast(crps, mass / step, np.abs(z) <= norm.ppf(0.975))


def marginal(train: pd.DataFrame, test: pd.DataFrame, target: str, step: float, seed: int) -> Forecast:
    """The quantiles of the training targets."""
    n = SETTINGS["quantiles"]
    q = np.quantile(train[target], (np.arange(n) + 0.5) / n)
    return of_quantiles(np.tile(q, (len(test), 1)), test[target].to_numpy(float), step)


FORECASTS: dict[str, tuple[str, Callable[..., Forecast]]] = {
    **{name: ("modeflow", joint(name)) for name in OURS},
    "boosted quantiles": ("sklearn", boosted),
    "quantile forest": ("quantile_forest", forest),
    "NGBoost": ("ngboost", natural),
    "marginal": ("sklearn", marginal),
}


def measure_number(name: str, method: str, seed: int) -> dict[str, Any]:
    """One contestant's forecasts of a number."""
    target, step = NUMBERS[name]
    train, test = rows_of(name, seed)
    began = time.process_time()
    said = FORECASTS[method][1](train, test, target, step, seed)
    seconds = time.process_time() - began
    mean, scale = float(train[target].mean()), float(train[target].std(ddof=0))
    floor = SETTINGS["floor"]
    everywhere = norm.pdf(test[target].to_numpy(float), mean, scale)
    log_score = np.log(scale * ((1 - floor) * said.density + floor * everywhere))
    return {
        **_run(name, method, seed, train, test, seconds),
        "target": "number",
        **_mean("crps", said.crps / scale),
        **_mean("log_score", log_score),
        "inside": float(said.inside.mean()),
    }


# -- a label --------------------------------------------------------------------------------------


def classified(kind: str) -> Callable[..., tuple[list[Any], np.ndarray]]:
    """Ours."""

    def classify(
        train: pd.DataFrame, test: pd.DataFrame, target: str, seed: int
    ) -> tuple[list[Any], np.ndarray]:
        said = {target: "categorical"}
        model = density(latent_options=OURS[kind], columns=said, random_state=seed).fit(train)
        found = model.predict_column(target, test, unseen="missing")
        assert found.levels is not None and found.probabilities is not None
        return list(found.levels), found.probabilities

    return classify


def boosted_classes(
    train: pd.DataFrame, test: pd.DataFrame, target: str, seed: int
) -> tuple[list[Any], np.ndarray]:
    """Gradient boosting."""
    kinds = {c: "category" for c in train.columns if not pd.api.types.is_numeric_dtype(train[c])}
    kinds.pop(target, None)
    both = pd.concat([train, test]).astype(kinds).drop(columns=target)
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=seed)
    model.fit(both[: len(train)], train[target])
    return list(model.classes_), model.predict_proba(both[len(train) :])


def frequencies(
    train: pd.DataFrame, test: pd.DataFrame, target: str, seed: int
) -> tuple[list[Any], np.ndarray]:
    """How often each class is."""
    share = train[target].value_counts(normalize=True)
    return list(share.index), np.tile(share.to_numpy(), (len(test), 1))


CLASSIFIERS: dict[str, Callable[..., tuple[list[Any], np.ndarray]]] = {
    **{name: classified(name) for name in OURS},
    "gradient boosting": boosted_classes,
    "marginal": frequencies,
}


def measure_label(name: str, method: str, seed: int) -> dict[str, Any]:
    """One contestant's probabilities of a label."""
    target = LABELS[name]
    train, test = rows_of(name, seed)
    began = time.process_time()
    classes, proba = CLASSIFIERS[method](train, test, target, seed)
    seconds = time.process_time() - began
    truth = np.array([classes.index(v) for v in test[target].tolist()])
    right = proba.argmax(1) == truth
    loss = -np.log(np.maximum(proba[np.arange(len(truth)), truth], np.finfo(float).tiny))
    return {
        **_run(name, method, seed, train, test, seconds),
        "target": "label",
        **_mean("accuracy", right.astype(float)),
        **_mean("log_loss", loss),
        "calibration_error": calibration_error(proba, right, SETTINGS["calibration_bins"]),
    }


# -- all -------------------------------------------------------------------------------------------


def _run(
    name: str, method: str, seed: int, train: pd.DataFrame, test: pd.DataFrame, seconds: float
) -> dict[str, Any]:
    rows = [len(train), len(test)]
    return {
        "table": name,
        "method": method,
        "seed": seed,
        "rows": rows,
        "columns": train.shape[1],
        "seconds": seconds,
    }


def _mean(name: str, values: np.ndarray) -> dict[str, float]:
    return {name: float(values.mean()), f"{name}_error": float(values.std(ddof=1) / np.sqrt(len(values)))}


def methods_of(name: str, asked: Sequence[str]) -> list[str]:
    """Those of a table, of those asked for, whose libraries are here."""
    if name in LABELS:
        return [m for m in CLASSIFIERS if m in asked]
    return [m for m, (module, _) in FORECASTS.items() if m in asked and find_spec(module)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = list(dict.fromkeys([*FORECASTS, *CLASSIFIERS]))
    parser.add_argument("--tables", nargs="+", choices=[*NUMBERS, *LABELS], default=[*NUMBERS, *LABELS])
    parser.add_argument("--methods", nargs="+", choices=known, default=known)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    runs = earlier_runs("conditionals", settings=SETTINGS)
    done = {(r["table"], r["method"], r["seed"]) for r in runs}
    for seed in given.seeds:
        for name in given.tables:
            for method in methods_of(name, given.methods):
                if (name, method, seed) in done:
                    continue
                measure = measure_number if name in NUMBERS else measure_label
                runs.append(measure(name, method, seed))
                write("conditionals", {"settings": SETTINGS, "runs": runs})
                print(
                    {k: round(v, 4) if isinstance(v, float) else v for k, v in runs[-1].items()}, flush=True
                )


if __name__ == "__main__":
    main()

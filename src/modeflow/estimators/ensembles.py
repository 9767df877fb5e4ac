"""One fit, or several: of members the densities are averaged; of finalists the best is taken, or both."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeflow.densities import Preprocessed
from modeflow.estimators.fitting import (
    START_STEPS,
    Fit,
    FitData,
    Peaks,
    companions_of,
    log_prob_of,
    stand_beside,
)
from modeflow.estimators.settings import Settings, latent_model
from modeflow.estimators.stacking import Companions, words_of
from modeflow.estimators.storage import plain_value
from modeflow.estimators.trials import apart, mean_and_error
from modeflow.latents import Ensemble
from modeflow.training import History

__all__ = ["Fitted", "Order", "fit_finalists"]

#: Nats a row that another model must add to be worth that rows are scored by two.
_LEAST = 0.01


@dataclass(frozen=True)
class Order:
    """What is to be fitted.

    Attributes:
        settings: with the recipe that was chosen. data: the rows. n_states: K.
        folder: for logs and checkpoints; those of other members lie in folders in it. None for none.
        quiet, resume, peaks, start_steps: as of `Fit`.
        untrained: whether the start is all there is time for.
        word: for the progress bar.
    """

    settings: Settings
    data: FitData
    n_states: int
    folder: Path | None = None
    quiet: bool = True
    resume: bool = False
    peaks: Peaks | None = None
    start_steps: int = START_STEPS
    untrained: bool = False
    word: str = ""

    @property
    def members(self) -> int:
        """How many fits are averaged."""
        return int(self.settings.params.get("ensemble", 1))


@dataclass
class Fitted:
    """What a fit, or several, came to.

    Attributes:
        model: with the best weights. history: of the training. dead: states switched off.
        score, cost: of the validation rows, see `Fit.validation_scores`. members: how many were fitted.
        said: warnings of another process. aside: what another model was built from that stands beside it.
        second: what became of the other finalist, as plain values; None where there was none.
    """

    model: Preprocessed
    history: History
    dead: list[int]
    score: np.ndarray
    cost: np.ndarray | None
    members: int = 1
    said: tuple[str, ...] = ()
    aside: dict[str, Any] | None = None
    second: dict[str, Any] | None = None


def fit_finalists(orders: Sequence[Order], n_jobs: int = 1) -> tuple[Order, Fitted]:
    """Fit what was chosen, and another one, which is first if it is better on validation rows, by more than a
    standard error; but not in the place of an ensemble, nor, where both may stay, of one that has states.
    Where models can be stacked, the second stays beside the first if that makes these rows likelier."""
    beside: list[Companions] = []  # the same for all: their rows are
    best, fitted = orders[0], _fit_all(orders[0], beside, n_jobs)
    for order in orders[1:]:
        if fitted.history.interrupted or (best.members > 1 and not beside):
            break
        order = replace(order, settings=order.settings.of_member())
        other = _fit_all(order, beside)
        if other.history.interrupted:
            fitted.history.interrupted = True  # when it is resumed, the other may be better
            break
        gain, error = _gain(other.score, fitted.score, order.data)
        silent = latent_model(fitted.model).describe().kind == "none"
        first, second, aside = fitted, other, order
        if best.members == 1 and gain > error and (silent or not beside):
            first, second, best, aside = other, fitted, order, best
        fitted = _together(first, second, aside, beside[0]) if beside else first
        fitted = replace(fitted, second=_told(second, aside, fitted.aside is not None))
    return best, fitted


def _told(second: Fitted, order: Order, kept: bool) -> dict[str, Any]:
    """What a finalist is that is not the model, and how its training ended."""
    model, ended = latent_model(second.model), second.history.summary()
    return {**_built(order, model.n_states), "words": words_of(model), "kept": kept, "training": ended}


def _gain(score: np.ndarray, other: np.ndarray, data: FitData) -> tuple[float, float]:
    """How much likelier validation rows are, and the standard error."""
    return mean_and_error(apart(score, other), data.validation_weight)


def _same_maps(one: Preprocessed, two: Preprocessed) -> bool:
    """Whether columns are mapped alike, so that densities of the units are of the same units."""
    first, second = (model.transform.state_dict() for model in (one, two))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _together(fitted: Fitted, other: Fitted, order: Order, beside: Companions) -> Fitted:
    """A model with another beside it, which `order` describes, where that is better."""
    data = order.data
    if other.model.exactness != fitted.model.exactness or not _same_maps(fitted.model, other.model):
        return fitted
    aside, rows = latent_model(other.model), data.domain.block_rows
    alone = fitted.model.beside
    stand_beside(fitted.model, beside, rows, aside)
    score = log_prob_of(fitted.model, data.held, rows)
    if _gain(score, fitted.score, data)[0] <= _LEAST:
        fitted.model.beside = alone
        return fitted
    return replace(fitted, score=score, aside=_built(order, aside.n_states))


def _built(order: Order, n_states: int) -> dict[str, Any]:
    """What a model was built from, as plain values."""
    params = order.settings.params
    names = [name for name in ("flow", "flow_options", "latent", "latent_options") if name in params]
    return plain_value({**{name: params[name] for name in names}, "n_states": n_states, "ensemble": 1})


def _fit_all(order: Order, beside: list[Companions], n_jobs: int = 1) -> Fitted:
    """Fit the members one after the other, or in so many processes, and average them.

    Where a training is interrupted, those that were fitted by then are averaged. What may stand beside them
    is put into the list, or taken from it.
    """
    if order.members == 1:
        return _stacked(_fit(order, 0), order, beside)
    if n_jobs > 1 and not order.untrained:
        found = _in_processes(order, n_jobs)
    else:
        found = []
        for member in range(order.members):
            found.append(_fit(order, member))
            if found[-1].history.interrupted:
                break
    return _stacked(_averaged(found), order, beside)


def _stacked(fitted: Fitted, order: Order, beside: list[Companions]) -> Fitted:
    """The same with what is best beside it (`modeflow.estimators.stacking`), where that is wanted."""
    data, model = order.data, fitted.model.eval()
    if not order.settings.stacks(data.domain) or fitted.history.interrupted:
        return fitted
    if not beside:
        beside.append(companions_of(model, data, order.settings.seed))
    rows = data.domain.block_rows
    stand_beside(model, beside[0], rows)
    return replace(fitted, score=log_prob_of(model, data.held, rows))


def _fit(order: Order, member: int) -> Fitted:
    folder = order.folder
    if folder is not None and member:
        folder = folder / f"member-{member + 1}"
    word = f"{member + 1} of {order.members}" if order.members > 1 else order.word
    fit = Fit(
        order.settings.of_member(),
        order.data,
        order.n_states,
        folder,
        order.quiet,
        order.resume,
        order.peaks,
        start_steps=order.start_steps,
        member=member,
        description=f"fit {word}" if word else "",
    )
    history = fit.run(0 if order.untrained else None)
    history.interrupted |= order.untrained
    fit.settle()
    dead = fit.finish()
    return Fitted(fit.model, history, dead, *fit.validation_scores())


def _in_processes(order: Order, n_jobs: int) -> list[Fitted]:
    from joblib import Parallel, delayed  # scikit-learn's own

    threads = max(1, torch.get_num_threads() // n_jobs)
    parts = Parallel(n_jobs=n_jobs)(delayed(_apart)(order, m, threads) for m in range(order.members))
    found = []
    for state, history, dead, score, cost, said in parts:
        model = order.settings.of_member().model(order.data.domain, order.n_states, None)
        model.load_state_dict(state)
        found.append(Fitted(model.eval(), history, dead, score, cost, said=tuple(said)))
    for text in dict.fromkeys(text for each in found for text in each.said):
        warnings.warn(text, UserWarning, stacklevel=6)
    return found


def _apart(order: Order, member: int, threads: int) -> tuple[Any, ...]:
    """`_fit` in a process of its own: what comes back are tensors, numbers and words."""
    torch.set_num_threads(threads)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = _fit(order, member)
    said = [str(each.message) for each in caught if issubclass(each.category, UserWarning)]
    state = {name: value.cpu() for name, value in fitted.model.state_dict().items()}
    return state, fitted.history, fitted.dead, fitted.score, fitted.cost, said


def _averaged(found: list[Fitted]) -> Fitted:
    first = found[0]
    if len(found) == 1:
        return first
    latents = [latent_model(each.model) for each in found]
    model = Preprocessed(first.model.transform, Ensemble(latents), 1, first.model.beside)
    history, dead, start = first.history.labelled("member 1"), list(first.dead), latents[0].n_states
    for number, (each, latent) in enumerate(zip(found[1:], latents[1:], strict=True), 2):
        interrupted = history.interrupted
        history = history.followed_by(each.history.labelled(f"member {number}"))
        history.interrupted |= interrupted
        dead += [start + state for state in each.dead]
        start += latent.n_states
    score = np.logaddexp.reduce([each.score for each in found]) - math.log(len(found))
    return Fitted(model, history, dead, score, None, len(found))

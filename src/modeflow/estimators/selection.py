r"""Choosing the number of states, and the flow, by cross-fitted likelihood.

All rows are cut into two halves. A candidate is fitted briefly to each and scores the other, so that every
row is scored once by a model that has not seen it, and two candidates are compared by the paired differences

.. math:: d_i = \log p_a(x_i) - \log p_b(x_i), \qquad \bar d \pm \mathrm{sd}(d) / \sqrt{N}

over all N rows (a tenth of them, held out once, has less than a third of the power). Where flows differ after
such a training on one half, they are trained there for twice as long: the one that begins most slowly is
taken unless another is ahead of it, by a standard error, and then on both halves. Of numbers of states the
islands that are visible in the data are the candidate to beat: another is taken only where it is better by
more than two standard errors, and is so again after a longer training of both, by a hundredth of a nat a
column at least; one state takes part in that. Where one half decides, by three errors, nothing is fitted to
the other. So is a tree of states beside the flat latent, and flat states beside the tree where
rows are mixed; and, where that is asked for, a tree of half or twice as many states beside the one that was
chosen. A lead that would be gone by the end of the training is none. What is chosen is then fitted at
length; so is another candidate, where their average promises a hundredth of a nat a column more than what is
chosen alone, or less where rows are few, and beside a tree the flow of one state: validation rows say then
what each counts for (`modeflow.estimators.stacking`), or which is taken where nothing can stand beside a
model. A density that is a bound is compared by its bound. Of many rows as many as show a difference of a
hundredth of a nat are drawn and compared by, so that the choice costs no more than they do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from modeflow.domains import Domain
from modeflow.estimators.fitting import (
    Fit,
    FitData,
    Peaks,
    companions_of,
    mean_one,
    stand_beside,
    standardised,
)
from modeflow.estimators.settings import Settings, is_tree
from modeflow.estimators.stacking import Companions, share_of
from modeflow.estimators.trials import (
    Candidate,
    Choice,
    Choices,
    apart,
    mark_chosen,
    mean_and_error,
    most_states,
    neighbours,
    trees_beside,
)
from modeflow.latents.discrete import CLEAR, LIKELY, Survey, look

__all__ = ["Selection"]

#: Standard errors by which another number of states must be better than the islands.
_BETTER = 2.0
#: Nats a column that it must be better by on top, after the longer training.
_WORTH = 0.01
#: Standard errors on one half after which the other is not asked: who is so far behind is given up, and who
#: is so far ahead of all is taken. A number of states is given up where it is no better on the first.
_DECIDED = 3.0
#: Nats a column within which flows are alike.
_ALIKE = 0.002
#: How much longer than numbers of states flows are trained to be compared: the deep ones begin slowly.
_FLOW_LENGTH = 2
#: How much longer the islands and a number of states that beat them are trained, to be compared once more.
_DUEL = 3
#: Rows a column from which on a second fit must promise as much as that.
_MANY = 500
#: Most states that are tried where nothing is said, and most islands that each get one.
_MOST_STATES, _MOST_ISLANDS = 32, 100
#: Most candidates after the first few: neighbours of the best so far.
_NEIGHBOURS = 2
#: Rows that candidates are compared by at the most: differences of a nat a row are known to a hundredth.
_MOST_ROWS = 40_000
#: Share of a half that ends the training of a candidate early.
_STOPPING_SHARE = 0.15


class Selection:
    """Finds the choice for some rows.

    Arguments:
        settings: the estimator's parameters.
        data: training and validation rows; both are used.
        run_dir: folder for the logs and checkpoints of the candidates, or None.
        quiet: no progress bars.
        resume: go on from what lies in `run_dir`.
    """

    def __init__(
        self, settings: Settings, data: FitData, run_dir: Path | None, quiet: bool, resume: bool
    ) -> None:
        self.settings, self.run_dir, self.quiet, self.resume = settings, run_dir, quiet, resume
        self.trials: dict[tuple[Choice, int], Candidate] = {}
        self.interrupted = False
        self._stacks, self._open = settings.stacks(data.domain), False
        values = np.concatenate([data.train, data.validation])
        weights = [data.weight, data.validation_weight]
        sizes = [len(data.train), len(data.validation)]
        weight = None
        if any(w is not None for w in weights):
            weight = np.concatenate(
                [np.ones(n) if w is None else w for w, n in zip(weights, sizes, strict=True)]
            )
        self._count = len(values)
        order = np.random.default_rng([settings.seed, 1]).permutation(len(values))
        if len(values) > _MOST_ROWS:
            values, weight = (
                values[order[:_MOST_ROWS]],
                None if weight is None else weight[order[:_MOST_ROWS]],
            )
            order = np.arange(_MOST_ROWS)
        self.weight, self._values = weight, values
        self.halves = order[::2], order[1::2]
        self._trained: list[np.ndarray] = []
        self._companions: dict[int, Companions] = {}
        self._parts = [self._part(half, data.domain) for half in self.halves]
        self._survey: Survey | None = None
        self._looked: tuple[list[Survey], list[Survey]] = ([], [])
        self._rows, self._seen = len(values), 1
        self._plain: set[Choice] = set()

    def _part(self, half: np.ndarray, domain: Domain) -> FitData:
        """The rows that one half is fitted to, and those of the half that end its training."""
        count = max(1, round(_STOPPING_SHARE * len(half)))
        stop, fit = half[:count], half[count:]
        weight, values = self.weight, self._values
        self._trained.append(fit)
        parts = (None, None) if weight is None else (weight[fit], weight[stop])
        return FitData(values[fit], values[stop], mean_one(parts[0]), mean_one(parts[1]), domain)

    def peaks(self, rows: np.ndarray) -> Peaks | None:
        """Of these rows: which were looked at, and the peaks of all rows' density (None where unknown).

        Half the rows show an island less clearly than all. What a candidate learns from the other half is
        where islands are, not what their rows are; and every candidate learns it.
        """
        if self._survey is None or self.weight is not None:
            return None
        index = self._survey.index
        place = np.searchsorted(index, rows).clip(max=len(index) - 1)
        known = np.flatnonzero(index[place] == rows)
        return known, self._survey.relief.take(place[known])

    def peaks_of_first(self, count: int) -> Peaks | None:
        """Of the first rows, which are trained on; None where candidates were compared by some rows alone."""
        return self.peaks(np.arange(count)) if self._rows == self._count else None

    def second(self, best: Choice) -> Choice | None:
        """What is worth to be fitted to the end beside the best, if anything is; where only flows were to be
        chosen from, one is wanted."""
        if self.interrupted or not self._open:
            return None
        # Few rows are learned by heart, and then fits differ more than short trainings show.
        least = self._worth * min(1.0, self._count / (_MANY * self._values.shape[1]))
        gains = {c: self._promise(best, c) for c in dict.fromkeys(c for c, _ in self.trials) if c != best}
        # Half the rows and few steps favour trees, and many states. (On sml, 3,000 rows, the flow of one
        # state was 5 nats behind a tree then, and 8 ahead of it in the end.)
        flows = {c: gain for c, gain in gains.items() if is_tree(best.flow) and not is_tree(c.flow)}
        plain = [c for c in gains if c in self._plain and self._may_win(best, c)]
        if plain and self._stacks:
            return max(plain, key=lambda c: gains[c])
        for some in (flows, gains):
            other = max(some, key=lambda c: some[c], default=best)
            if other != best and some[other] > least:
                return other
        return None

    def _promise(self, best: Choice, other: Choice) -> float:
        """Nats a row that the best would gain by another beside it, after their longest trainings; where
        nothing stands beside a model, that the other would be ahead by.

        Counted is what the other may yet come nearer by.
        """
        lengths = self._lengths_of(best, other)
        if not lengths:
            return -math.inf
        now = lengths[-1]
        # Who is taken in the place of the best must have been compared with it for as long as any was.
        if not self._stacks and now < max(n for c, n in self.trials if c == best):
            return -math.inf
        one, two = (self.trials[c, now].scores for c in (best, other))
        known = ~np.isnan(one) & ~np.isnan(two)
        if not known.any():
            return -math.inf
        nearer, _, share = self._nearer(best, other)
        two = two + max(0.0, nearer) * share
        if not self._stacks:
            return self._mean(apart(two, one), known)[0]
        columns = np.stack([one, two], 1)[known]
        weight = None if self.weight is None else self.weight[known]
        shares = share_of(columns, np.ones(2), weight)
        with np.errstate(divide="ignore"):
            both = np.logaddexp.reduce(columns + np.log(shares), 1)
        return mean_and_error(apart(both, columns[:, 0]), weight)[0]

    def _lengths_of(self, one: Choice, two: Choice) -> list[int]:
        """Lengths of the trainings that both had."""
        return sorted(n for c, n in self.trials if c == one and (two, n) in self.trials)

    def _nearer(self, one: Choice, two: Choice) -> tuple[float, float, float]:
        """Nats a row that the second comes nearer to the first, or goes ahead, in a doubling of their
        trainings, by the last two that both had, the error of that, and how many of what follow are counted.

        Of every further doubling it is supposed that it brings half as much as the one before.
        """
        lengths = self._lengths_of(one, two)
        if len(lengths) < 2:
            return 0.0, 0.0, 0.0
        before, now = lengths[-2:]
        leads = [apart(self.trials[two, n].scores, self.trials[one, n].scores) for n in (before, now)]
        came = apart(leads[1], leads[0])
        nearer, error = (each / math.log2(now / before) for each in self._mean(came, ~np.isnan(came)))
        return (nearer if math.isfinite(nearer) else 0.0), error, 1 - min(1.0, now / self._end)

    def _last_of(self, choices: Sequence[Choice]) -> Choice:
        """The first, unless others overtake it until the end of the training."""
        best = choices[0]
        for other in choices[1:]:
            if lengths := self._lengths_of(best, other):
                nearer, _, share = self._nearer(best, other)
                best = other if nearer * share > self._compare(best, other, lengths[-1])[0] else best
        return best

    def _may_win(self, best: Choice, plain: Choice) -> bool:
        """Whether the flow of one state may be ahead in the end of what short trainings favour: of a tree, or
        of more states than islands that it would overtake if it came nearer as it did until then."""
        if is_tree(best.flow):
            return True
        lengths = self._lengths_of(best, plain)
        if not lengths or best.n_states <= self._seen:
            return False
        doublings = math.log2(max(1.0, self._end / lengths[-1]))
        nearer, error, _ = self._nearer(best, plain)
        # By more than chance: all that is left of the training multiplies it.
        return nearer > error and nearer * doublings > self._compare(best, plain, lengths[-1])[0]

    def take(self, choice: Choice) -> None:
        """Say that this one was taken in the end: of all trials how far they are behind it."""
        mark_chosen(self.trials.values(), choice)
        for one, length in self.trials:
            if one == choice:
                self._note([c for c, n in self.trials if n == length], choice, length)

    @property
    def _end(self) -> float:
        """Length of the training on all rows."""
        return self.settings.lengths(self._count, len(self._parts[0].train))

    # -- which ----------------------------------------------------------------------------------

    def run(self, left: Choices) -> Choice:
        """The best flow for the islands, then a rival, with the best number of states of what is chosen.

        Islands have theirs before they meet a rival; of a rival, and of a tree, it is asked after.
        """
        first, likely, most = self._islands(left.n_states)
        self._seen = first
        # Flat flows of mixed tables are rivals of the tree, and bounds are set beside nothing.
        self._plain = {Choice(flow, 1) for flow in left.flows if not is_tree(flow)}
        best = left.of(left.flows[0], first)
        if len(left.flows) > 1:
            best = self._best_flow([left.of(flow, first) for flow in left.flows])
        several = left.n_states == "auto" and most > 1
        self._open = several or bool(left.rivals)
        if several and not is_tree(best.flow):
            best = self._best_states(best, sorted({1, likely, min(4 * first, most)} - {first}), most)
        if left.rivals:
            best = self._best_rival(best, [left.of(rival) for rival in left.rivals])
        if is_tree(best.flow):
            best = self._best_tree(best) if left.other_trees else best
        elif several and best.flow in left.rivals:
            best = self._best_states(best, [min(4, most)], most)
        mark_chosen(self.trials.values(), best)
        return best

    def _islands(self, n_states: int | str) -> tuple[int, int, int]:
        """Flat states to begin with, as many as there may be islands, and the most that are tried."""
        if n_states != "auto":
            return int(n_states), int(n_states), int(n_states)
        limit = self.settings.params["max_states"]
        most = most_states(_MOST_STATES if limit is None else int(limit), len(self._parts[0].train))
        whole = replace(self._parts[0], train=self._values, weight=self.weight)
        if not whole.domain.distances:
            return 1, 1, most
        self._survey = look(standardised(whole, self.settings), self.settings.seed)
        seen, likely = (self._survey.relief.cut(level).count for level in (CLEAR, LIKELY))
        # Islands that are seen need no thirty rows each to be believed.
        return min(seen, _MOST_ISLANDS if limit is None else int(limit)), min(likely, most), most

    def _best_states(self, first: Choice, others: Sequence[int], most: int) -> Choice:
        best = self._best_of([first, *(Choice(first.flow, k) for k in others)], _BETTER)
        for _ in range(_NEIGHBOURS):
            near = [Choice(best.flow, k) for k in neighbours(best.n_states, most)]
            untried = [choice for choice in near if (choice, 1) not in self.trials]
            better = self._best_of([best, *untried], _BETTER)
            if better == best:
                break
            best = better
        # Many Gaussians are good at once, a few states that bend need time, one flow most: once more, longer.
        # (On sml, 3,000 rows, 24 states were .6 nats ahead of one at first, and 5 behind it in the end.)
        return self._longer([first, Choice(first.flow, 1), best])

    def _longer(self, choices: Sequence[Choice]) -> Choice:
        """The best after a longer training, the first unless another is clearly better."""
        choices = list(dict.fromkeys(choices))
        if len(choices) == 1:
            return choices[0]
        best = self._best_of(choices, _BETTER, _DUEL, self._worth)
        if not self.interrupted and best != choices[0]:
            best = self._last_of([best, *choices])
            self._note(choices, best, _DUEL)
        return best

    def _best_flow(self, choices: Sequence[Choice]) -> Choice:
        """The best flow; the first where all are alike, or none is ahead of it on one half, and then on both.

        A short training shows whether they differ (where islands are Gaussians, as all start, they do not),
        not which is better: of the flows that begin slowly it says nothing.
        """
        against = self._on_one_half(choices, 1)
        least = _ALIKE * self._values.shape[1]
        if all(abs(gain) <= max(_DECIDED * error, least) for gain, error in against):
            return choices[0]
        ahead = self._ahead(choices)
        return self._best_of([choices[0], *ahead], 0.0, _FLOW_LENGTH) if ahead else choices[0]

    def _best_rival(self, best: Choice, rivals: Sequence[Choice]) -> Choice:
        """The best so far, unless a rival is ahead on one half, and clearly after a longer training.

        Trees learn in a few steps, deep flows in many. (On sml, 3,000 rows, trees were 5 nats ahead of the
        flow at first, and 6 behind it in the end.)
        """
        ahead = self._ahead([best, *rivals])
        return self._longer([best, *ahead])

    def _best_tree(self, first: Choice) -> Choice:
        """The tree, or one of half or twice as many states where that is clearly better."""
        near = [Choice(first.flow, k) for k in trees_beside(first.n_states, self._count)]
        if not near:
            return first
        ahead = self._ahead([first, *near])
        return self._best_of([first, *ahead], _BETTER, _FLOW_LENGTH, self._worth) if ahead else first

    def _on_one_half(self, choices: Sequence[Choice], length: int) -> list[tuple[float, float]]:
        """How much better than the first the others are, with errors, fitted to one half."""
        for choice in choices:
            if not self.interrupted:
                self._try(choice, length, halves=1)
        self._note(choices, choices[0], length)
        return [self._compare(choice, choices[0], length)[:2] for choice in choices[1:]]

    def _ahead(self, choices: Sequence[Choice]) -> list[Choice]:
        """Those that are ahead of the first by a standard error, trained for longer on one half."""
        against = self._on_one_half(choices, _FLOW_LENGTH)
        return [c for c, (gain, error) in zip(choices[1:], against, strict=True) if gain > error]

    @property
    def _worth(self) -> float:
        """Nats that a candidate must be better by to be worth a closer look."""
        return _WORTH * self._values.shape[1]

    def _best_of(
        self, choices: Sequence[Choice], margin: float, length: int = 1, least: float = 0.0
    ) -> Choice:
        """The best after trainings of this length; the first unless better by so many errors and nats."""
        for choice in choices:
            if not self.interrupted:
                self._try(choice, length, halves=1)
        left = self._undecided(choices, margin, length, least)
        for choice in left if len(left) > 1 else []:
            if not self.interrupted:
                self._try(choice, length)
        best = left[0]
        if best != choices[0]:  # which is clearly worse: of the others the best
            margin = least = 0.0
        for choice in left[1:]:
            difference, error, whole = self._compare(choice, left[0], length)
            # One that beats the first must also beat the best so far, if only in the mean.
            if whole and difference > margin * error + least and self._compare(choice, best, length)[0] > 0:
                best = choice
        self._note(choices, best, length)
        return best

    def _undecided(self, choices: Sequence[Choice], margin: float, length: int, least: float) -> list[Choice]:
        """Those that one half leaves a chance, in their order; one of them where it decides."""
        first, *others = choices
        hopeless = -_DECIDED if margin == 0 else 0.0
        against = {c: self._compare(c, first, length)[:2] for c in others}
        left = [c for c, (gain, error) in against.items() if gain >= hopeless * error and gain > -math.inf]
        if not left:
            return [first]
        lead = max(left, key=lambda c: against[c][0])
        gain, error = against[lead]
        if gain <= _DECIDED * error + least:
            return [first, *left]
        behind = {c: self._compare(c, lead, length)[:2] for c in left}
        return [c for c, (gain, error) in behind.items() if gain >= -_DECIDED * error]

    def _note(self, choices: Sequence[Choice], best: Choice, length: int) -> None:
        """Keep how much worse than the best each was."""
        for choice in choices:
            if (trial := self.trials.get((choice, length))) is not None:
                trial.difference, trial.difference_error, _ = self._compare(choice, best, length)

    # -- how good ---------------------------------------------------------------------------------

    def _try(self, choice: Choice, length: int, halves: int = 2) -> None:
        """Fit and score a candidate.

        Arguments:
            choice: to be tried. length: of the training, in short ones.
            halves: to be fitted to, those included that it was.
        """
        trial = self.trials.get((choice, length))
        if trial is None:
            trial = Candidate(choice.flow, choice.n_states, length, scores=np.full(self._rows, np.nan))
        settings = self.settings.candidate(choice.flow, len(self._parts[0].train), length, choice.n_states)
        for place in range(trial.halves, halves):
            folder = None
            if self.run_dir is not None:
                name = f"{choice.flow}-{choice.n_states}-{length}".replace(", ", "-")
                folder = self.run_dir / "selection" / name / f"half-{place + 1}"
            fit = Fit(
                settings,
                self._parts[place],
                choice.n_states,
                folder,
                self.quiet,
                self.resume,
                peaks=self.peaks(self._trained[place]),
                looked=self._looked[place],
                description=f"try {choice.n_states} state{'s' if choice.n_states > 1 else ''}",
                start_steps=500,
            )
            history = fit.run()
            self.interrupted |= history.interrupted
            if self.interrupted:
                return
            fit.settle()
            if settings.stacks(fit.data.domain):
                self._stand_beside(fit, place)
            other = self.halves[1 - place]
            trial.scores[other] = fit.log_prob(self._values[other])
            trial.seconds += history.seconds
            trial.epochs += (len(history.epochs) - 1) * len(self._parts[place].train) / self._rows
            self.trials[choice, length] = trial
            trial.halves += 1
            self._summarise(trial)

    def _stand_beside(self, fit: Fit, place: int) -> None:
        """Have what is best beside the candidate stand there, as it will in the end."""
        if place not in self._companions:  # the same for all candidates
            self._companions[place] = companions_of(fit.model, fit.data, self.settings.seed)
        stand_beside(fit.model, self._companions[place], fit.data.domain.block_rows)

    def _summarise(self, trial: Candidate) -> None:
        known = ~np.isnan(trial.scores)
        trial.rows = int(known.sum())
        weight = None if self.weight is None else self.weight[known]
        trial.validation, trial.standard_error = mean_and_error(trial.scores[known], weight)

    def _compare(self, one: Choice, two: Choice, length: int) -> tuple[float, float, bool]:
        """Mean paired difference on the rows that both scored, its error, and whether these are all rows."""
        if one == two:
            return 0.0, 0.0, True
        if not {(one, length), (two, length)} <= set(self.trials):
            return -math.inf, math.inf, False
        difference = apart(self.trials[one, length].scores, self.trials[two, length].scores)
        known = ~np.isnan(difference)
        return *self._mean(difference, known), bool(known.all())

    def _mean(self, values: np.ndarray, some: np.ndarray) -> tuple[float, float]:
        """Mean over some rows, by their weights, and its error."""
        return mean_and_error(values[some], None if self.weight is None else self.weight[some])

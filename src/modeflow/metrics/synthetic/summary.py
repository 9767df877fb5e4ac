"""All scores of a synthetic table, against the rows that were trained on and against rows that were not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeflow.errors import ConfigError
from modeflow.metrics.synthetic.coding import CodedTables, code_tables
from modeflow.metrics.synthetic.columns import (
    MutualInformation,
    Shape,
    Trend,
    mutual_information_of,
    shape_of,
    trend_of,
)
from modeflow.metrics.synthetic.efficiency import Utility, utility_of
from modeflow.metrics.synthetic.neighbours import (
    NearCopies,
    PrecisionRecall,
    TrainShare,
    near_copies_of,
    precision_recall_of,
    train_share_of,
)
from modeflow.metrics.synthetic.two_sample import Detection, detection_of
from modeflow.options import check_choice
from modeflow.progress import track

__all__ = ["FIDELITY", "MEASURES", "PRIVACY", "Fidelity", "SyntheticReport", "report"]

#: Measures that compare synthetic rows with real ones.
FIDELITY = ("shape", "trend", "mutual_information", "xgboost", "logistic", "precision_recall")
#: Measures of distances to training rows; they need held-out rows.
PRIVACY = ("train_share", "near_copies")
MEASURES = (*FIDELITY, *PRIVACY, "utility")


@dataclass(frozen=True)
class Fidelity:
    """Scores of synthetic rows against real rows; None where one was not asked for.

    Attributes:
        rows: numbers of real and of synthetic rows.
        shape, trend, mutual_information, xgboost, logistic, precision_recall: what the functions give,
            "xgboost" and "logistic" those of `detection`.
    """

    rows: tuple[int, int]
    shape: Shape | None = None
    trend: Trend | None = None
    mutual_information: MutualInformation | None = None
    xgboost: Detection | None = None
    logistic: Detection | None = None
    precision_recall: PrecisionRecall | None = None

    def scores(self) -> dict[str, float]:
        """The numbers by the names under which the field publishes them; 1 is best of all."""
        found: dict[str, float] = {}
        if self.shape:
            found["shape"] = self.shape.score
        if self.trend:
            found["trend"] = self.trend.score
        if self.mutual_information:
            found["nmi_l1_weighted_complement"] = self.mutual_information.score
            found["nmi_l1_complement"] = self.mutual_information.unweighted
        if self.xgboost:
            found["xgb_detection"] = self.xgboost.score
        if self.logistic:
            found["lr_detection"] = self.logistic.score
        if self.precision_recall:
            found["alpha_precision"] = self.precision_recall.alpha_precision
            found["beta_recall"] = self.precision_recall.beta_recall
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        parts = {name: getattr(self, name) for name in FIDELITY}
        return {"rows": list(self.rows), **{n: part.to_dict() for n, part in parts.items() if part}}


@dataclass(frozen=True)
class SyntheticReport:
    """All scores of a synthetic table.

    Attributes:
        train: against all real rows that were trained on, as the protocol has it.
        train_part, test: against equally many trained and held-out rows, with the same synthetic rows (as
            many); None without held-out rows. What `train_part` has more is memory of the training rows.
        train_share, near_copies: how near synthetic rows lie to training rows.
        utility: what is learned from synthetic rows, on the held-out rows.
    """

    train: Fidelity
    train_part: Fidelity | None = None
    test: Fidelity | None = None
    train_share: TrainShare | None = None
    near_copies: NearCopies | None = None
    utility: Utility | None = None

    def scores(self) -> dict[str, float]:
        """The numbers of the protocol, by the names under which the field publishes them.

        "dcr" is the share of this model's rows; the protocol trains another on a half of the rows for it.
        """
        found = self.train.scores()
        if self.train_share:
            found["dcr"] = self.train_share.share
        if self.near_copies:
            found |= {"dcr002": self.near_copies.dcr002, "dcr005": self.near_copies.dcr005}
        if self.utility:
            found["mle"] = self.utility.score
        return found

    def memory(self) -> dict[str, float]:
        """How much better each score is against trained rows than against as many held-out rows."""
        if self.train_part is None or self.test is None:
            return {}
        test = self.test.scores()
        return {name: value - test[name] for name, value in self.train_part.scores().items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        names = ("train", "train_part", "test", "train_share", "near_copies", "utility")
        parts = {name: getattr(self, name) for name in names}
        return {name: part.to_dict() for name, part in parts.items() if part is not None}

    def __str__(self) -> str:
        part = self.train_part.scores() if self.train_part else {}
        test = self.test.scores() if self.test else {}
        lines = [f"{'':28}{'train':>10}" + (f"{'as many':>10}{'held out':>10}" if test else "")]
        for name, value in self.scores().items():
            more = f"{part[name]:10.4f}{test[name]:10.4f}" if name in test else ""
            lines.append(f"{name:28}{value:10.4f}{more}")
        return "\n".join(lines)


def report(
    real: Any,
    synthetic: Any,
    test: Any = None,
    categorical: Iterable[str] | None = None,
    target: str | None = None,
    measures: Iterable[str] | None = None,
    log_target: bool = False,
    seed: int = 0,
    n_jobs: int | None = None,
) -> SyntheticReport:
    """All scores of synthetic rows; each is defined where its function is.

    Arguments:
        real: the rows that were trained on. synthetic: rows of the model, best as many.
        test: rows that were held out; without them there are no measures of privacy and utility, and none
            against held-out rows.
        categorical: columns whose numbers are categories. target: the column of `utility`; without it there
            is none. measures: some of `MEASURES`; None for all that `test` and `target` allow.
        log_target: of `utility`. seed: of all draws. n_jobs: threads of XGBoost, None for all.

    Raises:
        ConfigError: an unknown measure, or one that lacks `test` or `target`; xgboost is not installed.
        DataError: tables that do not go together.
    """
    given = {"real": real, "synthetic": synthetic} | ({} if test is None else {"test": test})
    wanted = _wanted(measures, test is not None, target)
    coded = code_tables(given, categorical)
    fidelity = [name for name in FIDELITY if name in wanted]
    comparisons = {"train": coded.of(*coded.tables[:2])}
    if test is not None and fidelity:
        comparisons |= _equal_numbers(coded, seed)
    work = [(where, name) for where in comparisons for name in fidelity]
    work += [("", name) for name in wanted if name not in FIDELITY]
    found: dict[str, dict[str, Any]] = {"": {}, **{where: {} for where in comparisons}}
    for where, name in track(work, "scores of synthetic rows"):
        if where:
            found[where][name] = _compare(comparisons[where], name, seed, n_jobs)
        else:
            found[""][name] = _alone(coded, name, str(target), log_target, seed, n_jobs)
    parts: dict[str, Any] = {
        where: Fidelity((len(tables.tables[0]), len(tables.tables[1])), **found[where])
        for where, tables in comparisons.items()
    }
    return SyntheticReport(**parts, **found[""])


def _wanted(measures: Iterable[str] | None, tested: bool, target: str | None) -> list[str]:
    if isinstance(measures, str):
        raise ConfigError(f"measures='{measures}' is one text; give a list of names: ['{measures}']")
    lacking = {name: "test" for name in (*PRIVACY, "utility") if not tested}
    if target is None:
        lacking.setdefault("utility", "target")
    if measures is None:
        return [name for name in MEASURES if name not in lacking]
    names = list(measures)
    for name in names:
        check_choice("measures", name, MEASURES)
        if name in lacking:
            raise ConfigError(f"'{name}' needs {lacking[name]}")
    return names


def _equal_numbers(coded: CodedTables, seed: int) -> dict[str, CodedTables]:
    """As many trained as held-out rows, each against the same synthetic rows, as many."""
    real, synthetic, test = coded.tables
    rng = np.random.default_rng(seed)
    count = min(map(len, coded.tables))
    part, few, held = (rows.take(rng.permutation(len(rows))[:count]) for rows in (real, synthetic, test))
    return {"train_part": coded.of(part, few), "test": coded.of(held, few)}


def _compare(coded: CodedTables, name: str, seed: int, n_jobs: int | None) -> Any:
    if name == "shape":
        return shape_of(coded)
    if name == "trend":
        return trend_of(coded, seed=seed)
    if name == "mutual_information":
        return mutual_information_of(coded)
    if name == "precision_recall":
        return precision_recall_of(coded)
    return detection_of(coded, name, seed, n_jobs)


def _alone(
    coded: CodedTables, name: str, target: str, log_target: bool, seed: int, n_jobs: int | None
) -> Any:
    _, synthetic, test = coded.tables
    if name == "train_share":
        return train_share_of(coded)
    if name == "near_copies":
        return near_copies_of(coded)
    # Levels stay those of all three tables: what no synthetic row has is encoded as none.
    return utility_of(coded.of(synthetic, test), target, log_target, seed=seed, n_jobs=n_jobs)

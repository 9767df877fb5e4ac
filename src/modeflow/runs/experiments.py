"""Published experiments as settings of a fit, and ours beside the paper's number.

Their settings are the YAML files in the folder `published`; a file says what it repeats and what differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeflow.errors import ConfigError, nearest
from modeflow.runs.config import read_config

__all__ = ["EXPERIMENTS", "Experiment", "experiment"]

_FOLDER = Path(__file__).with_name("published")
_NSF = "Durkan et al. 2019, arXiv:1906.04032"
_DAYS = "a GPU and hours to a day"


@dataclass(frozen=True)
class Experiment:
    """A fit that a paper made.

    Attributes:
        name: of it, and of its file. paper: who. published: their number, in the units of the likelihood of
            such rows (nats a row, bits a dimension); None where theirs is of something else. cost: what it
            takes. differs: what is not as there.
    """

    name: str
    paper: str
    published: float | None
    cost: str
    differs: str = ""

    @property
    def path(self) -> Path:
        """The file of its settings."""
        return _FOLDER / f"{self.name}.yaml"

    def settings(self) -> dict[str, Any]:
        """Settings of the fit."""
        return read_config(self.path)

    def compared(self, found: Mapping[str, Any], less_is_better: bool) -> dict[str, Any]:
        """Our number beside the paper's.

        Arguments:
            found: the likelihood of the test rows, with ``value`` and ``standard_error``.
            less_is_better: whether it is a length (bits) and no log-density.

        Returns:
            plain values: ``ours``, ``standard_error``, ``published``, ``better_by``, a ``verdict`` in words.
        """
        ours, error = float(found["value"]), float(found["standard_error"] or 0.0)
        told: dict[str, Any] = {
            "experiment": self.name, "paper": self.paper, "ours": ours, "standard_error": error,
            "published": self.published, "differs": self.differs,
        }  # fmt: skip
        if self.published is None:
            return {**told, "better_by": None, "verdict": "the paper's number is of something else"}
        gain = (self.published - ours) if less_is_better else (ours - self.published)
        near = not math.isnan(gain) and abs(gain) <= 2 * error
        verdict = "as published" if near else "better than published" if gain > 0 else "worse than published"
        return {**told, "better_by": gain, "verdict": verdict}


def _flows(kind: str, values: Mapping[str, float]) -> list[Experiment]:
    return [Experiment(f"nsf-{kind}-{data}", _NSF, value, _DAYS) for data, value in values.items()]


_COUPLING = {"power": 0.64, "gas": 13.09, "hepmass": -14.75, "miniboone": -9.67, "bsds300": 157.54}
_AUTOREGRESSIVE = {"power": 0.66, "gas": 13.09, "hepmass": -14.01, "miniboone": -9.22, "bsds300": 157.31}

#: By name.
EXPERIMENTS: Mapping[str, Experiment] = {
    each.name: each
    for each in (
        *_flows("coupling", _COUPLING),
        *_flows("autoregressive", _AUTOREGRESSIVE),
        Experiment(
            "glow-cifar10", "Kingma and Dhariwal 2018, arXiv:1807.03039", 3.35, "a GPU and days",
            "one GPU, and fewer epochs",
        ),
        Experiment(
            "nvf-cifar10", "Dong et al. 2022, arXiv:2211.11638", None, "a GPU and days",
            "pixels are dequantised and codes are counted, which the paper's number does not",
        ),
        Experiment(
            "nvf-fashion-mnist", "Dong et al. 2022, arXiv:2211.11638", None, "12 to 18 minutes of two cores",
            "grey images of 28 x 28, as measured in docs/images.md",
        ),
    )
}  # fmt: skip


def experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in EXPERIMENTS:
        raise ConfigError(
            f"there is no experiment '{name}'{nearest(name, list(EXPERIMENTS))}: "
            "`modeflow reproduce` lists them"
        )
    return EXPERIMENTS[name]

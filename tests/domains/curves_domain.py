"""A third kind of rows, as somebody else would add it: curves of equal length, from ``*.curves.npy``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch

from modeflow.domains import DOMAINS, Domain, RowsToScore
from modeflow.domains.base import Trivial
from modeflow.errors import DataError
from modeflow.estimators import ESTIMATORS, NVF
from modeflow.metrics import LogLikelihood, summarise
from modeflow.models import TableModel
from modeflow.runs.config import MODELS, PLAIN
from modeflow.transforms import Columns


@dataclass
class Curves:
    name: str
    values: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass
class Thirds:
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def sizes(self):
        return len(self.train), len(self.validation), len(self.test)


@dataclass(frozen=True)
class CurveDomain(Domain):
    """Curves of `length` points."""

    length: int

    name, word, shown = "curve", "curve", "log_density"
    measure, units = "log_likelihood", "nats per curve"
    defaults: ClassVar = {"smooth": 1}
    block_rows, drawn = 64, 5

    @classmethod
    def accepts(cls, source, settings):
        return str(source).endswith(".curves.npy")

    @classmethod
    def load(cls, settings):
        return Curves(str(settings["data"]), np.load(settings["data"])[: settings["rows"]])

    @classmethod
    def split(cls, data, settings):
        return Thirds(data.values[::2], data.values[1::4], data.values[3::4])

    @classmethod
    def some(cls, part, count):
        return part[:count]

    def read(self, source, settings, **how):
        values = np.load(source)
        return RowsToScore(values, np.arange(len(values)), len(values), {})

    @classmethod
    def learn(cls, estimator, X):
        return cls(X.shape[1]), np.asarray(X, dtype=float)

    def validate(self, estimator, X):
        return self.validation(X)

    def validation(self, X):
        if X.shape[1] != self.length:
            raise DataError(f"curves have {X.shape[1]} points, those of the model {self.length}")
        return np.asarray(X, dtype=float)

    def to_tensor(self, values):
        return torch.from_numpy(values)

    def from_tensor(self, x):
        return x.cpu().numpy()

    def preprocessing(self):
        return Columns(self.length)

    def fit_preprocessing(self, transform, rows, weight, bare):
        transform.fit(rows, weight)

    def summarise(self, log_prob, kind, cost=None, weight=None):
        return summarise(log_prob, kind, weight)

    @staticmethod
    def likelihood(row):
        return LogLikelihood.from_dict(row)

    def scores(self, log_prob, cost, kind):
        return {"nats": log_prob}

    def trivial(self, train, rows, weight):
        return Trivial(np.full(len(rows), -1e9), "nothing", 1.0, 0.0, "nats")

    def to_dict(self):
        return {"length": self.length}

    @classmethod
    def from_dict(cls, content):
        return cls(content["length"])

    def scale(self, values):
        return values.std(0)

    @property
    def facts(self):
        return self.to_dict()

    @staticmethod
    def size_text(result):
        return f"{sum(result['rows'].values())} curves of {result['length']} points"

    def check_target(self, out, with_state):
        pass

    def write(self, out, samples, z):
        np.save(out, samples)
        return f"{len(samples)} curves", {"out": out}


class CurveDensity(NVF):
    """The parameters of NVF, for curves."""

    domain = CurveDomain

    @classmethod
    def build(cls, settings: Any, domain: Any, n_states: int, steps: int | None) -> Any:
        options = settings.groups["latent_options"]
        p = settings.params
        return TableModel(
            domain.length,
            p["latent"],
            n_states,
            flow=p["flow"],
            flow_options=p["flow_options"],
            latent_options=options.for_steps(steps) if steps else options,
        )


@contextmanager
def curves_known() -> Iterator[None]:
    """Within the block the domain is registered, by a line in each table."""
    with ExitStack() as stack:
        for table, entry in (
            (DOMAINS, CurveDomain),
            (MODELS, {"nvf": ("CurveDensity", {})}),
            (PLAIN, ("CurveDensity", {"n_states": 1}, ("vector",))),
        ):
            stack.enter_context(patch.dict(table, {"curve": entry}))
        stack.enter_context(patch.dict(ESTIMATORS, {"CurveDensity": CurveDensity}))
        yield

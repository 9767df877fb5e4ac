"""Binary tables: test log-likelihoods of a tree of states, of flat states and of MADE, beside published ones.

The standard splits into training, validation and test rows (Lowd and Davis 2010; Van Haaren and Davis 2012).
Every method is fitted with each of its settings (`SETTINGS`) to the training rows and ends its training where
the validation rows say so; the setting that is best there is the one whose test rows are scored, once. Given
are the mean log-likelihood of a test row, nats, and its standard error over the rows.

"tree": a tree of states, one a column, by its leaves (`TreeNVF`). "states": a mixture of chains of masked
networks (`DiscreteNVF`). "MADE": one such chain. "Chow-Liu": the tree of the columns themselves, its tables
smoothed by what is best on validation rows. Values that are published come with how they came here: those
called recalled were not looked up in their papers.

Run: python benchmarks/discrete.py [--tables nltcs dna] [--methods tree MADE] [--seeds 0] [--fresh] [--show]
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import RESULTS, data_file, earlier_runs, write
from modeflow.data.local import find_file
from modeflow.densities import Feature
from modeflow.latents import LatentModel
from modeflow.latents.tree import chow_liu
from modeflow.models import DiscreteNVF, TreeNVF
from modeflow.training import TrainConfig, Trainer

#: The tables there are published values of, in the order in which they are measured.
TABLES = ("nltcs", "dna", "plants", "accidents", "pumsb_star", "bnetflix", "mushrooms", "bbc")
METHODS = ("Chow-Liu", "tree", "states", "MADE")
#: What a method chooses from by its validation rows: all combinations.
SETTINGS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "tree": {"states": (32, 64, 128)},
    "states": {"states": (8, 32), "dropout": (0.2,)},
    "MADE": {"dropout": (0.0, 0.2)},
    "Chow-Liu": {"added": (0.01, 0.1, 1.0)},
}
#: Most products of a row and tree, columns times states squared: above, 10,000 steps take an hour and more.
MOST_PRODUCTS = 2_000_000
#: Of every training: steps at the most, rows a step, passes without a better validation before it ends.
STEPS, BATCH, PATIENCE = 10_000, 256, 8
#: Rows scored at once.
BLOCK = 512


@dataclass(frozen=True)
class Split:
    """Rows of zeros and ones."""

    train: Tensor
    valid: Tensor
    test: Tensor

    @property
    def features(self) -> tuple[Feature, ...]:
        """What their columns are."""
        return (Feature(levels=2),) * self.train.shape[1]


def load(name: str) -> Split:
    """The split of a table, from the folder of data.

    Raises:
        DataError: there is no such file.
    """
    with np.load(data_file(f"discrete/{name}.npz")) as parts:
        return Split(*(torch.from_numpy(parts[p]).float() for p in ("train", "valid", "test")))


def published(name: str) -> list[dict[str, str]]:
    """Published values of a table, the best first."""
    found = find_file("published.csv")
    if found is None:
        return []
    with found.open(encoding="utf-8", newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if (row["dataset"], row["metric"]) == (name, "test_ll_nats")
        ]
    return sorted(rows, key=lambda row: -float(row["value"]))


# -- contestants --------------------------------------------------------------------------------------

#: Scores rows, nats.
Scores = Callable[[Tensor], Tensor]


def fitted(model: LatentModel, split: Split, seed: int, learning_rate: float, **training: Any) -> Scores:
    """A model after its training, which ends by the validation rows."""
    torch.manual_seed(seed)
    model.start(split.train, seed, 500)
    batches = math.ceil(len(split.train) / BATCH)
    config = TrainConfig(
        max_epochs=math.ceil(STEPS / batches),
        batch_size=BATCH,
        evaluate_every=math.ceil(50 / batches),
        learning_rate=learning_rate,
        schedule="plateau",
        ema=0.995,
        patience=PATIENCE,
        device="cpu",
        seed=seed,
        **training,
    )
    Trainer(config, None, True).fit(model, split.train, split.valid, evaluate=_validated)
    return model.log_prob


def _validated(model: Any, x: Tensor) -> Tensor:
    return torch.cat([model.validation_log_prob(part) for part in x.split(BLOCK)])


def tree(split: Split, seed: int, states: int) -> Scores:
    """A tree of states, by leaves."""
    torch.manual_seed(seed)
    return fitted(TreeNVF(split.features, states, likelihood="leaves"), split, seed, 2e-3)


def flat(split: Split, seed: int, states: int = 1, dropout: float = 0.0) -> Scores:
    """States of rows; one state is MADE alone."""
    torch.manual_seed(seed)
    options = {"code_dropout": dropout, "hold_steps": 300} if states > 1 else {"code_dropout": dropout}
    return fitted(DiscreteNVF(split.features, states, **options), split, seed, 2e-3)


def chow_liu_tree(split: Split, seed: int, added: float) -> Scores:
    """The Chow-Liu tree of the columns, `added` to every count of a pair."""
    train = split.train.double()
    parents = chow_liu(split.train, split.features).parents

    def log_shares(counts: Tensor) -> Tensor:
        return ((counts + added) / (counts + added).sum(-1, keepdim=True)).log()

    tables = []
    for j, parent in enumerate(parents):
        above = train[:, parent] if parent >= 0 else torch.zeros(len(train)).double()
        pairs = torch.bincount((2 * above + train[:, j]).long(), minlength=4).view(2, 2).double()
        tables.append(log_shares(pairs))

    def scores(x: Tensor) -> Tensor:
        codes = x.long()
        parts = [
            table[codes[:, parent] if parent >= 0 else torch.zeros(len(x)).long(), codes[:, j]]
            for j, (parent, table) in enumerate(zip(parents, tables, strict=True))
        ]
        return torch.stack(parts).sum(0)

    return scores


CONTESTANTS: Mapping[str, Callable[..., Scores]] = {
    "tree": tree,
    "states": flat,
    "MADE": flat,
    "Chow-Liu": chow_liu_tree,
}


# -- runs ---------------------------------------------------------------------------------------------


def combinations(settings: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """All combinations of settings."""
    for values in itertools.product(*settings.values()):
        yield dict(zip(settings, values, strict=True))


def _mean(scores: Scores, rows: Tensor) -> tuple[float, float]:
    """Mean log-likelihood of rows and its standard error, nats."""
    with torch.no_grad():
        found = torch.cat([scores(part) for part in rows.split(BLOCK)]).double()
    return float(found.mean()), float(found.std()) / math.sqrt(len(found))


class Results:
    """What was measured, kept after every fit: a program that was stopped goes on from there.

    Arguments:
        settings: under which all of it is measured.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        entries = earlier_runs("discrete", settings=settings)
        self.runs = [entry for entry in entries if "test" in entry]
        self.trials = [entry for entry in entries if "test" not in entry]

    def write(self) -> None:
        """Into the folder of results."""
        self.runs.sort(key=lambda r: (TABLES.index(r["table"]), METHODS.index(r["method"]), r["seed"]))
        tables = {run["table"]: published(run["table"]) for run in self.runs}
        write(
            "discrete",
            {"settings": self.settings, "published": tables, "runs": [*self.runs, *self.trials]},
        )

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether there is a result of this table, method and seed."""
        return any(_is(run, key) for run in self.runs)

    def forget(self, key: Mapping[str, Any]) -> None:
        """Leave out what was measured of this table, method and seed."""
        self.runs = [run for run in self.runs if not _is(run, key)]
        self.trials = [trial for trial in self.trials if not _is(trial, key)]

    def measure(self, key: Mapping[str, Any]) -> None:
        """Fit a method with all its settings; score the test rows by that which is best on validation rows.

        The best is fitted again where it was fitted before the program was stopped.
        """
        split, fit = load(key["table"]), CONTESTANTS[key["method"]]
        known = {json.dumps(t["setting"]): t for t in self.trials if _is(t, key)}
        held: dict[str, Scores] = {}
        for setting in combinations(SETTINGS[key["method"]]):
            name = json.dumps(setting)
            costly = key["method"] == "tree" and split.train.shape[1] * setting["states"] ** 2 > MOST_PRODUCTS
            if name in known or costly:
                continue
            began = time.process_time()
            scores = fit(split, key["seed"], **setting)
            validation, _ = _mean(scores, split.valid)
            seconds = round(time.process_time() - began, 1)
            known[name] = {
                **key, "setting": setting, "validation": validation, "processor_seconds": seconds
            }  # fmt: skip
            if validation >= max(trial["validation"] for trial in known.values()):
                held = {name: scores}
            self.trials.append(known[name])
            self.write()
            print(f"  {key} {setting} validation {validation:.4f}, {seconds:.0f} s", flush=True)
        best = max(known.values(), key=lambda trial: trial["validation"])
        scores = held.get(json.dumps(best["setting"])) or fit(split, key["seed"], **best["setting"])
        test, error = _mean(scores, split.test)
        trials = [{k: v for k, v in trial.items() if k not in key} for trial in known.values()]
        chosen = {"setting": best["setting"], "validation": best["validation"]}
        self.forget(key)
        self.runs.append({**key, **chosen, "test": test, "standard_error": error, "trials": trials})
        self.write()
        print(f"{key} test {test:.3f}", flush=True)


def _is(entry: Mapping[str, Any], key: Mapping[str, Any]) -> bool:
    return all(entry[name] == value for name, value in key.items())


def show(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print ours and what is published, table by table."""
    for name in (name for name in TABLES if any(run["table"] == name for run in runs)):
        print(f"\n{name}")
        for run in (run for run in runs if run["table"] == name):
            print(
                f"  {run['method']:28}{run['test']:10.3f} ± {run['standard_error']:.3f}"
                f"  {run['setting']}, seed {run['seed']}"
            )
        for row in published(name):
            print(f"    {row['method'][:26]:26}{float(row['value']):10.3f}  {row['status']}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", default=list(TABLES[:5]), choices=TABLES)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--fresh", action="store_true", help="measure again what has results")
    parser.add_argument("--show", action="store_true", help="only print what has results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"steps": STEPS, "batch": BATCH, "patience": PATIENCE, "settings": SETTINGS}
    results = Results(settings)
    wanted = [] if args.show else list(itertools.product(args.seeds, args.tables, args.methods))
    for seed, table, method in wanted:
        key = {"table": table, "method": method, "seed": seed}
        if args.fresh:
            results.forget(key)
        if not results.has(key):
            results.measure(key)
    show(results.runs)
    print(f"{len(results.runs)} results in {RESULTS / 'discrete.json'}")


if __name__ == "__main__":
    main()

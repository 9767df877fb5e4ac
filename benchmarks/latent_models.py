"""Every latent-variable model at one size and one budget on binarised MNIST: bounds, use of z, samples, cost.

Data: 20,000 training images, 2,000 others on which early stopping chooses, both fixed parts of the training
set, and 2,000 fixed images of the test set, all binarised once: a pixel is one with the probability of its
grey, by one seed. (The binarised set of the literature is another draw, of all 60,000 images.) Encoder and
decoder are as `latent_contestants.py` says. Every fit has the same seconds by the clock, ends there, at the
last epoch, or after 40 epochs without a better validation, and keeps the weights, averaged over steps, that
are best on the validation images.

The bound of a continuous z is that of 500 importance-weighted draws (IWAE), and of one (ELBO); of states the
probability is exact; of codes it is ``log p(x, z)`` of the nearest. Means over test images, nats, with their
standard error; of the difference of two models that of the paired differences, over 40 groups of images,
whose means are kept. Test images were used for nothing else.

Run: OMP_NUM_THREADS=1 python benchmarks/latent_models.py --jobs 2 [--seconds 600] [--models vae vlae]
     [--device cuda --gpu-jobs 1] [--within 3600] [--limit 400] [--show]
Results are kept after every fit; a program that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import RESULTS, earlier_runs, n_parameters, write
from latent_contestants import CONTESTANTS, SHAPE, Contestant, contestants
from latent_measures import of_samples, of_z, scored, validated, wrong_pixels
from modeflow.data import load_images, toy
from modeflow.latents import LatentModel
from modeflow.training import History, TrainConfig, Trainer

#: Of all fits. Weights are averaged over some 500 steps, which stands in for a rate that falls.
TRAINING: Mapping[str, Any] = {
    "batch_size": 256, "learning_rate": 1e-3, "schedule": "constant", "ema": 0.998, "gradient_clip": 100.0,
    "patience": 40,
}  # fmt: skip
#: Of the binarisation, and of what is a fixed part of what.
SEED = 20221122
#: Seconds that a fit takes beside its training.
AROUND = 40


@dataclass(frozen=True)
class Settings:
    """Under which all of it is measured."""

    train: int = 20_000
    validation: int = 2_000
    test: int = 2_000
    draws: int = 500
    seconds: float = 600.0
    epochs: int = 1_000


@dataclass(frozen=True)
class Data:
    """Rows of numbers, or of pixels."""

    train: Tensor
    validation: Tensor
    test: Tensor

    def shaped(self, *shape: int) -> Data:
        """The same in another shape."""
        return Data(*(part.view(len(part), *shape) for part in (self.train, self.validation, self.test)))


def digits(settings: Settings) -> Data:
    """Binarised images, flat.

    Raises:
        DataError: the set is not on this machine.
    """
    loaded = load_images("images/mnist")
    assert loaded.test is not None
    rng = np.random.default_rng(SEED)
    order, held = rng.permutation(len(loaded.images)), rng.permutation(len(loaded.test))
    known = loaded.images[order[: settings.train + settings.validation]]
    binary = [
        torch.from_numpy(
            (rng.random(part.shape, dtype=np.float32) < part / np.float32(255)).astype(np.float32)
        )
        for part in (known, loaded.test[held[: settings.test]])
    ]
    train, validation = binary[0].flatten(1).split([settings.train, settings.validation])
    return Data(train, validation, binary[1].flatten(1))


def pinwheel(settings: Settings) -> Data:
    """Five arms in two dimensions, standardised by the training rows."""
    rows = toy("pinwheel").sample(settings.train + settings.validation + settings.test, SEED)
    x = torch.from_numpy(np.asarray(rows)).float()
    known = x[: settings.train]
    x = (x - known.mean(0)) / known.std(0)
    return Data(*x.split([settings.train, settings.validation, settings.test]))


def data_of(contestant: Contestant, settings: Settings) -> Data:
    """What a contestant is fitted to."""
    if contestant.group == "pinwheel":
        return pinwheel(settings)
    found = digits(settings)
    return found.shaped(*SHAPE) if contestant.images else found


# -- one fit ------------------------------------------------------------------------------------------


def trained(
    model: LatentModel,
    contestant: Contestant,
    data: Data,
    config: TrainConfig,
    seconds: float,
    of_processor: bool = False,
) -> History:
    """Train until it ends by itself or its time is up; the model then holds the best weights.

    Arguments:
        seconds: by the clock, or, `of_processor`, such as this process has had a processor.
    """
    kind, timer = (
        (signal.SIGPROF, signal.ITIMER_PROF) if of_processor else (signal.SIGALRM, signal.ITIMER_REAL)
    )
    trainer, rung = Trainer(config, None, True), threading.Event()

    def up(*_: object) -> None:
        rung.set()
        signal.raise_signal(signal.SIGINT)  # the trainer ends after the step under way

    # A program that was started in the background ignores Ctrl-C.
    interrupts = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(kind, up)
    signal.setitimer(timer, seconds)
    try:
        trainer.fit(model, data.train, data.validation[: contestant.held], evaluate=validated)
    except KeyboardInterrupt:
        if not rung.is_set():
            raise
    finally:
        signal.setitimer(timer, 0)
        signal.signal(kind, before)
        signal.signal(signal.SIGINT, interrupts)
    assert trainer.history is not None
    return trainer.history


def curve(history: History) -> list[list[float]]:
    """Epoch, mean loss of the training rows, and validation, at powers of two, the best and the last."""
    rows = [row for row in history.epochs if "train_loss" in row]
    ends = history.best_epoch, len(rows)
    picked = [r for r in rows if r["epoch"] & (r["epoch"] - 1) == 0 or r["epoch"] in ends]
    return [
        [r["epoch"], round(r["train_loss"], 2), round(r.get("validation", float("nan")), 2)] for r in picked
    ]


def named(device: torch.device) -> str:
    """A device for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def fit(name: str, seed: int, settings: Settings, device: str) -> dict[str, Any]:
    """Fit a contestant and measure it."""
    contestant = CONTESTANTS[name]
    data = data_of(contestant, settings)
    torch.manual_seed(seed)
    model = contestant.build()
    began = time.monotonic()
    if contestant.starts:
        model.start(data.train, seed, 500)
    started = time.monotonic() - began
    where = "cpu" if contestant.host else device
    config = TrainConfig(max_epochs=settings.epochs, device=where, seed=seed, **TRAINING)
    history = trained(model, contestant, data, config, settings.seconds)
    began = time.monotonic()
    place = torch.device(device)
    model.to(place)
    test, held = data.test.to(place), data.validation.to(place)
    torch.manual_seed(seed)
    with torch.no_grad():
        model.finish(data.train.to(place), held, prune=False)
        row = {
            "model": name,
            "seed": seed,
            "trained_on": named(torch.device(where)),
            "parameters": n_parameters(model),
            "epochs": sum("train_loss" in r for r in history.epochs),
            **{key: history.summary()[key] for key in ("best_epoch", "steps", "stopped")},
            "seconds": round(history.seconds, 1),
            "start_seconds": round(started, 1),
            "validation": history.best_validation,
            "curve": curve(history),
            **scored(model, test, settings.draws),
            **of_z(model, test, contestant.group == "pinwheel"),
        }
        if contestant.group != "pinwheel":
            row["wrong_pixels"] = wrong_pixels(model, test)
        if contestant.group == "bernoulli":
            row["frechet"] = of_samples(model, test)
    row["seconds_an_epoch"] = round(history.seconds / max(row["epochs"], 1), 3)
    return {**row, "scoring_seconds": round(time.monotonic() - began, 1)}


# -- all of them --------------------------------------------------------------------------------------


def job(name: str, seed: int, settings: Settings, device: str, file: str) -> None:
    """A process of its own: what was measured, or why it was not, into a file."""
    torch.set_num_threads(1)
    try:
        found = fit(name, seed, settings, device)
    except Exception as error:
        traceback.print_exc()
        found = {"model": name, "seed": seed, "error": f"{type(error).__name__}: {error}"[:400]}
    temporary = Path(file).with_suffix(".part")
    temporary.write_text(json.dumps(found), encoding="utf-8")
    os.replace(temporary, file)


class Results:
    """What was measured, kept after every fit.

    Arguments:
        settings: under which all of it is measured. name: of the file.
    """

    def __init__(self, settings: Settings, name: str = "latent_models") -> None:
        self.settings, self.name = {**asdict(settings), **TRAINING}, name
        self.runs = earlier_runs(name, settings=self.settings)

    def has(self, name: str, seed: int) -> bool:
        """Whether a fit has a result; one that failed is tried again."""
        return any((r["model"], r["seed"]) == (name, seed) and "error" not in r for r in self.runs)

    def add(self, run: dict[str, Any]) -> None:
        """Keep a result in the place of an earlier one."""
        key = run["model"], run["seed"]
        self.runs = [r for r in self.runs if (r["model"], r["seed"]) != key]
        self.runs.append(run)
        order = list(CONTESTANTS)
        self.runs.sort(key=lambda r: (order.index(r["model"]), r["seed"]))
        write(self.name, {"settings": self.settings, "runs": self.runs})


class Crew:
    """Processes side by side, those that train on a GPU no more than `gpu` of them.

    Arguments:
        results: where what they find goes. settings: of every fit. device: of those that are not of the host.
        jobs, gpu: how many. until: by the clock; what runs then is ended, and not kept.
    """

    def __init__(
        self, results: Results, settings: Settings, device: str, jobs: int, gpu: int, until: float
    ) -> None:
        self.results, self.settings, self.device, self.until = results, settings, device, until
        on_gpu = gpu if device.startswith("cuda") else 0
        self.limits = {True: max(jobs - on_gpu, 1), False: on_gpu}
        self.running: dict[tuple[str, int], tuple[Any, Path]] = {}

    def _host(self, name: str) -> bool:
        return CONTESTANTS[name].host or not self.device.startswith("cuda")

    def run(self, wanted: list[tuple[str, int]]) -> None:
        """All of them, in this order."""
        context, waiting = multiprocessing.get_context("spawn"), list(wanted)
        with tempfile.TemporaryDirectory(prefix="latent-models-") as folder:
            while waiting or self.running:
                enough = time.monotonic() + self.settings.seconds + AROUND < self.until
                for key in list(waiting) if enough else []:
                    host = self._host(key[0])
                    if sum(self._host(name) == host for name, _ in self.running) < self.limits[host]:
                        waiting.remove(key)
                        file = Path(folder) / f"{key[0]}-{key[1]}.json"
                        given = (*key, self.settings, self.device, str(file))
                        process = context.Process(target=job, args=given)
                        process.start()
                        self.running[key] = process, file
                time.sleep(0.2)
                self._collect()
                if waiting and not self.running and not enough:
                    print(f"no time left for {waiting}", flush=True)
                    return

    def _collect(self) -> None:
        late = time.monotonic() > self.until
        for key, (process, file) in list(self.running.items()):
            if late and not file.exists():
                process.terminate()
                process.join(5)
                process.kill()
                print(f"{key}: no time left", flush=True)
            elif process.is_alive():
                continue
            process.join()
            del self.running[key]
            if file.exists():
                run = json.loads(file.read_text(encoding="utf-8"))
            elif late:
                continue
            else:
                run = {"model": key[0], "seed": key[1], "error": f"ended with code {process.exitcode}"}
            self.results.add(run)
            print(json.dumps({k: v for k, v in run.items() if k not in ("curve", "groups")}), flush=True)


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=None, choices=list(CONTESTANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--seconds", type=float, default=Settings.seconds, help="of every training")
    parser.add_argument("--epochs", type=int, default=Settings.epochs, help="of every training, at the most")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--gpu-jobs", type=int, default=1, help="of these, such as train on a GPU")
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds for all of it")
    parser.add_argument("--limit", type=int, default=None, help="images to try the program on")
    parser.add_argument("--show", action="store_true", help="only print what has results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {"seconds": args.seconds, "epochs": args.epochs}
    file = "latent_models" if args.limit is None else "latent_models_trial"
    if args.limit is not None:
        n = args.limit
        sizes |= {"train": n, "validation": max(n // 4, 40), "test": max(n // 4, 40), "draws": min(n, 20)}
    if args.show:
        from latent_models_page import show

        show(json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8")))
        return
    results = Results(Settings(**sizes), file)
    there = contestants()
    names = args.models or there
    for name in names:
        if name not in there:
            raise SystemExit(f"{name} is not there: modeflow has no such model yet, or pythae is missing")
    wanted = [key for key in itertools.product(names, args.seeds) if not results.has(*key)]
    # Both seeds of what comes first, before anything of what comes last.
    crew = Crew(results, Settings(**sizes), args.device, args.jobs, args.gpu_jobs, began + args.within)
    crew.run(wanted)
    failed = [f"{r['model']}, seed {r['seed']}: {r['error']}" for r in results.runs if "error" in r]
    print(f"{len(results.runs) - len(failed)} results in {RESULTS / file}.json")
    print("\n".join(failed))


if __name__ == "__main__":
    main()

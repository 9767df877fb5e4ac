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

Run: OMP_NUM_THREADS=1 python benchmarks/latent_models.py --jobs 2 [--models vae vlae]
     [--seconds 600 --processor] [--device cuda --gpu-jobs 1] [--within 3600] [--limit 400] [--show]
Results are kept after every fit, those of other seconds than 120 in a file of their own; a program that was
stopped goes on from there. With --processor seconds are such as the process has had a processor.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import RESULTS
from latent_contestants import CONTESTANTS, SHAPE, Contestant, contestants
from latent_runs import SEED, TRAINING, Budget, Data, Results, attempt, measured
from modeflow.data import load_images, toy

#: Seconds that a fit takes beside its training.
AROUND = 40


@dataclass(frozen=True)
class Settings:
    """Under which all of it is measured."""

    train: int = 20_000
    validation: int = 2_000
    test: int = 2_000
    draws: int = 500
    seconds: float = 120.0
    epochs: int = 1_000
    of_processor: bool = False


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


def fit(name: str, seed: int, settings: Settings, device: str) -> dict[str, Any]:
    """Fit a contestant and measure it."""
    contestant = CONTESTANTS[name]
    budget = Budget(settings.seconds, settings.epochs, settings.draws, settings.of_processor)
    return measured(contestant, data_of(contestant, settings), seed, budget, device=device)


# -- all of them --------------------------------------------------------------------------------------


def job(name: str, seed: int, settings: Settings, device: str, file: str) -> None:
    """A process of its own: what was measured, or why it was not, into a file."""
    torch.set_num_threads(1)
    found = attempt(name, seed, lambda: fit(name, seed, settings, device))
    temporary = Path(file).with_suffix(".part")
    temporary.write_text(json.dumps(found), encoding="utf-8")
    os.replace(temporary, file)


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


def kept(settings: Settings) -> dict[str, Any]:
    """Settings as results name them: how seconds are counted is named where it is not by the clock."""
    named = {**asdict(settings), **TRAINING}
    return {key: value for key, value in named.items() if value is not False}


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=None, choices=list(CONTESTANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--seconds", type=float, default=Settings.seconds, help="of every training")
    parser.add_argument("--processor", action="store_true", help="count seconds of the processor")
    parser.add_argument("--epochs", type=int, default=Settings.epochs, help="of every training, at the most")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--gpu-jobs", type=int, default=1, help="of these, such as train on a GPU")
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds for all of it")
    parser.add_argument("--limit", type=int, default=None, help="images to try the program on")
    parser.add_argument("--show", action="store_true", help="only print what has results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {"seconds": args.seconds, "epochs": args.epochs, "of_processor": args.processor}
    file = "latent_models" if args.seconds == Settings.seconds else f"latent_models_{args.seconds:.0f}"
    if args.limit is not None:
        n, file = args.limit, "latent_models_trial"
        sizes |= {"train": n, "validation": max(n // 4, 40), "test": max(n // 4, 40), "draws": min(n, 20)}
    if args.show:
        from latent_models_page import show

        show(json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8")))
        return
    settings = Settings(**sizes)
    results = Results(file, kept(settings), list(CONTESTANTS))
    there = contestants()
    names = args.models or there
    for name in names:
        if name not in there:
            raise SystemExit(f"{name} is not there: modeflow has no such model yet, or pythae is missing")
    wanted = [key for key in itertools.product(names, args.seeds) if not results.has(*key)]
    # Both seeds of what comes first, before anything of what comes last.
    crew = Crew(results, settings, args.device, args.jobs, args.gpu_jobs, began + args.within)
    crew.run(wanted)
    failed = [f"{r['model']}, seed {r['seed']}: {r['error']}" for r in results.runs if "error" in r]
    print(f"{len(results.runs) - len(failed)} results in {RESULTS / file}.json")
    print("\n".join(failed))


if __name__ == "__main__":
    main()

"""Images with and without a latent, at equal training time: bits per dimension, samples, and what z costs.

Models: Glow as published (values in ±1/2), the same Glow behind `PixelGaussianize` without a context, NVF
with a map of codes (the same Glow behind `PixelGaussianize` given the codes) and with 32 states, VQ-VAE and
VAE with discretised logistic mixtures. NVF with codes trains for the epochs asked for; the others for as many
as take the same processor time. Everything is chosen on validation images; the whole test set is scored once.

Run: python benchmarks/images.py images/fashion-mnist [--epochs 5] [--models nvf,glow] [--runs FOLDER]
A run that was stopped goes on from its checkpoints.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import RESULTS, write
from modeflow.data import image_grid, load_images, save_png, split_images
from modeflow.domains import ImageDomain
from modeflow.estimators import ImageDensity
from modeflow.estimators.settings import Settings

GLOW = {"steps": 8, "hidden_channels": 64}
PRIOR = {"width": 64, "layers": 2, "heads": 4}
CODES = {"n_codes": 32, "code_warmup": 0.1, "encoder_channels": 32, "prior_options": PRIOR}
MODELS: dict[str, dict[str, Any]] = {
    "nvf": {
        "latent": "sequential",
        "latent_options": CODES,
        "likelihood_options": {"decoder_channels": 32, "context_in": "priors", "start": 0.15},
        "flow_options": GLOW,
    },
    "nvf-discrete": {
        "latent": "discrete",
        "latent_options": {"n_states": 32, "encoder_channels": 32},
        "likelihood_options": {"decoder_channels": 32},
        "flow_options": GLOW,
    },
    "glow": {"latent": "none", "flow_options": GLOW},
    "glow-pixels": {"latent": "none", "likelihood_options": {"entry": "pixels"}, "flow_options": GLOW},
    "vq-vae": {
        "likelihood": "logistic",
        "latent_options": {**CODES, "n_codes": 64, "encoder_channels": 64},
        "likelihood_options": {"decoder_channels": 64},
    },
    "vae": {"latent": "continuous", "likelihood": "logistic", "latent_options": {"features": 32}},
}
FIT: dict[str, Any] = {
    "batch_size": 64,
    "learning_rate": 2e-3,
    "training": {"patience": None},
    "random_state": 0,
    "device": "cpu",
}
SAMPLES, SHOWN = 2000, 64


def seconds_per_epoch(options: dict[str, Any], images: np.ndarray, start: float) -> float:
    """Processor seconds of an epoch, from some steps; `start` of them with the first layer alone."""
    domain = ImageDomain((images.shape[3], *images.shape[1:3]))
    torch.manual_seed(0)
    model = ImageDensity.build(Settings.of(ImageDensity(**options, **FIT), 0), domain, 1, None).train()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x = domain.to_tensor(images[: FIT["batch_size"]]).float()

    def steps(count: int, step: int) -> float:
        """The quickest of several blocks: what else runs on the machine only adds."""
        blocks = []
        for _ in range(4):
            began = time.process_time()
            for _ in range(count):
                loss = model.objective(x, step=step).value
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            blocks.append((time.process_time() - began) / count)
        return min(blocks)

    model.schedule = replace(model.schedule, start_steps=1)
    quick, full = 0.0, 0.0
    if model.starting_likelihood() is not None and start:
        quick = steps(5, 0)
    full = steps(8, 10)
    share = start if quick else 0.0
    return (share * quick + (1 - share) * full) * len(images) / FIT["batch_size"]


def measure(name: str, epochs: int, split: Any, data: Any, runs: Path, pictures: Path) -> dict[str, Any]:
    """Fit one model and measure it."""
    from modeflow.metrics.image_features import score_samples_of

    estimator = ImageDensity(**MODELS[name], **FIT, max_epochs=epochs, levels=data.levels, verbose=True)
    began = time.process_time()
    estimator.fit(split.train, validation=split.validation, run_dir=runs / name, resume=True)
    trained = time.process_time() - began
    estimator.save(runs / name / "model.safetensors")
    began = time.process_time()
    test = estimator.bits_per_dim(split.test).to_dict()
    scored = time.process_time() - began
    samples, _ = estimator.sample(SAMPLES, random_state=1)
    scores = score_samples_of(samples, split.train, split.test, data.levels).to_dict()
    short = data.name.removeprefix("images/")
    save_png(pictures / f"{short}-{name}.png", image_grid(samples[:SHOWN], levels=data.levels))
    row = {
        "model": name,
        "options": MODELS[name],
        "epochs": epochs,
        "processor_seconds": round(trained, 1),
        "scoring_seconds": round(scored, 1),
        "steps": estimator.training_["steps"],
        "test": test,
        "validation": estimator.validation_,
        "samples": scores,
        "parameters": sum(p.numel() for p in estimator.model_.parameters()),
        "likelihood_parameters": sum(p.numel() for p in estimator.latent_.likelihood.parameters()),
        "validation_by_epoch": [r.get("validation") for r in estimator.history_],
    }
    if estimator.latent != "none":
        back = estimator.reconstruct(split.test[:2000]).astype(float) - split.test[:2000]
        row["reconstruction_rmse"] = float(np.sqrt((back**2).mean())) / (data.levels - 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=5, help="of NVF")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--runs", default="image-runs", help="folder for checkpoints")
    parser.add_argument("--pictures", default="docs/images/samples")
    args = parser.parse_args()
    torch.set_num_threads(max(1, torch.get_num_threads()))
    data = load_images(args.data, n=args.rows)
    split = split_images(data, 0, validation=0.05)
    runs = Path(args.runs) / args.data.removeprefix("images/")
    pictures = Path(args.pictures)
    pictures.mkdir(parents=True, exist_ok=True)
    file = RESULTS / "images.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    sets = content.get("sets", {})
    known = sets.get(args.data, {"rows": split.sizes, "fit": FIT, "models": {}})
    if "nvf" in known["models"]:
        budget = known["models"]["nvf"]["processor_seconds"]
    else:
        start = MODELS["nvf"]["likelihood_options"]["start"]
        budget = seconds_per_epoch(MODELS["nvf"], split.train, start) * args.epochs
    for name in args.models.split(","):
        epochs = args.epochs
        if name != "nvf":
            epochs = max(1, round(budget / seconds_per_epoch(MODELS[name], split.train, 0.0)))
        print(f"{args.data} {name}: {epochs} epochs", flush=True)
        row = measure(name, epochs, split, data, runs, pictures)
        known["models"][name] = row
        sets[args.data] = known
        write("images", {"sets": sets})
        print(json.dumps({k: row[k] for k in ("test", "processor_seconds", "samples")}), flush=True)


if __name__ == "__main__":
    main()

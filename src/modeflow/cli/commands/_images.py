"""What the commands do with a run on images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.cli.commands._output import emit, say, say_wrote
from modeflow.errors import ConfigError

__all__ = ["assign", "bits_text", "sample", "score", "summary"]

#: Endings that `sample -o` takes: the picture, or the array; both are written.
_SUFFIXES = (".png", ".npy")
#: Most images that one picture shows.
_SHOWN = 400


def bits_text(row: dict[str, Any]) -> str:
    """``2.345 ± 0.012 bits/dim (bound, n=1000, of which z 0.034)``."""
    from modeflow.metrics import BitsPerDim

    return str(BitsPerDim.from_dict(row))


def summary(result: dict[str, Any]) -> list[str]:
    """What a person wants to know of a fit."""
    from modeflow.cli.commands.fit import time_line

    rows, (channels, height, width) = result["rows"], result["shape"]
    lines = [
        f"data          {result['data']}: {rows['train']} training, {rows['validation']} validation, "
        f"{rows['test']} test images of {channels} x {height} x {width}, {result['levels']} levels",
        f"test          {bits_text(result['bits_per_dim']['test'])}",
        f"validation    {bits_text(result['bits_per_dim']['validation'])}",
    ]
    bounds = result.get("bounds")
    if bounds:
        lines.append(f"test, ELBO    {bits_text(bounds['elbo'])}; IWAE above: {bounds['draws']} draws")
    codes = result.get("codes")
    if codes:
        lines.append(
            f"codes         {codes['per_image']} an image, {codes['used']} in use "
            f"(perplexity {codes['perplexity']:.1f})"
        )
    elif result["n_states"] > 1:
        lines.append(f"states        {result['n_states']}")
    if "reconstruction_rmse" in result:
        lines.append(
            f"from z alone  error {result['reconstruction_rmse']:.3f} of the range (root mean square)"
        )
    lines.append(time_line(result))
    return lines


def _load(args: argparse.Namespace, fitted: Any) -> np.ndarray:
    """The images to score, prepared as those of the run: the test set of a published set, else all."""
    from modeflow.data import load_images

    config, data = fitted.config, args.data
    loaded = load_images(data, size=config["size"], bits=config["bits"])
    return loaded.images if loaded.test is None else loaded.test


def score(args: argparse.Namespace, fitted: Any) -> int:
    """Log-probability and bits per dimension of every image."""
    from modeflow.data import write_table
    from modeflow.metrics import summarise_bits

    estimator, images = fitted.estimator, _load(args, fitted)
    log_prob, cost = estimator.log_prob_and_cost(images)
    dims = int(np.prod(estimator.shape_))
    bits = summarise_bits(log_prob, cost, estimator.density_kind_, dims)
    each = -log_prob / (dims * np.log(2))
    name = f"log_probability_{estimator.density_kind_.replace(' ', '_')}_nats"
    if args.out:
        rows = np.arange(1, len(each) + 1, dtype=np.float64)
        columns = ("image", name, "bits_per_dim", "latent_cost_nats")
        write_table(
            args.out, np.column_stack([rows, log_prob, each, cost]), columns, integer_columns=("image",)
        )
        say_wrote(args, f"{len(each)} images, column '{name}'")
    worst = np.argsort(log_prob)[:5]
    result = {
        "run": args.run_folder,
        "data": args.data,
        "bits_per_dim": bits.to_dict(),
        "least_likely_images": [{"image": int(i) + 1, "bits_per_dim": float(each[i])} for i in worst],
        "out": args.out,
    }
    lines = [
        f"mean                 {bits}",
        "least likely images  " + ", ".join(f"{i + 1} ({each[i]:.2f})" for i in worst),
    ]
    emit(args, result, lines)
    return 0


def sample(args: argparse.Namespace, fitted: Any) -> int:
    """Draw images; write a picture of them and an array."""
    from modeflow.data import check_writable, image_grid, save_png
    from modeflow.data.table import atomic_write

    if not args.out:
        raise ConfigError("samples are images: say where to, for instance -o samples.png")
    target = Path(args.out)
    if target.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"-o must end in .png or .npy (both are written), received '{args.out}'")
    for suffix in _SUFFIXES:
        check_writable(target.with_suffix(suffix))
    if args.with_state:
        raise ConfigError("--with-state is of tables: `modeflow assign` writes the codes or states of images")
    estimator = fitted.estimator
    seed = fitted.config["seed"] if args.seed is None else args.seed
    count = 64 if args.n is None else args.n
    images, _ = estimator.sample(
        count,
        state=args.state,
        random_state=seed,
        temperature=args.temperature,
        prior_temperature=args.prior_temperature,
    )
    scale = max(1, 256 // (images.shape[1] * max(1, round(min(count, _SHOWN) ** 0.5))))
    picture = save_png(
        target.with_suffix(".png"), image_grid(images[:_SHOWN], levels=estimator.levels, scale=scale)
    )
    array = atomic_write(target.with_suffix(".npy"), lambda file: _save_array(file, images))
    say(args, f"wrote {picture} and {array}: {count} images")
    result = {
        "run": args.run_folder,
        "n": count,
        "seed": seed,
        "temperature": args.temperature,
        "prior_temperature": args.prior_temperature,
        "picture": str(picture),
        "array": str(array),
    }
    emit(args, result, [])
    return 0


def _save_array(file: Path, images: np.ndarray) -> None:
    with file.open("wb") as stream:  # by name, numpy would add an ending of its own
        np.save(stream, images, allow_pickle=False)


def assign(args: argparse.Namespace, fitted: Any) -> int:
    """Codes, numbers or states of every image."""
    from modeflow.data import write_table

    estimator = fitted.estimator
    if estimator.latent == "none":
        raise ConfigError("the model has no latent: there is nothing to assign")
    z = estimator.encode(_load(args, fitted))
    z = z[:, None] if z.ndim == 1 else z
    word = {"sequential": "code", "discrete": "state", "continuous": "z"}[estimator.latent]
    names = (word,) if z.shape[1] == 1 else tuple(f"{word}{j}" for j in range(z.shape[1]))
    if args.out:
        values = np.column_stack([np.arange(1, len(z) + 1), z])
        whole = ("image",) if word == "z" else ("image", *names)
        write_table(args.out, values, ("image", *names), integer_columns=whole)
        say_wrote(args, f"{len(z)} images, {z.shape[1]} {word}s")
    if word == "z":
        lines = [f"{n}: mean {c.mean():.3f}, spread {c.std():.3f}" for n, c in zip(names, z.T, strict=True)]
        counts: list[Any] = []
    else:
        found = np.bincount(z.astype(int).ravel())
        counts = [{word: int(k), "count": int(c)} for k, c in enumerate(found)]
        lines = [f"{word} {k}: {c}" for k, c in enumerate(found) if c]
    emit(args, {"run": args.run_folder, "data": args.data, "images": len(z), word + "s": counts}, lines)
    return 0

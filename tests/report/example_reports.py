"""Invented reports: a ring of eight modes, and tables of any width with isolated modes."""

from __future__ import annotations

from typing import Any

import numpy as np

from modeflow.report import (
    DataSummary,
    DensityGrid,
    ImageReport,
    LikelihoodRow,
    Picture,
    StateRow,
    TableReport,
    WorstRow,
    describe_columns,
    find_worst,
    tabulate_states,
)


def history(epochs: int = 60) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    log: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        fade = np.exp(-epoch / 9)
        log.append(
            {
                "epoch": epoch,
                "train_loss": 1.4 + 3 * fade + 0.02 * rng.normal(),
                "train": {"kl": 2.0 * (1 - fade)},
                "validation": -1.3 - 3.1 * fade + 0.02 * rng.normal(),
                "usage_entropy": 2.05 * (1 - fade),
                "states_used": 8.0,
                "seconds": 1.2,
                "learning_rate": 1e-3,
            }
        )
        if epoch % 3 == 0:
            del log[-1]["usage_entropy"]
    return log


def summary(data: np.ndarray, names: list[str], source: str, **sizes: int) -> DataSummary:
    rows = {"train_rows": len(data), "validation_rows": 1000, "test_rows": 1000, **sizes}
    return DataSummary(source, columns=describe_columns(data, names), **rows)


def state_rows(data: np.ndarray, states: np.ndarray, k: int, idle: int = 0) -> list[StateRow]:
    test = states[:1000]
    scores = -3.0 + 0.05 * test
    weights = [1 / (k + idle)] * (k + idle)
    return tabulate_states(data, states, weights, test_states=test, test_log_density=scores)


def worst(data: np.ndarray, states: np.ndarray) -> list[WorstRow]:
    away = np.abs((data - data.mean(axis=0)) / data.std(axis=0)).max(axis=1)
    return find_worst(data, -8.0 - 3 * away, states, 8)


def ring(rows: int = 6000) -> TableReport:
    rng = np.random.default_rng(0)
    centres = 4 * np.array([[np.cos(a), np.sin(a)] for a in np.arange(8) * np.pi / 4])

    def draw(n: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
        z = rng.integers(0, 8, n)
        return centres[z] + noise * rng.normal(size=(n, 2)), z

    data, states = draw(rows, 0.35)
    samples, sample_states = draw(2000, 0.37)
    grid = np.linspace(-5.8, 5.8, 200)
    points = np.stack(np.meshgrid(grid, grid), axis=-1)
    squares = ((points[:, :, None, :] - centres) ** 2).sum(-1) / (2 * 0.37**2)
    log_density = np.logaddexp.reduce(-squares, axis=-1) - np.log(8 * 2 * np.pi * 0.37**2)
    names = ["x", "y"]
    return TableReport(
        title="Eight Gaussians on a ring",
        created="2024-05-01T12:00:00+00:00",
        model="NVF",
        parameters={"n_states": 8, "flow": "nsf-coupling", "layers": 4, "max_epochs": 60, "seed": 0},
        n_parameters=41_288,
        command="modeflow fit ring8 -o runs/ring8 --seed 0",
        data_summary=summary(data, names, "ring8 (made by modeflow)"),
        likelihoods=[
            LikelihoodRow("NVF", -2.861, 0.031, "exact", 1000, 41_288, "", "model"),
            LikelihoodRow(
                "plain flow of equal size", -3.174, 0.036, "exact", 1000, 41_502,
                difference=0.313, difference_standard_error=0.021,
            ),
            LikelihoodRow(
                "Gaussian mixture (8)", -2.853, 0.03, "exact", 1000, 47, "best of 10 starts",
                difference=-0.008, difference_standard_error=0.006,
            ),
            LikelihoodRow("entropy", -2.847, None, "exact", None, role="known"),
        ],
        history=history(),
        states=state_rows(data, states, 8),
        data=data,
        data_states=states,
        samples=samples,
        sample_states=sample_states,
        density=DensityGrid(grid, grid, log_density),
        worst_rows=worst(data, states),
        truth=[
            {
                "name": "minus the mean log-density, nats per row (lower is better)",
                "value": 2.861,
                "standard_error": 0.031,
                "best": "2.847",
            },
            {"name": "samples far from every mode", "value": "0.09 %", "best": "0.034 %"},
            {"name": "modes that samples reach", "value": 8, "best": 8},
        ],
        seed=0,
        seconds=192.4,
        version="0.1.0",
    )  # fmt: skip


def table(width: int, modes: int = 5, rows: int = 4000, idle: int = 1) -> TableReport:
    rng = np.random.default_rng(width)
    centres = 3.0 * rng.normal(size=(modes, width))
    centres[:, width // 2 + 1 :] = 0.0  # the other half of the columns has one mode
    scale = 10.0 ** rng.integers(-2, 4, size=width)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        z = rng.integers(0, modes, n)
        return (centres[z] + 0.5 * rng.normal(size=(n, width))) * scale, z

    data, states = draw(rows)
    samples, sample_states = draw(2000)
    names = [f"sensor {j}" for j in range(width)]
    return TableReport(
        title="A table of sensors",
        model="NVF",
        parameters={"n_states": modes + idle},
        n_parameters=120_000,
        command="modeflow fit t.csv -o run",
        data_summary=summary(data, names, "t.csv"),
        likelihoods=[
            LikelihoodRow("NVF", -12.41, 0.11, "lower bound", 1000, 120_000, role="model"),
            LikelihoodRow("plain flow", -12.9, 0.12, "exact", 1000, 119_000),
            LikelihoodRow("VAE of equal size", -12.0, 0.1, "lower bound", 1000, 118_000),
        ],
        history=history(25),
        states=state_rows(data, states, modes, idle),
        data=data,
        data_states=states,
        samples=samples,
        sample_states=sample_states,
        worst_rows=worst(data, states),
        warnings=["Training stopped after 25 epochs of the 200 allowed."],
    )


def digits(states: int = 3) -> ImageReport:
    """A report of images: noise as pictures, and `states` of which the last holds nothing."""
    rng = np.random.default_rng(0)

    def bits(value: float, kind: str = "lower bound") -> dict[str, Any]:
        return {
            "value": value, "standard_error": 0.0123, "kind": kind, "n": 50, "dims": 64, "code_length": 0.027,
        }  # fmt: skip

    drawn = rng.integers(0, max(1, states - 1), 200)
    log = [{"epoch": e, "nll": 120.0 - e, "validation": e - 125.0} for e in range(6)]
    return ImageReport(
        title="NVF fitted to digits",
        model="NVF with a discrete latent",
        parameters={"n_states": states},
        n_parameters=12_345,
        command="modeflow fit digits -o run",
        history=log,
        states=tabulate_states(None, drawn, [1 / states] * states) if states else [],
        result={
            "rows": {"train": 200, "validation": 50, "test": 50},
            "shape": [1, 8, 8],
            "levels": 17,
            "bits_per_dim": {"test": bits(2.354), "validation": bits(2.282)},
            "bounds": {"elbo": bits(2.4), "draws": 16},
        },
        pictures=[
            Picture.pixels(rng.integers(0, 256, (16, 16), dtype=np.uint8), f"noise {k}", f"picture {k}")
            for k in range(2)
        ],
        others={"VAE": bits(3.456, "exact")},
        measures=[{"name": "recall", "value": 0.6667, "best": "about 1"}],
        seed=0,
        seconds=10.4,
    )

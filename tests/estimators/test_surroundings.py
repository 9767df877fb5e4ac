"""Whatever the caller has set, in whatever thread or process: the numbers of a plain call."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from small_estimators import FAST, islands

from modeflow import NVF, FlowDensity, ImageDensity, load_estimator

_TABLE = {**FAST, "max_epochs": 2}
_IMAGES: dict[str, Any] = {
    "halvings": 1,
    "likelihood_options": {"decoder_channels": 4},
    "levels": 16,
    "batch_size": 32,
    "max_epochs": 2,
    "random_state": 0,
    "flow_options": {"levels": 1, "steps": 1, "hidden_channels": 4},
    # Of GPT-2, which is not modeflow's and draws what it drops from torch's own generator.
    "latent_options": {
        "n_codes": 4,
        "code_features": 2,
        "encoder_channels": 4,
        "prior_options": {"width": 8, "layers": 1, "heads": 1, "dropout": 0.2},
    },
}


def images(n: int = 64) -> np.ndarray:
    """Two kinds of images: bright to the left or to the right."""
    rng = np.random.default_rng(0)
    left = rng.integers(2, size=n)[:, None, None]
    place = np.arange(8)[None, None, :]
    bright = np.where(left == 1, place < 4, place >= 4)
    return (bright * 10 + rng.integers(0, 4, (n, 8, 8))).astype(np.uint8)


_ELBO = {"encoder_features": (8,), "objective": "elbo"}
#: What is fitted, by name: the estimator, and rows of the kind. Of NVF an objective that draws.
MODELS: dict[str, tuple[Callable[[], Any], Callable[[], np.ndarray]]] = {
    "NVF": (
        lambda: NVF(3, latent_options=_ELBO, score_draws=2, **_TABLE),
        lambda: np.column_stack([islands(120), np.random.default_rng(1).integers(5, size=120)]),
    ),
    "FlowDensity": (
        lambda: FlowDensity(**{**_TABLE, "flow": "nsf-autoregressive"}),
        lambda: islands(120),
    ),
    "ImageDensity": (lambda: ImageDensity(**_IMAGES), images),
}


def numbers(fitted: Any, x: np.ndarray, folder: Any) -> dict[str, np.ndarray]:
    """All that an estimator says."""
    found = {"score_samples": fitted.score_samples(x), "sample": fitted.sample(5, random_state=1)[0]}
    for name in ("predict_proba", "predict", "encode", "reconstruct"):
        found[name] = np.asarray(getattr(fitted, name)(x))
    file = fitted.save(folder / f"{threading.get_ident()}.safetensors")
    found["bytes"] = np.frombuffer(file.read_bytes(), dtype=np.uint8)
    found["loaded"] = load_estimator(file).score_samples(x)
    return found


@pytest.fixture(scope="module", params=MODELS)
def plain(request, tmp_path_factory):
    make, rows = MODELS[request.param]
    x = rows()
    return make, x, numbers(make().fit(x), x, tmp_path_factory.mktemp("plain"))


@contextmanager
def setting(put: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    put(value)
    try:
        yield
    finally:
        put(before)


@contextmanager
def warnings_as_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "the fitted density is worse")  # so small and brief, it is
        yield


SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64 by default": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "numpy raises": lambda: np.errstate(all="raise"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "another device by default": lambda: torch.device("meta"),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "anomaly": lambda: torch.autograd.detect_anomaly(check_nan=True),
    "warnings are errors": warnings_as_errors,
}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_the_callers_settings_change_nothing(plain, name, tmp_path):
    make, x, expected = plain
    with SURROUNDINGS[name]():
        before = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        found = numbers(make().fit(x), x, tmp_path)
        after = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    assert before == after
    same(found, expected)


def test_fits_in_threads_are_those_of_one(plain, tmp_path):
    """While the main thread draws from torch's generator, and gets what it would have had alone."""
    make, x, expected = plain
    torch.manual_seed(5)
    alone = torch.cat([torch.rand(3) for _ in range(2000)])
    torch.manual_seed(5)
    drawn = []
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(lambda: numbers(make().fit(x), x, tmp_path)) for _ in range(2)]
        for _ in range(2000):
            drawn.append(torch.rand(3))
            time.sleep(0 if all(run.done() for run in runs) else 1e-3)
        for run in runs:
            same(run.result(), expected)
    # A layer of torch's that knows no other generator borrows torch's for microseconds.
    if make is not MODELS["ImageDensity"][0]:
        assert torch.equal(torch.cat(drawn), alone)


@pytest.mark.skipif(
    not hasattr(os, "fork") or torch.cuda.is_available(), reason="no fork here, or one with CUDA"
)
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_scores(plain, tmp_path):
    """After torch's threads were used: they are not in the child, which would wait for them for ever."""
    make, x, expected = plain
    fitted = make().fit(x)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        torch.randn(400_000).exp().sum()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                torch.randn(400_000).exp().sum()
                same(numbers(fitted, x, tmp_path), expected)
                status = 0
            finally:
                os._exit(status)
        deadline = time.monotonic() + 60
        ended, status = 0, -1
        while not ended and time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)
        if not ended:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert status == 0
    finally:
        torch.set_num_threads(threads)


def test_one_estimator_scores_in_threads_at_once(plain):
    make, x, expected = plain
    fitted = make().fit(x)
    with ThreadPoolExecutor(4) as pool:
        for score in pool.map(lambda _: fitted.score_samples(x), range(8)):
            np.testing.assert_array_equal(score, expected["score_samples"])

"""Several processes give what one gives, up to rounding."""

from __future__ import annotations

import torch
from small_trainings import config, model, rows

from modeflow.training import Trainer


def test_two_processes_agree_with_one(tmp_path):
    # The deterministic objective: a batch is shared out, and its gradient is the sum of the shares'.
    x, held = rows(130), rows(60)
    one, two = model(objective="marginal"), model(objective="marginal")
    settings = {"max_epochs": 3, "batch_size": 33}
    h = Trainer(config(**settings)).fit(one, x, held)
    k = Trainer(config(**settings, device="cpu", devices=2), tmp_path).fit(two, x, held)
    assert k.steps == h.steps
    for name, value in one.state_dict().items():
        assert torch.allclose(value, two.state_dict()[name], atol=1e-4), name
    for a, b in zip(h.epochs, k.epochs, strict=True):
        assert abs(a["validation"] - b["validation"]) < 1e-4


def test_bf16_training_reports_full_precision():
    net = model(objective="truncated")
    history = Trainer(config(max_epochs=2, precision="bf16-mixed")).fit(net, rows(), rows(60))
    assert all(p.dtype == torch.float32 for p in net.parameters())
    with torch.no_grad():
        exact = float(net.double().log_prob(rows(60)).mean())
    assert abs(exact - history.best_validation) < 1e-4

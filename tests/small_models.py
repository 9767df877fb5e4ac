"""Small perturbed models in float64, and their quantities by brute force."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modeflow.latents import DiscreteLatentModel
from modeflow.models import DiscreteNVF
from modeflow.testing import perturb

DOUBLE = torch.float64


def model(n_states: int = 4, features: int = 2, spread: float = 1.0, **options: Any) -> DiscreteLatentModel:
    """An NVF whose states sit apart by about `spread`, far from its start; evaluation mode."""
    flow = {"layers": 2, "hidden_features": 16, "blocks": 1, "bins": 4}
    built = DiscreteNVF(features, n_states, flow_options=flow, encoder_features=(16,), **options)
    perturb(built, 0.2, seed=1)
    if n_states > 1:
        generator = torch.Generator().manual_seed(2)
        affine = built.likelihood.transform.transforms[0]
        with torch.no_grad():
            shift, log_scale = affine.table[:, :features], affine.table[:, features : 2 * features]
            shift.copy_(spread * torch.randn(shift.shape, generator=generator))
            log_scale.copy_(0.3 * torch.randn(shift.shape, generator=generator) - 0.5)
    return built.double().eval()


def rows(n: int = 40, features: int = 2) -> Tensor:
    return 1.5 * torch.randn(n, features, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)


def brute_joint(m: DiscreteLatentModel, x: Tensor) -> Tensor:
    """log pi_k + log p(x|k), one state at a time through the public interface, shape (B, A)."""
    log_pi = torch.log_softmax(m.prior.logits[m.prior.active], 0)
    states = torch.nonzero(m.prior.active).flatten().tolist()
    columns = [m.likelihood.log_prob(x, F.one_hot(torch.tensor(k), m.n_states).to(x)) for k in states]
    return torch.stack(columns, 1) + log_pi

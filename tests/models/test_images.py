"""NVF with a map of codes on the embedded digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modeflow.errors import ConfigError
from modeflow.training import TrainConfig, Trainer

pytest.importorskip("vector_quantize_pytorch")
pytest.importorskip("transformers")

from modeflow.models.images import ImageNVF

SMALL = {
    "levels": 17,
    "n_codes": 4,
    "code_features": 3,
    "halvings": 2,
    "encoder_channels": 8,
    "flow_options": {"levels": 1, "steps": 2, "hidden_channels": 8},
    "prior_options": {"width": 16, "layers": 1, "heads": 2},
}


def digits(n=200):
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().images[:n, None].astype(np.float32))


@pytest.mark.parametrize("context_in", ["all", "priors"])
def test_it_trains_and_its_bound_pays_for_the_codes(context_in):
    torch.manual_seed(0)
    x = digits()
    model = ImageNVF((1, 8, 8), context_in=context_in, **SMALL)
    history = Trainer(TrainConfig(max_epochs=3, batch_size=50, learning_rate=3e-3), quiet=True).fit(model, x)
    assert history.steps == 12 and {"nll", "commitment", "code_length"} <= set(history.epochs[-1])
    with torch.no_grad():
        score = model.log_prob(x[:20])
        assert model.exactness == "lower bound" and torch.isfinite(score).all()
        assert (model.top_k(x[:20], 8) >= score - 1e-4).all()
        length = model.code_length(x[:20])
        assert (length > 0).all() and length.mean() < 2 * model.prior.uniform_nats
    drawn = model.sample(3, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 1, 8, 8)
    assert torch.equal(drawn, drawn.round()) and drawn.min() >= 0 and drawn.max() <= 16


def test_sizes_that_do_not_fit():
    with pytest.raises(ConfigError, match="halved 2 times"):
        ImageNVF((1, 6, 6), halvings=2)
    with pytest.raises(ConfigError, match="prior must be"):
        ImageNVF((1, 8, 8), prior="lstm")
    with pytest.raises(ConfigError, match="context_in"):
        ImageNVF((1, 8, 8), context_in="couplings", **SMALL)

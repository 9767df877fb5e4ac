"""Small models of images, of any latent and likelihood."""

from __future__ import annotations

from typing import Any

import torch

from modeflow.latents import LatentModel
from modeflow.models import ImageModel

#: Options of every latent, small.
LATENT: dict[str, dict[str, Any]] = {
    "none": {},
    "continuous": {"features": 2, "draws": 4, "encoder_channels": 8},
    "discrete": {"n_states": 3, "encoder_channels": 8},
    "sequential": {
        "n_codes": 4,
        "code_features": 3,
        "encoder_channels": 8,
        "prior_options": {"width": 16, "layers": 1, "heads": 2},
    },
}
LIKELIHOOD: dict[str, Any] = {"decoder_channels": 8, "components": 2}
FLOW = {"levels": 1, "steps": 2, "hidden_channels": 8}


def small_images(
    latent: str,
    likelihood: str,
    latent_options: dict[str, Any] | None = None,
    likelihood_options: dict[str, Any] | None = None,
    shape: tuple[int, int, int] = (1, 8, 8),
    **options: Any,
) -> LatentModel:
    """The model, with options on top of the small ones; its parameters are always the same."""
    torch.manual_seed(0)
    return ImageModel(
        shape,
        latent=latent,
        likelihood=likelihood,
        latent_options={**LATENT[latent], **(latent_options or {})},
        likelihood_options={**LIKELIHOOD, **(likelihood_options or {})},
        **{"levels": 17, "flow_options": FLOW, **options},
    )

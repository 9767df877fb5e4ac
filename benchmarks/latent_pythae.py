"""Models of `pythae` (clementchadebec/benchmark_VAE) as models of this package, for `latent_models.py`.

Networks are ours, of the size of the other contestants; objective, posterior and its draws are theirs. They
are trained by our trainer and scored by our importance weights, for theirs (`get_nll`) takes a row at a time;
that of their S-VAE has a concentration of one less than the one that was trained.
"""

from __future__ import annotations

from typing import Any

import torch
from pythae.models import SVAE, VAE, VAE_IAF, SVAEConfig, VAE_IAF_Config, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.densities import Density
from modeflow.densities.base import Loss
from modeflow.latents import ContinuousLatentModel
from modeflow.latents.posteriors import Approximate, DiagonalGaussian
from modeflow.latents.priors import build_prior
from modeflow.latents.spherical import VonMisesFisher
from modeflow.nets import MLP

__all__ = ["pythae_model"]


class _Encoder(BaseEncoder):
    def __init__(self, pixels: int, size: int, widths: tuple[int, ...], spread: str) -> None:
        super().__init__()
        self.size, self.spread = size, spread
        self.net = MLP(pixels, size + (1 if spread == "log_concentration" else size), widths)

    def forward(self, x: Tensor) -> ModelOutput:
        numbers = self.net(x)
        return ModelOutput(embedding=numbers[:, : self.size], **{self.spread: numbers[:, self.size :]})


class _Decoder(BaseDecoder):
    def __init__(self, pixels: int, size: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.net = MLP(size, pixels, widths)

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))


class _Flowed(Approximate):
    """A Gaussian whose draws go through their flow."""

    def __init__(self, base: DiagonalGaussian, flow: Any) -> None:
        self.location, self.log_scale = base.location, base.log_scale
        self._base, self._flow = base, flow

    def rsample_and_log_prob(self) -> tuple[Tensor, Tensor]:
        start, log_prob = self._base.rsample_and_log_prob()
        moved = self._flow.inverse(start)
        return moved.out, log_prob - moved.log_abs_det_jac

    def log_prob(self, z: Tensor) -> Tensor:
        back = self._flow(z)
        return self._base.log_prob(back.out) + back.log_abs_det_jac

    def centre(self) -> Tensor:
        out: Tensor = self._flow.inverse(self.location).out
        return out


class _Sphere(VonMisesFisher):
    """Von Mises–Fisher by their sampler."""

    def __init__(self, location: Tensor, kappa: Tensor, theirs: SVAE) -> None:
        super().__init__(location, kappa)
        self._theirs = theirs

    def rsample_and_log_prob(self) -> tuple[Tensor, Tensor]:
        z = self._theirs._sample_von_mises(self.location, self.kappa.unsqueeze(1))
        return z, self.log_prob(z)


class _Network(nn.Module):
    """From x to their posterior."""

    def __init__(self, theirs: VAE) -> None:
        super().__init__()
        self.theirs = theirs

    def forward(self, x: Tensor) -> Approximate:
        said = self.theirs.encoder(x)
        if isinstance(self.theirs, SVAE):
            kappa = F.softplus(said.log_concentration).squeeze(1) + 1
            return _Sphere(F.normalize(said.embedding, dim=-1), kappa, self.theirs)
        base = DiagonalGaussian(said.embedding, 0.5 * said.log_covariance)
        return _Flowed(base, self.theirs.iaf_flow) if isinstance(self.theirs, VAE_IAF) else base


class _Likelihood(Density):
    """Their decoder, of zeros and ones."""

    tempers = True

    def __init__(self, theirs: VAE, pixels: int, size: int) -> None:
        super().__init__((pixels,), size)
        self.levels, self.decoder = 2, theirs.decoder

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return -F.binary_cross_entropy(self.decoder(context).reconstruction, x, reduction="none").sum(-1)

    def _sample(
        self, n: int, context: Tensor | None, generator: torch.Generator | None, temperature: float = 1.0
    ) -> Tensor:
        p = self.decoder(context).reconstruction
        where = p.device if generator is None else generator.device
        u = torch.rand(p.shape, generator=generator, device=where).to(p) if temperature else 0.5
        return (p > u).to(p)


class _Objective(nn.Module):
    """Their loss."""

    free_bits = 0.0

    def forward(self, model: Any, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        out = model.encoder.net.theirs({"data": x})
        return Loss(out.loss, {"nll": out.recon_loss.detach(), "kl": out.reg_loss.detach()})


def pythae_model(name: str, pixels: int, size: int, widths: tuple[int, ...]) -> ContinuousLatentModel:
    """Their "vae", "iaf" (two layers of 32 units, as ours) or "svae", z of `size` numbers."""
    sizes = {"input_dim": (pixels,), "latent_dim": size, "reconstruction_loss": "bce"}
    spread = "log_concentration" if name == "svae" else "log_covariance"
    nets = _Encoder(pixels, size, widths, spread), _Decoder(pixels, size, widths)
    if name == "svae":
        theirs = SVAE(SVAEConfig(**sizes), *nets)
    elif name == "iaf":
        flow = {"n_made_blocks": 2, "n_hidden_in_made": 1, "hidden_size": 32}
        theirs = VAE_IAF(VAE_IAF_Config(**sizes, **flow), *nets)
    else:
        theirs = VAE(VAEConfig(**sizes), *nets)
    prior = build_prior("sphere" if name == "svae" else "normal", size)
    network = _Network(theirs)
    model = ContinuousLatentModel(build_prior("normal", size), _Likelihood(theirs, pixels, size), network)
    model.prior, model.loss = prior, _Objective()
    if name == "svae":
        model.encoder.support = "sphere"  # type: ignore[misc]
    return model

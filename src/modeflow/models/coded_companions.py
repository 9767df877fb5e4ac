"""Companion systems whose z is discrete: a state, or a string of codes; see `modeflow.models.companions`."""

from __future__ import annotations

from typing import Any

from modeflow.errors import ConfigError
from modeflow.latents import LatentModel
from modeflow.latents.options import ImageShape
from modeflow.models.companions import Features, image_of, of_images, of_rows
from modeflow.options import check_sizes

__all__ = ["VQVAE", "VQVAE2", "DiffusionBridgeVQVAE", "DiscreteVAE"]


def DiscreteVAE(
    features: Features, latent_features: int = 8, *, likelihood: str | None = None, **options: Any
) -> LatentModel:
    r"""A VAE with one discrete z out of K, fitted by the sum over its values, or by Gumbel-softmax.

    .. math:: \log p(x) = \log \sum_k \pi_k\, p(x \mid z = k), \qquad
        y = \mathrm{softmax}((\log q(z \mid x) + g) / \tau)

    The density is the sum, exact, whatever it was fitted by.

    Arguments:
        features, likelihood, options: as in `VAE`, the latent's those of `modeflow.latents.DiscreteOptions`.
        latent_features: K; z is one of so many, told to the decoder as K numbers, one of them 1.
            ``objective``: "truncated" (the states of a row that count) if not given, "marginal" or "elbo-sum"
            (all of them), or "elbo" (Gumbel-softmax, straight through, as published).

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Jang, Gu, Poole, *Categorical Reparameterization with Gumbel-Softmax*, 2017,
        https://arxiv.org/abs/1611.01144
    """
    check_sizes(latent_features=latent_features)
    shape = image_of(features)
    if shape is not None:
        states = {"n_states": latent_features, **options}
        return of_images(shape, "discrete", likelihood, states, "DiscreteVAE")
    return of_rows(features, "discrete", likelihood, options, "DiscreteVAE", latent_features)


def VQVAE(
    features: Features, latent_features: int | None = None, *, likelihood: str | None = None, **options: Any
) -> LatentModel:
    r"""VQ-VAE: z is a string of codes, the nearest to what the encoder says, with an autoregressive prior.

    .. math:: \log p(x) \ge \log p(x \mid z) + \log p(z), \qquad z_j = \arg\min_v |e_j(x) - c_v|^2

    Arguments:
        features, likelihood, options: as in `VAE`, the latent's those of `modeflow.latents.TableCodes` or
            `modeflow.latents.CodesOptions`.
        latent_features: how many codes a row has, 4 if None; of an image, None for a map of codes.

    Raises:
        ConfigError: for a value that is not allowed, or if the package `vector-quantize-pytorch` is missing.

    Reference:
        van den Oord, Vinyals, Kavukcuoglu, *Neural Discrete Representation Learning*, 2017,
        https://arxiv.org/abs/1711.00937
    """
    if latent_features is not None:
        check_sizes(latent_features=latent_features)
    shape = image_of(features)
    if shape is not None:
        given = {"codes_per_image": latent_features, **options}
        return of_images(shape, "sequential", likelihood, given, "VQVAE")
    given = {} if latent_features is None else {"codes": latent_features}
    return of_rows(features, "sequential", likelihood, {**given, **options}, "VQVAE")


def DiffusionBridgeVQVAE(
    features: Features, latent_features: int | None = None, *, likelihood: str | None = None, **options: Any
) -> LatentModel:
    r"""VQ-VAE with a diffusion bridge over its embedded codes for a prior, all fitted together.

    .. math:: p(x, z, z^{0:T}) = p(z^T) \prod_t p(z^{t-1} \mid z^t)\ \prod_j p(z_j \mid z^0_j)\ p(x \mid z)

    A string is drawn in T steps, however many codes it has; see `modeflow.densities.BridgeCodes`.

    Arguments:
        features, latent_features, likelihood, options: as in `VQVAE`, with ``prior_options`` of the bridge:
            ``steps``, ``hidden_features``, ``blocks``, ``draws``.

    Raises:
        ConfigError: for a value that is not allowed, or if the package `vector-quantize-pytorch` is missing.

    Reference:
        Cohen et al., *Diffusion bridges vector quantized Variational AutoEncoders*, 2022,
        https://arxiv.org/abs/2202.04895
    """
    given = {"prior": "diffusion-bridge", **options}
    return VQVAE(features, latent_features, likelihood=likelihood, **given)


def VQVAE2(
    features: ImageShape, latent_features: int = 8, *, likelihood: str | None = None, **options: Any
) -> LatentModel:
    r"""VQ-VAE-2: two maps of codes, one above the other, and a prior over both.

    .. math:: \log p(x) \ge \log p(x \mid t, b) + \log p(t) + \log p(b \mid t)

    Arguments:
        features: the shape of images. latent_features: d, the numbers of a code.
        likelihood, options: as in `VQVAE`. ``above``: halvings from the lower map to the upper one, 1 if not
            given.

    Raises:
        ConfigError: for a value that is not allowed, features of rows (which have no maps), or if the package
            `vector-quantize-pytorch` is missing.

    Reference:
        Razavi, van den Oord, Vinyals, *Generating Diverse High-Fidelity Images with VQ-VAE-2*, 2019,
        https://arxiv.org/abs/1906.00446
    """
    check_sizes(latent_features=latent_features)
    shape = image_of(features)
    if shape is None:
        raise ConfigError("VQVAE2 is of images, whose codes are maps: of tables there is VQVAE")
    given = {"code_features": latent_features, "above": 1, **options}
    return of_images(shape, "sequential", likelihood, given, "VQVAE2")

"""Companion systems by the literature's name: each a choice of latent and likelihood, and no more.

Every recipe is ``Name(features, latent_features, **options)``. With a number of features (or a list of what
each is) it is a model of rows, `TableModel`; with the shape ``(channels, height, width)`` one of images of
whole numbers, `ImageModel`, which takes ``levels`` and ``halvings``. All other options are those of the
likelihood (`DecoderOptions`, `LikelihoodOptions`) and of the latent, by their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from modeflow.densities.features import Feature
from modeflow.errors import ConfigError
from modeflow.latents import LatentModel
from modeflow.latents.options import ImageShape
from modeflow.models.images import IMAGE_LATENTS, ImageModel
from modeflow.models.likelihoods import LikelihoodOptions
from modeflow.models.registry import LATENT_FLOW_SCALE
from modeflow.models.table_likelihoods import DecoderOptions
from modeflow.models.tables import LATENTS, TableModel
from modeflow.options import Options, check_choice, check_sizes

__all__ = [
    "LAE",
    "LIDVAE",
    "SVAE",
    "VAE",
    "VLAE",
    "Features",
    "FlowVAE",
    "LatentFlow",
    "image_of",
    "of_images",
    "of_rows",
]

#: Of rows how many; or what each is; or the shape of images.
Features = int | Sequence[Feature] | ImageShape

#: Posteriors of `FlowVAE` and of `SVAE`.
_BY_FLOW = ("iaf", "maf", "nsf", "planar", "radial")
_ON_SPHERE = ("vmf", "power-spherical")


def image_of(features: Any) -> ImageShape | None:
    """The shape of images, where that is what was given; None for the features of rows."""
    listed = isinstance(features, Sequence) and not isinstance(features, str)
    if listed and len(features) == 3 and all(isinstance(n, int) for n in features):
        channels, height, width = (int(n) for n in features)
        return channels, height, width
    return None


def _split(options: dict[str, Any], kind: type[Options]) -> dict[str, Any]:
    """Take the options of a group out of others."""
    return {f.name: options.pop(f.name) for f in fields(kind) if f.name in options}


def of_images(
    shape: ImageShape, latent: str, likelihood: str | None, given: Mapping[str, Any], what: str
) -> LatentModel:
    """A model of images by the name of its latent; options are of the model, the likelihood or the latent."""
    options = dict(given)
    known = ("levels", "halvings", "flow", "flow_options")
    of_model = {name: options.pop(name) for name in known if name in options}
    of_likelihood = _split(options, LikelihoodOptions)
    two = of_model.get("levels") == 2
    return ImageModel(
        shape,
        latent=latent,
        likelihood=likelihood or ("bernoulli" if two else "logistic"),
        latent_options=IMAGE_LATENTS[latent].of(options, what),
        likelihood_options=of_likelihood,
        **of_model,
    )


def of_rows(
    features: Any, latent: str, likelihood: str | None, given: Mapping[str, Any], what: str, n_states: int = 1
) -> LatentModel:
    """The same of rows."""
    options = dict(given)
    known = ("flow", "flow_options")
    of_model = {name: options.pop(name) for name in known if name in options}
    of_decoder = _split(options, DecoderOptions)
    return TableModel(
        features,
        latent,
        n_states,
        likelihood=likelihood or "gaussian",
        latent_options=LATENTS[latent].of(options, what),
        likelihood_options=of_decoder,
        **of_model,
    )


def _continuous(
    what: str, features: Features, latent_features: int, likelihood: str | None, options: Mapping[str, Any]
) -> LatentModel:
    check_sizes(latent_features=latent_features)
    shape = image_of(features)
    given = {"features": latent_features, **options}
    if shape is not None:
        return of_images(shape, "continuous", likelihood, given, what)
    return of_rows(features, "continuous", likelihood, given, what)


def VAE(
    features: Features, latent_features: int = 2, *, likelihood: str | None = None, **options: Any
) -> LatentModel:
    r"""Variational autoencoder: z of N(0, I), a decoder, and a Gaussian for q(z|x).

    .. math:: \log p(x) \ge E_{q(z|x)} \log p(x \mid z) - \mathrm{KL}(q(z \mid x) \,\|\, N(0, I))

    Arguments:
        features: of rows, or the shape of images, see `modeflow.models.companions`.
        latent_features: L, the dimension of z.
        likelihood: of rows "gaussian" (if None), "bernoulli", "brenier" or "flow" (it is `ContinuousNVF`
            then); of images "logistic" (if None; with ``levels=2`` "bernoulli"), "gaussian", "bernoulli" or
            "flow".
        options: ``decoder_features``, ``scale``, ``min_scale`` of rows (`DecoderOptions`); ``levels``,
            ``halvings`` and `LikelihoodOptions` of images; and those of the latent, such as ``posterior`` and
            ``prior`` (`modeflow.latents.ContinuousOptions`).

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, https://arxiv.org/abs/1312.6114
    """
    return _continuous("VAE", features, latent_features, likelihood, options)


def FlowVAE(
    features: Features,
    latent_features: int = 2,
    *,
    posterior: str = "iaf",
    likelihood: str | None = None,
    **options: Any,
) -> LatentModel:
    r"""A VAE whose posterior is a Gaussian followed by a flow, amortised by what the encoder says of x.

    .. math:: \log q(z_T \mid x) = \log N(z_0; m(x), s(x)^2)
        - \sum_t \log |\det \partial z_t / \partial z_{t-1}|

    Arguments:
        features, latent_features, likelihood, options: as in `VAE`.
        posterior: "iaf", "maf" (L passes to draw), "nsf", "planar" or "radial"; see
            `modeflow.latents.posteriors`.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*, 2016,
        https://arxiv.org/abs/1606.04934; Rezende and Mohamed, *Variational Inference with Normalizing Flows*,
        2015, https://arxiv.org/abs/1505.05770
    """
    check_choice("posterior", posterior, _BY_FLOW)
    given = {"posterior": posterior, **options}
    return _continuous("FlowVAE", features, latent_features, likelihood, given)


def SVAE(
    features: Features,
    latent_features: int = 3,
    *,
    posterior: str = "vmf",
    likelihood: str | None = None,
    **options: Any,
) -> LatentModel:
    r"""A VAE with z on the unit sphere: uniform prior, von Mises–Fisher (or power spherical) posterior.

    .. math:: q(z \mid x) = C_m(\kappa) e^{\kappa \mu \cdot z}, \qquad
        \mathrm{KL} = \kappa A_m(\kappa) + \log C_m(\kappa) + \log |S^{m-1}|

    Arguments:
        features, likelihood, options: as in `VAE`.
        latent_features: m, the numbers of z; the sphere has m - 1 dimensions.
        posterior: "vmf" or "power-spherical".

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Davidson et al., *Hyperspherical Variational Auto-Encoders*, 2018, https://arxiv.org/abs/1804.00891
    """
    check_choice("posterior", posterior, _ON_SPHERE)
    given = {"posterior": posterior, **options}
    return _continuous("SVAE", features, latent_features, likelihood, given)


def VLAE(
    features: Features, latent_features: int = 2, *, likelihood: str | None = None, **options: Any
) -> LatentModel:
    r"""Variational Laplace autoencoder: q(z|x) is the Gaussian at the mode of p(x, z), full covariance.

    .. math:: q(z \mid x) = N(\mu, \Lambda^{-1}), \qquad \Lambda = W^T \mathrm{diag}(D)\, W + I

    The mode is sought from what the encoder says; see `modeflow.latents.LaplacePosterior`.

    Arguments:
        features, latent_features, options: as in `VAE`.
        likelihood: of rows "gaussian" (if None), "bernoulli" or "brenier"; of images "bernoulli", of two
            levels.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Park, Kim, Kim, *Variational Laplace Autoencoders*, ICML 2019
    """
    if image_of(features) is not None and likelihood is None:
        likelihood = "bernoulli"
    given = {"posterior": "laplace", **options}
    return _continuous("VLAE", features, latent_features, likelihood, given)


def LIDVAE(
    features: int | Sequence[Feature], latent_features: int = 2, *, prior: str = "normal", **options: Any
) -> LatentModel:
    r"""Latent-identifiable VAE: the mean of p(x|z) is a map of z that is one to one, so z cannot be ignored.

    .. math:: p(x \mid z) = N(f(z), s^2), \qquad f(z) = \nabla T_2(B\, \nabla T_1(z))

    with T convex; see `modeflow.nets.brenier.BrenierMap`.

    Arguments:
        features: of rows. latent_features: L, at most the number of columns.
        prior: "normal", or "mixture" (LIDMVAE), learned. options: as in `VAE`.

    Raises:
        ConfigError: for a value that is not allowed, or the shape of images.

    Reference:
        Wang, Blei, Cunningham, *Posterior Collapse and Latent Variable Non-identifiability*, 2021,
        https://arxiv.org/abs/2301.00537
    """
    if image_of(features) is not None:
        raise ConfigError("LIDVAE is of tables: a map of z into pixels that is one to one is not there")
    return _continuous("LIDVAE", features, latent_features, "brenier", {"prior": prior, **options})


def LatentFlow(
    features: Features, latent_features: int = 2, *, likelihood: str | None = None, **options: Any
) -> LatentModel:
    r"""A flow over z and a Gaussian generator, learned by short-run Langevin dynamics, without an encoder.

    .. math:: z = f(\epsilon), \quad x \mid z \sim N(g(z), s^2); \qquad
        z_{k+1} = z_k + \eta \nabla_z \log p(x, z_k) + \sqrt{2 \eta}\, \xi_k, \quad z_0 \sim N(0, I)

    K steps of every row, afresh each time; then the flow follows ``log p(z_K)``, the generator
    ``log p(x | z_K)``. What the literature uses it for:

    ======================== ======================================================================
    generation               ``model.sample(n)``
    reconstruction           ``model.reconstruct(x)``
    odd rows                 ``model.joint_log_prob(x, model.read(x))``, log p(x, z_K): low is odd
    supervised inpainting    ``model.complete(x)``, hidden entries NaN, learned from complete rows
    unsupervised recovery    the same, learned from rows with NaN: U is of what is seen, in both
    ======================== ======================================================================

    `log_prob` is an importance-weighted lower bound, by the Gaussian at the mode of p(x, z) near z_K: the law
    of z_K itself has no density that is known.

    Arguments:
        features, latent_features, options: as in `VAE`, with ``langevin_steps``, ``langevin_step_size`` and
            ``langevin_adjusted`` of the latent. ``scale`` of rows is 0.3 unless given: a step has to be small
            beside it, see `modeflow.latents.LangevinPosterior`.
        likelihood: "gaussian" if None; of rows "bernoulli" or "brenier", of images "logistic" or "bernoulli".

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Xie et al., *A Tale of Two Latent Flows: Learning Latent Space Normalizing Flow with Short-run
        Langevin Flow for Approximate Inference*, 2023, https://arxiv.org/abs/2301.09300
    """
    given: dict[str, Any] = {"posterior": "langevin", "prior": "flow", **options}
    if image_of(features) is not None:
        likelihood = likelihood or "gaussian"
    elif likelihood in (None, "gaussian", "brenier"):
        given = {"scale": LATENT_FLOW_SCALE, **given}
    return _continuous("LatentFlow", features, latent_features, likelihood, given)


def LAE(
    features: Features,
    latent_features: int = 2,
    *,
    adjusted: bool = True,
    layer: bool = False,
    likelihood: str | None = None,
    **options: Any,
) -> LatentModel:
    r"""Langevin autoencoder: z of every row by Langevin dynamics from where an encoder says.

    .. math:: z_0 \sim N(m(x), s(x)^2), \qquad
        z_{k+1} = z_k + \eta \nabla_z \log p(x, z_k) + \sqrt{2 \eta}\, \xi_k

    The decoder follows the gradient of ``log p(x, z_K)``, the encoder that of ``log q(z_K | x)``. With
    `layer`, as published, z = Φ g(x) and it is Φ, the last layer of the encoder, that moves, for all rows of
    a batch at once; on tables their features are too alike for that (``docs/models/lae.md``).

    Arguments:
        features, latent_features, likelihood, options: as in `VAE`, with ``langevin_steps`` and
            ``langevin_step_size`` of the latent.
        adjusted: accept moves by Metropolis, and adapt the step size to that.
        layer: move the last layer (`modeflow.latents.AmortisedLangevinPosterior`), not each row
            (`modeflow.latents.EncodedLangevinPosterior`).

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Taniguchi et al., *Langevin Autoencoders for Learning Deep Latent Variable Models*, 2022,
        https://arxiv.org/abs/2209.07036
    """
    posterior = "amortised-langevin" if layer else "encoded-langevin"
    given = {"posterior": posterior, "langevin_adjusted": adjusted, **options}
    return _continuous("LAE", features, latent_features, likelihood, given)

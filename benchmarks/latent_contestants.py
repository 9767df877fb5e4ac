"""The contestants of `latent_models.py`: recipes of `modeflow.models` at one size, and those of `pythae`.

All are built alike: an encoder and a decoder with two hidden layers of 400 units, z in R^32 unless a claim is
of two dimensions. Groups have likelihoods that can be compared: "bernoulli" of the pixels of binarised
images, a probability; "gaussian", a density about zeros and ones with a scale of 0.3, which says nothing
beside the first; "pinwheel", of the five arms in two dimensions on which decoders that can do without z
collapse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from modeflow import models
from modeflow.latents import LatentModel
from modeflow.latents.continuous import ContinuousOptions

__all__ = ["CONTESTANTS", "PIXELS", "SHAPE", "Contestant", "contestants"]

PIXELS, SHAPE = 784, (1, 28, 28)
#: Numbers of z, and hidden widths of encoder and decoder.
FEATURES, WIDTHS = 32, (400, 400)
#: Standard deviation of the group "gaussian".
SCALE = 0.3
#: Codes: steps over which their length begins to count, and after which they stand still.
CODES = {"code_warmup_steps": 2000, "codebook_steps": 3000}


@dataclass(frozen=True)
class Contestant:
    """What is fitted.

    Attributes:
        title: for people. build: makes it, untrained. group: see the module.
        images: it takes images, not rows of pixels. z: what its latent is, in words.
        host: it is trained on the processor also where there is a GPU, which its many small steps would only
            keep busy.
        starts: it starts on the rows as its recipe has it, before its time begins.
        held: validation images that are scored while training; None for all.
    """

    title: str
    build: Callable[[], LatentModel]
    group: str = "bernoulli"
    images: bool = False
    z: str = f"{FEATURES} numbers"
    host: bool = False
    starts: bool = False
    held: int | None = None


def _rows(recipe: str, size: int | None = FEATURES, **options: Any) -> Callable[[], LatentModel]:
    """A recipe for rows of pixels."""
    nets = {"encoder_features": WIDTHS, "decoder_features": WIDTHS}

    def build() -> LatentModel:
        model: LatentModel = getattr(models, recipe)(
            PIXELS, size, **{"likelihood": "bernoulli", **nets, **options}
        )
        return model

    return build


def _lidvae() -> LatentModel:
    nets = {"encoder_features": WIDTHS, "decoder_features": WIDTHS}
    return models.LIDVAE(PIXELS, FEATURES, scale=SCALE, **nets)


def _two_maps() -> LatentModel:
    sizes = {"n_codes": 32, "encoder_channels": 32, "decoder_channels": 32}
    prior = {"prior_options": {"width": 64, "layers": 2, "heads": 4}}
    return models.VQVAE2(SHAPE, 4, levels=2, halvings=1, **sizes, **prior, **CODES)


def _pinwheel(recipe: str, **options: Any) -> Callable[[], LatentModel]:
    def build() -> LatentModel:
        model: LatentModel = getattr(models, recipe)(2, 2, encoder_features=(64, 64), **options)
        return model

    return build


def _theirs(name: str, size: int = FEATURES) -> Callable[[], LatentModel]:
    def build() -> LatentModel:
        from latent_pythae import pythae_model

        return pythae_model(name, PIXELS, size, WIDTHS)

    return build


def _flow(posterior: str, title: str, **more: Any) -> Contestant:
    return Contestant(title, _rows("FlowVAE", posterior=posterior), **more)


#: By name, those whose order is claimed first.
CONTESTANTS: Mapping[str, Contestant] = {
    "vae": Contestant("VAE", _rows("VAE")),
    "vlae": Contestant("VLAE", _rows("VLAE")),
    "flow-vae-iaf": _flow("iaf", "VAE, IAF posterior"),
    "vae-flow-prior": Contestant("VAE, flow prior", _rows("VAE", prior="flow")),
    "vae-2": Contestant("VAE, d = 2", _rows("VAE", 2), z="2 numbers", host=True),
    "s-vae-2": Contestant("S-VAE, d = 2", _rows("SVAE", 3), z="the sphere in 3 dimensions", host=True),
    "vae-gaussian": Contestant("VAE", _rows("VAE", likelihood="gaussian", scale=SCALE), "gaussian"),
    "lidvae": Contestant("LIDVAE", _lidvae, "gaussian"),
    "pinwheel-vae-flow": Contestant(
        "VAE, decoder a flow", _pinwheel("VAE", likelihood="flow"), "pinwheel", z="2 numbers", host=True
    ),
    "pinwheel-lidvae": Contestant("LIDVAE", _pinwheel("LIDVAE"), "pinwheel", z="2 numbers", host=True),
    "pinwheel-vae": Contestant("VAE", _pinwheel("VAE"), "pinwheel", z="2 numbers", host=True),
    "pinwheel-lidmvae": Contestant(
        "LIDVAE, mixture prior", _pinwheel("LIDVAE", prior="mixture"), "pinwheel", z="2 numbers", host=True
    ),
    "flow-vae-maf": _flow("maf", "VAE, MAF posterior", host=True),
    "flow-vae-nsf": _flow("nsf", "VAE, spline posterior"),
    "flow-vae-planar": _flow("planar", "VAE, planar posterior"),
    "flow-vae-radial": _flow("radial", "VAE, radial posterior"),
    "vae-mixture-prior": Contestant("VAE, mixture prior", _rows("VAE", prior="mixture")),
    "iwae": Contestant("IWAE", _rows("VAE", objective="iwae")),
    "discrete-vae": Contestant(
        "Discrete VAE", _rows("DiscreteVAE", 64), z="64 states", host=True, starts=True
    ),
    "vq-vae": Contestant(
        "VQ-VAE", _rows("VQVAE", 16, n_codes=32, code_features=4, **CODES), z="16 codes of 32", host=True
    ),
    "vq-vae-2": Contestant(
        "VQ-VAE-2, convolutional", _two_maps, images=True, z="49 and 196 codes of 32"
    ),
    "lae": Contestant("LAE", _rows("LAE")),
    "lae-layer": Contestant("LAE by its last layer, as published", _rows("LAE", layer=True)),
    "latent-flow": Contestant("Latent flow", _rows("LatentFlow"), z=f"{FEATURES} numbers", held=200),
    "bridge-vq-vae": Contestant(
        "VQ-VAE, diffusion bridge", _rows("DiffusionBridgeVQVAE", 16, n_codes=32, code_features=4),
        z="16 codes of 32",
    ),
    "pythae-vae": Contestant("VAE of pythae", _theirs("vae")),
    "pythae-iaf": Contestant("VAE, IAF posterior, of pythae", _theirs("iaf")),
    "pythae-svae-2": Contestant(
        "S-VAE of pythae, d = 2", _theirs("svae", 3), z="the sphere in 3 dimensions", host=True
    ),
}  # fmt: skip

#: What a contestant needs of `modeflow.models`, or of the options of a continuous latent.
_NEEDS = {
    "lae": "LAE",
    "lae-layer": "LAE",
    "latent-flow": "LatentFlow",
    "bridge-vq-vae": "DiffusionBridgeVQVAE",
}


def contestants() -> list[str]:
    """The names of those that are there."""
    found = [name for name in CONTESTANTS if hasattr(models, _NEEDS.get(name, "VAE"))]
    if "objective" not in {field.name for field in fields(ContinuousOptions)}:
        found.remove("iwae")
    try:
        import pythae  # noqa: F401
    except ImportError:
        found = [name for name in found if not name.startswith("pythae")]
    return found

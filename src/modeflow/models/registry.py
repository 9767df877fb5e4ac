"""Companion systems by the names that `modeflow fit --model` takes: each some settings of an estimator.

A name is an abbreviation: what is stored are the settings, which may be changed one by one. To add a system,
add its parts where they belong, its recipe to `modeflow.models.companions` or `coded_companions`, and a line
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["COMPANIONS", "LATENT_FLOW_SCALE", "Companion"]

#: Noise of the Gaussian generator of a latent flow, in standard deviations of the columns.
LATENT_FLOW_SCALE = 0.3


@dataclass(frozen=True)
class Companion:
    """A system by its name.

    Attributes:
        title: for people. recipe: its name in `modeflow.models`. paper: where it is from.
        density: what `log_prob` is. log_prob, sample: what they cost, in passes of the decoder.
        table: parameters of the estimator of tables (`modeflow.NVF`) that make it; None where it is of images
            alone. image: the same of `modeflow.ImageDensity`.
        missing: whether cells of tables may be missing.
    """

    title: str
    recipe: str
    paper: str
    density: str = "lower bound"
    log_prob: str = "16 passes"
    sample: str = "1 pass"
    table: Mapping[str, Any] | None = None
    image: Mapping[str, Any] | None = None
    missing: bool = False

    @property
    def mixed(self) -> Mapping[str, Any] | None:
        """Parameters for tables that are not of complete numbers: of two values, or, where that is all that
        is odd of them, with missing cells; None where it takes neither."""
        if self.missing:
            return self.table
        if self.table is None or self.table["likelihood"] != "gaussian":
            return None
        return {**self.table, "likelihood": "bernoulli"}


def _continuous(likelihood: str, **options: Any) -> dict[str, Any]:
    latent = {"latent": "continuous", "likelihood": likelihood}
    return {**latent, "latent_options": options} if options else latent


#: Companion systems by name.
COMPANIONS: Mapping[str, Companion] = {
    "vae": Companion(
        "VAE",
        "VAE",
        "Kingma and Welling 2013, arXiv:1312.6114",
        table=_continuous("gaussian"),
        image=_continuous("logistic"),
    ),
    "discrete-vae": Companion(
        "Discrete VAE",
        "DiscreteVAE",
        "Jang et al. 2017, arXiv:1611.01144",
        "exact",
        "K passes",
        table={"latent": "discrete", "likelihood": "gaussian"},
        image={"latent": "discrete", "likelihood": "logistic"},
    ),
    "vq-vae": Companion(
        "VQ-VAE",
        "VQVAE",
        "van den Oord et al. 2017, arXiv:1711.00937",
        log_prob="1 pass, and the prior's",
        sample="1 pass, and the prior's",
        table={"latent": "sequential", "likelihood": "gaussian"},
        image={"latent": "sequential", "likelihood": "logistic"},
    ),
    "vq-vae-2": Companion(
        "VQ-VAE-2",
        "VQVAE2",
        "Razavi et al. 2019, arXiv:1906.00446",
        log_prob="1 pass, and the prior's",
        sample="1 pass, and the prior's",
        image={"latent": "sequential", "likelihood": "logistic", "latent_options": {"above": 1}},
    ),
    "bridge-vq-vae": Companion(
        "VQ-VAE with a diffusion bridge",
        "DiffusionBridgeVQVAE",
        "Cohen et al. 2022, arXiv:2202.04895",
        log_prob="1 pass, and 160 of the prior's network",
        sample="1 pass, and 20 of the prior's network",
        table={
            "latent": "sequential",
            "likelihood": "gaussian",
            "latent_options": {"prior": "diffusion-bridge"},
        },
        image={
            "latent": "sequential",
            "likelihood": "logistic",
            "latent_options": {"prior": "diffusion-bridge"},
        },
    ),
    "flow-vae": Companion(
        "VAE with a flow posterior",
        "FlowVAE",
        "Kingma et al. 2016, arXiv:1606.04934",
        table=_continuous("gaussian", posterior="iaf"),
        image=_continuous("logistic", posterior="iaf"),
    ),
    "s-vae": Companion(
        "S-VAE",
        "SVAE",
        "Davidson et al. 2018, arXiv:1804.00891",
        table=_continuous("gaussian", posterior="vmf", features=3),
        image=_continuous("logistic", posterior="vmf", features=16),
    ),
    "vlae": Companion(
        "Variational Laplace autoencoder",
        "VLAE",
        "Park et al. 2019, ICML",
        log_prob="16 passes, and 5 L to the mode",
        table=_continuous("gaussian", posterior="laplace"),
        image=_continuous("bernoulli", posterior="laplace", features=8),
    ),
    "lidvae": Companion(
        "Latent-identifiable VAE",
        "LIDVAE",
        "Wang et al. 2021, arXiv:2301.00537",
        table=_continuous("brenier"),
    ),
    "latent-flow": Companion(
        "Latent-space flow, by short-run Langevin",
        "LatentFlow",
        "Xie et al. 2023, arXiv:2301.09300",
        log_prob="26 gradients, 2 L to the mode, 16 passes",
        table={
            **_continuous("gaussian", posterior="langevin", prior="flow"),
            "likelihood_options": {"scale": LATENT_FLOW_SCALE},
            "batch_size": 256,
        },
        image=_continuous("gaussian", posterior="langevin", prior="flow", features=8),
        missing=True,
    ),
    "lae": Companion(
        "Langevin autoencoder",
        "LAE",
        "Taniguchi et al. 2022, arXiv:2209.07036",
        table={**_continuous("gaussian", posterior="encoded-langevin"), "batch_size": 128},
        image=_continuous("logistic", posterior="encoded-langevin", features=8),
    ),
}

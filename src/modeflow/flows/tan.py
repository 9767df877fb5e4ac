"""Transformation autoregressive networks."""

from __future__ import annotations

from modeflow.densities.autoregressive import AutoregressiveDensity
from modeflow.densities.base import Density
from modeflow.densities.flow import Flow
from modeflow.densities.recurrent import RecurrentDensity
from modeflow.errors import ConfigError
from modeflow.flows.recipes import recipe
from modeflow.flows.stack import check_sizes, context_layers
from modeflow.transforms import (
    Composite,
    ConditionalAffine,
    Leaky,
    LULinear,
    Permutation,
    RecurrentShift,
    Transform,
)

__all__ = ["TAN"]


@recipe("tan", "Oliva et al. 2018, arXiv:1801.09819", log_prob="1 pass, D steps", sample="D steps")
def TAN(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 3,
    hidden_features: int = 64,
    conditional: str = "ram",
    components: int = 10,
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    """Transformation autoregressive network: simple transforms, then an autoregressive Gaussian mixture.

    A linear start, then layers of leaky ReLU, scale, recurrent shift, reversal and linear map. The density
    of the result is ``"ram"`` (a recurrence supplies each mixture) or ``"lam"`` (one masked linear hidden
    layer does). Both directions run through the features one by one where there is a recurrence.

    Arguments:
        features, context_features: widths of data and context.
        layers: number of layers.
        hidden_features: width of the recurrences and of the conditionals.
        conditional: ``"ram"`` or ``"lam"``. components: Gaussians of each mixture.
        context_affine: first an affine map per context, as in `NSF`.
        seed: of the masks of ``"lam"``.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Oliva et al., *Transformation Autoregressive Networks*, 2018, https://arxiv.org/abs/1801.09819
    """
    check_sizes(features=features, layers=layers, hidden_features=hidden_features, components=components)
    if conditional not in ("ram", "lam"):
        raise ConfigError(f"conditional must be 'ram' or 'lam', received {conditional!r}")
    parts: list[Transform] = [*context_layers(features, context_features, context_affine), LULinear(features)]
    for _ in range(layers):
        parts += [
            Leaky(),
            ConditionalAffine(features),
            RecurrentShift(hidden_features, context_features),
            Permutation.reverse(features),
            LULinear(features),
        ]
    base: Density
    if conditional == "ram":
        base = RecurrentDensity(features, context_features, hidden_features, components)
    else:
        base = AutoregressiveDensity(
            features, context_features, "mixture", (hidden_features,), components, seed=seed
        )
    return Flow(Composite(parts), base, context_features)

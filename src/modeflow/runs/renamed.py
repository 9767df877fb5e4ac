"""What settings of modeflow 0.1 are called now."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["RENAMED", "renamed"]

_TRAINING = {
    name: f"training.{name}"
    for name in (
        "weight_decay", "schedule", "ema", "patience", "gradient_clip", "precision", "devices", "activations",
        "tensorboard",
    )
}  # fmt: skip


def _within(group: str, *names: str, **others: str) -> dict[str, str]:
    return {name: f"{group}.{name}" for name in names} | {k: f"{group}.{v}" for k, v in others.items()}


#: By domain, the old name and the new.
RENAMED: Mapping[str, Mapping[str, str]] = {
    "table": {
        **_TRAINING,
        **_within("latent_options", "posterior", "prior", "objective", "encoder_features"),
        "latent_features": "latent_options.features",
        "objective_options": "latent_options",
    },
    "image": {
        **_TRAINING,
        **_within(
            "latent_options", "n_codes", "code_features", "codes_per_image", "n_states", "posterior",
            "encoder_channels", "prior", "prior_options", "free_bits", "sequences", "stages", "code_warmup",
            latent_features="features", latent_draws="draws",
        ),
        **_within(
            "likelihood_options", "decoder_channels", "components", "entry", "context_in", "dequantisation",
            "draws", "start",
        ),
    },
}  # fmt: skip


def renamed(key: str, domain: str) -> str:
    """A hint for a setting that has another name now; empty for others."""
    base, dot, option = key.partition(".")
    new = RENAMED.get(domain, {}).get(base)
    return f": it is {new}{dot}{option} now" if new else ""

"""What a run is made from: one flat mapping of settings, from a file, from `--set`, or from defaults."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modeflow._version import __version__
from modeflow.data import is_image_source
from modeflow.data.table import atomic_write
from modeflow.errors import ConfigError, ModelFileError, nearest
from modeflow.estimators import ESTIMATORS, DensityEstimator, ImageDensity
from modeflow.flows import FLOWS, flow_recipe

__all__ = ["IMAGE_MODELS", "RUN_FORMAT", "RunConfig", "model_names", "parse_assignment", "read_config"]

#: Raised when a run folder written today could be misread by yesterday's code.
RUN_FORMAT = 1

#: Settings of the run, beside the parameters of the estimator.
RUN_DEFAULTS: dict[str, Any] = {
    "model": "nvf",
    "data": None,
    "columns": None,
    "array": None,
    "rows": None,
    "header": None,
    "drop_missing": False,
    "skip_text": False,
    "seed": 0,
    "test": 0.1,
    "validation": 0.1,
}
#: Settings of how a file is read, with the values they may have.
READING: dict[str, tuple[Any, ...]] = {
    "header": (None, True, False),
    "drop_missing": (True, False),
    "skip_text": (True, False),
}
#: Those of a run on images, in the place of columns and array.
IMAGE_DEFAULTS: dict[str, Any] = {
    "kind": "images",
    "model": "nvf",
    "data": None,
    "rows": None,
    "size": None,
    "bits": None,
    "seed": 0,
    "test": 0.1,
    "validation": 0.1,
}
#: Models of images by name, as what they are made of; others are the flows of images, without a latent.
IMAGE_MODELS: dict[str, dict[str, Any]] = {
    "nvf": {"latent": "sequential", "likelihood": "flow"},
    "vae": {"latent": "continuous", "likelihood": "logistic"},
    "discrete-vae": {"latent": "discrete", "likelihood": "logistic"},
    "vq-vae": {"latent": "sequential", "likelihood": "logistic"},
}
#: Parameters of the estimator that the run sets itself.
_HIDDEN = ("random_state", "verbose", "validation_fraction", "levels")
#: Settings whose text stays text, whatever it looks like.
_TEXT = ("data", "columns", "array", "model")
_HEADER = ("format_version", "modeflow_version")


def model_names(images: bool = False) -> list[str]:
    """What `--model` accepts: ``nvf``, and every flow by its name (fitted plain, without states).

    For images: those of `IMAGE_MODELS`, and every flow of images.
    """
    if images:
        return [*IMAGE_MODELS, *(key for key, info in FLOWS.items() if info.event == "image")]
    return ["nvf", *FLOWS]


@dataclass(frozen=True)
class RunConfig:
    """The complete settings of a run.

    Attributes:
        settings: every key with its value, defaults filled in.
    """

    settings: Mapping[str, Any]

    @classmethod
    def build(cls, given: Mapping[str, Any]) -> RunConfig:
        """Fill in defaults and check every key.

        Raises:
            ConfigError: an unknown key (the nearest is suggested) or model.
        """
        values = {k: v for k, v in given.items() if k not in _HEADER}
        images = values.get("kind") == "images" or is_image_source(values.get("data"))
        name = str(values.get("model", RUN_DEFAULTS["model"])).lower()
        if name not in (IMAGE_MODELS if images else ("nvf",)):
            name = _flow_name(name, images)
        run = IMAGE_DEFAULTS if images else RUN_DEFAULTS
        defaults = {**run, **_parameters(name, images), "model": name}
        for key, value in values.items():
            base, _, option = str(key).partition(".")
            if images and base in ("columns", "array", *READING):
                raise ConfigError(f"{base} is of tables: images have none")
            if base not in defaults or (option and not base.endswith("_options")):
                raise ConfigError(
                    f"{key!r} is not a setting of model '{name}'{nearest(str(key), defaults)} "
                    f"(settings: {', '.join(sorted(defaults))})"
                )
            if option:
                defaults[base] = {**(defaults[base] or {}), option: value}
            elif base not in ("model", "kind"):
                defaults[base] = value
        if not isinstance(defaults["seed"], int) or isinstance(defaults["seed"], bool):
            raise ConfigError(f"seed must be an integer, received {defaults['seed']!r}")
        for key, allowed in READING.items():
            if key in defaults and defaults[key] not in allowed:
                raise ConfigError(f"{key} must be true or false, received {defaults[key]!r}")
        return cls(defaults)

    def __getitem__(self, key: str) -> Any:
        return self.settings[key]

    @property
    def images(self) -> bool:
        """Whether this is a run on images."""
        return self.settings.get("kind") == "images"

    @property
    def reading(self) -> dict[str, Any]:
        """How the files of the run are read; see `read_table`."""
        return {key: self[key] for key in READING}

    def estimator(self, verbose: bool = False) -> DensityEstimator | ImageDensity:
        """The estimator these settings describe, not fitted."""
        name = self["model"]
        keys = _parameters(name, self.images)
        params = {k: self[k] for k in keys}
        if self.images:
            preset = {} if name in IMAGE_MODELS else {"latent": "none", "likelihood": "flow", "flow": name}
            return ImageDensity(**{**params, **preset}, random_state=self["seed"], verbose=verbose)
        if name != "nvf":
            params["flow"] = name
        kind: Any = ESTIMATORS["NVF" if name == "nvf" else "FlowDensity"]
        table: DensityEstimator = kind(**params, random_state=self["seed"], verbose=verbose)
        return table

    def write(self, path: Path) -> None:
        """Write the settings as YAML; `read_config` of the file repeats them."""
        content = {"format_version": RUN_FORMAT, "modeflow_version": __version__, **self.settings}
        text = yaml.safe_dump(_plain(content), sort_keys=False, allow_unicode=True)
        atomic_write(path, lambda file: file.write_text(text, encoding="utf-8"))


def _flow_name(name: str, images: bool) -> str:
    """The flow called so, in the registry's spelling; of images where `images`."""
    names = model_names(images)
    try:
        info = flow_recipe(name)
        if not images or info.event == "image":
            return info.key
    except ConfigError:
        pass
    known = "is none of images" if images else "is not known"
    raise ConfigError(f"model {name!r} {known}{nearest(name, names)} (one of {', '.join(names)})")


def _parameters(model: str, images: bool = False) -> dict[str, Any]:
    """Parameters of the estimator of a model, with their defaults, less those that the run sets."""
    kind = ESTIMATORS["ImageDensity" if images else "NVF" if model == "nvf" else "FlowDensity"]
    found = {
        name: parameter.default
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if name != "self" and name not in _HIDDEN
    }
    if images:
        if model in IMAGE_MODELS:
            return {**found, **IMAGE_MODELS[model]}
        for name in ("flow", "latent", "likelihood"):
            del found[name]  # the model's name says it
    elif model != "nvf":
        del found["flow"]  # the model's name says it
    return found


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings in a YAML file: a flat mapping, or the `config.yaml` of a run folder.

    Raises:
        ConfigError: no such file, no YAML, or no mapping.
        ModelFileError: a run folder from a newer version.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / "config.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration at '{path}'") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' cannot be read: {error}") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(f"'{path}'{line} is not valid YAML") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"'{path}' must hold 'key: value' lines, such as 'max_epochs: 100'")
    version = content.get("format_version", RUN_FORMAT)
    if not isinstance(version, int) or version > RUN_FORMAT:
        raise ModelFileError(
            f"'{path}' has format {version}, written by modeflow {content.get('modeflow_version', '?')}; "
            f"this version reads formats up to {RUN_FORMAT}: upgrade modeflow"
        )
    return {str(k): v if k in _TEXT else _number(v) for k, v in content.items()}


def parse_assignment(text: str) -> tuple[str, Any]:
    """``key=value`` from the command line; the value is read as YAML (numbers, lists, null).

    Raises:
        ConfigError: where there is no ``=`` or the value cannot be read.
    """
    key, found, value = text.partition("=")
    if not found or not key.strip():
        raise ConfigError(f"--set needs key=value, received '{text}'")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key.strip()}: the value '{value}' cannot be read") from error
    return key.strip(), parsed if key.strip() in _TEXT else _number(parsed)


def _number(value: Any) -> Any:
    """Text such as ``1e-3``, which YAML 1.1 does not read as a number, as the number it is."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value

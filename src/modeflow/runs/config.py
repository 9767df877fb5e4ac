"""What a run is made from: one mapping of settings, from a file, from `--set`, or from defaults.

Settings of the run (data, seed, shares) and of its domain (how data are read) stand beside the parameters of
the estimator, whose groups are mappings: ``training: {ema: 0.999}``, or ``training.ema`` in one line.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from modeflow._version import __version__
from modeflow.data.table import atomic_write
from modeflow.domains import DOMAINS, Domain, MixedDomain, TableDomain, domain_of
from modeflow.errors import ConfigError, ModelFileError, nearest
from modeflow.estimators import ESTIMATORS, DensityEstimator
from modeflow.flows import FLOWS, flow_recipe
from modeflow.latents import DiscreteOptions, TreeOptions
from modeflow.models import COMPANIONS
from modeflow.runs.renamed import renamed

__all__ = ["MODELS", "RUN_FORMAT", "RunConfig", "model_names", "parse_assignment", "read_config", "several"]

#: Raised when a run folder written today could be misread by yesterday's code. 1 was that of modeflow 0.1.
RUN_FORMAT = 2

#: Settings of every run, beside those of its domain and the parameters of the estimator.
RUN_DEFAULTS: dict[str, Any] = {
    "domain": None,
    "model": "nvf",
    "data": None,
    "rows": None,
    "stream": None,
    "seed": 0,
    "test": 0.1,
    "validation": 0.1,
}
#: Of every domain its models by name, each an estimator and parameters that differ from its defaults.
MODELS: Mapping[str, Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "table": {
        "nvf": ("NVF", {}),
        **{name: ("NVF", c.table) for name, c in COMPANIONS.items() if c.table is not None},
    },
    "mixed": {
        "nvf": ("NVF", {}),
        **{name: ("NVF", c.mixed) for name, c in COMPANIONS.items() if c.mixed is not None},
    },
    "image": {
        "nvf": ("ImageDensity", {"latent": "sequential", "likelihood": "flow"}),
        **{name: ("ImageDensity", c.image) for name, c in COMPANIONS.items() if c.image is not None},
    },
}
#: The estimator of a plain flow: its parameters that the model's name says, and events it is for.
PLAIN: Mapping[str, tuple[str, Mapping[str, Any], tuple[str, ...]]] = {
    "table": ("FlowDensity", {}, ("vector", "image")),
    "mixed": ("FlowDensity", {}, ()),
    "image": ("ImageDensity", {"latent": "none", "likelihood": "flow"}, ("image",)),
}
#: Parameters of an estimator that the run sets itself.
_HIDDEN = ("random_state", "verbose", "validation_fraction", "levels")
#: Settings whose text stays text, whatever it looks like.
_TEXT = ("data", "columns", "array", "model", "domain", "schema", "hide", "mask")
_KINDS: Mapping[str, tuple[Any, str]] = {
    **dict.fromkeys(("domain", "model", "array", "schema", "hide", "mask"), (str, "a text")),
    "data": (str | os.PathLike, "a file, a folder, a pattern or a name"),
    "columns": (str | Sequence | Mapping, "names of columns, or their kinds by name"),
    "rows": (int, "a whole number"),
    **dict.fromkeys(("test", "validation"), (str | int | float, "a fraction, or a file")),
}
_HEADER = ("format_version", "modeflow_version")


def model_names(domain: str = "table") -> list[str]:
    """What `--model` accepts: the models of a domain, and every flow there by its name (fitted plain)."""
    events = PLAIN[domain][2]
    return [*MODELS[domain], *(key for key, info in FLOWS.items() if info.event in events)]


@dataclass(frozen=True)
class _Model:
    """A model by its name: its estimator, parameters that it sets, and those that may be set."""

    name: str
    kind: type[DensityEstimator]
    fixed: Mapping[str, Any]
    defaults: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, domain: str) -> _Model:
        """The model called so in a domain.

        Raises:
            ConfigError: if there is none.
        """
        if name in MODELS[domain]:
            estimator, given = MODELS[domain][name]
            fixed: dict[str, Any] = {}
        else:
            name = _flow_name(name, domain)
            estimator, fixed, given = PLAIN[domain][0], {**PLAIN[domain][1], "flow": name}, {}
        kind = ESTIMATORS[estimator]
        parameters = inspect.signature(kind.__init__).parameters.items()
        left_out = ("self", *_HIDDEN, *fixed)
        defaults = {key: p.default for key, p in parameters if key not in left_out}
        return cls(name, kind, fixed, {**defaults, **given})

    def build(self, settings: Mapping[str, Any], **own: Any) -> DensityEstimator:
        """The estimator with these settings, not fitted."""
        return self.kind(**{key: settings[key] for key in self.defaults}, **self.fixed, **own)


@dataclass(frozen=True)
class RunConfig:
    """The complete settings of a run.

    Attributes:
        settings: every key with its value, defaults filled in; groups are mappings.
    """

    settings: Mapping[str, Any]

    @classmethod
    def build(cls, given: Mapping[str, Any]) -> RunConfig:
        """Fill in defaults and check every key.

        Raises:
            ConfigError: an unknown key (the nearest is suggested) or model.
        """
        values = {str(k): v for k, v in given.items() if k not in _HEADER}
        _check_kinds(values)
        domain = _domain(values)
        model = _Model.of(str(values.get("model", RUN_DEFAULTS["model"])).lower(), domain.name)
        settings = {**RUN_DEFAULTS, **domain.defaults, **model.defaults}
        options: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            base, *within = key.split(".")
            if base not in settings:
                raise ConfigError(_unknown(key, settings, domain, model.name))
            if not within:
                usual = model.defaults.get(base)
                # Of a group that the model's name says something of, that holds where nothing else is said.
                if isinstance(usual, Mapping) and isinstance(value, Mapping):
                    value = _merged(usual, value)
                settings[base] = value
                continue
            place = options.setdefault(base, {})
            for name in within[:-1]:
                place = place.setdefault(name, {})
            place[within[-1]] = value
        settings |= {"domain": domain.name, "model": model.name}
        if not isinstance(settings["seed"], int) or isinstance(settings["seed"], bool):
            raise ConfigError(f"seed must be an integer, received {settings['seed']!r}")
        domain.check(settings)
        known = model.build({**settings, **dict.fromkeys(options)}).groups()
        for key, chosen in options.items():
            if key not in (*known, "flow_options"):
                raise ConfigError(f"{key!r} has no settings within, such as {key}.{next(iter(chosen))}")
            if not isinstance(settings[key] or {}, Mapping):
                raise ConfigError(f"{key} must be a mapping of options, received {settings[key]!r}")
            settings[key] = _merged(settings[key] or {}, chosen)
        groups = model.build(settings).groups()  # options may say which latent has them
        for name, group in groups.items():
            # Whose options they are is chosen by the fit: written out, they would say it.
            if name == "latent_options" and settings.get("latent") == "auto" and not settings[name]:
                settings[name] = None
                continue
            settings[name] = group.of(settings[name], name).to_dict()
        return cls(settings)

    def __getitem__(self, key: str) -> Any:
        return self.settings[key]

    @property
    def domain(self) -> type[Domain]:
        """What the rows of the run are."""
        return DOMAINS[self["domain"]]

    def estimator(self, verbose: bool = False) -> DensityEstimator:
        """The estimator these settings describe, not fitted."""
        model = _Model.of(self["model"], self["domain"])
        return model.build(self.settings, random_state=self["seed"], verbose=verbose)

    def write(self, path: Path) -> None:
        """Write the settings as YAML; `read_config` of the file repeats them."""
        content = {"format_version": RUN_FORMAT, "modeflow_version": __version__, **self.settings}
        text = yaml.safe_dump(_plain(content), sort_keys=False, allow_unicode=True)
        atomic_write(path, lambda file: file.write_text(text, encoding="utf-8"))


def _check_kinds(values: Mapping[str, Any]) -> None:
    """Refuse what cannot be: these settings are asked for before it is known whose they are."""
    for key, (kinds, told) in _KINDS.items():
        value = values.get(key)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise ConfigError(f"{key} must be {told}, received {value!r}")


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The second over the first, mappings within too."""
    both = {
        k for k in one.keys() & other.keys() if isinstance(one[k], Mapping) and isinstance(other[k], Mapping)
    }
    return {**one, **other, **{k: _merged(one[k], other[k]) for k in both}}


def _domain(values: Mapping[str, Any]) -> type[Domain]:
    named = values.get("domain")
    if named is None:
        if values.get("schema") is not None or isinstance(values.get("columns"), Mapping):
            return MixedDomain
        found = domain_of(values.get("data"), values)
        bits, holes = values.get("likelihood") == "bernoulli", _takes_missing(values)
        if found is TableDomain and (_of_tree(values) or bits or holes):
            return MixedDomain
        return TableDomain if found is MixedDomain and _of_numbers(values) and not holes else found
    if named not in DOMAINS:
        raise ConfigError(
            f"domain {named!r} is not known{nearest(str(named), DOMAINS)} (one of {', '.join(DOMAINS)})"
        )
    return DOMAINS[named]


def _of_numbers(values: Mapping[str, Any]) -> bool:
    """Whether settings are those of a table of numbers: others are then left out, or refused."""
    if any(values.get(key) for key in ("drop_missing", "skip_text")):
        return True
    # Flat states take all kinds of columns, as in Python; their options alone do not say that they are meant.
    if values.get("latent") == "discrete" or "n_states" in values:
        return False
    return bool(_latent_options(values) - {f.name for f in fields(TreeOptions)})


def _takes_missing(values: Mapping[str, Any]) -> bool:
    """Whether the model is one by name that takes missing cells: it fills them in rows of any table."""
    name = str(values.get("model")).lower()
    return name in COMPANIONS and COMPANIONS[name].missing


def _of_tree(values: Mapping[str, Any]) -> bool:
    """Whether settings ask for a tree of states, by its name or by options that it alone has."""
    own = {f.name for f in fields(TreeOptions)} - {f.name for f in fields(DiscreteOptions)}
    # A companion system has said what its latent is, and a likelihood without a flow that it is no tree.
    named = str(values.get("model")).lower() in COMPANIONS or values.get("likelihood", "flow") != "flow"
    auto = values.get("latent", "auto") == "auto" and not named
    return values.get("latent") == "tree" or (auto and bool(_latent_options(values) & own))


def _latent_options(values: Mapping[str, Any]) -> set[str]:
    given = values.get("latent_options")
    within = set(given) if isinstance(given, Mapping) else set()
    return within | {key.partition(".")[2] for key in values if key.startswith("latent_options.")}


def _unknown(key: str, settings: Mapping[str, Any], domain: type[Domain], model: str) -> str:
    base = key.partition(".")[0]
    others = [kind.name for kind in DOMAINS.values() if base in kind.defaults and kind is not domain]
    if others:
        return f"{base} is of {several(others[0])}: {several(domain.name)} have none"
    # Estimators have the name of scikit-learn.
    also = "; did you mean 'seed'?" if key == "random_state" else ""
    hint = also or renamed(key, domain.name) or nearest(key, settings)
    return f"{key!r} is not a setting of model '{model}'{hint} (settings: {', '.join(sorted(settings))})"


def several(domain: str) -> str:
    """What things of a domain are called."""
    return "mixed tables" if domain == "mixed" else f"{domain}s"


def _flow_name(name: str, domain: str) -> str:
    """The flow called so, in the registry's spelling, if it is for rows of the domain."""
    names = model_names(domain)
    # A companion system of images alone, or of tables.
    known = "is not known" if name not in COMPANIONS else f"is none of {domain}s"
    try:
        info = flow_recipe(name)
        if info.event in PLAIN[domain][2]:
            return info.key
        known = f"is none of {domain}s"
    except ConfigError:
        if domain != TableDomain.name:
            known = f"is none of {domain}s"
    if domain == MixedDomain.name and name.lower() in FLOWS:
        known = (
            "takes numbers alone, and the table has words, times or missing cells: use 'nvf', or leave them "
            "out (--skip-text, --drop-missing)"
        )
    raise ConfigError(f"model {name!r} {known}{nearest(name, names)} (one of {', '.join(names)})")


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings in a YAML file: a mapping, or the `config.yaml` of a run folder.

    Raises:
        ConfigError: no such file, no YAML, or no mapping.
        ModelFileError: a run folder of another format.
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
    if version != RUN_FORMAT:
        newer = not isinstance(version, int) or version > RUN_FORMAT
        advice = "upgrade modeflow" if newer else "fit again, with the names of settings in CHANGELOG.md"
        raise ModelFileError(
            f"'{path}' has format {version}, written by modeflow {content.get('modeflow_version', '?')}; "
            f"this is modeflow {__version__}, which reads format {RUN_FORMAT}: {advice}"
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
    if isinstance(value, Mapping):
        return {key: _number(v) for key, v in value.items()}
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value

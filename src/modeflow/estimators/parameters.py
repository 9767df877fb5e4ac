"""Parameters in groups: dataclasses (`Options`) within an estimator, reached by the same names everywhere.

``NVF(training={"ema": 0.999})``, ``set_params(training__ema=0.999)``, a grid over ``training__ema`` and
``--set training.ema=0.999`` say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from sklearn.base import BaseEstimator

from modeflow.errors import ConfigError
from modeflow.options import Options

__all__ = ["Grouped"]


class Grouped(BaseEstimator):
    """An estimator with groups of parameters: each None (its defaults), a mapping, or the dataclass.

    ``flow_options`` is a mapping alone: what it may hold is the flow's own.
    """

    flow_options: Mapping[str, Any] | None

    def groups(self) -> dict[str, type[Options]]:
        """The dataclass of every group, by its name."""
        raise NotImplementedError

    def group(self, name: str) -> Options:
        """A group as an object.

        Raises:
            ConfigError: for an option that it has not, or a value that is not allowed.
        """
        return self.groups()[name].of(getattr(self, name), name)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; `deep` adds those of groups, as ``group__name``."""
        params: dict[str, Any] = super().get_params(deep=False)
        if not deep:
            return params
        options = self.flow_options if isinstance(self.flow_options, Mapping) else {}
        found = {f"flow_options__{k}": v for k, v in options.items()}
        try:
            for group in self.groups():
                found |= {f"{group}__{k}": v for k, v in self.group(group).get_params().items()}
        except ConfigError:
            pass  # said where it is fitted
        return {**params, **found}

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of groups as ``group__name``."""
        inner: dict[str, dict[str, Any]] = {}
        own: dict[str, Any] = {}
        for key, value in params.items():
            name, _, option = key.partition("__")
            if option:
                inner.setdefault(name, {})[option] = value
            else:
                own[name] = value
        # First what says which groups there are.
        super().set_params(**own)
        for name, options in inner.items():
            if name == "flow_options":
                self.flow_options = {**(self.flow_options or {}), **options}
            elif name in self.groups():
                new = self.groups()[name](**self.group(name).get_params(deep=False))
                setattr(self, name, new.set_params(**options))
            else:
                super().set_params(**{f"{name}__{k}": v for k, v in options.items()})
        return self

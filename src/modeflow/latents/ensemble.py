r"""Several fits of one model as one density: their average,

.. math:: p(x) = \frac1M \sum_{m=1}^M p_m(x) = \frac1M \sum_m \sum_z p_m(z)\, p_m(x \mid z).

The member is one more discrete latent, summed exactly: where the members' densities are exact, so is theirs,
and by Jensen's inequality its logarithm is at least the mean of theirs. States of discrete members follow one
another; conditionals given some cells weigh the members by what they say of these.

Reference:
    Lakshminarayanan et al., *Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles*,
    2017, https://arxiv.org/abs/1612.01474
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from modeflow.errors import ConfigError
from modeflow.latents.base import Description, LatentModel, drawn_states
from modeflow.transforms.base import Exactness, weakest
from modeflow.transforms.noise import open_uniform

__all__ = ["Ensemble"]


class Ensemble(LatentModel):
    """The average density of models of one kind, which were fitted one by one.

    A context of it is the number of a member, and that member's own context beside it.

    Arguments:
        members: over the same rows, as the same transform gives them; latents that are not continuous.

    Raises:
        ConfigError: no members, of different shapes or kinds, or with a continuous latent, whose values mean
            something else in each.
    """

    def __init__(self, members: Sequence[LatentModel]) -> None:
        if not members:
            raise ConfigError("an ensemble needs members")
        shapes = {member.event_shape for member in members}
        kinds = {member.describe().kind for member in members} - {"none"}
        if len(shapes) > 1 or len(kinds) > 1:
            raise ConfigError(f"members must be of one kind and shape, received {kinds} over {shapes}")
        if "continuous" in kinds or "codes" in kinds:
            raise ConfigError(
                "an ensemble has no use for a continuous latent or codes: z means something else in each"
            )
        super().__init__(members[0].event_shape)
        self.members = nn.ModuleList(members)
        self.chunk_rows = members[0].chunk_rows
        self.exactness = weakest(*(member.exactness for member in members))
        self.fills = all(member.fills for member in members)
        self.marginals = weakest(*(member.marginals for member in members))

    def _each(self) -> list[LatentModel]:
        return [cast(LatentModel, member) for member in self.members]

    @property
    def likelihood(self) -> Any:  # type: ignore[override]
        """That of the first member."""
        return self._each()[0].likelihood

    @property
    def prior(self) -> Any:
        """That of the first member."""
        return cast(Any, self._each()[0]).prior

    # -- density ---------------------------------------------------------------------------------

    def _members_log_prob(self, x: Tensor) -> Tensor:
        """``log p_m(x) - log M``, ``(B, M)``."""
        found = [member.log_prob(x) for member in self._each()]
        return torch.stack(found, 1) - math.log(len(found))

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self._members_log_prob(x).logsumexp(1)

    def traceable(self) -> Callable[[Tensor], Tensor]:
        members = [member.traceable() for member in self._each()]
        return lambda x: (
            torch.stack([log_prob(x) for log_prob in members], 1).logsumexp(1) - math.log(len(members))
        )

    def log_joint(self, x: Tensor) -> Tensor:
        self._check_event(x)
        return torch.cat([member.log_joint(x) for member in self._each()], 1) - math.log(len(self.members))

    def log_prob_and_cost(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_prob, cost = (
            torch.stack(each, 1)
            for each in zip(*(member.log_prob_and_cost(x) for member in self._each()), strict=True)
        )
        return (log_prob - math.log(len(self.members))).logsumexp(1), (log_prob.softmax(1) * cost).sum(1)

    def exactness_of(self, x: Tensor) -> Exactness:
        return weakest(*(member.exactness_of(x) for member in self._each()))

    def sums_out(self, x: Tensor) -> Tensor:
        return torch.stack([member.sums_out(x) for member in self._each()]).all(0)

    # -- states ----------------------------------------------------------------------------------

    @property
    def n_states(self) -> int:
        """Of all members together, as they were built."""
        return sum(member.n_states for member in self._each())

    def state_probs(self) -> Tensor:
        return torch.cat([member.state_probs() for member in self._each()]) / len(self.members)

    def _counts(self) -> list[int]:
        """States in use of every member."""
        return [len(member.state_probs()) for member in self._each()]

    def describe(self) -> Description:
        of_one = self._each()[0].describe()
        kind = next((d.kind for d in (m.describe() for m in self._each()) if d.kind != "none"), "none")
        if kind == "none":
            return Description("none", f"the average of {len(self.members)} densities", 0, "")
        if kind == "tree":
            return Description(kind, f"{len(self.members)} times {of_one.words}", of_one.count, of_one.unit)
        count = sum(self._counts())
        return Description(kind, f"{count} states of {len(self.members)} members", count, "state")

    def read(self, x: Tensor) -> Tensor:
        if self.describe().kind == "tree":
            return self._by_member(x, lambda member, _, rows: member.read(rows))
        return self.log_joint(x).argmax(1)

    def read_drawn(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.read(x) if self.describe().kind == "tree" else drawn_states(self.log_joint(x), generator)

    # -- contexts --------------------------------------------------------------------------------

    def _by_member(self, x: Tensor, found: Callable[[LatentModel, int, Tensor], Tensor]) -> Tensor:
        """What the member that a row is likeliest under says of it."""
        return self._gathered(self._members_log_prob(x).argmax(1), x, found)

    def _gathered(
        self, which: Tensor, x: Tensor, found: Callable[[LatentModel, int, Tensor], Tensor]
    ) -> Tensor:
        """What every row's member says of it; rows of numbers are made as wide as the widest."""
        parts, places = [], []
        for number, member in enumerate(self._each()):
            rows = (which == number).nonzero().flatten()
            if len(rows):
                parts.append(found(member, number, x[rows]))
                places.append(rows)
        if not parts:
            return found(self._each()[0], 0, x)
        if parts[0].dim() > 1:
            wide = max(part.shape[1] for part in parts)
            parts = [nn.functional.pad(part, (0, wide - part.shape[1])) for part in parts]
        out = torch.cat(parts)
        return torch.empty_like(out).index_copy_(0, torch.cat(places), out)

    def _tagged(self, context: Tensor | None, number: int, n: int) -> Tensor:
        """A context of a member as one of the ensemble."""
        tag = torch.full((n, 1), float(number), dtype=self.dtype, device=self.device)
        return tag if context is None else torch.cat([tag, context.to(self.dtype)], 1)

    def infer(self, x: Tensor) -> Tensor:
        return self._by_member(
            x, lambda member, number, rows: self._tagged(member.infer(rows), number, len(rows))
        )

    @torch.no_grad()
    def draw(
        self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        uniform = open_uniform((n,), torch.float64, self.device, generator)
        which = (uniform * len(self.members)).long().clamp_max(len(self.members) - 1)
        states: list[Tensor] = []
        starts = torch.tensor([0, *self._counts()]).cumsum(0).tolist()
        tree = self.describe().kind == "tree"

        def drawn(member: LatentModel, number: int, rows: Tensor) -> Tensor:
            context, z = member.draw(len(rows), generator, temperature)
            states.append(z if tree else z + starts[number])
            return self._tagged(context, number, len(rows))

        contexts = self._gathered(which, which, drawn)
        if not len(states):
            return contexts, torch.zeros(n, dtype=torch.long)
        z = torch.cat(states)
        order = which.to(z.device).argsort(stable=True)
        return contexts, torch.empty_like(z).index_copy_(0, order, z)

    def draw_state(self, state: int, n: int) -> tuple[Tensor | None, Tensor]:
        counts = self._counts()
        if self.describe().kind != "discrete":
            return super().draw_state(state, n)
        if not 0 <= state < sum(counts):
            raise ConfigError(f"state must lie in 0..{sum(counts) - 1}, received {state}")
        number, own = 0, state
        while own >= counts[number]:
            own -= counts[number]
            number += 1
        member = self._each()[number]
        context = None if counts[number] == 1 and member.n_states == 1 else member.draw_state(own, n)[0]
        return self._tagged(context, number, n), torch.full((n,), state)

    @torch.no_grad()
    def decode(
        self,
        context: Tensor | None,
        n: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        if context is None:
            context = self.draw(n, generator)[0]
        widths = [self._width(member) for member in self._each()]

        def decoded(member: LatentModel, number: int, rows: Tensor) -> Tensor:
            own = rows[:, 1 : 1 + widths[number]] if widths[number] else None
            return member.decode(own, len(rows), generator, temperature)

        which = context[:, 0].round().long()
        return self._gathered(which, context, decoded) if n else self._each()[0].decode(None, 0)

    @staticmethod
    def _width(member: LatentModel) -> int:
        with torch.no_grad():
            context, _ = member.draw(1, torch.Generator(device=member.device).manual_seed(0))
        return 0 if context is None else context.shape[1]

    @torch.no_grad()
    def complete(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self._check_event(x)
        share = self._members_log_prob(x).softmax(1).double().cumsum(1)
        uniform = open_uniform((len(x), 1), torch.float64, x.device, generator)
        which = (share < uniform).sum(1).clamp_max(len(self.members) - 1)
        return self._gathered(which, x, lambda member, _, rows: member.complete(rows, generator))

    @torch.no_grad()
    def sample_with_states(
        self,
        n: int,
        generator: torch.Generator | None = None,
        state: int | None = None,
        temperature: float = 1.0,
        prior_temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        if state is not None and prior_temperature != 1.0:
            raise ConfigError(f"state={state} is given, so that none is drawn: leave prior_temperature at 1")
        context, z = (
            self.draw(n, generator, prior_temperature) if state is None else self.draw_state(state, n)
        )
        states = z if z.dim() == 1 else torch.zeros(n, dtype=torch.long)
        return self.decode(context, n, generator, temperature), states

    def rebuild_options(self) -> dict[str, Any]:
        return self._each()[0].rebuild_options()

"""The checks of `modeflow.testing` catch what they are for: each is shown a broken module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from constructors import DENSITIES, TRANSFORMS
from modeflow.densities import Flow, StandardNormal
from modeflow.testing import check_density, check_transform, jacobian, perturb, triangular
from modeflow.transforms import AffineElementwise, Coupling, RQSplineElementwise, Transform


class Scale(Transform):
    """``u = x exp(s(c)) + t``, correct, with hooks for mistakes."""

    def __init__(self, features: int = 2, context_features: int = 0) -> None:
        super().__init__()
        self.context_features = context_features
        self.s = nn.Parameter(torch.full((features,), 0.3))
        self.t = nn.Parameter(torch.zeros(features))
        self.w = nn.Parameter(torch.zeros(context_features, features)) if context_features else None

    def scale(self, context):
        return self.s if self.w is None else self.s + context @ self.w

    def forward(self, x, context=None):
        s = self.scale(context)
        return x * s.exp() + self.t, s.sum(-1).expand(len(x))

    def inverse(self, u, context=None):
        s = self.scale(context)
        return (u - self.t) * (-s).exp(), -s.sum(-1).expand(len(u))


class WrongSign(Scale):
    def forward(self, x, context=None):
        u, logabsdet = super().forward(x, context)
        return u, -logabsdet

    def inverse(self, u, context=None):
        x, logabsdet = super().inverse(u, context)
        return x, -logabsdet


class MissingTerm(Scale):
    def forward(self, x, context=None):
        return super().forward(x, context)[0], self.scale(context)[..., :-1].sum(-1).expand(len(x))

    def inverse(self, u, context=None):
        return super().inverse(u, context)[0], -self.scale(context)[..., :-1].sum(-1).expand(len(u))


class InverseSignOnly(Scale):
    def inverse(self, u, context=None):
        x, logabsdet = super().inverse(u, context)
        return x, -logabsdet


class NotInverse(Scale):
    def inverse(self, u, context=None):
        x, logabsdet = super().inverse(u, context)
        return x + 1e-5, logabsdet


class ContextIgnored(Scale):
    def scale(self, context):
        return self.s + 0 * (context @ self.w)


class OneEntryIgnored(Scale):
    def scale(self, context):
        return self.s + context[:, :1] @ self.w[:1]


class BatchStatistics(Scale):
    def forward(self, x, context=None):
        mean = x.mean(0) if len(x) else 0.0
        u, logabsdet = super().forward(x, context)
        return u - mean, logabsdet


class InPlace(Scale):
    def forward(self, x, context=None):
        if not x.requires_grad:
            x += 1
        return super().forward(x, context)


class Unsaved(Scale):
    def __init__(self):
        super().__init__()
        self.offset = float(torch.rand(()))

    def forward(self, x, context=None):
        u, logabsdet = super().forward(x, context)
        return u + self.offset, logabsdet

    def inverse(self, u, context=None):
        return super().inverse(u - self.offset, context)


class UnusedParameter(Scale):
    def __init__(self):
        super().__init__()
        self.extra = nn.Parameter(torch.ones(3))


class WrongType(Scale):
    def forward(self, x, context=None):
        u, logabsdet = super().forward(x, context)
        return u, logabsdet.float()


class LeakyMask(Scale):
    """Promises to act on each feature alone."""

    def forward(self, x, context=None):
        u, logabsdet = super().forward(x, context)
        return torch.stack((u[:, 0] + 1e-3 * u[:, 1], u[:, 1]), 1), logabsdet

    def inverse(self, u, context=None):
        return super().inverse(torch.stack((u[:, 0] - 1e-3 * u[:, 1], u[:, 1]), 1), context)


class SingleOnly(Scale):
    """Correct in float64, and careless in float32: a constant of the wrong size swallows the digits."""

    def forward(self, x, context=None):
        u, logabsdet = super().forward(x, context)
        return ((u + 1e4) - 1e4 if u.dtype == torch.float32 else u), logabsdet


def test_the_correct_transform_passes():
    check_transform(Scale, 2, structure=torch.eye(2).bool(), compiles=True)
    check_transform(lambda: Scale(2, 3), 2, 3, context_outputs=torch.ones(2).bool())


@pytest.mark.parametrize(
    ("factory", "context", "message"),
    [
        (WrongSign, 0, "logabsdet: .*differs from autograd"),
        (MissingTerm, 0, "logabsdet: .*differs from autograd"),
        (InverseSignOnly, 0, "inverse: the log-determinant of the inverse"),
        (NotInverse, 0, r"inverse: inverse\(forward\(x\)\) is not x"),
        (lambda: ContextIgnored(2, 2), 2, "context: forward ignores entry 0"),
        (lambda: OneEntryIgnored(2, 2), 2, "context: forward ignores entry 1"),
        (BatchStatistics, 0, "shapes: .*a row alone"),
        (InPlace, 0, "shapes: forward changes its input"),
        (Unsaved, 0, "saving: .*another result"),
        (UnusedParameter, 0, "gradients: no gradient reaches parameter 'extra'"),
        (WrongType, 0, "shapes: .*float32"),
        (LeakyMask, 0, "structure: output 0 depends on input 1"),
        (SingleOnly, 0, "inverse: .*float32"),
    ],
)
def test_broken_transforms_are_caught(factory, context, message):
    with pytest.raises(AssertionError, match=message):
        check_transform(factory, 2, context, structure=None if context else torch.eye(2).bool())


class Iterated(Scale):
    def inverse(self, u, context=None):
        x, logabsdet = super().inverse(u, context)
        return x + 1e-7, logabsdet


def test_an_inverse_found_by_iteration_may_state_its_error():
    check_transform(Iterated, 2, inverse_error=2e-7)
    with pytest.raises(AssertionError, match="inverse: "):
        check_transform(Iterated, 2, inverse_error=1e-8)


def test_a_promise_not_kept_is_caught():
    with pytest.raises(AssertionError, match="does not depend on input"):
        check_transform(Scale, 2, structure=triangular(2))
    with pytest.raises(AssertionError, match="not exactly zero"):
        check_transform(Scale, 2, volume_preserving=True)


def test_wrong_log_determinants_break_the_mass_of_a_flow():
    good = lambda: Flow(Scale(), StandardNormal(2))  # noqa: E731
    check_density(good, 2)
    for factory in (WrongSign, MissingTerm):
        with pytest.raises(AssertionError, match="mass: the density integrates to"):
            check_density(lambda f=factory: Flow(f(), StandardNormal(2)), 2)


class Shifted(StandardNormal):
    """Integrates to one, but the samples are a little off."""

    def _sample(self, n, context, generator):
        return super()._sample(n, context, generator) + 0.15

    rsample_and_log_prob = Flow.__mro__[1].rsample_and_log_prob


class Narrow(Shifted):
    def _sample(self, n, context, generator):
        return 0.8 * StandardNormal._sample(self, n, context, generator)


@pytest.mark.parametrize("features", [1, 2, 4])
@pytest.mark.parametrize("kind", [Shifted, Narrow])
def test_samples_that_do_not_follow_the_density_are_caught(kind, features):
    with pytest.raises(AssertionError, match="mass: "):
        check_density(lambda: kind(features), features)


class Deaf(StandardNormal):
    """Takes a temperature and does nothing with it."""

    def _sample(self, n, context, generator, temperature=1.0):
        return super()._sample(n, context, generator)


class Sticky(StandardNormal):
    """Keeps the temperature it was once given."""

    kept = 1.0

    def _sample(self, n, context, generator, temperature=1.0):
        self.kept = self.kept if temperature == 1.0 else temperature
        return super()._sample(n, context, generator, self.kept)


@pytest.mark.parametrize(("kind", "message"), [(Deaf, "is ignored"), (Sticky, "drawn after it")])
def test_a_temperature_that_is_ignored_or_stays_is_caught(kind, message):
    with pytest.raises(AssertionError, match=f"temperature: .*{message}"):
        check_density(lambda: kind(2), 2)


class Wasteful(StandardNormal):
    def _log_prob(self, x, context):
        return super()._log_prob(x + 1e3, context) * 0 + super()._log_prob((x + 1e3) - 1e3, context)

    def rsample_and_log_prob(self, n=1, context=None, generator=None):
        raise NotImplementedError


def test_loss_of_precision_is_caught():
    with pytest.raises(AssertionError, match="precision: "):
        check_density(lambda: Wasteful(2), 2)


def test_perturb_moves_every_parameter_and_repeats():
    a, b = (perturb(TRANSFORMS["maf-affine-5-context"].factory(), 0.2, seed=1) for _ in range(2))
    assert len(list(a.parameters())) > 4
    torch.manual_seed(5)
    fresh = TRANSFORMS["lu-5"].factory()
    moved = perturb(TRANSFORMS["lu-5"].factory(), 0.2, seed=1)
    again = perturb(TRANSFORMS["lu-5"].factory(), 0.2, seed=1)
    for p, q, r in zip(fresh.parameters(), moved.parameters(), again.parameters(), strict=True):
        assert (p != q).all()
        assert torch.equal(q, r)
    del b


def test_jacobian_of_a_known_map():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    matrix = torch.randn(2, 3, dtype=torch.float64)
    assert torch.allclose(jacobian(x @ matrix.mT, x), matrix.expand(4, 2, 3))


def test_the_table_is_far_from_the_identity():
    # A layer tested near the identity proves nothing.
    for name, case in TRANSFORMS.items():
        if case.volume_preserving or name.startswith("permutation"):
            continue
        x, context = case.inputs()
        u, logabsdet = case.build()(x, context)
        assert (u.flatten(1) - x.flatten(1)).abs().max() > 0.03, name
        assert logabsdet.abs().max() > 1e-4, name


def test_the_table_compiles_what_is_promised():
    promised = {k for k, v in (TRANSFORMS | DENSITIES).items() if v.compiles}
    assert {"coupling-spline-2-context", "nsf-2", "nsf-2-context", "realnvp-2"} <= promised


def test_couplings_of_both_kinds_are_in_the_table():
    kinds = {type(t.elementwise) for case in TRANSFORMS.values() if isinstance(t := case.factory(), Coupling)}
    assert {AffineElementwise, RQSplineElementwise} <= kinds

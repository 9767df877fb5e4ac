"""Uniform numbers at the ends of their interval, planted: everything made of them stays finite."""

from __future__ import annotations

import pytest
import torch

from constructors import DENSITIES
from drawing_models import NESTS, PAIRS, built
from modeflow.densities import Logistic, StandardNormal, Uniform
from modeflow.flows import Dequantized
from modeflow.latents import GumbelELBO, Marginal
from modeflow.testing import perturb
from modeflow.transforms import Rounding
from modeflow.transforms import noise as streams
from modeflow.transforms.noise import gumbel_noise, in_unit, open_uniform, standard_normal, uniform_noise

TYPES = {"float32": torch.float32, "float64": torch.float64}
DTYPES = pytest.mark.parametrize("dtype", list(TYPES.values()), ids=list(TYPES))


@pytest.fixture(params=["lowest", "highest"])
def end(request, monkeypatch):
    """All uniform numbers are 0, or the largest below one of the type that is drawn (one after a cast)."""
    low = request.param == "lowest"

    def fill(x):
        return x.fill_(0.0 if low else 1 - torch.finfo(x.dtype).eps / 2)

    def rand(*shape, generator=None, **options):
        sizes = shape[0] if shape and not isinstance(shape[0], int) else shape
        return fill(torch.empty(*sizes, **options))

    monkeypatch.setattr(torch, "rand", rand)
    monkeypatch.setattr(torch, "rand_like", lambda like, **options: fill(torch.empty_like(like, **options)))
    monkeypatch.setattr(
        torch.Tensor, "exponential_", lambda self, *_, **options: self.fill_(0.0 if low else 100.0)
    )
    monkeypatch.setattr(
        streams._RowNoise, "uniform", lambda self, like: fill(torch.empty(like.shape, dtype=torch.float64))
    )
    return request.param


@DTYPES
def test_uniform_numbers_and_what_is_left_of_one_lie_inside(end, dtype):
    like = torch.zeros(3, 2, dtype=dtype)
    drawn = [uniform_noise(like), open_uniform((3, 2), dtype, like.device)]
    with streams.row_noise(like, 0):
        drawn.append(uniform_noise(like))
        assert torch.isfinite(standard_normal(like)).all()
    for u in drawn:
        assert (
            u.dtype == dtype and (u > 0).all() and (u < 1).all() and (1 - u > 0).all() and (1 - u < 1).all()
        )
    assert torch.isfinite(gumbel_noise(like)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, *TYPES.values()])
def test_a_cast_never_reaches_an_end(dtype):
    u = in_unit(torch.tensor([0.0, 2.0**-60, 0.5, 1 - 2.0**-53, 1.0], dtype=torch.float64), dtype)
    assert (
        torch.isfinite(torch.logit(u)).all()
        and torch.isfinite(torch.special.ndtri(u if u.dtype in TYPES.values() else u.float())).all()
    )


@DTYPES
@pytest.mark.parametrize("kind", ["uniform", "variational"])
def test_a_whole_number_stays_in_its_cell(end, dtype, kind):
    """Float32 has 17 bits for the part of 255.99999: rounded up, it would be the next level's."""
    noise = None
    if kind == "variational":
        noise = Dequantized(StandardNormal(2), 256, kind=kind, couplings=1).transform.transforms[0].noise
    layer = Rounding(noise, 0, 256).to(dtype)
    n = torch.tensor([[0.0, 1.0], [127.0, 128.0], [254.0, 255.0]], dtype=dtype)
    for shift in (0.0, -200.0) if noise is None else (0.0,):
        whole = n + shift
        layer.levels = None if shift else 256
        y, contribution = layer(whole)
        assert torch.equal(y.floor(), whole)
        assert torch.isfinite(contribution).all()


@DTYPES
@pytest.mark.parametrize("alpha", [None, 0.0, 0.05])
def test_images_have_finite_scores_and_gradients(end, dtype, alpha):
    model = Dequantized(
        Logistic(6) if alpha is None else StandardNormal(6), 256, kind="variational", alpha=alpha, draws=2
    )
    model = perturb(model, 0.5).to(dtype)
    x = torch.tensor([[0, 255, 128, 254, 1, 255]], dtype=dtype)
    assert torch.isfinite(model.eval().log_prob(x)).all()
    loss = model.train().objective(x).value
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@DTYPES
@pytest.mark.parametrize(("nest", "part"), [p for p in PAIRS if not NESTS[p[0]].shares])
def test_what_draws_is_finite(end, nest, part, dtype):
    density, rows = built(nest, part, dtype)
    with torch.no_grad():
        assert torch.isfinite(density.log_prob(rows)).all()
        assert torch.isfinite(density.sample(3)).all()
    assert torch.isfinite(density.train().objective(rows).value)


@DTYPES
@pytest.mark.parametrize("name", [n for n in DENSITIES if not n.startswith(("ffjord", "score", "residual"))])
def test_samples_are_finite(end, name, dtype):
    case = DENSITIES[name]
    density = case.build(dtype)
    context = case.some_contexts(3, dtype)
    assert torch.isfinite(density.sample(2, context)).all()


@DTYPES
def test_a_uniform_density_contains_its_samples(end, dtype):
    """Strictly: a logarithm of the distance to an end is finite."""
    density = Uniform(2, -1.0, 3.0).to(dtype)
    x = density.sample(3)
    assert x.dtype == dtype and (x > -1).all() and (x < 3).all()


@pytest.mark.parametrize("objective", [GumbelELBO(), Marginal(0.01)], ids=["elbo", "truncated"])
def test_objectives_are_finite(end, objective):
    density = DENSITIES["nvf-2-elbo"].build(torch.float32).train()
    density.loss = objective
    loss = density.objective(torch.randn(5, 2)).value
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in density.parameters())

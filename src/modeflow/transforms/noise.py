"""Noise for layers that draw on the way to noise: fresh while training, a function of the row otherwise.

What estimates a density by draws opens a *stream*, `row_noise`, and evaluates its parts inside. A part that
draws too opens one of its own within it: the numbers of a stream depend on its place, that is on every
stream around it, on which part of them opened it, and on its seed. So the noise of z, that of the likelihood
given z, and that of a part of the likelihood are independent, which is what makes a product of their
estimates an estimate of the product; and all are still functions of the row, whatever the batch around it.

Uniform numbers lie strictly between 0 and 1, in every type: a logit, a logarithm, a quantile of them is
finite. (`torch.rand` in float32 gives exactly 0 once in 17 million numbers, and a number cast to float32
is exactly 1 as often.)

Draws of one row may be *even* (`even_streams`): those of the first layer that asks are then points of one
Sobol sequence, digitally shifted by a random vector of the row's own. Each is uniform, so that a mean over
draws is what it was in expectation; together they are evenly spread, which makes it exacter; and the shifts
of different rows are independent, so that a standard error over rows counts what is left.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor

from modeflow.errors import ConfigError
from modeflow.nets.randomness import rand_like, randn_like, stream

__all__ = [
    "drawn",
    "even_streams",
    "gumbel_noise",
    "in_row_noise",
    "in_unit",
    "normal_numbers",
    "one_place",
    "open_uniform",
    "row_noise",
    "standard_normal",
    "uniform_noise",
]

_GOLDEN = -7046029254386353131
_FIRST = -4658895280553007687
_SECOND = -7723592293110705685
_WORD = (1 << 64) - 1
_SOBOL_SEED = 20221122
#: Dimensions for which there are Sobol points.
_SOBOL_DIMS = 21201


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose products wrap: every bit of z moves every bit of the result."""
    # The shifts of signed numbers bring in copies of the sign; the masks take them off.
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * _FIRST
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


def _mixed(z: int) -> int:
    """`_mix` of one number."""
    z &= _WORD
    z = ((z ^ (z >> 30)) * _FIRST) & _WORD
    z = ((z ^ (z >> 27)) * _SECOND) & _WORD
    return z ^ (z >> 31)


def _signed(z: int) -> int:
    z &= _WORD
    return z - (1 << 64) if z >> 63 else z


class _Place:
    """Where streams can be opened: a path of numbers from the outermost stream to here, mixed into one.

    Parts are numbered as they first open a stream, so that a part which goes through its rows in chunks is
    the same part in every chunk.
    """

    def __init__(self, path: int) -> None:
        self.path = path
        self._parts: dict[object, int] = {}

    def within(self, part: object) -> int:
        """The path of what `part` opens here."""
        number = self._parts.setdefault(part, len(self._parts))
        if self.path == 0 and number == 0:
            return 0  # the first of the outermost: the same as with nothing around it
        return _mixed(self.path + (number + 1) * _GOLDEN)


class _RowNoise:
    """A stream of random numbers for every row, that depends on the row, the path and the seed alone."""

    def __init__(self, rows: Tensor, seed: int, path: int = 0) -> None:
        start = path + seed * _GOLDEN
        # As float32, so that a row has the same noise whatever the precision of the model.
        bits = _plain(rows.float()).view(torch.int32).long()
        key = torch.full((rows.shape[0],), _signed(start), dtype=torch.int64, device=rows.device)
        for column in bits.unbind(1):
            key = _mix(key + _GOLDEN + column)
        self.key = key
        self.calls = 0
        # Never 0, the path of what is outermost.
        self.place = _Place(_mixed(start + _SECOND) | 1)

    def uniform(self, like: Tensor) -> Tensor:
        """Numbers of the shape of `like`, one line for each row, in float64."""
        if len(like) != len(self.key):
            raise ConfigError(
                f"a layer asks for noise for {len(like)} rows inside an estimate of {len(self.key)}: put "
                "layers that draw into a BoundedFlow, which draws for rows of its own"
            )
        self.calls += 1
        count = like[0].numel() if len(like) else 0
        place = torch.arange(1, count + 1, device=like.device) + (self.calls << 32)
        numbers = _mix(_mix(self.key.unsqueeze(1) + place * _GOLDEN))
        value = ((numbers >> 11) & ((1 << 53) - 1)).double() * 2.0**-53
        return value.view(like.shape)


class _EvenNoise(_RowNoise):
    """Draw number `draw` of several: the first numbers asked for are evenly spread over the draws."""

    def __init__(self, first: _RowNoise, shifts: dict[int, Tensor], draw: int, draws: int) -> None:
        # Streams within this one differ from draw to draw, as those within a stream of another seed do.
        self.place = _Place(_mixed(first.place.path + draw * _GOLDEN) | 1)
        # Numbers asked for later are of other calls in every draw.
        self.key, self.calls = first.key, draw << 8
        self._first, self._shifts, self._point, self._even = first, shifts, (draw, draws), True

    def uniform(self, like: Tensor) -> Tensor:
        count = like[0].numel() if len(like) else 0
        if not self._even or not 0 < count <= _SOBOL_DIMS:
            return super().uniform(like)
        self._even = False
        if count not in self._shifts:
            self._first.calls = 0
            self._shifts[count] = (self._first.uniform(like).flatten(1) * 2.0**53).long()
        draw, draws = self._point
        point = _sobol(count, draws)[draw].to(like.device)
        return ((self._shifts[count] ^ point).double() * 2.0**-53).view(like.shape)


@functools.lru_cache(maxsize=32)
def _sobol(dims: int, draws: int) -> Tensor:
    """Evenly spread points of the unit cube in 53 bits, ``(draws, dims)``."""
    from scipy.stats import qmc  # slow to import

    generator = np.random.default_rng(_SOBOL_SEED)
    try:
        sobol = qmc.Sobol(dims, scramble=True, rng=generator)
    except TypeError:  # scipy < 1.15 calls the argument `seed`
        sobol = qmc.Sobol(dims, scramble=True, seed=generator)
    # Drawn in powers of two, the number for which Sobol points are balanced; a prefix is kept.
    points = np.asarray(sobol.random_base2(int(draws - 1).bit_length())[:draws])
    return torch.from_numpy((points * 2.0**53).astype(np.int64))


_SOURCE: ContextVar[_RowNoise | None] = ContextVar("modeflow_row_noise", default=None)
_PLACE: ContextVar[_Place | None] = ContextVar("modeflow_noise_place", default=None)


@contextmanager
def row_noise(rows: Tensor, seed: int, part: object = None) -> Iterator[None]:
    """Inside the block the layers' noise is a function of each row ``(B, *event)``, the place and the seed.

    Arguments:
        rows: the block's noise has as many lines; rows that are equal have equal noise.
        seed: number of the draw.
        part: what opens the stream. Within another stream two parts have independent noise, even for the
            same rows and seeds.
    """
    with _opened(_RowNoise(rows, seed, _path(part))):
        yield


def even_streams(rows: Tensor, draws: int, part: object = None) -> Iterator[AbstractContextManager[None]]:
    """`row_noise` for each of so many draws, whose first numbers are evenly spread, see the module.

    Arguments:
        rows: ``(B, *event)``; those of doubles are told apart by all of their digits.
        draws: how many. part: as in `row_noise`.
    """
    if rows.dtype == torch.float64:
        # Four parts of 16 bits each, which a float32 holds.
        rows = _plain(rows).contiguous().view(torch.int16).float()
    first, shifts = _RowNoise(rows, _SOBOL_SEED, _path(part)), dict[int, Tensor]()
    for draw in range(draws):
        yield _opened(_EvenNoise(first, shifts, draw, draws))


def _plain(rows: Tensor) -> Tensor:
    """Rows ``(B, *event)`` flat, in which what is equal has equal bits: -0 is 0, and all NaN are one."""
    flat = rows.detach().flatten(1) + 0.0
    return torch.where(flat.isnan(), torch.nan, flat)


def _path(part: object) -> int:
    around = _PLACE.get()
    return 0 if around is None else around.within(part)


@contextmanager
def _opened(noise: _RowNoise) -> Iterator[None]:
    source, place = _SOURCE.set(noise), _PLACE.set(noise.place)
    try:
        yield
    finally:
        _PLACE.reset(place)
        _SOURCE.reset(source)


@contextmanager
def one_place() -> Iterator[None]:
    """Inside the block, parts that open streams with no other around them have independent noise."""
    if _PLACE.get() is not None:
        yield
        return
    token = _PLACE.set(_Place(0))
    try:
        yield
    finally:
        _PLACE.reset(token)


def in_row_noise() -> bool:
    """Whether a stream is open: noise must then come from it, or from one within it, also while training."""
    return _SOURCE.get() is not None


def in_unit(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers of [0, 1] in a type of their own, so that u and 1 - u lie strictly between 0 and 1.

    The ends are half the spacing ε of that type below one: ``[ε/2, 1 - ε/2]``.
    """
    end = torch.finfo(dtype).eps / 2
    # After the cast, which can round up to one.
    return u.to(dtype).clamp(end, 1 - end)


def open_uniform(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Uniform numbers strictly between 0 and 1, from a generator on any device (or this thread's)."""
    return in_unit(drawn(torch.rand, shape, dtype, device, generator), dtype)


def normal_numbers(
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Standard normal numbers, from a generator on any device (or this thread's)."""
    return drawn(torch.randn, shape, dtype, device, generator)


def drawn(
    draw: Callable[..., Tensor],
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator | None,
) -> Tensor:
    """Numbers of `torch.rand` or `torch.randn`, drawn where the generator lives and moved to `device`."""
    where = device if generator is None else generator.device
    return draw(tuple(shape), generator=generator or stream(where), dtype=dtype, device=where).to(device)


def uniform_noise(like: Tensor) -> Tensor:
    """Uniform numbers of the shape and type of `like`, strictly between 0 and 1.

    From the rows' streams, or torch's generator where none is open.
    """
    source = _SOURCE.get()
    return in_unit(rand_like(like) if source is None else source.uniform(like), like.dtype)


def standard_normal(like: Tensor) -> Tensor:
    """Standard normal numbers of the shape and type of `like`."""
    source = _SOURCE.get()
    if source is None:
        return randn_like(like)
    u = in_unit(source.uniform(like), torch.float64)
    return (math.sqrt(2) * torch.erfinv(2 * u - 1)).to(like.dtype)


def gumbel_noise(like: Tensor) -> Tensor:
    """Standard Gumbel numbers, finite, of the shape and type of `like`, from this thread's generator."""
    smallest = torch.finfo(like.dtype).tiny
    noise = torch.empty_like(like).exponential_(generator=stream(like.device))
    return -torch.log(noise.clamp_min(smallest))

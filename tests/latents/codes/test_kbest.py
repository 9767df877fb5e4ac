"""The k most probable sequences against all of them, sorted."""

from __future__ import annotations

import itertools

import pytest
import torch

from modeflow.errors import ConfigError
from modeflow.latents.codes import k_best


def brute(log_q, k):
    length, n_codes = log_q.shape
    sums = sorted(
        (
            float(sum(log_q[j, v] for j, v in enumerate(s)))
            for s in itertools.product(range(n_codes), repeat=length)
        ),
        reverse=True,
    )
    return torch.tensor(sums[:k], dtype=torch.float64)


@pytest.mark.parametrize("n_codes, length", [(3, 4), (2, 6), (5, 2), (4, 1), (1, 3)])
def test_in_the_order_of_all_sequences_sorted(n_codes, length):
    log_q = torch.log_softmax(2 * torch.randn(6, length, n_codes, dtype=torch.float64), -1)
    everything = n_codes**length
    sequences, values = k_best(log_q, everything + 5)
    assert sequences.shape == (6, everything, length)
    for row, found, expected in zip(sequences, values, log_q, strict=True):
        assert len({tuple(s.tolist()) for s in row}) == everything
        assert torch.allclose(found, brute(expected, everything), atol=1e-12)
        assert torch.allclose(expected[torch.arange(length), row].sum(1), found, atol=1e-12)
    few, some = k_best(log_q, 3)
    assert torch.equal(few, sequences[:, :3]) and torch.equal(some, values[:, :3])
    assert torch.equal(few[:, 0], log_q.argmax(-1))


def test_ties_and_certainty():
    # Equal codes: any order, but no sequence twice. Impossible codes come last.
    log_q = torch.log(torch.tensor([[[0.0, 0.5, 0.5]] * 3]))
    sequences, values = k_best(log_q, 27)
    assert len({tuple(s.tolist()) for s in sequences[0]}) == 27
    assert torch.allclose(values[0, :8].exp(), torch.full((8,), 0.125))
    assert torch.isinf(values[0, 8:]).all()
    sequences, values = k_best(torch.log(torch.tensor([[[1.0, 0.0]] * 3])), 8)
    assert len({tuple(s.tolist()) for s in sequences[0]}) == 8 and torch.isinf(values[0, 1:]).all()


def test_long_sequences_are_not_enumerated():
    log_q = torch.log_softmax(torch.randn(2, 256, 512), -1)
    sequences, values = k_best(log_q, 50)
    assert sequences.shape == (2, 50, 256)
    assert (values[:, 1:] <= values[:, :-1] + 1e-3).all()
    assert len({tuple(s.tolist()) for s in sequences[0]}) == 50


def test_none_is_refused():
    with pytest.raises(ConfigError, match="1 or more"):
        k_best(torch.zeros(1, 2, 3), 0)

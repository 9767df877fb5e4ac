"""Rows in a file: their order, batches of them, and trainings that are those of rows in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_trainings import config, model, noise

from modeflow.errors import TrainingError
from modeflow.training import StoredRows, Trainer, stored


@pytest.fixture
def blocks(monkeypatch):
    """Small blocks, three shuffled at a time."""
    monkeypatch.setattr(stored, "_BLOCK", 16)
    monkeypatch.setattr(stored, "_BLOCKS", 3)


def written(tmp_path, n=203, held=(0, 5, 16, 17, 99, 202), name="rows"):
    values = np.random.default_rng(0).normal(size=(n, 2))
    (tmp_path / name).write_bytes(values.astype("<f8").tobytes())
    held = np.array(held, dtype=np.int64)
    rows = StoredRows(tmp_path / name, 2, n, held, "hash")
    return rows, torch.from_numpy(np.delete(values, held, axis=0))


def epoch(rows, seed, batch, start=0):
    order = rows.order(torch.Generator().manual_seed(seed))
    return [order.take(i, i + batch) for i in range(start, len(order), batch)]


def test_rows_by_their_numbers(tmp_path):
    rows, values = written(tmp_path)
    assert len(rows) == len(values) == 197
    index = torch.tensor([196, 0, 4, 3, 3, 90])
    assert torch.equal(rows.index_select(0, index), values[index])
    assert np.array_equal(rows.between(1, 197), values[1:])
    assert np.array_equal(np.concatenate(list(rows.blocks())), values)


@pytest.mark.parametrize("batch", [7, 48, 1000])
def test_an_epoch_has_every_row_once(tmp_path, blocks, batch):
    rows, values = written(tmp_path)
    index, x = (torch.cat(each) for each in zip(*epoch(rows, 1, batch), strict=True))
    assert torch.equal(index.sort().values, torch.arange(197)) and torch.equal(x, values[index])
    again, other = (torch.cat([i for i, _ in epoch(rows, seed, 31)]) for seed in (1, 2))
    assert torch.equal(index, again) and not torch.equal(index, other)
    late = torch.cat([i for i, _ in epoch(rows, 1, batch, start=2 * batch)]) if 2 * batch < 197 else index[:0]
    assert torch.equal(late, index[2 * batch :]), "an epoch must go on from anywhere"
    # Blocks are shuffled with one another: rows of one window come from three places of the file.
    assert len(set((index[:37] // 16).tolist())) == 3


def trained(tmp_path, train, held, run=None, fail_at=None, resume=False, seen=None):
    steps = []

    def augment(x, generator):
        steps.append(1)
        if fail_at is not None and len(steps) > fail_at:
            raise RuntimeError("killed")
        if seen is not None:
            seen.append(x.clone())
        return noise(x, generator)

    small, settings = model(), config(max_epochs=3, batch_size=20, checkpoint_every_steps=4)
    Trainer(settings, run, quiet=True).fit(small, train, held, augment=augment, resume=resume)
    return small.state_dict()


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def test_where_all_are_shuffled_the_training_is_that_of_memory(tmp_path):
    rows, values = written(tmp_path)
    held = values[:40]
    assert same(trained(tmp_path, rows, held), trained(tmp_path, values, held))


def test_a_training_goes_on_bit_by_bit(tmp_path, blocks):
    rows, values = written(tmp_path)
    held = values[:40]
    whole = trained(tmp_path, rows, held, tmp_path / "whole")
    with pytest.raises(RuntimeError):
        trained(tmp_path, rows, held, tmp_path / "run", fail_at=14)  # in the second epoch
    seen = []
    assert same(trained(tmp_path, rows, held, tmp_path / "run", resume=True, seen=seen), whole)
    assert 10 < len(seen) < 20, "it must have gone on within the epoch"
    other, _ = written(tmp_path, held=(1,), name="other")
    with pytest.raises(TrainingError, match="data differs"):
        trained(tmp_path, other, held, tmp_path / "run", resume=True)

"""Trees, and that of Chow and Liu."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from modeflow.densities import Feature
from modeflow.errors import ConfigError
from modeflow.latents import Tree, chow_liu, mutual_information


def test_order_levels_and_families():
    tree = Tree((2, 0, -1, 0, 2, 4))
    assert tree.order == (2, 0, 4, 1, 3, 5)
    assert [(level.start, level.stop) for level in tree.levels] == [(0, 1), (1, 3), (3, 6)]
    assert tree.families == (((0, slice(1, 3)),), ((1, slice(3, 5)), (2, slice(5, 6))))
    assert tree.edges == [(2, 0), (2, 4), (0, 1), (0, 3), (4, 5)]
    assert tree.parent_places.tolist() == [0, 0, 1, 1, 2]
    assert [tree.order[p] for p in tree.places] == list(range(6))
    assert Tree.star(1).order == (0,)


def test_a_tree_of_edges_is_rooted_in_its_centre():
    path = Tree.of_edges(7, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)])
    assert path.order[0] == 3
    assert len(path.levels) == 4
    assert {frozenset(e) for e in path.edges} == {frozenset((i, i + 1)) for i in range(6)}


@pytest.mark.parametrize("parents", [(), (0,), (-1, -1), (-1, 2, 1), (-1, 5), (1, 0)])
def test_what_is_no_tree_is_refused(parents):
    with pytest.raises(ConfigError, match="parents must"):
        Tree(parents)


def test_mutual_information_is_that_of_pairs_counted_one_by_one():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 3, 500)
    b = np.where(rng.random(500) < 0.3, a, rng.integers(0, 4, 500))
    c = rng.integers(0, 2, 500)
    x = torch.from_numpy(np.stack([a, b, c], 1).astype(float))
    x[::7, 1] = math.nan
    known = ~x[:, 1].isnan().numpy()
    found = mutual_information(x, [Feature(levels=n) for n in (3, 4, 2)])
    for i, j, rows, chance in ((0, 1, known, 2 * 3), (0, 2, slice(None), 2), (1, 2, known, 3)):
        one, two = (x[:, k].numpy()[rows] for k in (i, j))
        expected = mutual_info_score(one, two) - chance / (2 * len(one))
        assert found[i, j] == pytest.approx(expected, abs=1e-12)
        assert found[j, i] == found[i, j]


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_a_planted_tree_is_found(missing):
    rng = np.random.default_rng(1)
    parents = (-1, 0, 0, 1, 1, 2, 5, 5)
    features = (
        [Feature(), Feature(levels=5), Feature(), Feature(circular=True)]
        + [Feature()] * 3
        + [Feature(levels=4)]
    )
    n, columns = 6000, [rng.normal(size=6000)]
    for feature, parent in zip(features[1:], parents[1:], strict=True):
        value = columns[parent] + 0.5 * rng.normal(size=n)
        if feature.levels:
            value = np.digitize(
                value, np.quantile(value, np.linspace(0, 1, feature.levels + 1)[1:-1])
            ).astype(float)
        elif feature.circular:
            value = np.arctan(value)
        columns.append(value / value.std())
        if feature.levels:
            columns[-1] = value
    x = torch.from_numpy(np.stack(columns, 1))
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < missing] = math.nan
    tree = chow_liu(x, features)
    assert {frozenset(e) for e in tree.edges} == {frozenset((i, p)) for i, p in enumerate(parents) if p >= 0}


def test_codes_of_many_levels_and_columns_without_values():
    generator = torch.Generator().manual_seed(0)
    many = torch.randint(500, (4000,), generator=generator).double()
    like = (many >= 250).double()
    empty = torch.full((4000,), math.nan).double()
    real = torch.randn(4000, generator=generator, dtype=torch.float64)
    x = torch.stack((many, like, empty, real), 1)
    features = (Feature(levels=500), Feature(levels=2), Feature(), Feature())
    found = mutual_information(x, features)
    assert found[2].tolist() == [0.0] * 4
    assert found[0, 1] > 0.05 > abs(found[0, 3])
    assert len(chow_liu(x, features)) == 4

"""A tree of states and its Gaussian leaves by the kernels, against PyTorch; on every instruction set."""

from __future__ import annotations

import pytest
import torch

from modeflow.densities import Feature
from modeflow.densities.leaf_kinds import GaussianLeaves
from modeflow.latents.tree.messages import downward, tree_log_prob, upward
from modeflow.latents.tree.structure import Tree
from modeflow.native import kernels, use_native

pytestmark = pytest.mark.skipif(kernels is None, reason="the kernels were not built")
ISAS = kernels.available() if kernels is not None else []
#: No child, one, two and three of them; a chain; a star; a place alone.
TREES = [Tree((-1, 0, 0, 1, 1, 1, 2)), Tree((1, 2, 3, -1)), Tree.star(6), Tree((-1,))]


def arguments(tree, rows, states, dtype, spread=3.0):
    generator = torch.Generator().manual_seed(rows + states)
    shape = (len(tree), rows, states)
    leaves = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    root = torch.randn(states, generator=generator, dtype=torch.float64).softmax(0)
    tables = torch.randn(len(tree) - 1, states, states, generator=generator, dtype=torch.float64)
    return [part.to(dtype).requires_grad_() for part in (leaves, root, (2 * tables).softmax(-1))]


def value_and_gradients(parts, tree, native):
    with use_native(native):
        value = tree_log_prob(*parts, tree)
        weight = torch.linspace(-1, 2, len(value)).to(value)
        return [value.detach(), *torch.autograd.grad((value * weight).sum(), parts)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "states"), [(1, 1), (5, 3), (17, 32), (40, 37), (3, 130)])
def test_messages_and_their_gradients(isa, dtype, rows, states):
    kernels.use(isa)
    for tree in TREES:
        parts = arguments(tree, rows, states, dtype)
        exact = value_and_gradients([p.detach().double().requires_grad_() for p in parts], tree, False)
        ours, reference = (value_and_gradients(parts, tree, native) for native in (True, False))
        for a, b, c in zip(ours, reference, exact, strict=True):
            error, usual = ((found.double() - c).abs().max() if c.numel() else 0.0 for found in (a, b))
            scale = c.abs().max() if c.numel() else 1.0
            assert error <= 2 * usual + 8 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("isa", ISAS)
def test_leaves_that_contradict_one_another_and_such_that_are_impossible(isa):
    kernels.use(isa)
    tree = TREES[0]
    leaves, root, tables = (p.detach() for p in arguments(tree, 60, 33, torch.float32, spread=1000))
    leaves[:, :, 5] = -torch.inf
    with use_native(False):
        exact = upward(leaves.double(), root.double(), tables.double(), tree)
    ours = upward(leaves, root, tables, tree)
    torch.testing.assert_close(ours.log_prob.double(), exact.log_prob, rtol=1e-6, atol=1e-2)
    for native in (True, False):
        with use_native(native):
            found = downward(upward(leaves, root, tables, tree), tables, tree)[0]
        assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("place", [0, 1, 6])
def test_a_nan_is_not_lost(isa, place):
    kernels.use(isa)
    tree = TREES[0]
    leaves, root, tables = (p.detach() for p in arguments(tree, 4, 33, torch.float32))
    leaves[place, 2, 7] = torch.nan
    found = upward(leaves, root, tables, tree).log_prob
    assert found.isnan().tolist() == [False, False, True, False]


def gaussian(rows, states, dtype):
    torch.manual_seed(rows + states)
    leaves = GaussianLeaves([Feature()] * 3, states, 0.005).to(dtype)
    with torch.no_grad():
        leaves.mean.normal_()
        leaves.raw_scale.normal_()
    x = torch.randn(3, rows, dtype=dtype).requires_grad_()
    return leaves, x, torch.randn(2, rows, states, dtype=dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "states"), [(1, 1), (5, 3), (64, 32), (150, 37), (3, 130), (0, 4)])
def test_gaussian_leaves_and_their_gradients(isa, dtype, rows, states):
    kernels.use(isa)
    leaves, x, gradient = gaussian(rows, states, dtype)
    found = []
    for native in (True, False):
        with use_native(native):
            value = leaves.log_probs(x[[2, 0]], [2, 0])
            found.append([value.detach(), *torch.autograd.grad(value, (x, *leaves.parameters()), gradient)])
    for a, b in zip(*found, strict=True):
        scale = float(b.abs().max()) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=0, atol=50 * torch.finfo(dtype).eps * max(scale, 1.0))


def test_threads_change_no_bit():
    tree = TREES[0]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            parts = arguments(tree, 300, 96, torch.float32)
            leaves, x, gradient = gaussian(700, 96, torch.float32)
            value = leaves.log_probs(x[:2], [0, 1])
            with torch.no_grad():
                evidence = upward(*parts, tree).evidence
            leaf_level = evidence[tree.levels[-1]]
            found.append(
                [value.detach(), leaf_level, *torch.autograd.grad(value, leaves.parameters(), gradient)]
            )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))

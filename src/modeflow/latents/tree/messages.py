r"""Exact sums over all states of a tree, by messages from the leaves to the root and back.

With leaf densities :math:`\ell_i(k) = p(x_i \mid z_i = k)`, transitions :math:`A_i(j, k) = p(z_i = k \mid
z_{\mathrm{pa}(i)} = j)` and root probabilities :math:`\pi`,

.. math::
    e_i(k) = \ell_i(k) \prod_{c\ \mathrm{child\ of}\ i} s_c(k), \qquad
    s_i(j) = \sum_k A_i(j, k)\, e_i(k), \qquad
    p(x) = \sum_k \pi(k)\, e_{\mathrm{root}}(k),

where products are sums of logarithms and every e is divided by its largest entry. Downward, with
:math:`P_i(k) = p(z_i = k \mid x)`,

.. math::
    P_\mathrm{root} \propto \pi\, e_\mathrm{root}, \qquad
    p(z_{\mathrm{pa}(i)} = j, z_i = k \mid x) = \frac{P_{\mathrm{pa}(i)}(j)}{s_i(j)} A_i(j, k)\, e_i(k).

These posteriors are the gradient: of log p(x) with respect to the leaf log-densities they are P, with respect
to A the pair counts divided by A. Arrays have the shape ``(F, B, K)``, by places of the tree, so that a
level is a slice and its messages are one batched matrix product: F K² multiplications a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modeflow.accelerate import native_evidence, native_ratios
from modeflow.latents.tree.structure import Tree
from modeflow.native import applies

#: Least logarithm of e, its largest being zero: products with it are no denormal numbers, which cost tens of
#: times as much. As no entry of A is below 1e-6 / K, what this adds to a sum is below its rounding.
_LOWEST = {torch.float32: -50.0, torch.float64: -300.0}

__all__ = ["Upward", "downward", "plain_log_prob", "tree_log_prob", "upward"]


@dataclass
class Upward:
    """What the way up leaves for the way down.

    Attributes:
        log_prob: ``log p(x)``, nats, ``(B,)``.
        evidence: e of every place, its largest entry one, ``(F, B, K)``.
        messages: s of every place but the root, ``(F - 1, B, K)``.
        root: the root's posterior, ``(B, K)``.
    """

    log_prob: Tensor
    evidence: Tensor
    messages: Tensor
    root: Tensor

    def repeated(self, n: int) -> Upward:
        """All rows n times over; but for the messages, for which a draw has no use."""
        many = self.evidence.repeat(1, n, 1)
        return Upward(self.log_prob.repeat(n), many, self.messages, self.root.repeat(n, 1))


def upward(leaves: Tensor, root: Tensor, transitions: Tensor, tree: Tree) -> Upward:
    """From the leaves to the root.

    Arguments:
        leaves: log-densities of the features in every state, by places, ``(F, B, K)``.
        root: probabilities of the root's states, ``(K,)``.
        transitions: of every place but the root ``p(state | state of the parent)``, ``(F - 1, K, K)``; rows
            sum to one, and no entry is below ``1e-6 / K``.
    """
    native = applies(leaves)
    if native:
        leaves = leaves.contiguous()
    evidence = torch.empty_like(leaves)
    messages = leaves.new_empty(len(leaves) - 1, *leaves.shape[1:])
    top = leaves.new_zeros(leaves.shape[1])
    lowest = _LOWEST.get(leaves.dtype, -50.0)
    for depth in reversed(range(len(tree.levels))):
        level = tree.levels[depth]
        here = evidence[level]
        if native:
            native_evidence(level, tree.first_children, leaves, messages, lowest, evidence, top)
        else:
            logs = leaves[level]
            if depth < len(tree.families):
                logs = here.copy_(logs)
                below = tree.levels[depth + 1]
                said = messages[_edges(below)].log()
                for parent, children in tree.families[depth]:
                    for child in range(children.start, children.stop):
                        evidence[parent].add_(said[child - below.start])
            largest = logs.amax(-1, keepdim=True)
            torch.sub(logs, largest, out=here).clamp_min_(lowest).exp_()
            top += largest.sum(0).squeeze(-1)
        if depth > 0:
            edges = _edges(level)
            torch.bmm(here, transitions[edges].mT, out=messages[edges])
    joint = evidence[0] * root
    total = joint.sum(-1)
    return Upward(total.log() + top, evidence, messages, joint / total.unsqueeze(-1))


def _edges(level: slice) -> slice:
    """The edges that lead down to a level, of all edges."""
    return slice(level.start - 1, level.stop - 1)


def downward(
    up: Upward, transitions: Tensor, tree: Tree, weight: Tensor | None = None, pairs: bool = False
) -> tuple[Tensor, Tensor | None]:
    """From the root to the leaves.

    Arguments:
        up: of the way up. transitions: as there.
        weight: of the rows, ``(B,)``; one if None.
        pairs: also count pairs.

    Returns:
        the posterior of every place, times the weights, ``(F, B, K)``; and of every place but the root the
        weighted sum over rows of ``p(j, k | x) / A(j, k)``, ``(F - 1, K, K)``.
    """
    posterior = torch.empty_like(up.evidence)
    torch.mul(up.root, 1.0 if weight is None else weight.unsqueeze(-1), out=posterior[0])
    counts = torch.empty_like(transitions) if pairs else None
    native = applies(posterior, up.messages)
    ratios = torch.empty_like(up.messages)
    for depth, level in enumerate(tree.levels):
        if depth > 0:
            edges = _edges(level)
            torch.bmm(ratios[edges], transitions[edges], out=posterior[level])
            if counts is not None:
                torch.bmm(ratios[edges].mT, up.evidence[level], out=counts[edges])
        if native:
            done = up.evidence if depth > 0 else None
            native_ratios(level, tree.first_children, done, up.messages, posterior, ratios)
            continue
        if depth > 0:
            posterior[level].mul_(up.evidence[level])
        if depth < len(tree.families):
            for parent, children in tree.families[depth]:
                own = _edges(children)
                torch.div(posterior[parent], up.messages[own], out=ratios[own])
    return posterior, counts


def plain_log_prob(leaves: Tensor, root: Tensor, transitions: Tensor, tree: Tree) -> Tensor:
    """`tree_log_prob` in operations that write nothing in place, for graphs; arguments as of `upward`."""
    lowest = _LOWEST.get(leaves.dtype, -50.0)
    top, said, here = leaves.new_zeros(leaves.shape[1]), leaves[:0], leaves[:0]
    for depth in reversed(range(len(tree.levels))):
        level = tree.levels[depth]
        logs = list(leaves[level])
        if depth < len(tree.families):
            start = tree.levels[depth + 1].start
            for parent, children in tree.families[depth]:
                own = said[children.start - start : children.stop - start].sum(0)
                logs[parent - level.start] = logs[parent - level.start] + own
        each = torch.stack(logs)
        largest = each.amax(-1, keepdim=True)
        here = (each - largest).clamp_min(lowest).exp()
        top = top + largest.sum(0).squeeze(-1)
        if depth > 0:
            said = torch.bmm(here, transitions[_edges(level)].mT).log()
    return (here[0] * root).sum(-1).log() + top


class _TreeLogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leaves: Tensor, root: Tensor, transitions: Tensor, tree: Tree) -> Tensor:
        up = upward(leaves, root, transitions, tree)
        ctx.save_for_backward(up.evidence, up.messages, up.root, root, transitions)
        ctx.tree = tree
        return up.log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        evidence, messages, root_posterior, root, transitions = ctx.saved_tensors
        up = Upward(gradient, evidence, messages, root_posterior)
        posterior, counts = downward(up, transitions, ctx.tree, gradient, ctx.needs_input_grad[2])
        return posterior, posterior[0].sum(0) / root, counts, None


def tree_log_prob(leaves: Tensor, root: Tensor, transitions: Tensor, tree: Tree) -> Tensor:
    """``log p(x)``, nats, ``(B,)``, differentiable once; arguments as of `upward`."""
    found: Tensor = _TreeLogProb.apply(leaves, root, transitions, tree)
    return found

"""What a tree of states does between its matrix products, and its Gaussian leaves, by the native kernels.

Tensors must be contiguous and such that the kernels apply to them; the same in PyTorch is in
`modeflow.latents.tree.messages` and `modeflow.densities.leaf_kinds`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modeflow.native import kernels, kernels_for

__all__ = ["native_evidence", "native_gaussian", "native_gaussian_gradients", "native_ratios"]


def _level(places: slice, like: Tensor, children: Tensor) -> Any:
    """The kernels' struct of a level (`TreeLevelFields` in ``native/fields.h``)."""
    return kernels.TreeLevel(
        rows=like.shape[1],
        states=like.shape[2],
        first=places.start,
        last=places.stop,
        children=children.data_ptr(),
    )


def native_evidence(
    places: slice,
    children: Tensor,
    leaves: Tensor,
    messages: Tensor,
    lowest: float,
    evidence: Tensor,
    top: Tensor,
) -> None:
    """Write the evidence of a level, its largest entry one, and add the logarithm of what it was to `top`.

    Arguments:
        places: of the level. children: of every place that of its first child, and the end, ``(F + 1,)``.
        leaves: log-densities, ``(F, B, K)``. messages: of all places but the root, ``(F - 1, B, K)``; those
            of the children are there. lowest: least logarithm of the evidence.
        evidence: is written, ``(F, B, K)``. top: is added to, ``(B,)``.
    """
    kernels_for(leaves).tree_evidence(
        level=_level(places, leaves, children),
        leaves=leaves.data_ptr(),
        messages=messages.data_ptr(),
        lowest=lowest,
        evidence=evidence.data_ptr(),
        top=top.data_ptr(),
        threads=torch.get_num_threads(),
    )


def native_ratios(
    places: slice,
    children: Tensor,
    evidence: Tensor | None,
    messages: Tensor,
    posterior: Tensor,
    ratios: Tensor,
) -> None:
    """Multiply the posterior of a level by its evidence, and write it divided by the messages of each child.

    Arguments:
        places, children, messages: as of `native_evidence`. evidence: None where the product is made already.
        posterior: is multiplied, ``(F, B, K)``. ratios: is written, ``(F - 1, B, K)``.
    """
    kernels_for(posterior).tree_ratios(
        level=_level(places, posterior, children),
        evidence=0 if evidence is None else evidence.data_ptr(),
        messages=messages.data_ptr(),
        posterior=posterior.data_ptr(),
        ratios=ratios.data_ptr(),
        threads=torch.get_num_threads(),
    )


def _gaussian(x: Tensor, mean: Tensor, inverse: Tensor, constant: Tensor | None) -> Any:
    """The kernels' struct of the leaves (`GaussianLeavesFields` in ``native/fields.h``)."""
    return kernels.GaussianLeaves(
        features=x.shape[0],
        rows=x.shape[1],
        states=mean.shape[1],
        x=x.data_ptr(),
        mean=mean.data_ptr(),
        inverse=inverse.data_ptr(),
        constant=0 if constant is None else constant.data_ptr(),
    )


def native_gaussian(x: Tensor, mean: Tensor, inverse: Tensor, constant: Tensor) -> Tensor:
    """``constant - ((x - mean) inverse)² / 2`` of all pairs of ``(n, B)`` and ``(n, K)``, ``(n, B, K)``."""
    found = x.new_empty(*x.shape, mean.shape[1])
    kernels_for(x).gaussian_log_prob(
        leaves=_gaussian(x, mean, inverse, constant),
        log_prob=found.data_ptr(),
        threads=torch.get_num_threads(),
    )
    return found


def native_gaussian_gradients(
    x: Tensor, mean: Tensor, inverse: Tensor, gradient: Tensor, of_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """With ``z = (x - mean) inverse`` the gradient of x, if wanted, and sums over rows of the gradient.

    Arguments:
        gradient: of the log-densities, ``(n, B, K)``.

    Returns:
        the gradient of x, ``(n, B)``; sums of the gradient times z, and times ``z² - 1``, ``(n, K)``.
    """
    to_x = torch.empty_like(x) if of_x else None
    first, second = torch.empty_like(mean), torch.empty_like(mean)
    kernels_for(x).gaussian_grad(
        leaves=_gaussian(x, mean, inverse, None),
        gradient=gradient.data_ptr(),
        first=first.data_ptr(),
        second=second.data_ptr(),
        grad_x=0 if to_x is None else to_x.data_ptr(),
        threads=torch.get_num_threads(),
    )
    return to_x, first, second

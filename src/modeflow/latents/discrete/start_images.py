"""Where the states of a model of images start: each on a cluster of the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.latents.discrete.model import DiscreteLatentModel
from modeflow.latents.starting import Looked, as_rows, fit_briefly

__all__ = ["ClusterStart", "cluster_images"]

#: Images that are clustered, and principal components they are clustered by.
_IMAGES, _COMPONENTS = 10_000, 32


def cluster_images(images: np.ndarray, n_states: int, seed: int = 0) -> np.ndarray:
    """k-means clusters of images ``(N, ...)`` by their first principal components; labels ``(N,)``."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    flat = images.reshape(len(images), -1).astype(np.float32)
    count = min(_COMPONENTS, *flat.shape)
    places = PCA(count, svd_solver="randomized", random_state=seed).fit_transform(flat)
    return np.asarray(KMeans(min(n_states, len(flat)), n_init=3, random_state=seed).fit_predict(places))


@dataclass(frozen=True)
class ClusterStart:
    """Starts the states of a discrete latent on clusters of the images ``(N, C, H, W)``.

    Left to themselves all states would do the same: what a state looks like and which images it gets are
    learned from each other. The encoder is fitted to the clusters for a few steps, and so is what the
    likelihood starts from (its first layer, or a likelihood without a flow); the prior gets their shares.

    Arguments:
        steps: at the most. batch_size: images a step.
    """

    steps: int = 300
    batch_size: int = 128

    def __call__(
        self, model: DiscreteLatentModel, rows: Tensor | Looked, seed: int = 0, steps: int | None = None
    ) -> None:
        encoder = model.encoder
        if model.n_states == 1 or encoder is None:
            return
        images = as_rows(rows)
        order = np.random.default_rng(seed).permutation(len(images))[:_IMAGES]
        some = images[torch.from_numpy(order)]
        found = cluster_images(some.numpy(), model.n_states, seed)
        labels = torch.from_numpy(found.astype(np.int64))
        start = model.starting_likelihood()
        if start is None and model.likelihood.exactness == "exact":
            start = model.likelihood  # no flow: quick enough to be fitted itself

        def loss(index: Tensor) -> Tensor:
            x, wanted = some[index].to(model.dtype), labels[index]
            misfit = F.nll_loss(encoder(x), wanted)
            if start is None:
                return misfit
            return misfit - start._log_prob(x, F.one_hot(wanted, model.n_states).to(x.dtype)).mean()

        parts = [encoder] if start is None else [encoder, start]
        most = self.steps if steps is None else min(steps, self.steps)
        model.train()
        fit_briefly(nn.ModuleList(parts), loss, len(some), most, min(self.batch_size, len(some)))
        model.prior.set_probs(torch.bincount(labels, minlength=model.n_states).double() / len(labels))

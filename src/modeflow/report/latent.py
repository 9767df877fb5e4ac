"""A continuous latent in pictures: where on it the rows lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modeflow.report.canvas import label, new_figure, styled
from modeflow.report.colours import MODEL
from modeflow.report.selection import frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_latent"]


@styled
def plot_latent(
    data: np.ndarray, latent: np.ndarray, columns: Sequence[str], dimension: int = 0
) -> tuple[Figure, str]:
    """Rows of two columns coloured by a dimension of z; for other tables, two dimensions of z as a scatter.

    Arguments:
        data: ``(n, D)``. latent: ``(n, L)``. columns: names of the D columns.
        dimension: of z, for the colours.

    Returns:
        the figure, and its caption.
    """
    figure = new_figure(4.35, 3.75)
    axes = figure.add_subplot()
    if data.shape[1] == 2:
        z = latent[:, dimension]
        dots = axes.scatter(data[:, 0], data[:, 1], c=z, cmap="viridis", s=9, linewidths=0, rasterized=True)
        figure.colorbar(dots, ax=axes, shrink=0.8, label=f"z{dimension}")
        axes.set(xlim=frame(data[:, 0]), ylim=frame(data[:, 1]))
        axes.set(xlabel=label(columns[0]), ylabel=label(columns[1]))
        return figure, f"Where the latent places the rows: z{dimension}, the mean of q(z | x)"
    second = latent[:, 1] if latent.shape[1] > 1 else data[:, 0]
    axes.scatter(latent[:, 0], second, color=MODEL, s=9, alpha=0.7, linewidths=0, rasterized=True)
    axes.set(xlabel="z0", ylabel="z1" if latent.shape[1] > 1 else label(columns[0]))
    return figure, "The rows in the latent space: means of q(z | x)"

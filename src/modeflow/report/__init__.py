"""Plots and the HTML report: plain data in (`ReportData`), one self-contained page out."""

from modeflow.report.contents import (
    ColumnRow,
    DataSummary,
    DensityGrid,
    LikelihoodRow,
    ModelSummary,
    ReportData,
    StateRow,
    Truth,
    WorstRow,
)
from modeflow.report.gather import density_grid, gather
from modeflow.report.images import ImageReport, gather_images, write_image_report
from modeflow.report.page import render_report, write_report
from modeflow.report.plots import (
    plot_density,
    plot_learning_curves,
    plot_likelihoods,
    plot_pairs,
    plot_state_usage,
    save_picture,
)
from modeflow.report.tabulate import describe_columns, find_worst, tabulate_states

__all__ = [
    "ColumnRow",
    "DataSummary",
    "DensityGrid",
    "ImageReport",
    "LikelihoodRow",
    "ModelSummary",
    "ReportData",
    "StateRow",
    "Truth",
    "WorstRow",
    "density_grid",
    "describe_columns",
    "find_worst",
    "gather",
    "gather_images",
    "plot_density",
    "plot_learning_curves",
    "plot_likelihoods",
    "plot_pairs",
    "plot_state_usage",
    "render_report",
    "save_picture",
    "tabulate_states",
    "write_image_report",
    "write_report",
]

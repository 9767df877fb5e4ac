"""The HTML report: plain data in (a `Report` of a kind, made by `gather`), one self-contained page out."""

from modeflow.report.canvas import save_picture
from modeflow.report.contents import (
    ColumnRow,
    DataSummary,
    DensityGrid,
    LikelihoodRow,
    StateRow,
    WorstRow,
)
from modeflow.report.curves import plot_likelihoods, plot_panel_of_curves, plot_state_usage
from modeflow.report.gather import gather
from modeflow.report.image import ImageReport
from modeflow.report.mixed import MixedReport
from modeflow.report.named import plot_named
from modeflow.report.page import Report, render_report, write_report
from modeflow.report.plots import plot_density, plot_pairs
from modeflow.report.sections import Column, Definition, Picture, Section, Table
from modeflow.report.table import TableReport, density_grid
from modeflow.report.tabulate import describe_columns, find_worst, tabulate_states
from modeflow.report.what_if import plot_conditional

__all__ = [
    "Column",
    "ColumnRow",
    "DataSummary",
    "Definition",
    "DensityGrid",
    "ImageReport",
    "LikelihoodRow",
    "MixedReport",
    "Picture",
    "Report",
    "Section",
    "StateRow",
    "Table",
    "TableReport",
    "WorstRow",
    "density_grid",
    "describe_columns",
    "find_worst",
    "gather",
    "plot_conditional",
    "plot_density",
    "plot_likelihoods",
    "plot_named",
    "plot_pairs",
    "plot_panel_of_curves",
    "plot_state_usage",
    "render_report",
    "save_picture",
    "tabulate_states",
    "write_report",
]

"""The field's measures of synthetic tables, as its benchmarks compute them (TabSyn, TabDiff, TabPC).

Fidelity: `shape` (columns), `trend` and `mutual_information` (pairs), `detection` (can a classifier tell?),
`precision_recall`. Privacy: `train_share`, `near_copies`, `nearest_rows`. Use: `utility`. `report` runs them
all, against the training rows as the benchmarks do, and against held-out rows, so that memory shows.
"""

from modeflow.metrics.synthetic.columns import (
    MutualInformation,
    Shape,
    Trend,
    mutual_information,
    shape,
    trend,
)
from modeflow.metrics.synthetic.efficiency import GRID, Utility, utility
from modeflow.metrics.synthetic.neighbours import (
    NearCopies,
    NearestRow,
    PrecisionRecall,
    TrainShare,
    near_copies,
    nearest_rows,
    precision_recall,
    train_share,
)
from modeflow.metrics.synthetic.summary import MEASURES, Fidelity, SyntheticReport, report
from modeflow.metrics.synthetic.two_sample import Detection, detection

__all__ = [
    "GRID",
    "MEASURES",
    "Detection",
    "Fidelity",
    "MutualInformation",
    "NearCopies",
    "NearestRow",
    "PrecisionRecall",
    "Shape",
    "SyntheticReport",
    "TrainShare",
    "Trend",
    "Utility",
    "detection",
    "mutual_information",
    "near_copies",
    "nearest_rows",
    "precision_recall",
    "report",
    "shape",
    "train_share",
    "trend",
    "utility",
]

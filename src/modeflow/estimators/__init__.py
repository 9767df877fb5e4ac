"""scikit-learn estimators: `NVF`, its classifier and detector, `FlowDensity` and `ImageDensity`."""

from modeflow.estimators.assigned import assigned_columns
from modeflow.estimators.base import DensityEstimator
from modeflow.estimators.classifier import NVFClassifier
from modeflow.estimators.conditionals import conditionals_of
from modeflow.estimators.images import ImageDensity, ImageTraining
from modeflow.estimators.models import ESTIMATORS, NVF, FlowDensity
from modeflow.estimators.outlier import NVFOutlier
from modeflow.estimators.storage import load_estimator

__all__ = [
    "ESTIMATORS",
    "NVF",
    "DensityEstimator",
    "FlowDensity",
    "ImageDensity",
    "ImageTraining",
    "NVFClassifier",
    "NVFOutlier",
    "assigned_columns",
    "conditionals_of",
    "load_estimator",
]

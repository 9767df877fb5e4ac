"""scikit-learn estimators: `NVF`, and `FlowDensity` for a flow without states."""

from modeflow.estimators.base import DensityEstimator
from modeflow.estimators.images import ImageDensity
from modeflow.estimators.models import ESTIMATORS, NVF, FlowDensity
from modeflow.estimators.storage import load_estimator

__all__ = ["ESTIMATORS", "NVF", "DensityEstimator", "FlowDensity", "ImageDensity", "load_estimator"]

"""Our speed beside that of the flow libraries installed."""

from modeflow.bench.timing import MEASURES, compare, measure, ratios

__all__ = ["MEASURES", "compare", "measure", "ratios"]

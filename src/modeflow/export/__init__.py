"""A fitted density as one file that other programs evaluate: `torch.export` (.pt2) or ONNX (.onnx).

What is written takes rows in the units of the data and gives log p(x), the transform of the columns and what
stands beside the model included.
"""

from modeflow.export.writing import Exported, export_density

__all__ = ["Exported", "export_density"]

"""Files of densities, each looked at before it is written: it must say what the estimator says."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from modeflow._version import __version__
from modeflow.data import check_writable
from modeflow.data.table import atomic_write
from modeflow.errors import ConfigError
from modeflow.estimators.settings import latent_model
from modeflow.export.decompositions import accurate
from modeflow.export.graph import DensityGraph, Precision, trace, traced
from modeflow.training import shield

__all__ = ["Exported", "export_density"]

#: Largest difference to `score_samples` that a file may have, by `_differences`.
_TOLERANCE: dict[str, float] = {"float64": 1e-6, "float32": 1e-2}
#: Rows drawn to compare by.
_ROWS = 256


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: of the file. columns: names, in the order of its input. codes: of columns that are no numbers
            the values that 0, 1, 2 ... stand for.
        precision: of the model. rows: compared. difference: largest to `score_samples`, as a share of it
            (of 1 where it is below). checked_by: what evaluated the file for that.
        missing: whether NaN is summed out; else it makes the row's number NaN.
    """

    path: Path
    columns: tuple[str, ...]
    codes: dict[str, list[str]]
    precision: str
    rows: int
    difference: float
    checked_by: str
    missing: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "path": str(self.path), "columns": list(self.columns)}


@shield()
def export_density(
    estimator: Any, path: str | os.PathLike[str], *, precision: Precision = "float64"
) -> Exported:
    """Write ``rows (B, D) float64 -> log_prob (B,) float64`` of a fitted estimator of tables.

    Rows are in the units of the data, columns in the order of `Exported.columns` (levels as codes), the
    result is that of `score_samples` in nats. The file is evaluated on rows drawn from the model, and on rows
    far from it, before it is put in place.

    Arguments:
        estimator: `modeflow.NVF` or `modeflow.FlowDensity`, fitted: flows that are traced (couplings,
            autoregressive layers of splines and affine maps), states of them, trees of states, ensembles of
            these.
        path: ``.pt2`` for `torch.export`, ``.onnx`` for ONNX (``pip install 'modeflow[onnx]'``).
        precision: of the model: ``"float64"`` (to 1e-6, nearly always to 1e-12) or ``"float32"`` (to 1e-2).

    Raises:
        ConfigError: another ending or precision, a density that is no graph, or an extra not installed.
        DataError: a path that cannot be written.
    """
    check_is_fitted(estimator)
    target = Path(path).expanduser()
    kind = target.suffix.lower()
    if kind not in (".pt2", ".onnx"):
        raise ConfigError(f"'{target.name}' must end in .pt2 (torch.export) or .onnx")
    if precision not in _TOLERANCE:
        raise ConfigError(f"precision must be 'float64' or 'float32', received {precision!r}")
    lacking = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if kind == ".onnx" and lacking:
        raise ConfigError(
            f".onnx needs {' and '.join(lacking)}: pip install 'modeflow[onnx]'; or write a .pt2"
        )
    check_writable(target)
    graph = DensityGraph(estimator, precision)
    names, codes = _columns(estimator.domain_)
    told = {
        "modeflow": __version__,
        "columns": json.dumps(names, ensure_ascii=False),
        "codes": json.dumps(codes, ensure_ascii=False),
        "output": "log p(x), nats, in the units of the data",
        "kind": estimator.density_kind_ if not graph.sums_out else "exact",
        "precision": precision,
    }
    with _quietly():
        program = trace(graph, estimator)
        if kind == ".pt2":
            content = _to_pt2(program, told)
            evaluate, checked_by = torch.export.load(io.BytesIO(content)).module(), "torch.export"
        else:
            program = traced(accurate(program), len(names))
            content = _to_onnx(program, told)
            evaluate, checked_by = _session(content, program)
    rows = _rows(graph)
    difference = _differences(graph, rows, evaluate, estimator)
    if not difference <= _TOLERANCE[precision]:
        raise ConfigError(
            f"the exported density differs from score_samples by {difference:.1e} of it (at most "
            f"{_TOLERANCE[precision]:.0e} is let pass): "
            + ("use precision float64" if precision == "float32" else "write the other format")
        )
    atomic_write(target, lambda file: file.write_bytes(content))
    return Exported(target, names, codes, precision, len(rows), difference, checked_by, graph.sums_out)


def _columns(domain: Any) -> tuple[tuple[str, ...], dict[str, list[str]]]:
    """Names of the columns of the model, and what codes of their levels stand for."""
    modelled = getattr(domain.schema, "modelled", ())
    codes = {c.name: [str(level) for level in c.levels] for c in modelled if getattr(c, "levels", ())}
    return tuple(domain.facts["columns"]), codes


def _to_pt2(program: torch.export.ExportedProgram, told: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"modeflow.json": json.dumps(told, ensure_ascii=False)})
    return buffer.getvalue()


def _to_onnx(program: torch.export.ExportedProgram, told: dict[str, str]) -> bytes:
    try:
        written = torch.onnx.export(
            program, input_names=["rows"], output_names=["log_prob"], dynamo=True, verbose=False
        )
    except Exception as error:  # whatever the exporter has to say of an operation
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"ONNX has no form for this density ({reason}): write a .pt2 (torch.export)"
        ) from error
    assert written is not None
    proto = written.model_proto
    for key, value in told.items():
        proto.metadata_props.add(key=key, value=value)
    return bytes(proto.SerializeToString())


def _session(content: bytes, program: torch.export.ExportedProgram) -> tuple[Any, str]:
    """What evaluates an ONNX file: onnxruntime; where that is not installed the graph it was made from."""
    if importlib.util.find_spec("onnxruntime") is None:
        return program.module(), "the graph, as onnxruntime is not installed"
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda rows: torch.from_numpy(session.run(None, {"rows": rows.numpy()})[0]), "onnxruntime"


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch's exporters say of themselves: of torchvision, of what they will call deprecated."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _rows(graph: DensityGraph) -> Tensor:
    """Rows drawn from the model, some of them far from it, some with a missing cell where that is summed."""
    generator = torch.Generator().manual_seed(0)
    rows = graph.model.sample(_ROWS, generator=generator)
    third = len(rows) // 3
    numbers = (graph.levels == 0) & ~rows.isnan().any(0)
    middle = rows.nanmedian(0).values
    far = middle + 100 * (rows[:third] - middle)
    rows[:third] = torch.where(numbers, far, rows[:third])
    if graph.sums_out:
        holes = torch.rand(rows[-third:].shape, generator=generator) < 0.3
        rows[-third:] = rows[-third:].masked_fill(holes, torch.nan)
    return rows


def _differences(graph: DensityGraph, rows: Tensor, evaluate: Any, estimator: Any) -> float:
    """The largest difference to the estimator's own numbers, as a share of them, of 1 where they are smaller;
    infinite where one is finite and the other is not."""
    with torch.no_grad():
        model = estimator._scorer().cpu()
        own = model.averaged(latent_model(model).log_prob, rows).double().numpy()
        found = np.concatenate([np.asarray(evaluate(part)) for part in rows.split([1, 2, len(rows) - 3])])
    same = (own == found) | (np.isnan(own) & np.isnan(found))
    with np.errstate(invalid="ignore"):
        away = np.abs(own - found) / np.maximum(1, np.abs(own))
    return float(np.where(same, 0.0, np.nan_to_num(away, nan=np.inf)).max())

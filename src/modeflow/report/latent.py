"""What a page says of the latent: its states, how they are used, and where a continuous one lays the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from modeflow.models import COMPANIONS
from modeflow.report import words
from modeflow.report.canvas import label, new_figure, styled
from modeflow.report.colours import MODEL, state_colour, state_glyph
from modeflow.report.contents import StateRow
from modeflow.report.curves import plot_state_usage
from modeflow.report.sections import Column, Definition, Picture, Section, Table, kind
from modeflow.report.selection import frame
from modeflow.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "dead_states",
    "latent_measures",
    "latent_pictures",
    "model_name",
    "plot_latent",
    "state_legend",
    "states_section",
]

STATES_SHOWN = 60

_STATE = (
    "A state is a value of the model’s latent variable, meant to hold one mode of the data. Its usage is "
    "the share of rows that the model assigns to it, its prior weight the share of samples that come from "
    "it."
)
#: Gaps of a continuous latent, for people.
_GAPS = {
    "approximation": "approximation gap: what no posterior of its family reaches of the density",
    "amortisation": "amortisation gap: what the encoder misses of the best one",
}
_GONE = Markup(" A <em>dead</em> state holds no row; a <em>pruned</em> one was removed.")


def states_section(
    states: Sequence[StateRow],
    unit: str = "row",
    means: Mapping[int, tuple[str, Callable[[float | None], str]]] | None = None,
    hidden: str = "",
) -> Section:
    """The table of states, and a picture of their use.

    Arguments:
        states: a row each. unit: what one of the data is called.
        means: entries of `StateRow.mean` to show, each with its name and how it is written.
        hidden: what to say of columns that are not shown.
    """
    shown = list(states)
    if len(shown) > STATES_SHOWN:
        shown = sorted(shown, key=lambda s: -s.usage)[:STATES_SHOWN]
    top = max((s.usage for s in shown), default=0.0) or 1.0

    def mean(j: int, write: Callable[[float | None], str]) -> Callable[[StateRow], str]:
        return lambda s: write(s.mean[j] if s.mean is not None and j < len(s.mean) else None)

    table = Table(
        "States",
        "States: prior weight, usage, rows and the means of their rows",
        [
            Column("state", _named_state),
            Column("usage in the data", lambda s: _bar(s, top)),
            *[Column("prior weight", lambda s: _per_cent(s.prior_weight), True)]
            * any(s.prior_weight is not None for s in states),
            Column(f"{unit}s", lambda s: words.integer(s.rows), True),
            *[Column("test log-density", lambda s: words.log_density(s.log_density), True)]
            * any(s.log_density is not None for s in states),
            *[Column.named(name, mean(j, write), True) for j, (name, write) in (means or {}).items()],
        ],
        shown,
        css=lambda s: "gone" if _word(s) else "",
        group=f"mean of its {unit}s",
    )
    text, pictures = "The model has one state: it is a plain flow.", []
    if len(states) > 1:
        entropy = max(0.0, -sum(s.usage * math.log(s.usage) for s in states if s.usage > 0))
        text = (
            f"The {unit}s are spread over the states with an entropy of {words.quantity(entropy, 3)} nats, "
            f"as if {words.quantity(math.exp(entropy), 3)} of {len(states)} states were used equally."
        )
        alt = f"Share of the {unit}s that each state holds, and its prior weight; the table has the numbers"
        pictures = [Picture.lines(plot_state_usage(states, unit), alt, kind="wide")]
    more = len(states) - len(shown)
    listed = (
        f"The {len(shown)} most used states; {words.plural(more, 'more state')} not listed." if more else ""
    )
    return Section(
        "states",
        "States",
        text=(text,),
        pictures=pictures,
        table=table,
        note=" ".join(filter(None, (listed, hidden))),
        definitions=(Definition("State, usage, prior weight", Markup(_STATE) + _GONE * (len(states) > 1)),),
    )


def _word(state: StateRow) -> str:
    return "pruned" if state.pruned else ("dead" if state.dead else "")


def _glyph(state: int) -> Markup:
    return Markup('<span class="glyph" style="color: {}" aria-hidden="true">{}</span>').format(
        state_colour(state), state_glyph(state)
    )


def _named_state(state: StateRow) -> Markup:
    word = _word(state)
    return Markup("{} {}{}").format(
        _glyph(state.index), state.index, Markup(" ") + kind(word) if word else ""
    )


def _bar(state: StateRow, top: float) -> Markup:
    width, colour = round(100 * state.usage / top, 1), state_colour(state.index)
    return Markup(
        '<span class="bar" aria-hidden="true"><i style="width: {}%; background: {}"></i></span>{}'
    ).format(width, colour, _per_cent(state.usage))


def _per_cent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def dead_states(states: Sequence[StateRow], unit: str = "row") -> list[str]:
    """A warning of states that nothing belongs to."""
    dead = [str(s.index) for s in states if s.dead]
    if not dead:
        return []
    if len(dead) == 1:
        return [
            f"State {dead[0]} holds no training {unit}: fewer states would do, or another seed may use it."
        ]
    names = ", ".join(dead[:12]) + (" …" if len(dead) > 12 else "")
    return [
        f"{len(dead)} of {words.plural(len(states), 'state')} hold no training {unit} "
        f"(state {names}): fewer states would do, or another seed may use them."
    ]


def state_legend(*states: np.ndarray | None) -> list[Markup]:
    """Colours and shapes of the states that occur in pictures; empty for one state or too many."""
    found = sorted({int(z) for given in states if given is not None for z in np.unique(np.asarray(given))})
    if len(found) < 2 or len(found) > STATES_SHOWN:
        return []
    names = ["no state" if z < 0 else (f"state {z}" if k == 0 else str(z)) for k, z in enumerate(found)]
    return [Markup("{} {}").format(_glyph(z), name) for z, name in zip(found, names, strict=True)]


def model_name(run: Run) -> str:
    """What the model of a run on a table is called, with its latent."""
    if run.config["model"] in COMPANIONS:
        return COMPANIONS[run.config["model"]].title
    if run.config["model"] != "nvf":
        return f"Plain flow {run.config['model']}"
    latent = run.estimator.latent_.describe()
    if latent.kind in ("continuous", "tree"):
        return "NVF with a continuous latent" if latent.kind == "continuous" else f"NVF with {latent.words}"
    return f"NVF with {words.plural(run.estimator.n_states_, 'state')}"


def latent_measures(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the result of a run says of its latent, as measures."""
    rows: list[dict[str, Any]] = []
    rows += _of_continuous(result.get("continuous"))
    rows += _of_states(result.get("discrete"))
    if codes := result.get("codes"):
        per = "a row" if result.get("domain") in ("table", "mixed") else "an image"
        name = f"codes in use, of {result['latent']['count']} ({codes['per_image']} {per})"
        rows.append({"name": name, "value": f"{codes['used']} (perplexity {codes['perplexity']:.1f})"})
    if tree := result.get("tree"):
        used = tree["used"]
        name = f"states in use a column, of {tree['states']} (from the least to the most)"
        rows.append({"name": name, "value": f"{min(used):.1f} to {max(used):.1f}"})
        if "draws" in tree:
            name = f"draws of missing cells that count, of {tree['draws']} (mean over rows with holes)"
            rows.append({"name": name, "value": f"{tree['effective_draws']:.1f}"})
    return rows


def _of_continuous(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """How much of a continuous z is used."""
    if found is None:
        return []
    rows: list[dict[str, Any]] = []
    if "active" in found:
        name = f"dimensions of z in use, of {found['dimensions']} (their mean varies by more than 0.01)"
        rows.append({"name": name, "value": str(found["active"])})
    each = found.get("kl_each")
    name, value = "what z costs, nats (KL of the posterior to the prior", f"{found['kl']:.3f}"
    if each is not None:
        shown = ", ".join(f"{kl:.2f}" for kl in each[:16]) + " …" * (len(each) > 16)
        name, value = f"{name}; of each dimension", f"{value} ({shown})"
    rows.append({"name": f"{name})", "value": value})
    if "mutual_information" not in found:
        return rows
    most = f"by {found['rows']} of them: at most {math.log(found['rows']):.2f}"
    name = f"mutual information of z and rows, nats ({most})"
    rows.append({"name": name, "value": f"{found['mutual_information']:.3f}"})
    if gaps := found.get("gaps"):
        of = f"nats ({gaps['rows']} rows, {gaps['steps']} steps to the best posterior of each)"
        for name, what in _GAPS.items():
            rows.append({"name": f"{what}, {of}", "value": _with_error(**gaps[name])})
    return rows


def _of_states(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """How much states say of rows, and how well the encoder knows them."""
    if found is None or found["states"] < 2:
        return []
    rows, most = found["rows"], f"at most {math.log(found['states']):.2f}"
    named = {
        f"mutual information of state and rows, nats (by {rows} of them: {most})": "mutual_information",
        "what the state costs, nats (KL of the exact posterior to the prior)": "kl",
    }
    measures = [
        {"name": name, "value": f"{found[key]:.3f}"} for name, key in named.items() if found[key] is not None
    ]
    if found["gap"] is not None:
        name = "what the encoder misses of the exact posterior, nats (KL; the density has no part in it)"
        measures.append({"name": name, "value": _with_error(found["gap"], found["gap_error"])})
    return measures


def _with_error(value: float, standard_error: float | None) -> str:
    return f"{value:.3f}" + ("" if standard_error is None else f" ± {standard_error:.3f}")


def latent_pictures(
    latent: np.ndarray | None, data: np.ndarray | None = None, columns: Sequence[str] = ()
) -> list[Picture]:
    """The continuous latent of rows, its first two dimensions; `data` are the rows, if they are of a "
    "table."""
    if latent is None:
        return []
    plane = data is not None and data.shape[1] == 2
    found = []
    for dimension in range(min(latent.shape[1], 2) if plane else 1):
        figure, caption = plot_latent(data, latent, columns, dimension)
        found.append(Picture.drawn(figure, caption, caption))
    return found


@styled
def plot_latent(
    data: np.ndarray | None, latent: np.ndarray, columns: Sequence[str] = (), dimension: int = 0
) -> tuple[Figure, str]:
    """Rows of two columns coloured by a dimension of z; for other data, two dimensions of z as a scatter.

    Arguments:
        data: ``(n, D)``, or None. latent: ``(n, L)``. columns: names of the D columns.
        dimension: of z, for the colours.

    Returns:
        the figure, and its caption.
    """
    figure = new_figure(4.35, 3.75)
    axes = figure.add_subplot()
    if data is not None and data.shape[1] == 2:
        z = latent[:, dimension]
        dots = axes.scatter(data[:, 0], data[:, 1], c=z, cmap="viridis", s=9, linewidths=0, rasterized=True)
        figure.colorbar(dots, ax=axes, shrink=0.8, label=f"z{dimension}")
        axes.set(xlim=frame(data[:, 0]), ylim=frame(data[:, 1]))
        axes.set(xlabel=label(columns[0]), ylabel=label(columns[1]))
        return figure, f"Where the latent places the rows: z{dimension}, the mean of q(z | x)"
    second, name = (latent[:, 1], "z1") if latent.shape[1] > 1 else (np.zeros(len(latent)), "")
    if latent.shape[1] == 1 and data is not None:
        second, name = data[:, 0], label(columns[0])
    axes.scatter(latent[:, 0], second, color=MODEL, s=9, alpha=0.7, linewidths=0, rasterized=True)
    axes.set(xlabel="z0", ylabel=name)
    return figure, "The rows in the latent space: means of q(z | x)"

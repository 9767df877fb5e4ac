"""Colours and markers of states: ten colours that colour-blind readers can tell apart, then new shapes."""

from __future__ import annotations

__all__ = ["DATA", "FAINT", "GRID", "INK", "MODEL", "PALETTE", "state_colour", "state_glyph"]

# Okabe and Ito's colours without yellow and black, completed by three of Paul Tol's.
PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#332288",
    "#999933",
    "#882255",
    "#777777",
)
# Matplotlib's marker, and the character that stands for it in text.
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"))

INK = "#1d2733"
FAINT = "#66727f"
GRID = "#e3e7eb"
DATA = "#66727f"
MODEL = "#0072B2"


def state_colour(state: int) -> str:
    """Return the colour of a state; a negative state (none) is grey."""
    return PALETTE[state % len(PALETTE)] if state >= 0 else "#b5bcc4"


def state_marker(state: int) -> str:
    """Return the marker of a state: one shape per ten states."""
    return MARKERS[(max(state, 0) // len(PALETTE)) % len(MARKERS)][0]


def state_glyph(state: int) -> str:
    """Return the character that looks like the state's marker."""
    return MARKERS[(max(state, 0) // len(PALETTE)) % len(MARKERS)][1]

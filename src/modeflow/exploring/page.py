"""The page on the server of a run: Dash beside the routes of `modeflow.serving.app`, all files from here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dash import Dash
from fastapi import FastAPI

from modeflow.exploring.answers import Page
from modeflow.exploring.callbacks import connect
from modeflow.exploring.layout import page
from modeflow.exploring.views import Explored
from modeflow.serving.app import Service

__all__ = ["page_of"]

_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
{%metas%}
<title>{%title%}</title>
<link rel="icon" href="data:,">
{%css%}
</head>
<body>
{%app_entry%}
<noscript>This page needs JavaScript, which it takes from this machine alone.</noscript>
<footer>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>"""


def page_of(explored: Explored) -> Callable[[FastAPI, Service], str]:
    """What adds the page of a run to its server, and says which policy the page needs (see `build_app`)."""

    def add(server: FastAPI, service: Service) -> str:
        name = explored.served.run.path.resolve().name
        app = Dash(
            "modeflow", server=server, title=f"{name} · modeflow", update_title=None, index_string=_INDEX,
            assets_folder=str(Path(__file__).parent / "assets"), serve_locally=True, compress=False,
            suppress_callback_exceptions=True, add_log_handler=False,
            meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
        )  # fmt: skip
        app.backend.websocket_capability = False  # the page asks by requests, which the guard sees
        app.layout = page(explored)
        connect(app, service, Page(explored))
        # plotly.js writes rules of style into the page; scripts are files from here, or known by their hash.
        scripts = " ".join(("'self'", *app.csp_hashes()))
        return (
            f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        )

    return add

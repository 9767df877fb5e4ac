"""The navigation lists every page of a folder that it names with a slash at the end, by its heading."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def filled(nav: Any, docs: Path) -> Any:
    """The navigation with the pages in the place of their folder."""
    if isinstance(nav, dict):
        return {title: filled(entry, docs) for title, entry in nav.items()}
    if not isinstance(nav, list):
        return nav
    found: list[Any] = []
    for entry in nav:
        if isinstance(entry, str) and entry.endswith("/"):
            pages = sorted((docs / entry).glob("*.md"))
            titles = [page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for page in pages]
            found += [{t: f"{entry}{page.name}"} for t, page in zip(titles, pages, strict=True)]
        else:
            found.append(filled(entry, docs))
    return found


def on_config(config: Any) -> Any:
    """Called by mkdocs before it builds."""
    config["nav"] = filled(config["nav"], Path(config["docs_dir"]))
    return config

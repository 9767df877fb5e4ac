"""Runs the code of a tutorial, in the order of the page, and writes what it prints and draws into the page.

`python docs/_tutorials.py` remakes all pages of docs/tutorials: under every block of code that has a block of
text after it stands what that code printed, and every picture that the page shows is copied to
docs/images/tutorials. The tests run the same code (tests/test_tutorials.py).
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PICTURES = HERE / "images" / "tutorials"
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(r"\]\(\.\./images/tutorials/([\w.-]+)\)")


@dataclass(frozen=True)
class Block:
    """Code of a page, where it stands, and what the page says that it prints; None where it says nothing."""

    language: str
    code: str
    output: str | None
    span: tuple[int, int]


def blocks(text: str) -> list[Block]:
    """The code of a page, in its order."""
    return [Block(m[1], m[2], m[3], m.span(3)) for m in _BLOCK.finditer(text)]


def pictures(text: str) -> list[str]:
    """The names of the pictures that a page shows."""
    return _PICTURE.findall(text)


def run(text: str, folder: Path) -> list[str]:
    """What each block of code of a page prints, run in a folder. Commands run in this process.

    Raises:
        RuntimeError: a command that fails, with what it said; and whatever the page's Python raises.
    """
    import polars as pl

    names: dict[str, Any] = {"__name__": "tutorial"}
    said = []
    with contextlib.chdir(folder), pl.Config(), warnings.catch_warnings():
        for block in blocks(text):
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                if block.language == "python":
                    exec(compile(block.code, "<tutorial>", "exec"), names)
                else:
                    _shell(block.code, out)
            said.append(out.getvalue())
    return said


def _shell(code: str, out: io.StringIO) -> None:
    from modeflow.cli import main

    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[0] != "modeflow":
            raise RuntimeError(f"a tutorial runs modeflow alone, not '{line}'")
        if main(words[1:]) != 0:
            raise RuntimeError(f"'{line}' failed: {out.getvalue()}")


def written(text: str, said: list[str]) -> str:
    """The page with what its code printed."""
    parts, at = [], 0
    for block, output in zip(blocks(text), said, strict=True):
        if block.output is not None:
            lines = [line.rstrip() for line in output.strip("\n").splitlines()]
            parts += [text[at : block.span[0]], "\n".join(lines) + "\n"]
            at = block.span[1]
    return "".join([*parts, text[at:]])


def main() -> None:
    """Remake the pages named, or all."""
    pages = [Path(name) for name in sys.argv[1:]] or sorted((HERE / "tutorials").glob("*.md"))
    PICTURES.mkdir(exist_ok=True)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as name:
            said = run(text, Path(name))
            for picture in pictures(text):
                shutil.copyfile(Path(name) / picture, PICTURES / picture)
        page.write_text(written(text, said), encoding="utf-8")


if __name__ == "__main__":
    main()

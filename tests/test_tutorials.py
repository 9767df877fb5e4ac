"""The code of the tutorials runs, in the order of the page, and prints and draws what the page shows."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from modeflow.data.mixed_sets import mixed_files
from modeflow.errors import DataError

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
TOOLS = runpy.run_path(str(ROOT / "docs" / "_tutorials.py"), run_name="tutorials")
#: Bytes of a picture on a page.
LARGEST = 150_000


def test_there_are_tutorials():
    assert {page.stem for page in PAGES} >= {"titanic", "weather"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r'read_mixed\("([\w-]+)"', text)):
        try:
            mixed_files(name)
        except DataError as error:
            pytest.skip(str(error))
    said = TOOLS["run"](text, tmp_path)
    for block, output in zip(TOOLS["blocks"](text), said, strict=True):
        if block.output is not None:
            # Digits are those of one machine; what stands in which line is not.
            assert skeleton(output) == skeleton(block.output), block.code
    for name in TOOLS["pictures"](text):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert 5_000 < (TOOLS["PICTURES"] / name).stat().st_size < LARGEST


def skeleton(output):
    """The first word of every line, and how many lines there are."""
    return [re.sub(r"[-−\d.]+", "#", (line.split() or [""])[0]) for line in output.strip("\n").splitlines()]


def test_every_picture_of_a_tutorial_is_shown_by_one():
    shown = {name for page in PAGES for name in TOOLS["pictures"](page.read_text(encoding="utf-8"))}
    assert shown == {file.name for file in TOOLS["PICTURES"].iterdir()}


def test_what_code_prints_is_written_under_it(tmp_path):
    page = "```python\nn = 2\n```\n\n```python\nprint(n)\n```\n\n```text\nold\n```\n\nend\n"
    assert TOOLS["run"](page, tmp_path) == ["", "2\n"]
    assert TOOLS["written"](page, ["", "2\n"]) == page.replace("old", "2")
    with pytest.raises(RuntimeError, match="failed: modeflow: error: there is no run at"):
        TOOLS["run"]("```sh\nmodeflow report \\\n  none\n```\n", tmp_path)

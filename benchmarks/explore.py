"""How soon a condition that is moved is drawn: `modeflow explore` in headless Chromium, a tree on diamonds.

    python benchmarks/explore.py                     # presses of an arrow key; into results/explore.json
    python benchmarks/explore.py --presses 60 --rows 6000

From the key to the frame in which both pictures, of samples and of density, are there; what of it the server
takes (the request, as the browser sees it), and what the pictures take.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from common import fit_diamonds, write

STATES = 12
FIT = [f"latent_options.states={STATES}", "latent_options.likelihood=leaves", "max_epochs=8"]
#: Watches one press: when the key came, when the answer was asked for and there, when each picture was drawn.
WATCH = """() => {
    const seen = window.seen = {};
    const now = () => performance.now();
    document.addEventListener('keydown', () => { seen.key ??= now(); }, true);
    for (const name of ['samples', 'map']) {
        const graph = document.querySelector(`#${name} .js-plotly-plot`);
        graph.on('plotly_afterplot', () => {
            if (!seen.first) return;
            seen[name] = now();
            requestAnimationFrame(() => setTimeout(() => { seen[name + 'Shown'] = now(); }, 0));
        });
    }
    const fetched = window.fetch;
    window.fetch = function (where, how) {
        const mine = how && how.body && String(how.body).includes('map-said');
        if (mine) { seen.asked = now(); seen.first = 0; }
        return fetched.apply(this, arguments).then(answer => {
            if (mine) {
                seen.first = now();
                answer.clone().text().then(text => { seen.answer = now(); seen.bytes = text.length; });
            }
            return answer;
        });
    };
}"""
DONE = "() => { const s = window.seen; return s.samplesShown && s.mapShown ? {...s} : null; }"
CLEAR = "() => { for (const name of Object.keys(window.seen)) delete window.seen[name]; }"


@contextmanager
def served(run: Path) -> Any:
    """The address of the page of a run, by the command that people use."""
    program = [sys.executable, "-m", "modeflow", "explore", str(run), "--port", "0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            line = next(line for line in process.stdout if "http://" in line)
            yield "http://" + line.split("http://")[1].split()[0]
        finally:
            process.terminate()


def presses(page: Any, count: int) -> list[dict[str, float]]:
    """Milliseconds of each press of an arrow: there and, every third, back (an answer that is kept)."""
    found = []
    page.evaluate(WATCH)
    page.locator("#given [role=slider]").first.focus()
    for turn in range(count):
        page.evaluate(CLEAR)
        key = "ArrowLeft" if turn % 3 == 2 else "ArrowRight"
        page.keyboard.press(key)
        seen = page.wait_for_function(DONE, timeout=30_000).json_value()
        page.wait_for_timeout(150)
        found.append({
            "kept": turn % 3 == 2, "all": max(seen["samplesShown"], seen["mapShown"]) - seen["key"],
            "before": seen["asked"] - seen["key"], "request": seen["first"] - seen["asked"],
            "pictures": max(seen["samples"], seen["map"]) - seen["first"], "bytes": seen["bytes"],
            "samples": seen["samples"] - seen["first"], "map": seen["map"] - seen["first"],
        })  # fmt: skip
    return found


def _median(found: list[dict[str, float]]) -> dict[str, Any]:
    keys = [key for key in found[0] if key != "kept"]
    middle: dict[str, Any] = {key: round(float(np.median([each[key] for each in found])), 1) for key in keys}
    middle["all_90"] = round(float(np.quantile([each["all"] for each in found], 0.9)), 1)
    middle["all_largest"] = round(max(each["all"] for each in found), 1)
    return {"presses": len(found), **middle}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presses", type=int, default=60)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--run", type=Path, help="a fitted run in the place of a new one")
    parser.add_argument("--picture", type=Path, help="where to keep a picture of the page")
    args = parser.parse_args()
    browser = next(found for name in ("chromium", "chromium-browser") if (found := shutil.which(name)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = args.run or fit_diamonds(Path(folder), args.rows, FIT)
        with served(run) as url:
            opened = playwright.chromium.launch(
                executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
            )
            page = opened.new_page(viewport={"width": 1300, "height": 1000})
            page.goto(url)
            page.locator("#map .heatmaplayer image").wait_for(timeout=120_000)
            page.locator("#conditions").focus()
            page.keyboard.press("Enter")
            page.get_by_role("option", name="price").click()
            page.keyboard.press("Escape")
            page.locator("#given [role=slider]").first.wait_for()
            page.wait_for_timeout(3000)
            before = os.getloadavg()[0]
            found = presses(page, args.presses)
            load = [round(before, 1), round(os.getloadavg()[0], 1)]
            if args.picture:
                page.screenshot(path=args.picture, full_page=True)
            opened.close()
    result = {
        "rows": args.rows, "columns": 10, "states": STATES, "load": load,
        "new": _median([each for each in found if not each["kept"]]),
        "kept": _median([each for each in found if each["kept"]]),
    }  # fmt: skip
    print(result)
    if not args.run:
        write("explore", result)


if __name__ == "__main__":
    main()

"""The page in headless Chromium: one server, one page, by mouse and by keyboard, at two widths."""

from __future__ import annotations

import importlib
import re
import shutil
import threading

import pytest

for needed in ("dash", "fastapi"):
    pytest.importorskip(needed)
uvicorn = pytest.importorskip("uvicorn")
api = pytest.importorskip("playwright.sync_api")
build_app = importlib.import_module("modeflow.serving.app").build_app
launch = importlib.import_module("modeflow.serving.launch")
page_of = importlib.import_module("modeflow.exploring.page").page_of

CHROMIUM = next((f for name in ("chromium", "chromium-browser") if (f := shutil.which(name))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no headless browser is installed"),
]
#: Milliseconds that anything may take on a busy machine.
PATIENCE = 30_000

#: Whatever the tab key reaches that has no name for those who do not see it.
NAMELESS = """() => {
    const all = [...document.querySelectorAll('a[href], button, input, summary, [tabindex]')];
    const text = id => (document.getElementById(id) || {}).textContent;
    return all.filter(e => {
        if (e.tabIndex < 0 || e.offsetParent === null || e.type === 'file') return false;
        const by = (e.getAttribute('aria-labelledby') || '').split(' ').map(text);
        const labels = [...(e.labels || [])].map(label => label.textContent);
        return ![e.getAttribute('aria-label'), e.textContent, ...labels, ...by].some(w => w && w.trim());
    }).map(e => e.outerHTML.slice(0, 200));
}"""


@pytest.fixture(scope="module")
def url(mixed):
    """Of a server in a thread of this process."""
    address = launch.Address("127.0.0.1", 0)
    app = build_app(mixed.served, more=page_of(mixed))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address.socket]})
    thread.start()
    yield address.url
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def page(url):
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        found = browser.new_page(viewport={"width": 1300, "height": 1000})
        found.set_default_timeout(PATIENCE)
        api.expect.set_options(timeout=PATIENCE)
        found.wrong = []  # what must not happen, at any time
        found.on("pageerror", lambda error: found.wrong.append(str(error)))
        found.on("console", lambda m: found.wrong.append(m.text) if m.type == "error" else None)

        def asked(request):
            if not request.url.startswith((url, "data:", "blob:")):
                found.wrong.append(request.url)

        found.on("request", asked)
        found.goto(url)
        found.locator("#map .heatmaplayer image").wait_for()
        api.expect(found.locator("#data-said")).to_contain_text("held out row")
        yield found
        browser.close()


@pytest.fixture(autouse=True)
def nothing_wrong(page):
    """No error of a script, nothing that the policy refuses, and nothing from elsewhere."""
    yield
    assert page.wrong == []


def choose(page, ident, word):
    """Choose from a list by the keyboard alone."""
    page.locator(f"#{ident}").focus()
    page.keyboard.press("Enter")
    page.locator(".dash-dropdown-options").wait_for()
    page.wait_for_timeout(200)  # where a list begins is seen to a moment after it is there
    now = "document.activeElement.value ?? null"
    for key in ["ArrowDown"] * 8 + ["ArrowUp"] * 16:
        if page.evaluate(now) == word:
            break
        page.keyboard.press(key)
        page.wait_for_timeout(50)
    assert page.evaluate(now) == word
    page.keyboard.press("Space")
    page.keyboard.press("Escape")
    page.locator(".dash-dropdown-options").wait_for(state="hidden")


def test_three_pictures_and_no_way_out(page):
    assert page.locator("#data .points path").count() > 10
    assert page.locator("#samples .points path").count() > 100
    api.expect(page.locator("#map-said")).to_contain_text("summed out")
    names = page.locator("#samples .modebar-btn").evaluate_all("all => all.map(b => b.dataset.title)")
    # By default there is one that sends what is drawn to a server elsewhere.
    assert "Box Select" in names and not any("hare" in name or "loud" in name for name in names)


def test_every_control_has_a_name_and_shows_that_it_is_chosen(page):
    choose(page, "conditions", "wind")
    page.locator("#given [role=slider]").wait_for()
    assert page.evaluate(NAMELESS) == []
    page.locator(".skip").focus()
    reached, bare = [], []
    for _ in range(24):
        page.keyboard.press("Tab")
        told = page.evaluate(
            "() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.id || e.className || e.tagName, s.outlineStyle + s.outlineWidth] }"
        )
        reached.append(str(told[0]))
        bare += [told[0]] if told[1] in ("none0px", "none3px") else []
    assert reached[:3] == ["across", "up", "node"] and bare == []
    assert any("dash-slider-thumb" in each for each in reached) and "all-states" in reached


def test_arrow_keys_move_a_condition(page):
    said = page.locator("#given-words")
    api.expect(said).to_contain_text("Given wind = ")
    before = said.inner_text()
    page.locator("#given [role=slider]").focus()
    page.keyboard.press("ArrowRight")
    api.expect(said).not_to_have_text(before)
    api.expect(page.locator("#samples-said")).to_contain_text("given wind = ")
    api.expect(page.locator("#map-said")).to_contain_text("given wind = ")


def test_states_are_turned_off(page):
    caption = page.locator("#samples-said")
    api.expect(caption).not_to_contain_text("not drawn")
    box = page.locator("#states input").first
    box.focus()
    page.keyboard.press("Space")
    api.expect(caption).to_contain_text("not drawn")
    page.locator("#all-states").press("Enter")
    api.expect(caption).not_to_contain_text("not drawn")


def test_a_box_selects_rows_and_one_is_explained(page):
    area = page.locator("#data .nsewdrag").bounding_box()
    page.mouse.move(area["x"] + 3, area["y"] + 3)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] - 3, area["y"] + area["height"] - 3, steps=5)
    page.mouse.up()
    api.expect(page.locator("#marked-said")).to_contain_text("rows selected")
    buttons = page.locator("#marked-rows button")
    count = buttons.count()
    assert count > 10
    buttons.first.press("Enter")
    api.expect(page.locator("#row-said")).to_contain_text("log-density")
    # Another pair of columns: the same rows are marked.
    choose(page, "up", "city")
    api.expect(page.locator("#data .ytitle")).to_have_text("city")
    assert buttons.count() == count
    page.locator("#clear").click()
    api.expect(page.locator("#marked-said")).to_have_text("No rows are selected.")


def test_rows_are_selected_by_words(page):
    page.locator("summary").press("Enter")
    page.locator("#up-from").fill("Rome")
    page.locator("#up-to").fill("Rome")
    page.locator("#select").press("Enter")
    api.expect(page.locator("#marked-said")).to_have_text(re.compile(r"\d+ rows? selected"))
    cells = page.locator("#marked-rows tbody tr").all_inner_texts()
    assert cells and all("Rome" in row for row in cells)
    page.locator("#up-from").fill("Bern")
    page.locator("#select").press("Enter")
    api.expect(page.locator("#marked-said")).to_contain_text("'Bern' is no level of city")


def test_a_file_is_dropped(page):
    said = page.locator("#file-said")

    def drop(name, text):
        page.set_input_files("#file input", {"name": name, "mimeType": "text/csv", "buffer": text})

    drop("bad.csv", b"a,b\n1,2\n")
    api.expect(said.locator("[role=alert]")).to_contain_text("missing 'height'")
    drop("good.csv", b"height,city,born,wind,unit\n170,Oslo,1980-03-14,40,cm\n,Rome,1981-03-14,40,cm\n")
    api.expect(said).to_contain_text("good.csv: 2 rows, mean log-density")
    with page.expect_download() as download:
        page.locator("#get-scores").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("row,log_density_") and len(lines) == 3
    drop("large.csv", b"x" * 1_500_000)
    api.expect(said).to_contain_text("larger than 1 MB")


def test_samples_are_downloaded(page):
    page.locator("#count").fill("7")
    with page.expect_download() as download:
        page.locator("#get-samples").press("Enter")
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("height,city,born,wind") and len(lines) == 8
    wind = {line.split(",")[3] for line in lines[1:]}
    assert len(wind) == 1  # as is given


def test_it_is_as_wide_as_a_telephone(page):
    page.set_viewport_size({"width": 400, "height": 800})
    wide = "Math.max(document.documentElement.scrollWidth, ...[...document.querySelectorAll('.main-svg')]"
    for _ in range(100):  # pictures are drawn again, some time after
        if page.evaluate(f"{wide}.map(e => e.clientWidth))") <= 400:
            break
        page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    for name in ("data", "samples", "map"):
        box = page.locator(f"#{name} .main-svg").first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 400 and box["height"] > 250

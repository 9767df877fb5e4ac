"""What the page shows for its changes, and the server that it is on."""

from __future__ import annotations

import asyncio
import base64
import importlib
import importlib.util
import json
import re

import numpy as np
import pytest

from modeflow.cli import main
from modeflow.errors import DataError

pytest.importorskip("dash")
pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")
answers = importlib.import_module("modeflow.exploring.answers")
build_app = importlib.import_module("modeflow.serving.app").build_app
page_of = importlib.import_module("modeflow.exploring.page").page_of


@pytest.fixture(scope="module")
def page(mixed):
    return answers.Page(mixed)


def text_of(component):
    """All that is written in components, in one line."""
    if isinstance(component, (list, tuple)):
        return " ".join(text_of(each) for each in component)
    children = getattr(component, "children", component)
    return "" if children is None else children if isinstance(children, str) else text_of(children)


def test_samples_and_density_go_with_what_is_given(page):
    states = page.explored.states_of("height")
    every = page.model("height", "born", {}, "height", states, None)
    assert every[4].startswith("Nothing is given")
    given = page.model("height", "born", {"wind": 40.0}, "height", states, None)
    assert given[4] == "Given wind = 40." and given[1] == "500 samples given wind = 40."
    assert "given wind = 40" in given[3] and given[2] != every[2]
    fewer = page.model("height", "born", {"wind": 40.0}, "height", states[:1], None)
    assert "not drawn" in fewer[1] and fewer[2] == given[2]  # states of a column are part of every density


def test_what_is_shown_is_not_held(page):
    states = page.explored.states_of("height")
    free = page.model("height", "born", {"wind": 40.0}, "height", states, None)
    told = page.model("height", "born", {"wind": 40.0, "height": 170.0}, "height", states, None)
    assert told[:4] == free[:4] and told[4] == free[4] + " What is shown (height) is not held."


def test_numbers_are_given_to_flat_states_and_flows(numbers, flow):
    for explored in (numbers, flow):
        page = answers.Page(explored)
        node, states = (None, ()) if explored.stateless else ("state", explored.states_of("state"))
        # Of two columns one alone is shown, and the other is given.
        told = page.model("a", "", {"b": 1.0}, node, states, None)
        assert "given b = 1" in told[1] and "given b = 1" in told[3] and told[4].startswith("Given b = 1.")
    assert answers.Page(flow).legend(None) == ([], [])
    assert answers.Page(numbers).legend("state")[1] == [0, 1]


def test_selections(page):
    rows = page.rows_of("data", "training", "height", "city", {})
    states = page.explored.states_of("height")
    values = rows.values
    found = page.between(rows, "height", "city", ("170", "", "Rome", "Rome"), "height", states)
    rome = np.array(rows.cells["city"]) == "Rome"
    assert found == np.flatnonzero((values[:, 0] >= 170) & rome).tolist()
    said, table = page.marked(rows, found, "data")
    assert said.startswith(f"{len(found)} rows selected") and "Explain" in text_of(table)
    assert page.marked(rows, [], "data") == ("No rows are selected.", [])
    with pytest.raises(DataError, match="no level of city"):
        page.between(rows, "height", "city", ("", "", "Bern", ""), "height", states)


def test_one_row_is_told_as_served(page):
    cells = {"height": "171", "city": "Oslo", "born": "1980-03-14", "wind": "40"}
    told = page.explored.served.reasons({name: [text] for name, text in cells.items()}).listed
    said = text_of(page.one_row(cells))
    assert f"log-density {told['log_density'][0]:.3f} nats" in said
    assert told["why"][0] in said and f"p-value {told['p_value'][0]:.3g}" in said
    assert "city" not in text_of(page.one_row({**cells, "city": " "})).partition("(nats)")[2]  # it is missing
    assert "density 0" in text_of(page.one_row({**cells, "city": "Paris"}))
    with pytest.raises(DataError, match="height"):
        page.one_row({**cells, "height": "tall"})


def test_files(page):
    text = b"height,city,born,wind,unit\n170,Oslo,1980-03-14,40,cm\n"
    sent = "data:text/csv;base64," + base64.b64encode(text).decode()
    shown, found = page.file("new.csv", sent)
    assert "new.csv : 1 row, mean log-density" in text_of(shown) and len(found.score) == 1
    with pytest.raises(DataError, match="did not arrive whole"):
        page.file("new.csv", "data:text/csv;base64,!!")


@pytest.mark.parametrize("n, seed", [(None, 0), (0, 0), (2.5, 0), (True, 0), (10, -1), (10, None), ("7", 0)])
def test_numbers_of_samples_that_are_none(page, n, seed):
    with pytest.raises(DataError, match="must be a whole number"):
        page.samples_csv(n, seed, {})


def test_samples_as_text(page):
    text = page.samples_csv(5, 1, {"wind": 40.0})
    assert text == page.samples_csv(5, 1, {"wind": 40.0}) and text.splitlines()[0].startswith("height,city")
    assert len(text.splitlines()) == 6


# -- the server ---------------------------------------------------------------------------------------


class Client:
    def __init__(self, app):
        self.app = app

    def __call__(self, path, method="GET", content=None, host="localhost", **headers):
        async def ask():
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}:1") as client:
                return await client.request(method, path, content=content, headers=headers)

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def client(mixed):
    return Client(build_app(mixed.served, more=page_of(mixed)))


def test_all_files_are_from_here(client):
    index = client("/")
    policy = index.headers["content-security-policy"]
    assert "'unsafe-eval'" not in policy and "default-src 'none'" in policy and "http" not in policy
    assert re.search(r"script-src 'self' 'sha256-[^']+';", policy)
    files = re.findall(r'(?:src|href)="([^"]+)"', index.text)
    assert len(files) > 5 and all(file.startswith(("/assets/", "/_dash-", "data:")) for file in files)
    assert 'lang="en"' in index.text and "width=device-width" in index.text
    for file in files:
        if file.startswith("/"):
            assert client(file).status_code == 200, file
    assert client("/", host="elsewhere.example").status_code == 421
    assert "websocket" not in index.text
    assert client("/health").json() == {"status": "ok"}
    assert client("/version").status_code == 200  # the routes of `serve` are there too


def test_changes_are_asked_for(client, page):
    """The page's own request, as its script sends it."""
    inputs = [{"id": "node", "property": "value", "value": "city"}]
    inputs += [{"id": f"{w}-states", "property": "n_clicks", "value": 0} for w in ("all", "no")]
    output = "..states.options...states.value.."
    body = {
        "output": output,
        "outputs": [{"id": "states", "property": p} for p in ("options", "value")],
        "inputs": inputs,
        "changedPropIds": ["node.value"],
        "state": [],
    }
    sent = json.dumps(body).encode()
    got = client("/_dash-update-component", "POST", sent, **{"content-type": "application/json"})
    assert got.json()["response"]["states"]["value"] == list(page.explored.states_of("city"))
    # Another site can have a browser send text, but no JSON.
    assert (
        client("/_dash-update-component", "POST", sent, **{"content-type": "text/plain"}).status_code >= 400
    )


def test_the_command_serves_this_machine_alone(mixed_folder, monkeypatch):
    command = importlib.import_module("modeflow.cli.commands.explore")
    monkeypatch.setenv("MODEFLOW_TOKEN", "of-the-environment")  # which a browser would not send
    asked = []
    monkeypatch.setattr(command, "listen", lambda *told, **more: asked.append((told, more)) or 0)
    assert main(["explore", str(mixed_folder), "--max-rows", "50"]) == 0
    (_, served, host), more = asked[0]
    assert host == "127.0.0.1" and served.limits.rows == 50 and "token" not in more
    assert Client(build_app(served, **more))("/").status_code == 200


def test_what_the_command_refuses(mixed_folder, capsys, monkeypatch, tmp_path):
    assert main(["explore", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "there is no run" in said
    with pytest.raises(SystemExit) as caught:
        main(["explore", "--help"])
    assert caught.value.code == 0 and "modeflow explore run " in capsys.readouterr().out
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "dash" else find(n, *a))
    assert main(["explore", str(mixed_folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "needs dash: pip install 'modeflow[explore]'" in said

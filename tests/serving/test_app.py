"""Answers over HTTP: those of the estimator, and a 4xx of one line for whatever cannot be answered."""

from __future__ import annotations

import asyncio
import importlib
import io
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeflow.serving.arrow import ARROW_STREAM, stream_of_frame
from modeflow.serving.model import Limits, Served

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
build_app = importlib.import_module("modeflow.serving.app").build_app

ROW = {"height": 170.0, "city": "Oslo", "born": "1980-03-14", "wind": 40, "unit": "cm"}
LIMITS = Limits(rows=50, megabytes=0.1, reasons=4, seconds=0.2)


class Client:
    """Requests to an application, without a network between."""

    def __init__(self, app):
        self.app = app

    def __call__(self, path, body=None, method=None, **headers):
        headers = {k.replace("_", "-"): v for k, v in headers.items()}
        if body is not None:
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers.setdefault("content-type", "application/json")

        async def ask():
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:1") as client:
                verb = method or ("GET" if body is None else "POST")
                return await client.request(verb, path, content=body, headers=headers)

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def client(mixed_run):
    return Client(build_app(Served(mixed_run, LIMITS)))


@pytest.fixture(scope="module")
def plain(numbers_run):
    return Client(build_app(Served(numbers_run, LIMITS)))


def test_who_is_there(client):
    assert client("/health").json() == {"status": "ok"}
    assert "modeflow" in client("/version").json()
    told = client("/model").json()
    assert told["columns"] == ["height", "city", "born", "wind"]
    assert told["all_columns"][-1] == "unit" and told["limits"]["rows"] == 50
    paths = client("/openapi.json").json()["paths"]
    assert {"/score", "/sample", "/impute", "/assign", "/reasons"} <= set(paths)


def test_scores_are_those_of_the_estimator(client, mixed_run):
    rows = [ROW, {**ROW, "city": None}, {**ROW, "city": "Paris"}]
    told = client("/score", {"rows": rows}).json()
    frame = pl.DataFrame({k: [r[k] for r in rows] for k in ROW}, strict=False)
    with pytest.warns(UserWarning, match="'city'"):
        scores = mixed_run.estimator.score_samples(frame)
    assert told["log_density"][:2] == scores[:2].tolist()
    # What JSON has no number for.
    assert np.isneginf(scores[2]) and told["log_density"][2] is None and told["impossible"] == [2]
    assert told["density"] == "lower bound" and "1 of 3 rows" in told["warnings"][0]
    again = client("/score", {"columns": list(ROW), "rows": [list(r.values()) for r in rows]}).json()
    assert again == told


def test_arrow_says_what_json_says(plain, numbers_run):
    frame = pl.DataFrame({"b": [0.5, 8.0], "a": [0.1, 8.0]})
    got = plain("/score", stream_of_frame(frame), content_type=ARROW_STREAM, accept=ARROW_STREAM)
    assert got.headers["content-type"] == ARROW_STREAM and got.headers["modeflow-density"] == "exact"
    scores = pl.read_ipc_stream(io.BytesIO(got.content))["log_density_exact_nats"]
    assert scores.to_list() == numbers_run.estimator.score_samples(frame.select("a", "b")).tolist()
    told = plain("/score", {"rows": frame.to_dicts()}).json()
    assert told["log_density"] == scores.to_list()
    states = plain("/assign", {"rows": frame.to_dicts()}).json()
    assert states["state"] == numbers_run.estimator.predict(frame.select("a", "b")).tolist()
    assert np.allclose(np.array(states["p0"]) + states["p1"], 1)


def test_samples_can_be_asked_for_again(client, plain):
    told = client("/sample", {"n": 20, "states": True}).json()
    assert len(told["rows"]) == 20 and told["columns"][-1] == "state_wind"
    assert client("/sample", {"n": 20, "states": True, "seed": told["seed"]}).json() == told
    assert client("/sample", {"n": 20, "states": True}).json()["rows"] != told["rows"]
    given = client("/sample", {"n": 20, "given": {"city": "Rome", "wind": 40}}).json()
    place = given["columns"].index("city"), given["columns"].index("wind")
    assert {(row[place[0]], row[place[1]]) for row in given["rows"]} == {("Rome", 40)}
    # What is drawn can be scored as it stands.
    body = {key: given[key] for key in ("columns", "rows")}
    assert None not in client("/score", body).json()["log_density"]
    of_state = plain("/sample", {"n": 10, "state": 1, "states": True}).json()
    assert [row[-1] for row in of_state["rows"]] == [1] * 10
    got = client("/sample", {"n": 3}, accept=ARROW_STREAM)
    assert pl.read_ipc_stream(io.BytesIO(got.content))["wind"].dtype == pl.Int64


def test_cells_are_filled(client):
    rows = [ROW, {**ROW, "city": None, "height": None}]
    told = client("/impute?m=3&seed=1", {"rows": rows}).json()
    assert told["filled"] == {"height": 1, "city": 1} and len(told["rows"]) == 6
    assert [row[-1] for row in told["rows"]] == [1, 1, 2, 2, 3, 3]
    assert all(None not in row for row in told["rows"])
    assert told["rows"][0][:3] == [170.0, "Oslo", "1980-03-14"]
    mean = client("/impute?mean=true", {"rows": rows}).json()
    assert mean["rows"][1][1] in ("Oslo", "Rome")
    strange = {"rows": [{**ROW, "city": "Paris"}]}
    assert client("/impute", strange).status_code == 422
    filled = client("/impute?unseen=missing", strange).json()
    assert filled["rows"][0][1] in ("Oslo", "Rome") and filled["warnings"]


def test_reasons_name_the_column(client, mixed_run):
    told = client("/reasons", {"rows": [ROW, {**ROW, "height": 400.0}]}).json()
    assert told["p_value"][1] == 1 / (len(mixed_run.held_scores()) + 1)
    assert told["why"][1].startswith("height (+") and told["nats"]["height"][1] > 10
    scored = client("/score", {"rows": [ROW, {**ROW, "height": 400.0}]}).json()
    np.testing.assert_allclose(told["log_density"], scored["log_density"], rtol=1e-9)
    assert told["density"] == scored["density"]
    assert client("/reasons", {"rows": [ROW] * 5}).status_code == 422


@pytest.mark.parametrize(
    "path, body, status, told",
    [
        ("/score", {"rows": [{**ROW, "height": "x"}]}, 422, "column 'height', data row 1 holds 'x'"),
        ("/score", {"rows": [{"heigth": 1}]}, 422, "unexpected 'heigth'; did you mean 'height'?"),
        ("/score", {"rows": [ROW] * 51}, 422, "51 rows; at most 50"),
        ("/score", b" " * 100_001, 413, "larger than 0.1 MB"),
        ("/assign", {"rows": [{**ROW, "born": "soon"}]}, 422, "column 'born'"),
        ("/impute?m=40", {"rows": [ROW] * 2}, 422, "rows times m must lie between 1 and 50, received 80"),
        ("/impute?m=0", {"rows": [ROW]}, 422, "m: Input should be greater than or equal to 1"),
        ("/impute?unseen=x", {"rows": [ROW]}, 422, "unseen: Input should be 'error' or 'missing'"),
        ("/impute?mean=true&m=2", {"rows": [ROW]}, 400, "m must be 1 or more (1 with how='mean')"),
        ("/sample", {"n": 51}, 422, "n must lie between 1 and 50, received 51"),
        ("/sample", {"n": "2"}, 422, "n: Input should be a valid integer"),
        ("/sample", {"m": 2}, 422, "m: Extra inputs are not permitted"),
        ("/sample", {"given": {"town": "Rome"}}, 400, "there is no column 'town'"),
        ("/sample", {"given": {"city": "Paris"}}, 422, "'Paris'"),
        ("/sample", {"given": {"city": "Rome"}, "state": 1}, 400, "takes no state"),
        ("/sample", {"temperature": -1}, 400, "temperature"),
        ("/sample", [], 422, "the body: Input should be a valid dictionary"),
        ("/nothing", {}, 404, "Not Found"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_line(client, path, body, status, told):
    got = client(path, body)
    assert got.status_code == status
    assert told in got.json()["detail"] and "\n" not in got.json()["detail"]


def test_of_numbers_too(plain):
    for cell, told in (
        ("x", "data row 2 holds 'x', not a number"),
        (None, "missing"),
        (True, "data row 2 holds True"),
    ):
        got = plain("/score", {"rows": [{"a": 1.0, "b": 2}, {"a": cell, "b": 1}]})
        assert got.status_code == 422 and told in got.json()["detail"]
    got = plain("/impute?m=2&seed=1", {"rows": [{"a": 1.0, "b": None}, {"a": None, "b": 2.0}]})
    assert got.status_code == 200, got.json()
    answer = got.json()
    assert answer["kind"] == "estimate" and answer["filled"] == {"a": 1, "b": 1}
    assert answer["columns"] == ["a", "b", "imputation"] and [row[2] for row in answer["rows"]] == [
        1,
        1,
        2,
        2,
    ]
    assert answer["rows"][0][0] == 1.0 and all(cell is not None for row in answer["rows"] for cell in row)
    got = plain("/sample", {"n": 3, "given": {"a": 1.0}})
    assert got.json()["kind"] == "estimate" and [row[0] for row in got.json()["rows"]] == [1.0] * 3
    assert plain("/score", b"a,b\n1,2\n", content_type="text/csv").status_code == 415


def test_who_may_ask(mixed_run, client):
    # A page whose name points here, and one of another site that sends a form.
    assert client("/health", host="evil.example").status_code == 421
    assert client("/score", b'{"rows": []}', content_type="text/plain").status_code == 415
    assert "access-control-allow-origin" not in client("/model", origin="http://evil.example").headers
    assert client("/model", host="127.0.0.1:80").status_code == 200
    assert client("/model").headers["content-security-policy"].startswith("default-src 'none'")
    guarded = Client(build_app(Served(mixed_run, LIMITS), token="0123456789abcdef", hosts=None))
    assert guarded("/health", host="example.org").status_code == 200
    for header in ({}, {"authorization": "Bearer 0123456789abcdeg"}, {"authorization": "Basic x"}):
        got = guarded("/model", **header)
        assert got.status_code == 401 and got.headers["www-authenticate"] == "Bearer"
    assert guarded("/model", authorization="bearer 0123456789abcdef").status_code == 200


def messages(*parts):
    """A client's body in parts, after which it is silent."""
    left = [{"type": "http.request", "body": part, "more_body": True} for part in parts]

    async def receive():
        if left:
            return left.pop(0)
        await asyncio.sleep(60)

    return receive


def asked(app, receive, path="/score"):
    """The status of a request whose size was not announced."""
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }  # fmt: skip
    found = []

    async def send(message):
        found.append(message.get("status"))

    asyncio.run(app(scope, receive, send))
    return found[0]


def test_bodies_that_do_not_end(client):
    assert asked(client.app, messages(b"x" * 60_000, b"x" * 60_000)) == 413
    assert asked(client.app, messages(b"{")) == 408


def test_too_many_are_turned_away(mixed_run):
    app = build_app(Served(mixed_run, Limits(waiting=1)))
    app.inside = 1
    got = Client(app)("/score", {"rows": [ROW]})
    assert got.status_code == 503 and "try again" in got.json()["detail"]
    assert Client(app)("/health").status_code == 200


def test_an_error_of_its_own_is_no_silence(mixed_run, monkeypatch):
    served = Served(mixed_run)
    monkeypatch.setattr(served, "score", lambda rows: 1 / 0)
    got = Client(build_app(served))("/score", {"rows": [ROW]})
    assert got.status_code == 500 and "log" in got.json()["detail"]


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(allow_nan=True), st.text(max_size=5),
    st.sampled_from(["Oslo", "1980-03-14", 170.0, 40, "cm", "nan", "?", "1e5", "\x00"]),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip
ROWS = st.lists(st.dictionaries(st.sampled_from([*ROW, "x"]), CELLS, max_size=6), max_size=3)
BODIES = st.one_of(
    st.fixed_dictionaries({"rows": ROWS}),
    st.fixed_dictionaries({}, optional={
        "n": st.one_of(st.integers(-1, 60), CELLS),
        "given": st.one_of(st.dictionaries(st.sampled_from([*ROW, "x"]), CELLS), CELLS),
        "state": CELLS, "temperature": CELLS, "seed": CELLS, "states": CELLS,
    }),
    st.recursive(CELLS, lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=4),
)  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from(["/score", "/assign", "/impute", "/sample"]), BODIES)
def test_whatever_is_sent_there_is_an_answer(client, path, body):
    """No 5xx: rows of the right columns with cells of any kind, requests of any values, anything else."""
    if isinstance(body, dict) and isinstance(body.get("rows"), list):
        body = {"rows": [{**ROW, **row} for row in body["rows"] if isinstance(row, dict)]}
    got = client(path, body)
    assert got.status_code in (200, 400, 422), got.text
    if got.status_code != 200:
        assert got.json()["detail"] and "\n" not in got.json()["detail"]

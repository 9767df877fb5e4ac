"""Rows that come in: what is taken, and one line for what is not."""

from __future__ import annotations

import io
import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeflow.errors import DataError
from modeflow.serving.arrow import ARROW_STREAM, frame_of_arrow, stream_of_frame
from modeflow.serving.bodies import JSON, columns_of_body

FRAME = pl.DataFrame({"a": [1.5, None], "b": ["x", None], "c": pl.Series(["p", "q"], dtype=pl.Categorical)})


def taken(body, media=JSON):
    return columns_of_body(body if isinstance(body, bytes) else json.dumps(body).encode(), media, 3, 4)


def test_both_forms_say_the_same():
    by_rows = taken({"columns": ["a", "b"], "rows": [[1, "x"], [None, "y"]]})
    assert by_rows == taken({"rows": [{"b": "x", "a": 1}, {"b": "y"}]}) == {"a": [1, None], "b": ["x", "y"]}


def test_large_whole_numbers_are_kept_or_are_floats():
    assert taken(b'{"rows": [{"a": 123456789012345678, "b": 1000000000000000000000}]}') == {
        "a": [123456789012345678],
        "b": [1e21],
    }


@pytest.mark.parametrize(
    "body, told",
    [
        (b"", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"rows": [{"a": NaN}]}', "a missing cell is null"),
        (b'{"rows": [{"a": -1e999}]}', "beyond the range"),
        ([], "an object with rows"),
        ({"rows": {}}, "an object with rows"),
        ({"rows": []}, "has no rows"),
        ({"rows": [{}]}, "no cells"),
        ({"rows": [{"a": 1}], "unseen": 1}, "'unseen', of which nothing is known"),
        ({"rows": [{"a": 1}, 3]}, "data row 2 is no object"),
        ({"rows": [{"a": 1}] * 4}, "4 rows; at most 3"),
        ({"rows": [{f"{i}{j}": 1 for j in range(2)} for i in range(3)]}, "columns or more; at most 4"),
        ({"columns": list("abcde"), "rows": [[1] * 5]}, "columns or more; at most 4"),
        ({"columns": ["a", "a"], "rows": [[1, 2]]}, "'a' twice"),
        ({"columns": ["a"], "rows": [[1], [1, 2]]}, "data row 2 must be a list of 1 cells, received 2 cells"),
        ({"columns": [1], "rows": [[1]]}, "a list of names"),
        ({"rows": [{"a": 1}, {"a": [1]}]}, "column 'a', data row 2 holds a list"),
        ({"rows": [{"a": "\ud800"}]}, "no Unicode text"),
        ({"rows": [{"\ud800": 1}]}, "no Unicode text"),
    ],
)
def test_json_that_is_no_table_is_said_in_a_line(body, told):
    with pytest.raises(DataError) as error:
        taken(body)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_arrow_there_and_back():
    assert frame_of_arrow(stream_of_frame(FRAME), 2).equals(FRAME)
    assert list(taken(stream_of_frame(FRAME), ARROW_STREAM)) == ["a", "b", "c"]


def test_arrow_is_measured_before_it_is_read():
    with pytest.raises(DataError, match="2 rows; at most 1"):
        frame_of_arrow(stream_of_frame(FRAME), 1)
    small = io.BytesIO()
    pl.DataFrame({"a": ["x" * 100_000]}).write_ipc_stream(small, compression="zstd")
    with pytest.raises(DataError, match="compressed Arrow"):
        frame_of_arrow(small.getvalue(), 1)
    file = io.BytesIO()
    FRAME.write_ipc(file)
    with pytest.raises(DataError, match="an Arrow IPC file"):
        frame_of_arrow(file.getvalue(), 2)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_arrow_is_an_error_or_a_table(data):
    """Floats and text alone: of dictionaries polars panics, which it prints."""
    body = bytearray(stream_of_frame(FRAME.drop("c")))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body
    try:
        assert frame_of_arrow(bytes(body), 10).height <= 10
    except DataError as error:
        assert "\n" not in str(error)

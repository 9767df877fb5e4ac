"""Arrow IPC streams in and out, by polars; what comes in is measured before a byte of it is believed.

A message of the format is a length, a flatbuffer and a body. Of the flatbuffer two things are read here: how
many rows a batch says it has, and whether its buffers are compressed, in which case a few kilobytes may stand
for gigabytes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import polars as pl

from modeflow.errors import DataError

__all__ = ["ARROW_STREAM", "frame_of_arrow", "stream_of_frame"]

#: Media type.
ARROW_STREAM = "application/vnd.apache.arrow.stream"
_MAGIC, _CONTINUES = b"ARROW1", 0xFFFFFFFF
#: Kinds of messages, and the places of fields in tables of the format's schema.
_DICTIONARY, _BATCH = 2, 3
_KIND, _HEADER, _BODY = 1, 2, 3
_ROWS, _COMPRESSION, _DICTIONARY_BATCH = 0, 3, 1


def frame_of_arrow(body: bytes, most_rows: int) -> pl.DataFrame:
    """The table of an Arrow IPC stream.

    Arguments:
        body: its bytes. most_rows: how many it may have.

    Raises:
        DataError: no such table, one with more rows, or compressed batches.
    """
    if body.startswith(_MAGIC):
        raise DataError("the body is an Arrow IPC file: send it as a stream (write_ipc_stream)")
    try:
        rows = sum(_rows_of(body))
    except (struct.error, IndexError) as error:
        raise DataError("the body is no Arrow IPC stream: its messages cannot be read") from error
    if rows > most_rows:
        raise DataError(f"the table has {rows} rows; at most {most_rows} are taken at once")
    try:
        return pl.read_ipc_stream(io.BytesIO(body))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of polars is no Exception
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"the body is no Arrow IPC stream: {reason}") from error


def stream_of_frame(frame: pl.DataFrame) -> bytes:
    """A table as an Arrow IPC stream."""
    target = io.BytesIO()
    frame.write_ipc_stream(target)
    return target.getvalue()


def _rows_of(body: bytes) -> Iterator[int]:
    """Rows of every batch, those of dictionaries apart.

    Raises:
        DataError: a compressed batch or dictionary. struct.error, IndexError: no messages.
    """
    at = 0
    while at + 8 <= len(body):
        mark, size = struct.unpack_from("<II", body, at)
        if mark != _CONTINUES:
            raise IndexError(at)
        if not size:
            return
        message = _Table.root(body, at + 8)
        header = message.table(_HEADER)
        kind = message.number(_KIND, "B")
        if kind == _DICTIONARY:
            header = header.table(_DICTIONARY_BATCH)
        if kind in (_DICTIONARY, _BATCH):
            if header.field(_COMPRESSION):
                raise DataError("compressed Arrow is not taken: write it with compression='uncompressed'")
            if kind == _BATCH:
                yield header.number(_ROWS, "q")
        length = message.number(_BODY, "q")
        if length < 0 or at + 8 + size + length > len(body):
            raise IndexError(at)
        at += 8 + size + length


class _Table:
    """A table of a flatbuffer: where it lies, and where its fields do."""

    def __init__(self, body: bytes, at: int) -> None:
        self.body, self.at = body, at
        self.fields = at - struct.unpack_from("<i", body, at)[0]
        if self.fields < 0:
            raise IndexError(self.fields)

    @classmethod
    def root(cls, body: bytes, at: int) -> _Table:
        return cls(body, at + struct.unpack_from("<I", body, at)[0])

    def field(self, place: int) -> int:
        """Where a field lies; 0 where it is left out."""
        if 4 + 2 * place >= struct.unpack_from("<H", self.body, self.fields)[0]:
            return 0
        offset = struct.unpack_from("<H", self.body, self.fields + 4 + 2 * place)[0]
        return self.at + offset if offset else 0

    def number(self, place: int, form: str) -> int:
        at = self.field(place)
        return int(struct.unpack_from(f"<{form}", self.body, at)[0]) if at else 0

    def table(self, place: int) -> _Table:
        at = self.field(place)
        if not at:
            raise IndexError(place)
        return _Table(self.body, at + struct.unpack_from("<I", self.body, at)[0])

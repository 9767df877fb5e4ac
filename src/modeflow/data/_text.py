"""Text tables: separators, headers, comments, and which line of the file a row is."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from modeflow.data._cells import is_missing, single_blanks, split_cells, to_number
from modeflow.data._header import decide
from modeflow.data._part import current_part
from modeflow.data._source import STDIN, read_source
from modeflow.errors import DataError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["EXCEL_SEP", "Layout", "TextFrame", "read_text_frame"]

# Rows looked at, and cells at most, to find out how a file is laid out.
_SAMPLE_ROWS, _SAMPLE_CELLS = 200, 200_000
#: Tried in this order; " " stands for any number of blanks and tabs, None for a single column.
_SEPARATORS: tuple[str | None, ...] = (",", ";", "\t", "|", " ", None)
_WORDS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks", None: "nothing"}
_COMMENT = re.compile(rb"[ \t]*[#%]")
# A line after the first that may be none of the table's.
_SUSPECT = re.compile(rb"\n[ \t]*[#%\n]")
EXCEL_SEP = re.compile(rb'"?sep=(.)"?\s*$', re.IGNORECASE)


@dataclass
class TextFrame:
    """The cells of a text table.

    Attributes:
        frame: polars frame, all columns strings.
        separator: what separated the cells.
        notes: guesses, one sentence each.
        doubts: guesses that a person should look at.
        lines: number of the file's line of each row; None where row i is line ``i + first_line``.
        first_line: the file's line of the first row.
    """

    frame: pl.DataFrame
    separator: str | None
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    lines: list[int] | None = None
    first_line: int = 1

    def line_of(self, row: int) -> int | None:
        """The file's line of a row; None where cells span lines."""
        if self.lines is None:
            return row + self.first_line
        return self.lines[row] if len(self.lines) == self.frame.height else None


def read_text_frame(
    file: Path | None, kind: str, header: bool | None = None, known: Sequence[str] = ()
) -> TextFrame:
    """Read a text table as cells.

    Arguments:
        file: the file, None for standard input.
        kind: its ending without compression: ".csv", ".tsv", ".txt" or ".dat".
        header: whether the first line names the columns; None decides by comparing it with the rows.
        known: names that the columns should have: a first line that holds them is the header.

    Raises:
        DataError: empty, ragged, a column name used twice, a line of units, or no text.
    """
    label = STDIN if file is None else str(file)
    data, notes = read_source(file)
    part = current_part(file)
    return Layout(data, label, kind, header, known, notes).read(0 if part is None else part.lines)


class Layout:
    """Finds out how a text table is laid out, then lets polars read it."""

    def __init__(
        self,
        data: bytes,
        label: str,
        kind: str,
        header: bool | None,
        known: Sequence[str],
        notes: list[str],
    ) -> None:
        self.data, self.label, self.notes, self.doubts = data.rstrip(b"\n"), label, notes, list[str]()
        self.known = set(known)
        self.comment: str | None = None  # the last line of the comments on top
        separator = self._skip_top()
        self.rows = self._sample()
        if not self.rows:
            raise DataError(f"'{label}' is empty; it needs rows of numbers")
        self.separator = self._separator(kind) if separator is None else separator
        cells = self._split(self.rows)
        self.names, self.has_header = self._names(cells, header)

    def _skip_top(self) -> str | None:
        """Leave out blank lines, comments and Excel's ``sep=`` on top; returns the separator it names."""
        self.start, self.first_line, separator = 0, 1, None
        comments = 0
        while self.start < len(self.data):
            end = self.data.find(b"\n", self.start)
            end = len(self.data) if end < 0 else end
            line = self.data[self.start : end]
            named = EXCEL_SEP.fullmatch(line.strip(b" ")) if not self.start else None
            if named:
                separator = named.group(1).decode()
                self.notes.append(f"'{self.label}': read the line 'sep={separator}' as naming the separator")
            elif _COMMENT.match(line):
                self.comment = line.decode().strip().lstrip("#%").strip()
                comments += 1
            elif line.strip(b" \t"):
                break
            self.start, self.first_line = end + 1, self.first_line + 1
        self.comments_on_top = comments
        return separator

    def _sample(self) -> list[str]:
        """The first lines of the table, without blank ones and comments."""
        lines: list[str] = []
        position, size = self.start, 0
        while position < len(self.data) and len(lines) < _SAMPLE_ROWS and size < 5 * _SAMPLE_CELLS:
            end = self.line_end(position)
            line = self.data[position:end]
            if line.strip(b" \t") and not (lines and _COMMENT.match(line)):
                lines.append(line.decode())
                size += len(line)
            position = end + 1
        return lines

    def line_end(self, start: int) -> int:
        """Where the line from `start` ends; a quoted name in a header may hold line ends."""
        end = first = self.data.find(b"\n", start)
        for _ in range(20):
            if end < 0 or self.data.count(b'"', start, end) % 2 == 0:
                break
            end = self.data.find(b"\n", end + 1)
        else:
            end = first  # a stray quotation mark
        return len(self.data) if end < 0 else end

    # -- separators ---------------------------------------------------------------------------------

    def _separator(self, kind: str) -> str | None:
        """The separator that gives rows of one width and the most numbers."""
        usual = {".csv": ",", ".tsv": "\t"}.get(kind)
        order = sorted(_SEPARATORS, key=lambda s: s != usual)
        best, score = order[0], -1.0
        for separator in order:
            new = self._score(split_cells(self.rows, separator), separator, usual)
            if new > score + 1e-9:
                best, score = separator, new
        if best != usual and best is not None:
            self.notes.append(f"'{self.label}': read {_WORDS[best]} as separators")
        if best is None and usual == "," and any("," in line for line in self.rows[1:]):
            self.doubts.append(
                f"'{self.label}': read as one column with decimal commas, as the first line is one name; "
                "if commas separate columns, name them all"
            )
        return best

    def _score(self, rows: list[list[str]], separator: str | None, usual: str | None) -> float:
        """Share of lines of the usual width, times share of numbers among their cells, and a little for
        the width."""
        widths = [len(row) for row in rows]
        width = _usual(widths[1:] if len(widths) > 2 else widths)
        if (width == 1) != (separator is None):
            # A single column by any separator is the same as by none.
            return -0.5
        if separator is None and "," in self.rows[0]:
            return 0.0  # one name has no commas
        even = [row for row in rows if len(row) == width]
        below = even[1:] if len(even) > 1 else even
        cells = [cell for row in below for cell in row]
        good = sum(is_missing(c) or to_number(c) is not None for c in cells) / max(len(cells), 1)
        if separator == usual and len(even) == len(rows):
            good = max(good, 0.5)  # a table of words by what its name says, whatever else words contain
        # A first line one name short (R's row names) or with a comma at its end is still a table.
        short = abs(widths[0] - width) == 1 and width > 2
        # No other first line is: of ``a;b;c`` above ``0,5;x;12%`` commas are no separators.
        share = (len(even) + short) / len(rows) * (1.0 if short or widths[0] == width else 0.5)
        # Where numbers do not tell, several columns are likelier than one.
        return share * (good + 0.01) + 0.001 * (width > 1)

    def _split(self, lines: Sequence[str]) -> list[list[str]]:
        return split_cells(lines, self.separator)

    # -- the header ---------------------------------------------------------------------------------

    def _names(self, rows: list[list[str]], header: bool | None) -> tuple[list[str], bool]:
        """Names of the columns, and whether the first line gave them."""
        rows = rows[: max(2, _SAMPLE_CELLS // max(1, len(rows[0])))]
        first, width = rows[0], len(rows[0])
        widths = [len(row) for row in rows[1:]]
        usual = _usual(widths) if widths else width
        body = [row for row in rows[1:] if len(row) == usual]
        if header is not False and usual == width + 1 and all(to_number(c) is None for c in first):
            # One name is missing: the last where rows end in a separator, the first above R's row names.
            if all(row[-1].strip() == "" for row in body):
                return [*_tidy(first), ""], True
            if self._row_names([row[0] for row in body]):
                return ["", *_tidy(first)], True
        same = [row for row in body if len(row) == width]
        if header is None:
            header = self._guess(first, same)
        if header:
            self._refuse_units(same)
            return _tidy(first), True
        named = self._from_comment(width)
        return named or _numbered(width), False

    def _row_names(self, cells: list[str]) -> bool:
        """Whether the first column can be a column of row names, without a name of its own."""
        quoted = all(line.lstrip().startswith('"') for line in self.rows[1:])
        return quoted or any(to_number(c) is None for c in cells) or cells[:2] in (["0", "1"], ["1", "2"])

    def _guess(self, first: list[str], rows: list[list[str]]) -> bool:
        quoted = '"' in self.rows[0] and not any('"' in line for line in self.rows[1:])
        numbers = all(to_number(c) is not None for c in first)
        if self.known and self.known <= set(_tidy(first)):
            return True
        if numbers and (
            self._from_comment(len(first), quiet=True) or self.known == set(_numbered(len(first)))
        ):
            return False  # the comment above is the header, or a file like this had none
        verdict = decide(first, rows, quoted)
        shown = ", ".join(c.strip() for c in first[:4]) + (", ..." if len(first) > 4 else "")
        if verdict.doubtful:
            kind, if_not = ("names of the columns", "a row") if verdict.header else ("a row", "names")
            option = "--no-header (header=False)" if verdict.header else "--header (header=True)"
            self.doubts.append(
                f"'{self.label}': read the first line ({shown}) as {kind}, but it may be {if_not}: "
                f"then give {option}"
            )
        elif verdict.header and not verdict.certain:
            self.notes.append(
                f"'{self.label}': read the first line ({shown}) as names of the columns "
                "(--no-header, header=False: as a row)"
            )
        elif not verdict.header:
            self.notes.append(f"'{self.label}': read the first line as a row: the columns have no names")
        return verdict.header

    def _from_comment(self, width: int, quiet: bool = False) -> list[str] | None:
        """Names in the comment above the rows, as `np.savetxt` writes them."""
        if not self.comment:
            return None
        names = _tidy(split_cells([self.comment], self.separator)[0])
        if len(names) != width or len(set(names)) < width or any(to_number(n) is not None for n in names):
            return None
        if any(name == "" for name in names):
            return None
        if not quiet:
            self.comments_on_top -= 1
            shown = ", ".join(names[:4]) + (", ..." if width > 4 else "")
            self.notes.append(f"'{self.label}': read the comment '# {shown}' as names of the columns")
        return names

    def _refuse_units(self, rows: list[list[str]]) -> None:
        """A second line of names or units is neither header nor row."""
        if len(rows) < 2:
            return
        numeric = [
            j
            for j in range(len(rows[0]))
            if sum(to_number(row[j]) is not None for row in rows[1:]) * 2 > len(rows) - 1
        ]
        second = [rows[0][j].strip() for j in numeric]
        text = [c for c in second if not is_missing(c) and to_number(c) is None]
        if len(text) > 1 and all(to_number(c) is None for c in second):
            shown = ", ".join(c.strip() for c in rows[0][:4])
            raise DataError(
                f"'{self.label}': line {self.first_line + 1} ({shown}) stands above numbers and looks like "
                "a line of units or a second header; remove this line"
            )

    # -- reading ------------------------------------------------------------------------------------

    def read(self, skipped: int = 0) -> TextFrame:
        """All rows, as strings; `skipped`: lines of the file that were left out below the header."""
        import polars as pl

        for i, name in enumerate(self.names):
            if name and name in self.names[:i]:
                raise DataError(f"'{self.label}' names column '{name}' twice; rename one of them")
        start, first_line = self.start, self.first_line
        if self.has_header:
            end = self.line_end(start)
            start, first_line = end + 1, first_line + 1 + self.data.count(b"\n", start, end)
        first_line += skipped
        separator = self.separator or "\x1f"
        # Names of our own: those of the file need no quoting, and polars knows the width.
        marks = [f"column_{i}" for i in range(len(self.names))]
        body, lines = self._body(separator.join(marks).encode(), start, first_line)
        if separator == " ":
            body = single_blanks(body)
        try:
            frame = pl.read_csv(
                body,
                separator=separator,
                infer_schema=False,
                quote_char='"',
            )
        except pl.exceptions.PolarsError as error:
            self._complain_if_ragged(body, lines, first_line)
            reason = (str(error).strip().splitlines() or ["unknown"])[0][:120]
            raise DataError(f"'{self.label}' cannot be read as a table ({reason})") from error
        # polars fills short rows with nulls: tell those apart from empty cells at the end.
        if frame.width != len(marks) or frame[marks[-1]].null_count():
            frame = self._drop_trailing_empty(frame)
            self._complain_if_ragged(body, lines, first_line)
        frame.columns = [name or f"\x00{i}" for i, name in enumerate(self.names)]
        if self.comments_on_top > 0:
            self._say_comments(self.comments_on_top)
        return TextFrame(frame, self.separator, self.notes, self.doubts, lines, first_line)

    def _say_comments(self, count: int) -> None:
        plural = "s" if count > 1 else ""
        self.notes.append(f"'{self.label}': left out {count} comment line{plural} (# or %)")

    def _body(self, top: bytes, start: int, first_line: int) -> tuple[bytes, list[int] | None]:
        """The rows without blank lines and comments below the line `top`, and their line numbers where
        these are not plain. The text itself is given up: it can be large."""
        data, self.data = self.data, b""
        if not _SUSPECT.search(data, max(0, start - 1)):
            return b"".join((top, b"\n", memoryview(data)[start:])), None
        kept, numbers, comments, inside = list[bytes](), list[int](), list[int](), False
        everything = data[start:].split(b"\n")
        for i, line in enumerate(everything):
            if not inside and not line.strip(b" \t" if self.separator != "\t" else b" "):
                continue
            if not inside and _COMMENT.match(line):
                comments.append(i)
                continue
            kept.append(line)
            numbers.append(first_line + i)
            # A quoted cell may hold line ends; what follows one is then no line of its own.
            inside ^= line.count(b'"') % 2 == 1
        if comments and not self._are_comments([everything[i] for i in comments]):
            chosen = [i for i, line in enumerate(everything) if line.strip()]
            return b"\n".join([top, *(everything[i] for i in chosen)]), [first_line + i for i in chosen]
        if comments:
            self._say_comments(len(comments))
        return b"\n".join([top, *kept]), numbers

    def _are_comments(self, lines: list[bytes]) -> bool:
        """Lines with # are comments unless they are rows whose first cell is text such as '#ff0000'."""
        width = len(self.names)
        if width == 1:
            return True
        rows = self._split([line.decode() for line in lines])
        return not any(len(row) == width and to_number(row[0].strip().lstrip("#% ")) is None for row in rows)

    def _drop_trailing_empty(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows of nothing but separators at the end of a file (Excel writes them) are no rows."""
        import polars as pl

        blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
        kept = (~blank).arg_true()
        rows = int(kept[-1]) + 1 if len(kept) else 0
        if left := frame.height - rows:
            plural = "s" if left > 1 else ""
            self.notes.append(f"'{self.label}': left out {left} row{plural} at the end without any cell")
        return frame.head(rows)

    def _complain_if_ragged(self, body: bytes, lines: list[int] | None, first_line: int) -> None:
        """Raise if a line has another number of cells than the table."""
        width = len(self.names)
        separator = self.separator or "\x1f"
        reader = csv.reader(body.decode().split("\n")[1:], delimiter=separator)
        try:
            for cells in reader:
                if cells and len(cells) != width:
                    i = reader.line_num - 1
                    line = first_line + i if lines is None else lines[i]
                    what = "the first line has" if not self.has_header else "the header has"
                    raise DataError(
                        f"'{self.label}' is ragged: line {line} has {len(cells)} cells, {what} {width} "
                        f"(separated by {_WORDS.get(self.separator, repr(self.separator))})"
                    )
        except csv.Error:
            return


def _usual(widths: Sequence[int]) -> int:
    """The most frequent width, the first of several."""
    return max(dict.fromkeys(widths), key=list(widths).count)


def _numbered(width: int) -> list[str]:
    return [f"x{i}" for i in range(width)]


def _tidy(cells: Sequence[str]) -> list[str]:
    return [cell.replace("\ufeff", "").replace("\n", " ").strip() for cell in cells]

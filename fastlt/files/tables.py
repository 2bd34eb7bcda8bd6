"""Tables in text files, as spreadsheets and other programs write them: commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from .reading import deciphering, read_limited

_DELIMITERS = ("\t", ";", ",")
_NUM_COMPARED = 20


def read_rows(path: Path, limit: int, expected: str, *, shown: str = "") -> tuple[list[list[str]], str]:
    """Return the rows of a table, cells without spaces around them, and the delimiter of its columns.

    A row's number is that of its line in a file whose cells have no line breaks; empty lines are rows without cells.

    Args:
        path: The file; UTF-8, or UTF-16 with its mark, as Excel's "Unicode text".
        limit: Bytes that it may have.
        expected: What it should be, for messages.
        shown: What messages call it; by default its path.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no table.
    """
    content = read_limited(path, limit, expected)
    with deciphering(shown or path, expected=expected, remedy="correct the file"):
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = content.decode("utf-16") if wide else content.decode("utf-8-sig", "surrogateescape")
        delimiter = _delimiter(text)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        return [[cell.strip() for cell in row] for row in rows], delimiter


def _delimiter(text: str) -> str:
    """Return the delimiter: the only one in the first line, or else one that gives every line as many cells."""
    lines = [line for line in text[: 1 << 16].splitlines() if line.strip()][:_NUM_COMPARED]
    if not lines:
        return ","
    there = [each for each in _DELIMITERS if each in lines[0]]
    for delimiter in there if len(there) > 1 else ():
        numbers = {len(row) for row in csv.reader(lines, delimiter=delimiter)}
        if len(numbers) == 1 and numbers != {1}:
            return delimiter
    return there[-1] if there else ","

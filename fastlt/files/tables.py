"""Tables in text files, as spreadsheets and other programs write them: commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ..runtime.log import log
from .reading import deciphering, read_limited

_DELIMITERS = ("\t", ";", ",")
_NUM_COMPARED = 20


def read_rows(path: Path, limit: int, expected: str, *, shown: str = "") -> tuple[list[list[str]], str]:
    """Return the rows of a table, cells without spaces around them, and the delimiter of its columns.

    A row's number is that of its line in a file whose cells have no line breaks; empty lines are rows without cells.

    Args:
        path: The file; UTF-8, UTF-16 with its mark, as Excel's "Unicode text", or else Windows-1252, as Excel's "CSV".
        limit: Bytes that it may have.
        expected: What it should be, for messages.
        shown: What messages call it; by default its path.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no table.
    """
    content = read_limited(path, limit, expected)
    with deciphering(shown or path, expected=expected, remedy="correct the file"):
        text = _decoded(content, shown or path)
        delimiter = _delimiter(text)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        return [[cell.strip() for cell in row] for row in rows], delimiter


def _decoded(content: bytes, shown: Path | str) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        log.warning("%s: it is no UTF-8, and taken for Windows-1252; if letters are wrong, save it as UTF-8", shown)
        return content.decode("cp1252", "surrogateescape")


def as_in_table(name: str) -> str:
    """Return a file's name as `read_rows` reads its bytes in a table."""
    if name.isascii() or not any("\udc80" <= sign <= "\udcff" for sign in name):
        return name
    return name.encode("utf-8", "surrogateescape").decode("cp1252", "surrogateescape")


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

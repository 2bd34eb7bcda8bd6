"""Tables of the Markdown pages that fastlt and its benchmarks write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def rows(heads: Sequence[str], lines: Iterable[Sequence[object]], left: Sequence[int] = (0,)) -> Iterator[str]:
    """Yield the lines of a table; None is a dash.

    Args:
        heads: One per column.
        lines: The cells of each line.
        left: Columns of text, aligned left; the others are aligned right.
    """
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join('---' if column in left else '---:' for column in range(len(heads)))}|"
    for line in lines:
        yield f"| {' | '.join('-' if cell is None else str(cell) for cell in line)} |"

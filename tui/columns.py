"""Which columns of a table fit into a width."""

from __future__ import annotations

from collections.abc import Sequence


def fitting_columns(
    columns: Sequence[tuple[int, int]], width: int, *, one_by_one: bool = False
) -> list[int]:
    """Indices of the columns that are shown; what never goes may still be too wide.

    Args:
        columns: of each its cells, and how early it goes where there is no room: 0 or less never.
        width: cells for all of them.
        one_by_one: of columns that go equally early the first one first; else all at once.
    """
    shown = list(range(len(columns)))
    while sum(columns[i][0] for i in shown) > width:
        first = max(shown, key=lambda i: columns[i][1], default=None)
        if first is None or columns[first][1] <= 0:
            break
        rank = columns[first][1]
        shown = [i for i in shown if (i != first if one_by_one else columns[i][1] < rank)]
    return shown

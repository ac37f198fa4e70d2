"""Which columns fit into a width."""

from __future__ import annotations

import pytest

from tui.columns import fitting_columns

COLUMNS = [(5, 0), (4, 2), (3, 1), (2, 2), (1, -1)]


@pytest.mark.parametrize(
    ("width", "together", "alone"),
    [
        (15, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        (14, [0, 2, 4], [0, 2, 3, 4]),
        (10, [0, 2, 4], [0, 2, 4]),
        (8, [0, 4], [0, 4]),
        (1, [0, 4], [0, 4]),
    ],
)
def test_what_goes_first(width: int, together: list[int], alone: list[int]) -> None:
    assert fitting_columns(COLUMNS, width) == together
    assert fitting_columns(COLUMNS, width, one_by_one=True) == alone


def test_of_no_columns_none_fit() -> None:
    assert fitting_columns([], -3) == []

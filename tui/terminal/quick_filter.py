"""Textual's filter of ANSI colours, left out where there are none: nearly everywhere.

Textual looks up every style of every line in a cache of 1,024, which a page of images empties six
times over. To see that a line has true colours only takes a tenth of that.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from textual.color import Color
from textual.filter import ANSIToTruecolor, LineFilter


class QuickFilter(LineFilter):
    """Passes lines that need no change, and has the rest changed by Textual's filter."""

    def __init__(self, inner: ANSIToTruecolor) -> None:
        super().__init__(inner.enabled)
        self.inner = inner

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The line in true colours."""
        for _, style, _ in segments:
            if style is not None and (
                style.dim
                or ((colour := style.color) is not None and colour.triplet is None)
                or ((colour := style.bgcolor) is not None and colour.triplet is None)
            ):
                return self.inner.apply(segments, background)
        return segments


class QuickFilters:
    """Filters as an app has them, with the quick one in its place; the same ones for the same."""

    def __init__(self) -> None:
        self._quick: QuickFilter | None = None

    def of(self, filters: Sequence[LineFilter]) -> list[LineFilter]:
        """The filters to apply; strips are kept by filter, so one is made once."""
        return [self._for(one) if type(one) is ANSIToTruecolor else one for one in filters]

    def _for(self, inner: ANSIToTruecolor) -> QuickFilter:
        if self._quick is None or self._quick.inner is not inner:
            self._quick = QuickFilter(inner)
        return self._quick

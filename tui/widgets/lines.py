"""A widget of prepared lines that repaints only the cells that changed.

Textual repaints whole regions; over SSH a chart or a table of which three cells changed would cost
kilobytes. Here each new line is compared with the one before, and only the cells that differ are
refreshed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import ClassVar

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from tui.terminal import exact

NEAR = 30


class Lines(Widget):
    """Shows lines from the top; what does not fit is cut."""

    DEFAULT_CSS = "Lines { height: auto; }"

    PLAIN: ClassVar[bool] = False
    """Whether style sheets give it colours alone: no padding, border, outline, opacity or tint."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._strips: list[Strip] = []

    def set_lines(self, lines: Sequence[Text | Strip]) -> None:
        """Show these lines; refresh only what differs."""
        strips = [line if isinstance(line, Strip) else to_strip(line) for line in lines]
        old, self._strips = self._strips, strips
        if len(old) != len(strips):
            self.refresh(layout=self.styles.is_auto_height)
            return
        dirty = [
            Region(first, y, last - first, 1)
            for y, (before, after) in enumerate(zip(old, strips, strict=True))
            for first, last in changed(before, after)
        ]
        if dirty:
            exact.repaint(self, *dirty)

    def get_content_height(self, container: object, viewport: object, width: int) -> int:
        """As many lines as there are."""
        return len(self._strips)

    def render_line(self, y: int) -> Strip:
        """One prepared line on the widget's background."""
        return self._line(y, self.rich_style)

    def render_lines(self, crop: Region) -> list[Strip]:
        """Lines of a region; plain ones without Textual's forty look-ups of styles for each: half
        of what it takes to paint the progress, several times a second.
        """
        if not self.PLAIN:
            return super().render_lines(crop)
        style, background = self.rich_style, self.background_colors[1]
        filters = self.get_line_filters()
        strips = []
        for y in crop.line_range:
            strip = self._line(y, style)
            for one in filters:
                strip = strip.apply_filter(one, background)
            strips.append(strip.crop(crop.x, crop.right))
        return strips

    def _line(self, y: int, style: Style) -> Strip:
        width = self.size.width
        strip = self._strips[y] if y < len(self._strips) else Strip.blank(width)
        return strip.adjust_cell_length(width, style).apply_style(style)


def from_pieces(pieces: Iterable[tuple[str, str]]) -> Strip:
    """One line of words and their styles: a tenth of the time that Rich text takes."""
    return Strip([Segment(words, _style(style)) for words, style in pieces])


@lru_cache(maxsize=256)
def _style(definition: str) -> Style:
    return Style.parse(definition)


_CONSOLE = Console(width=1000, color_system="truecolor", legacy_windows=False)


def to_strip(text: Text) -> Strip:
    """One line of Rich text as a strip; what looks alike is one piece, its colours sent once."""
    return Strip([s for s in text.render(_CONSOLE, end="") if not s.control]).simplify()


def say(line: Static, text: Text, *, layout: bool) -> None:
    """Update a line only when it says something else: an idle app writes nothing."""
    before = line.content
    # texts that differ in their style alone are equal to Rich
    if not isinstance(before, Text) or before != text or before.style != text.style:
        line.update(text, layout=layout)


def changed(before: Strip, after: Strip) -> list[tuple[int, int]]:
    """Spans of cells that differ, each from the first to one past the last.

    Spans with few equal cells between them are one: moving the cursor and setting the colours again
    takes some fifty bytes.
    """
    if before == after:
        return []
    start = alike = 0  # cells and pieces at the beginning that are the same
    for one, other in zip(before, after, strict=False):
        if one != other:
            break
        start, alike = start + one.cell_length, alike + 1
    old, new = _cells(list(before)[alike:]), _cells(list(after)[alike:])
    length = max(len(old), len(new))
    blank = (" ", None)
    old += [blank] * (length - len(old))
    new += [blank] * (length - len(new))
    spans: list[tuple[int, int]] = []
    for x in range(length):
        if old[x] == new[x]:
            continue
        if spans and x - spans[-1][1] < NEAR:
            spans[-1] = (spans[-1][0], x + 1)
        else:
            spans.append((x, x + 1))
    return [(start + first, start + last) for first, last in spans]


def _cells(segments: Iterable[Segment]) -> list[tuple[str, Style | None]]:
    cells: list[tuple[str, Style | None]] = []
    for segment in segments:
        if segment.cell_length == len(segment.text):
            cells += [(character, segment.style) for character in segment.text]
            continue
        for character in segment.text:  # wide characters take two cells
            cells += [(character, segment.style)] * Segment(character).cell_length
    return cells

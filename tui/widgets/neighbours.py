"""Training images near the one that is shown, as small half-block images with their labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from trainer.analysis import terminal_image
from trainer.protocol import Near
from tui.formatting import clean
from tui.widgets import image_view

TILE, GAP = 16, 2
LINES = TILE // 2 + 2
"""Of a row of images: each with its label and its similarity below."""


class Neighbours(Widget):
    """As many as fit, the nearest first; or a line that says why there are none."""

    def __init__(self) -> None:
        super().__init__(id="neighbours")
        self._shown: tuple[object, ...] = ()
        self._near: Sequence[Near] = ()
        self._names: Sequence[str] = ()
        self._actual = -1
        self._line = ""
        self._key: tuple[object, ...] = ()
        self._strips: list[Strip] = []

    def show_near(
        self, near: Sequence[Near], classes: Sequence[str], actual: int, line: str
    ) -> None:
        """Show images, and a line above them; ``actual``: the class of the image itself."""
        shown = (tuple(near), tuple(classes), actual, line)
        if shown != self._shown:
            self._shown = shown
            self._near, self._names, self._actual, self._line = near, classes, actual, line
            self._key = ()
            self.refresh()

    @property
    def fit(self) -> int:
        """How many images have room."""
        across = max(1, (self.size.width + GAP) // (TILE + GAP))
        return across * max(0, (self.size.height - 1) // LINES)

    def render_line(self, y: int) -> Strip:
        """A line of the strip."""
        key = (self.size, image_view.color_mode(self.app), self.app.theme)
        if key != self._key:
            self._key = key
            self._strips = self._draw()
        if y < len(self._strips):
            return self._strips[y]
        return Strip.blank(self.size.width, self.rich_style)

    def _draw(self) -> list[Strip]:
        plain, width = self.rich_style, self.size.width
        head = plain + Style(color=self.app.theme_variables["secondary"])
        strips = [Strip([Segment(set_cell_size(clean(self._line, 300), width), head)])]
        across = max(1, (width + GAP) // (TILE + GAP))
        shown = self._near[: self.fit]
        for start in range(0, len(shown), across):
            row = [self._tile(near) for near in shown[start : start + across]]
            for y in range(LINES):
                parts: list[Segment] = []
                for tile in row:
                    parts += [*tile[y], Segment(" " * GAP, plain)]
                strips.append(Strip(parts).adjust_cell_length(width, plain))
        return strips

    def _tile(self, near: Near) -> list[list[Segment]]:
        plain, colours = self.rich_style, self.app.theme_variables
        lines: list[list[Segment]] = []
        if len(near.pixels) == 3 * 32 * 32:
            pixels = np.frombuffer(near.pixels, np.uint8).reshape(3, 32, 32)
            mode = image_view.color_mode(self.app)
            for drawn in terminal_image.to_segments(pixels, color=mode, scale=TILE / 32):
                lines.append([Segment(part.text, part.style or plain) for part in drawn])
        while len(lines) < TILE // 2:
            lines.append([Segment(" " * TILE, plain)])
        known = 0 <= near.label < len(self._names)
        name = clean(self._names[near.label], TILE) if known else str(near.label)
        role = "success" if near.label == self._actual else "error"
        words = (name, Style(color=colours[role])), (f"#{near.index}  {near.similarity:.3f}", None)
        for text, style in words:
            fitting = set_cell_size(text, TILE) if cell_len(text) > TILE else text
            padding = " " * (TILE - cell_len(fitting))
            lines.append([Segment(fitting + padding, plain + style if style else plain)])
        return lines

"""A reliability diagram: how often the net is right, by how sure it is (Guo et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.text import Text
from textual.geometry import Size
from textual.strip import Strip

from trainer.analysis.calibration import Bin, Calibration
from tui.charts import figure
from tui.charts.curves import Points
from tui.charts.figure import FOOT, GUTTER, LABEL_WIDTH, Curve, Frame
from tui.images import difference
from tui.widgets.lines import Lines, to_strip

HEAD = 3
FEW = 10
"""Bins with fewer images are grey: their accuracy is mostly chance."""
KEYS = (
    f"steps: accuracy, dots: confidence, grey: under {FEW} images",
    f"grey: under {FEW} images",
)
"""What is drawn, in as many words as there is room for."""
LEAST = Size(GUTTER + 16, HEAD + FOOT + 3)


class ReliabilityChart(Lines):
    """Words, and below them the accuracy of each bin as steps, beside the diagonal."""

    DEFAULT_CSS = "ReliabilityChart { width: 1fr; height: 1fr; margin-right: 1; }"

    def __init__(self, number: int) -> None:
        super().__init__(id=f"reliability-{number}")
        self._number = number
        self._known: Calibration | None = None
        self._name = ""
        self._drawn: tuple[object, ...] = ()

    def fill(self, known: Calibration | None, name: str) -> None:
        """Show a calibration, or nothing; ``name`` is what it is of."""
        self._known, self._name = known, name
        self._draw()

    def on_resize(self) -> None:
        """Draw for the new size."""
        self._draw()

    def _draw(self) -> None:
        key = (self._known, self._name, self.size, self.app.theme)
        if key == self._drawn or not self.size:
            return
        self._drawn = key
        self.set_lines(self._lines())

    def _lines(self) -> list[Text | Strip]:
        known, width, height = self._known, self.size.width, self.size.height
        colours = self.app.theme_variables
        colour = difference.side_colour(self._number, colours)
        name = Text(no_wrap=True, end="")
        name.append(f" {self._number} ", style=f"bold {colours['background']} on {colour}")
        name.append(f" {self._name}", style="bold")
        key = next((key for key in KEYS if name.cell_len + len(key) + 2 <= width), "")
        name.append(f"  {key}", style=colours["secondary"])
        name.truncate(width, overflow="ellipsis")
        if known is None or known.error is None:
            return [name]
        head, line = difference.calibration_lines(known, width - 1)
        words = [Text(f" {head}", end=""), Text(f" {line}", style=colours["secondary"], end="")]
        for text in words:
            text.truncate(width, overflow="ellipsis")
        shown: list[Text | Strip] = [to_strip(name), *words]
        if width < LEAST.width or height < LEAST.height:
            return shown
        chart = draw(known, width, height - HEAD, colour, colours["secondary"])
        return [*shown, *chart]


def draw(known: Calibration, width: int, height: int, colour: str, ink: str) -> list[Strip]:
    """The diagram: steps at each bin's accuracy, dots where its mean confidence is, diagonal."""
    diagonal = Points(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    visible = [(_curve(diagonal, ink, dotted=True), diagonal)]
    few = tuple(one for one in known.bins if one.count < FEW)
    enough = tuple(one for one in known.bins if one.count >= FEW)
    for bins, shade in ((few, ink), (enough, colour)):
        steps = _steps(bins)
        visible.append((_curve(steps, shade), steps))
    for one in enough:
        if one.confidence is not None and one.accuracy is not None:
            dot = Points(np.array([one.confidence]), np.array([one.accuracy]))
            visible.append((_curve(dot, colour), dot))
    x_ticks = tuple((t / 10, f"{10 * t}%") for t in range(0, 11, 2 if width >= 60 else 5))
    parts = 4 if height >= 12 else 2
    y_ticks = tuple(
        (t / parts, f"{100 * t // parts}%".rjust(LABEL_WIDTH)) for t in range(parts + 1)
    )
    frame = Frame((0.0, 1.0), (0.0, 1.0), x_ticks, y_ticks)
    return figure.draw_in(frame, visible, width, height, ink)


def _steps(bins: Sequence[Bin]) -> Points:
    """Up and down at the edges of bins, a gap where bins without images or of others are."""
    x: list[float] = []
    y: list[float] = []
    for one in bins:
        if one.accuracy is None:
            continue
        if x and x[-1] < one.low:
            x.append(one.low)
            y.append(float("nan"))
        x += [one.low, one.low, one.high, one.high]
        y += [0.0, one.accuracy, one.accuracy, 0.0]
    return Points(np.array(x), np.array(y))


def _curve(points: Points, colour: str, *, dotted: bool = False) -> Curve:
    return Curve("", points, colour, dotted=dotted)

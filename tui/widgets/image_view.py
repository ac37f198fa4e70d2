"""One image in half blocks, its class probabilities as bars, and its history over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.text import Text
from textual.app import App
from textual.strip import Strip
from textual.widget import Widget

from trainer.analysis import mistake_words, terminal_image
from trainer.analysis.mistakes import Moment
from trainer.analysis.terminal_image import ColorMode
from trainer.words import probability
from tui import formatting
from tui.formatting import clean
from tui.images import overlay
from tui.terminal.settings import TerminalSettings

if TYPE_CHECKING:
    from tui.images.evaluations import Pictures

Frame = tuple[overlay.Box | None, tuple[int, int, int]]
EIGHTHS = "▁▂▃▄▅▆▇█"
SIDE = 32
PEOPLE_ROOM = 32
"""Cells of bars that are enough for people's bars beside the model's."""


def color_mode(app: App[object]) -> ColorMode:
    """What the terminal can show of an image."""
    terminal = getattr(app, "terminal", TerminalSettings())
    if terminal.ascii or terminal.low_bandwidth:
        return "ascii"  # over a slow link a page of pixels would take minutes
    return terminal_image.color_mode(app.console.color_system, app.no_color)


class ImageView(Widget):
    """One image, two pixels in each cell, as large as the widget is wide."""

    DEFAULT_CSS = "ImageView { width: 32; height: 16; }"

    def __init__(self) -> None:
        super().__init__(id="image")
        self._picture: Pictures | None = None
        self._weights = b""
        self._boxes: tuple[Frame, ...] = ()
        self._lines: list[list[Segment]] = []
        self._key: tuple[object, ...] = ()

    def show_picture(
        self, picture: Pictures | None, weights: bytes = b"", boxes: tuple[Frame, ...] = ()
    ) -> None:
        """Show an image, uint8 [3, 32, 32], or that there is none.

        Args:
            picture: the image.
            weights: uint8 [32, 32], how much each pixel counts; empty: all the same.
            boxes: drawn over it, each with its colour.
        """
        same = picture is self._picture or (
            picture is not None
            and self._picture is not None
            and np.array_equal(picture, self._picture)
        )
        if same and weights == self._weights and boxes == self._boxes:
            return
        self._picture, self._weights, self._boxes = picture, weights, boxes
        self._key = ()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """A line of the image."""
        width = self.size.width
        if self._picture is None:
            words = "no image" if y == self.size.height // 2 else ""
            return Strip([Segment(words.center(width), self.rich_style)], width)
        key = (max(1, width // SIDE), color_mode(self.app))
        if key != self._key:
            self._key = key
            drawn = overlay.lit(self._picture, self._weights) if self._weights else self._picture
            large = overlay.framed(drawn, key[0], self._boxes)
            self._lines = terminal_image.to_segments(large, color=key[1])
        line = self._lines[y] if y < len(self._lines) else []
        plain = self.rich_style  # without colours the image is text on the background
        parts = [Segment(part.text, part.style or plain) for part in line]
        return Strip(parts).adjust_cell_length(width, plain)


def bars(
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    *,
    actual: int,
    predicted: int,
    colours: dict[str, str],
    width: int,
    limit: int,
    people: NDArray[np.float64] | None = None,
    written: NDArray[np.float64] | None = None,
    exact: bool = True,
) -> Text:
    """Probabilities [C] as bars, largest first; the actual and the predicted class are named.

    At most ``limit`` classes; the actual one is always among them. ``people``: the share of them
    who say each class [C], put beside. ``written``: the numbers [C] where some are known better
    than others; the order and the bars are of one kind. ``exact``: as ``Mistakes`` has it.
    """
    numbers = probabilities if written is None else written
    asked = people is not None and bool(np.isfinite(people).all())
    order = [int(i) for i in np.argsort(-probabilities, kind="stable")]
    # float16 probabilities can tie: the predicted class is the one that was predicted
    order = [predicted, *(i for i in order if i != predicted)]
    shown = order[:limit]
    if actual not in shown:
        shown[-1] = actual
    name_width = min(16, max(len(clean(classes[i])) for i in shown))
    room = max(4, width - name_width - 18 - 12 * asked)
    # where there is room people have bars as well, a third as long as the model's
    beside = room // 4 if asked and room >= PEOPLE_ROOM else 0
    room -= beside
    text = Text(no_wrap=True)
    for i in shown:
        role, colour = _role(i, actual, predicted, colours)
        text.append(f"{clean(classes[i], name_width):>{name_width}} ", style=colour)
        text.append(
            formatting.bar(float(probabilities[i]), room), style=colour or colours["secondary"]
        )
        number = mistake_words.probability(float(numbers[i]), 3, exact=exact)
        text.append(f" {number:>5}", style="bold" if role else "")
        if asked and people is not None:
            text.append(f" people {probability(float(people[i]))}", style=colours["secondary"])
            if beside:
                text.append(
                    " " + formatting.bar(float(people[i]), beside - 1), style=colours["primary"]
                )
        text.append(f" {role}\n", style=colour)
    if len(shown) < len(order):
        rest_of = len(order) - len(shown)
        text.append(f"and {rest_of} classes more", style=colours["secondary"])
    text.rstrip()
    return text


def _role(i: int, actual: int, predicted: int, colours: dict[str, str]) -> tuple[str, str]:
    if i == actual:
        return "actual ✓" if i == predicted else "actual", colours["success"]
    return ("predicted", colours["error"]) if i == predicted else ("", "")


def history(moments: Sequence[Moment], colours: dict[str, str], width: int, rows: int = 1) -> Text:
    """Right or wrong at each evaluation, the actual class's probability, one cell each.

    The probability as a curve of so many ``rows``, from 0 at the bottom to 1 at the top.

    Where there is no room for all evaluations the latest are shown.
    """
    shown = moments[-max(1, width - 12) :]
    text = Text(no_wrap=True)
    if not shown:
        return text.append("no evaluation could be read", style=colours["secondary"])
    first, last = shown[0].epoch, shown[-1].epoch
    right = sum(moment.right for moment in shown)
    text.append(f"right at {right} of {len(shown)} evaluations", style="bold")
    text.append(f", epochs {first} to {last}\n" if len(shown) > 1 else f", epoch {first}\n")
    text.append("right     ", style=colours["secondary"])
    for moment in shown:
        glyph, colour = ("■", "success") if moment.right else ("✗", "error")
        text.append(glyph, style=colours[colour])
    for row in reversed(range(rows)):
        label = "p(actual)" if row == rows - 1 else ""
        text.append(f"\n{label:<10}", style=colours["secondary"])
        drawn = ""
        for moment in shown:
            eighths = min(8 * rows - 1, int(moment.p_actual * 8 * rows)) - 8 * row
            drawn += " " if eighths < 0 else EIGHTHS[min(7, eighths)]
        text.append(drawn, style=colours["primary"])
    return text

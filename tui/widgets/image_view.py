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

from trainer import terminal_image
from trainer.analysis.mistakes import Moment
from trainer.terminal_image import ColorMode
from tui.formatting import clean
from tui.terminal.settings import TerminalSettings

if TYPE_CHECKING:
    from tui.evaluations import Pictures

EIGHTHS = "▁▂▃▄▅▆▇█"
SIDE = 32


def color_mode(app: App[object]) -> ColorMode:
    """What the terminal can show of an image."""
    terminal = getattr(app, "terminal", TerminalSettings())
    if terminal.ascii or terminal.low_bandwidth:
        return "ascii"  # over a slow link a page of pixels would take minutes
    if app.no_color:
        return "grey"
    system = app.console.color_system
    if system == "truecolor":
        return "true"
    return "256" if system == "256" else "ascii"


class ImageView(Widget):
    """One image, two pixels in each cell, as large as the widget is wide."""

    DEFAULT_CSS = "ImageView { width: 32; height: 16; }"

    def __init__(self) -> None:
        super().__init__(id="image")
        self._picture: Pictures | None = None
        self._lines: list[list[Segment]] = []
        self._key: tuple[object, ...] = ()

    def show_picture(self, picture: Pictures | None) -> None:
        """Show an image, uint8 [3, 32, 32], or that there is none."""
        self._picture = picture
        self._key = ()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """A line of the image."""
        width = self.size.width
        if self._picture is None:
            words = "no image" if y == self.size.height // 2 else ""
            return Strip([Segment(words.center(width), self.rich_style)], width)
        scale = max(1, width // SIDE)
        key = (id(self._picture), scale, color_mode(self.app))
        if key != self._key:
            self._key = key
            self._lines = terminal_image.to_segments(
                self._picture, color=color_mode(self.app), scale=scale
            )
        line = self._lines[y] if y < len(self._lines) else []
        plain = self.rich_style  # without colours the image is text on the background
        drawn = [Segment(part.text, part.style or plain) for part in line]
        return Strip(drawn).adjust_cell_length(width, plain)


def bars(
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
    *,
    actual: int,
    predicted: int,
    colours: dict[str, str],
    width: int,
    limit: int,
) -> Text:
    """Probabilities [C] as bars, largest first; the actual and the predicted class are named.

    At most ``limit`` classes; the actual one is always among them.
    """
    order = [int(i) for i in np.argsort(-probabilities, kind="stable")]
    # float16 probabilities can tie: the predicted class is the one that was predicted
    order = [predicted, *(i for i in order if i != predicted)]
    shown = order[:limit]
    if actual not in shown:
        shown[-1] = actual
    name_width = min(16, max(len(clean(classes[i])) for i in shown))
    room = max(4, width - name_width - 18)
    text = Text(no_wrap=True)
    for i in shown:
        role, colour = _role(i, actual, predicted, colours)
        text.append(f"{clean(classes[i], name_width):>{name_width}} ", style=colour)
        length = round(float(probabilities[i]) * room * 8)
        full, rest = divmod(length, 8)
        drawn = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
        text.append(f"{drawn:<{room}}", style=colour or colours["secondary"])
        text.append(f" {probabilities[i]:.3f}", style="bold" if role else "")
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


def history(moments: Sequence[Moment], colours: dict[str, str], width: int) -> Text:
    """Right or wrong at each evaluation, the actual class's probability, one cell each.

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
    text.append("\np(actual) ", style=colours["secondary"])
    text.append(
        "".join(EIGHTHS[min(7, int(moment.p_actual * 8))] for moment in shown),
        style=colours["primary"],
    )
    return text

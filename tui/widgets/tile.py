"""What is written at an image of the grid: classes, probabilities, index."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style

TILE = 32
"""Cells of a tile's width: an image at one column a pixel."""

DOUBTFUL = "?"
"""Behind a label that people doubt."""

Line = list[Segment]


@dataclass(frozen=True)
class Look:
    """The styles of a page."""

    plain: Style
    dim: Style
    actual: Style
    doubtful: Style
    """An actual class that people doubt."""
    predicted: Style
    cursor: Style


@dataclass(frozen=True)
class Words:
    """What is written at an image."""

    index: int
    actual: str
    predicted: str
    p_actual: str
    p_predicted: str
    right: bool
    doubtful: bool = False
    """People doubt the actual class."""

    @property
    def label(self) -> str:
        """The actual class, marked if people doubt it."""
        return f"{self.actual}{DOUBTFUL}" if self.doubtful else self.actual


def below(w: Words, look: Look, *, here: bool) -> list[Line]:
    """Two lines below a large image."""
    number = f" #{w.index}"
    room = TILE - cell_len(number)
    names = f"{w.label} ✓" if w.right else f"{w.label} → {w.predicted}"
    if cell_len(names) > room:
        half = (room - 3) // 2
        names = f"{cut(w.label, half)} → {cut(w.predicted, room - 3 - half)}"
    arrow = names.find(" → ")
    split = len(names) if arrow < 0 else arrow
    first = [
        Segment(names[:split], look.doubtful if w.doubtful else look.actual),
        Segment(names[split : split + 3], look.dim),
        Segment(names[split + 3 :], look.predicted),
        Segment(" " * max(0, room - cell_len(names)), look.plain),
        Segment(number, look.dim),
    ]
    # "p() 0.97  p() 0.02" without the names takes 18 cells, with ">.99" as well
    share = TILE - 10 - len(w.p_predicted) - len(w.p_actual)
    predicted, actual = w.predicted, w.actual
    if cell_len(predicted) + cell_len(actual) > share:
        predicted = cut(predicted, max(share // 2, share - cell_len(actual)))
        actual = cut(actual, share - cell_len(predicted))
    second = f"p({predicted}) {w.p_predicted}"
    if not w.right:
        second += f"  p({actual}) {w.p_actual}"
    lines = [first, [Segment(fit(second, TILE), look.plain)]]
    return [under_cursor(line, look) for line in lines] if here else lines


def beside(w: Words, look: Look, *, here: bool) -> list[Line]:
    """Eight lines to the right of a small image."""
    width = TILE // 2
    lines: list[tuple[str, Style]] = [
        (f"#{w.index}", look.dim),
        (f"{w.label} ✓" if w.right else w.label, look.doubtful if w.doubtful else look.actual),
        ("" if w.right else f"→ {w.predicted}", look.predicted),
        ("", look.plain),
        (f"p({cut(w.predicted, width - 4)})", look.plain),
        (f"  {w.p_predicted}", look.plain),
        ("" if w.right else f"p({cut(w.actual, width - 4)})", look.plain),
        ("" if w.right else f"  {w.p_actual}", look.plain),
    ]
    drawn = [[Segment(" " + fit(words, width - 1), style)] for words, style in lines]
    return [under_cursor(line, look) for line in drawn] if here else drawn


def under_cursor(line: Line, look: Look) -> Line:
    """The same under the cursor."""
    return [Segment(part.text, (part.style or look.plain) + look.cursor) for part in line]


def cut(text: str, width: int) -> str:
    """At most so many cells; a longer text ends in an ellipsis."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…" if width > 0 else ""


def fit(text: str, width: int) -> str:
    """Exactly so many cells."""
    return set_cell_size(cut(text, width), width)

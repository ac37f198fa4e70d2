"""A chart as lines of text: plotext draws the curves, axes and limits are decided here.

The frame stands still while a run goes on: labels have a fixed width, limits change in steps, and
there is no frame to the right of the newest point that would have to be painted again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from tui import formatting
from tui.charts import curves
from tui.charts.curves import Axis, Points, Quantity

LABEL_WIDTH = 6
GUTTER = LABEL_WIDTH + 1
"""Columns to the left of the canvas: the labels of the values and the axis."""
DOTS = 2
"""Dots of a curve beside one another in a column."""
DOTS_HIGH = 4
"""Dots above one another in a line."""
FOOT = 2
"""Lines below the canvas: the axis and its labels."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A line of the chart and how it looks."""

    label: str
    """What it shows, with the split's name; empty for raw lines: they are not under the cursor."""
    points: Points
    colour: str
    """``#rrggbb``, already blended."""
    dotted: bool = False
    behind: bool = False
    """Raw lines: they do not decide the limits."""
    mark: str = ""
    """The run's glyph, where several runs are shown."""
    end: str = ""
    """A glyph at its last point, where colours do not tell curves apart."""
    exact: Points | None = None
    """The values for the cursor where the line is smoothed."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that decides the picture."""

    title: str
    legend: tuple[tuple[str, str, str], ...]
    """Sample of the line, what it shows, colour."""
    quantity: Quantity
    axis: Axis
    curves: tuple[Curve, ...]
    x_limits: tuple[float, float]
    zoomed: bool = False
    log: bool = False


@dataclass(frozen=True)
class Frame:
    """The axes of a chart; values as they are drawn, so logarithms where the axis has them."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def draw(plan: Plan, width: int, height: int, ink: str) -> list[Strip]:
    """Lines of the chart, without background; ``ink`` is the colour of the axes."""
    low, high = plan.x_limits
    shown = [curves.within(curve.points, low, high) for curve in plan.curves]
    if plan.log:
        shown = [curves.log_points(points) for points in shown]
    axes = frame(plan, shown, width, height)
    bottom, top = axes.y
    visible = [
        (curve, Points(points.x, np.clip(points.y, bottom, top)))
        for curve, points in zip(plan.curves, shown, strict=True)
    ]
    return draw_in(axes, visible, width, height, ink)


def draw_in(
    axes: Frame,
    visible: Sequence[tuple[Curve, Points]],
    width: int,
    height: int,
    ink: str,
) -> list[Strip]:
    """Lines of a chart whose axes are given; the points lie within their limits."""
    built = _build(axes, visible, width, height, width - GUTTER, ink)
    _write_ends(built, axes, visible, width - GUTTER, height - FOOT)
    return _strips(built, width, height)


def frame(plan: Plan, shown: Sequence[Points], width: int, height: int) -> Frame:
    """Limits and ticks for the curves within the window."""
    main = [p for c, p in zip(plan.curves, shown, strict=True) if not c.behind]
    if not any(np.isfinite(points.y).any() for points in main):
        main = [_without_outliers(points) for points in shown]
    if plan.log:
        y = curves.log_limits(main)
    else:
        y = curves.value_limits(main, plan.quantity, fit=plan.zoomed)
    # a label every ten columns and every four lines or so
    parts_x, parts_y = max(2, (width - GUTTER) // 12), max(2, (height - FOOT) // 4)
    return Frame(plan.x_limits, y, _x_ticks(plan, parts_x), _y_ticks(plan, y, parts_y))


def _without_outliers(points: Points) -> Points:
    known = points.finite()
    if len(known) < 50:
        return known
    low, high = np.quantile(known.y, (0.02, 0.98))
    return Points(known.x, np.clip(known.y, low, high))


def _x_ticks(plan: Plan, parts: int) -> tuple[tuple[float, str], ...]:
    low, high = plan.x_limits
    if plan.axis == "time":
        return tuple((t, _clock(t)) for t in curves.time_ticks(low, high, parts))
    found = curves.whole_ticks(low, high, parts)
    return tuple((t, _whole(t)) for t in found)


def _whole(number: float) -> str:
    """A whole number with all its digits: 950, 25000, 112.5k, 1.25M, 2.000005M."""
    if number < 1e5:
        return f"{number:.0f}"
    return f"{number / 1e3:g}k" if number < 1e6 else f"{number / 1e6:.15g}M"


def _clock(seconds: float) -> str:
    return "0" if seconds == 0 else formatting.clock(seconds)


def _y_ticks(plan: Plan, y: tuple[float, float], parts: int) -> tuple[tuple[float, str], ...]:
    if plan.log:
        found = curves.log_ticks(*y)
        if len(found) > parts * 2:
            found = [t for t in found if abs(t - round(t)) < 1e-9] or found[:1]
        return tuple((t, f"{10**t:.3g}".rjust(LABEL_WIDTH)) for t in found)
    found = curves.ticks(*y, parts)
    step = found[1] - found[0] if len(found) > 1 else y[1] - y[0]
    if plan.quantity == "accuracy":
        return tuple((t, _percent(100 * t, 100 * step).rjust(LABEL_WIDTH)) for t in found)
    return tuple((t, _label(t, step).rjust(LABEL_WIDTH)) for t in found)


def _digits(step: float) -> int:
    """Digits behind the point that multiples of a round step have, of all labels alike."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return digits + (abs(float(f"{step:.{digits}f}") - step) > step / 100)  # 2.5: one more


def _percent(number: float, step: float) -> str:
    """The same as per cent: with fewer digits where all of them do not fit but some tell it."""
    for digits in range(_digits(step), -1, -1):
        words = f"{number:.{digits}f}"
        if len(words) < LABEL_WIDTH and abs(float(words) - number) <= step / 100:
            return f"{words}%"
    return ""


def _label(number: float, step: float) -> str:
    """A multiple of a round step (1, 2, 2.5 or 5 times a power of ten) in six cells, or nothing
    where it would read as another number.
    """
    if abs(number) < step / 2:
        return "0"
    digits = _digits(step)
    plain = f"{number:.{digits}f}"
    if len(plain) <= LABEL_WIDTH and abs(number) < 1e6:
        return plain
    mantissa, _, exponent = f"{number:.3e}".partition("e")
    short = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    fits = len(short) <= LABEL_WIDTH and abs(float(short) - number) <= step / 100
    return short if fits else ""


def _build(
    axes: Frame,
    visible: Sequence[tuple[Curve, Points]],
    width: int,
    height: int,
    columns: int,
    ink: str,
) -> list[tuple[list[str], list[Any]]]:
    """Characters and colours of each line, from the top."""
    from textual_plotext.plot import Plot  # loaded when the first chart is drawn

    figure: Any = Plot()
    figure.plotsize(width, height)
    figure._set_size(width, height)
    figure.theme("clear")
    figure.ticks_color(_rgb(ink))
    figure.xaxes(True, False)
    figure.yaxes(True, False)
    figure.xlim(*axes.x)
    figure.ylim(*axes.y)
    figure.xticks([t for t, _ in axes.x_ticks], [name for _, name in axes.x_ticks])
    figure.yticks([t for t, _ in axes.y_ticks], [name for _, name in axes.y_ticks])
    nothing = True
    for curve, points in visible:
        for part in _parts(points):
            nothing = False
            colour = _rgb(curve.colour)
            if len(part) == 1:
                figure.scatter(part.x.tolist(), part.y.tolist(), color=colour, marker="•")
            elif curve.behind and len(part) > columns:
                # a cloud: lines through noise cost plotext three times as much and hide the rest
                part = curves.reduce(part, columns, *axes.x)
                figure.scatter(part.x.tolist(), part.y.tolist(), color=colour, marker="braille")
            elif curve.dotted:
                part = _dots(part, axes.x, columns)
                figure.scatter(part.x.tolist(), part.y.tolist(), color=colour, marker="braille")
            else:
                part = curves.reduce(part, columns, *axes.x)
                figure.plot(part.x.tolist(), part.y.tolist(), color=colour, marker="braille")
    if nothing:  # plotext draws no axes without a point: one outside of the canvas
        figure.scatter([axes.x[0] - 1], [axes.y[0]], color=_rgb(ink), marker=" ")
    # the matrix of characters and colours: its text with escape sequences takes as long again
    figure._set_sizes()
    figure._build_matrix()
    matrix = figure.monitor.matrix
    return list(zip(matrix.marker, matrix.fullground, strict=True))[::-1]


def _write_ends(
    built: list[tuple[list[str], list[Any]]],
    axes: Frame,
    visible: Sequence[tuple[Curve, Points]],
    columns: int,
    rows: int,
) -> None:
    """Put the curves' glyphs where they end, those of later ones on top."""
    for curve, points in visible:
        known = points.finite()
        if not curve.end or not len(known):
            continue
        x = _place(known.x[-1], axes.x, DOTS * columns) // DOTS
        y = _place(known.y[-1], axes.y, DOTS_HIGH * rows) // DOTS_HIGH
        characters, colours = built[rows - 1 - y]
        characters[GUTTER + x], colours[GUTTER + x] = curve.end, _rgb(curve.colour)


def _place(number: float, limits: tuple[float, float], dots: int) -> int:
    """The dot that plotext draws for a number."""
    low, high = limits
    return math.floor(round(0.5 + (dots - 1) * (number - low) / (high - low), 8))


def _parts(points: Points) -> list[Points]:
    """The stretches between gaps."""
    known = np.isfinite(points.y)
    if known.all():
        return [points] if len(points) else []
    edges = np.flatnonzero(np.diff(known.astype(np.int8), prepend=0, append=0))
    return [Points(points.x[a:b], points.y[a:b]) for a, b in edges.reshape(-1, 2)]


def _dots(points: Points, x: tuple[float, float], columns: int) -> Points:
    """A dot in every column on the line through the points."""
    if len(points) > columns:
        return curves.reduce(points, columns, *x)
    grid = np.linspace(x[0], x[1], columns)
    grid = grid[(grid > points.x[0]) & (grid < points.x[-1])]
    at = np.concatenate([points.x[:1], grid, points.x[-1:]])
    return Points(at, np.interp(at, points.x, points.y))


def _strips(built: list[tuple[list[str], list[Any]]], width: int, height: int) -> list[Strip]:
    """The lines as strips; blanks join the text before them, whatever its colour."""
    strips = []
    for characters, colours in built[:height]:
        segments: list[Segment] = []
        text, current = "", None  # type: str, Any
        for character, colour in zip(characters, colours, strict=True):
            if character != " " and colour != current:
                if text.strip():
                    segments.append(Segment(text, _style(current)))
                    text = ""
                current = colour
            text += character
        segments.append(Segment(text, _style(current)))
        strips.append(Strip(segments).adjust_cell_length(width))
    return strips


@lru_cache(maxsize=256)
def _style(colour: object) -> Style | None:
    """plotext's colours are tuples, or a word where there is none."""
    return Style(color="#{:02x}{:02x}{:02x}".format(*colour)) if type(colour) is tuple else None


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)

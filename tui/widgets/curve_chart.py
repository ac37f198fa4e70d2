"""A chart of curves: plotext draws it, and only the cells that changed are repainted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text
from textual import events
from textual.color import Color
from textual.message import Message
from textual.strip import Strip

from tui import curves, formatting
from tui.curves import Axis, Points
from tui.widgets.lines import Lines, from_ansi, to_strip


@dataclass(frozen=True)
class Curve:
    """A line of the chart and how it looks."""

    label: str
    """Name for the legend; empty for none."""
    points: Points
    colour: str
    """``#rrggbb``."""
    faint: float = 0.0
    """Share of the background in the colour: 0 for test, more for train and raw lines."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides the picture; an equal plan is not drawn again."""

    title: str
    curves: tuple[Curve, ...]
    axis: Axis
    x_limits: tuple[float, float]
    share: bool = False
    """Whether values are shares of 1, shown as per cent."""
    log: bool = False
    cursor: float | None = None
    """Position of the value cursor on the x axis."""


class CurveChart(Lines):
    """Draws a plan; one title line with the legend, or the values under the cursor."""

    DEFAULT_CSS = "CurveChart { width: 1fr; height: 1fr; }"

    class Pointed(Message):
        """The mouse points at a position of the x axis."""

        def __init__(self, x: float) -> None:
            super().__init__()
            self.x = x

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._plan: Plan | None = None
        self._drawn: tuple[Any, ...] = ()
        self._left = 0
        self.drawings = 0
        """How often plotext was asked to draw: what a repaint costs."""

    def draw(self, plan: Plan) -> None:
        """Show a plan, now or as soon as there is room."""
        self._plan = plan
        self._redraw()

    def on_resize(self) -> None:
        """Draw for the new size."""
        self._redraw()

    def _redraw(self) -> None:
        width, height = self.size
        background = self.app.current_theme.background or "#000000"
        key = (self._plan, width, height, background)
        if self._plan is None or width < 20 or height < 5 or key == self._drawn:
            return
        self._drawn = key
        self.drawings += 1
        body = _plot(self._plan, width, height - 1, background)
        self._left = max((strip.text.find("│") for strip in body), default=0) + 1
        self.set_lines([self._head(width), *body])

    def _head(self, width: int) -> Strip:
        plan = self._plan
        assert plan is not None
        text = Text(f" {plan.title} ", style="bold", no_wrap=True, end="")
        if plan.cursor is not None:
            text.append(f" {position(plan.cursor, plan.axis)} ", style="reverse")
        for curve in plan.curves:
            if not curve.label:
                continue
            text.append("  ━ ", style=mix(curve, self.app.current_theme.background or "#000000"))
            text.append(formatting.clean(curve.label, 28))
            if plan.cursor is not None and (hit := curves.at(curve.points, plan.cursor)):
                text.append(f" {value(hit[1], share=plan.share)}", style="bold")
        text.truncate(width, overflow="ellipsis")
        return to_strip(text)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Tell where on the x axis the mouse is, while a cursor is shown."""
        if self._plan is None or self._plan.cursor is None or event.x < self._left:
            return
        low, high = self._plan.x_limits
        share = (event.x - self._left) / max(1, self.size.width - self._left - 2)
        self.post_message(self.Pointed(low + min(1.0, share) * (high - low)))


def value(number: float, *, share: bool) -> str:
    """A value under the cursor."""
    return formatting.percent(number) if share else formatting.decimal(number)


def position(x: float, axis: Axis) -> str:
    """A place on the x axis in words."""
    if axis == "time":
        return formatting.duration(x, tenths=False)
    return f"{axis} {x:.0f}" if axis == "step" else f"epoch {x:.4g}"


def mix(curve: Curve, background: str) -> str:
    """The curve's colour, blended into the background as far as it is faint."""
    return Color.parse(curve.colour).blend(Color.parse(background), curve.faint).hex6.lower()


def _plot(plan: Plan, width: int, height: int, background: str) -> list[Strip]:
    from textual_plotext.plot import Plot  # imported late: plotext is slow to load

    figure = Plot()
    figure.plotsize(width, height)
    figure._set_size(width, height)
    figure.theme("clear")
    low, high = plan.x_limits
    shown = [curves.within(curve.points, low, high) for curve in plan.curves]
    if plan.log:
        shown = [curves.log_points(points) for points in shown]
    shown = [curves.reduce(points, max(10, width - 8)) for points in shown]
    bottom, top = curves.limits(shown, share=plan.share and not plan.log)
    for curve, points in zip(plan.curves, shown, strict=True):
        if points:
            colour = Color.parse(mix(curve, background)).rgb
            if len(points.x) == 1:
                figure.scatter(list(points.x), list(points.y), color=colour, marker="●")
            else:
                figure.plot(list(points.x), list(points.y), color=colour, marker="braille")
    if plan.cursor is not None:
        figure.vline(plan.cursor, color=(128, 128, 128))
    figure.xlim(low, high)
    figure.ylim(bottom, top)
    figure.xticks(*_x_ticks(plan, width))
    figure.yticks(*_y_ticks(bottom, top, plan))
    return from_ansi(figure.build().rstrip("\n"))[:height]


def _x_ticks(plan: Plan, width: int) -> tuple[list[float], list[str]]:
    low, high = plan.x_limits
    step = curves.nice_step(max(high - low, 1e-9))
    if plan.axis != "time":
        step = max(1.0, float(round(step)))
    first = -(-low // step) * step
    ticks = [first + i * step for i in range(int((high - first) / step + 1e-9) + 1)]
    if plan.axis == "time":
        return ticks, [formatting.duration(t, tenths=False) for t in ticks]
    return ticks, [f"{t:g}" if t < 1e5 else formatting.compact(t) for t in ticks]


def _y_ticks(bottom: float, top: float, plan: Plan) -> tuple[list[float], list[str]]:
    step = curves.nice_step(top - bottom)
    ticks = [bottom + i * step for i in range(int((top - bottom) / step + 1e-9) + 1)]
    # all of one width: the frame must not move when the numbers grow
    if plan.log:
        return ticks, [f"{10**t:>6.3g}" for t in ticks]
    if plan.share:
        return ticks, [f"{100 * t:>4.0f} %" if step >= 0.01 else f"{100 * t:>4.1f}%" for t in ticks]
    return ticks, [f"{t:>6.4g}" for t in ticks]


def limits_of(axis: Axis, points: Sequence[Points], planned: float) -> tuple[float, float]:
    """Limits of the x axis: the whole plan for epochs and steps, a growing round span for time."""
    reached = max((p.x[-1] for p in points if p), default=0.0)
    if axis == "time":
        step = curves.nice_step(max(reached, 10.0))
        return 0.0, (int(reached / step) + 1) * step
    return 0.0, max(planned, reached, 1.0)

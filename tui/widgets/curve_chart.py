"""A chart of curves that costs nothing until a curve changes: drawn once, kept as lines."""

from __future__ import annotations

from collections.abc import Callable

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from tui import formatting
from tui.charts import curves, figure
from tui.charts.curves import Axis
from tui.charts.figure import GUTTER, Curve, Plan
from tui.widgets.lines import Lines, to_strip

LEAST = Size(GUTTER + 8, 6)
SHORT_NAMES = 56
"""Below this width a value under the cursor has its split's name alone before it."""
_HALF: dict[Axis, float] = {"epoch": 0.5, "step": 0.0, "time": 1.0}
"""So far behind its last point a curve still has a value under the cursor."""


class CurveChart(Lines):
    """One title line with the legend, or the values under the cursor, and the chart below."""

    DEFAULT_CSS = "CurveChart { width: 1fr; height: 1fr; }"
    PLAIN = True

    class Pointed(Message):
        """The mouse is at a position of the x axis."""

        def __init__(self, x: float, *, clicked: bool) -> None:
            super().__init__()
            self.x = x
            self.clicked = clicked

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._key: object = None
        self._build: Callable[[], Plan] | None = None
        self._plan: Plan | None = None
        self._body: list[Strip] = []
        self._drawn: tuple[object, ...] = ()
        self._cursor: float | None = None
        self.drawings = 0
        """How often the chart was drawn: what costs milliseconds."""

    @property
    def plan(self) -> Plan | None:
        """What is shown."""
        return self._plan

    def draw(self, key: object, build: Callable[[], Plan], cursor: float | None) -> None:
        """Show a plan, now or as soon as there is room; an equal key is not drawn again."""
        self._key, self._build, self._cursor = key, build, cursor
        self._redraw()

    def on_resize(self) -> None:
        """Draw for the new size."""
        self._redraw()

    def _redraw(self) -> None:
        size, theme = self.size, self.app.theme
        if self._build is None or not self.display:
            return
        if size.width < LEAST.width or size.height < LEAST.height:
            self.set_lines([])
            self._drawn = ()
            return
        if (self._key, size, theme) != self._drawn:
            self._plan = self._build()
            ink = self.app.theme_variables["secondary"]
            self._body = figure.draw(self._plan, size.width, size.height - 1, ink)
            self._drawn = (self._key, size, theme)
            self.drawings += 1
        assert self._plan is not None
        self.set_lines([self._head(self._plan), *self._with_cursor(self._body)])

    # ---- the line above ---------------------------------------------------------------------

    def _head(self, plan: Plan) -> Strip:
        if self._cursor is None:
            text = self._titled(plan.title)
            self._append_legend(text, plan)
        else:
            title = "" if plan.title.startswith("(") else plan.title
            text = self._titled(title)
            if not self._append_values(text, plan, self._cursor):
                text = self._titled(title.partition(" (")[0])
                self._append_values(text, plan, self._cursor)
        text.truncate(self.size.width, overflow="ellipsis")
        return to_strip(text)

    def _titled(self, title: str) -> Text:
        text = Text(" ", no_wrap=True, end="")
        if title:
            text.append(f"{title} ", style=f"bold {self.app.theme_variables['foreground']}")
        return text

    def _append_legend(self, text: Text, plan: Plan) -> None:
        """The entries that there is room for; what stands in brackets goes first."""
        room = self.size.width - text.cell_len
        whole = sum(len(label) + 4 for _, label, _ in plan.legend) <= room
        for sample, label, colour in plan.legend:
            words = label if whole else label.partition(" (")[0]
            if text.cell_len + len(words) + 4 > self.size.width:
                continue
            text.append(f" {sample} ", style=colour)
            text.append(f"{words} ", style=self.app.theme_variables["foreground"])

    def _append_values(self, text: Text, plan: Plan, x: float) -> bool:
        """The values of the curves that reach so far, the chosen run's first, as many as fit.

        Behind them how many more there are; ``False`` where there are some and none fits.
        """
        foreground = self.app.theme_variables["foreground"]
        text.append(f"{position(x, plan.axis)} ", style=f"reverse {foreground}")
        found: list[tuple[Curve, str]] = []
        for curve in reversed(plan.curves):
            exact = curve.exact or curve.points
            if not curve.label or not len(exact) or x > exact.x[-1] + _HALF[plan.axis]:
                continue
            hit = curves.at(exact, x)
            if hit is None:
                continue
            words = value(hit[1], plan, brief=bool(curve.mark))
            if abs(hit[0] - x) > self._near(plan):
                words += f" ({place(hit[0], plan.axis)})"  # where the nearest value is
            found.append((curve, words))
        for left, (curve, words) in zip(range(len(found), 0, -1), found, strict=True):
            name = curve.mark or curve.label
            if not curve.mark and self.size.width < SHORT_NAMES:
                name = name.split()[0]
            more = f"  +{left - 1}" if left > 1 else ""
            room = self.size.width - text.cell_len - len(words) - len(more) - 3
            if len(name) > room:
                name = name.partition(" (")[0]
                if len(name) > room:
                    text.append(f"  +{left}", style=self.app.theme_variables["secondary"])
                    return left < len(found)
            text.append(f"  {name} ", style=curve.colour)
            text.append(words, style=f"bold {foreground}")
        return True

    def _near(self, plan: Plan) -> float:
        """So far from the cursor a value is still of its place: half an epoch, or a column."""
        low, high = plan.x_limits
        column = (high - low) / max(1, self.size.width - GUTTER - 1)
        return _HALF["epoch"] if plan.axis == "epoch" else column

    # ---- the cursor -------------------------------------------------------------------------

    def _with_cursor(self, body: list[Strip]) -> list[Strip]:
        column = self._column()
        if column is None:
            return body
        bar = Segment("│", Style(color=self.app.theme_variables["foreground"]))
        canvas = len(body) - figure.FOOT
        return [
            Strip.join([line.crop(0, column), Strip([bar]), line.crop(column + 1)])
            if y < canvas and line.text[column] == " "
            else line
            for y, line in enumerate(body)
        ]

    def _column(self) -> int | None:
        if self._cursor is None or self._plan is None:
            return None
        low, high = self._plan.x_limits
        if not low <= self._cursor <= high:
            return None
        last = self.size.width - GUTTER - 1
        return GUTTER + int(0.5 + last * (self._cursor - low) / (high - low))

    def _pointed(self, column: int, *, clicked: bool) -> None:
        if self._plan is None or column < GUTTER:
            return
        low, high = self._plan.x_limits
        share = (column - GUTTER) / max(1, self.size.width - GUTTER - 1)
        self.post_message(self.Pointed(low + min(1.0, share) * (high - low), clicked=clicked))

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Tell where the mouse is while a cursor is shown."""
        if self._cursor is not None:
            self._pointed(event.x, clicked=False)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor there."""
        self._pointed(event.x, clicked=True)


def value(number: float, plan: Plan, *, brief: bool) -> str:
    """A value under the cursor."""
    if plan.quantity == "lr":
        return formatting.rate(number)
    if plan.quantity == "accuracy":
        return formatting.percent(number, 1 if brief else 2)
    return formatting.decimal(number, 3 if brief else 4)


def position(x: float, axis: Axis) -> str:
    """A place on the x axis in words."""
    return place(x, axis) if axis == "time" else f"{axis} {place(x, axis)}"


def place(x: float, axis: Axis) -> str:
    """The same without the axis's name; within an epoch, as the learning rate has it, in tenths."""
    if axis == "time":
        return formatting.clock(x)
    return f"{x:,.0f}" if axis == "step" or x == round(x) else f"{x:,.1f}"

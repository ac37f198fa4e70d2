"""What the screens with charts share: the keys for axes, smoothing, zoom and cursor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from textual.binding import Binding, BindingType

from trainer.runstate import Follower
from tui import curves
from tui.curves import Axis, Points, Quantity, Split
from tui.screens.base import StoreScreen
from tui.store import ACTIVE, Changes
from tui.widgets.curve_chart import Curve, CurveChart, Plan, limits_of
from tui.widgets.run_table import name_of

REPAINT_SECONDS = 1.0
TRAIN_FAINT, RAW_FAINT = 0.45, 0.7


def _key(key: str, action: str, name: str, tooltip: str, *, show: bool = False) -> BindingType:
    stable = "charts." + action.partition("(")[0]
    return Binding(key, action, name, id=f"{stable}.{key}", tooltip=tooltip, show=show)


class ChartScreen(StoreScreen):
    """Keeps how charts are shown; subclasses say which charts there are in ``plans``."""

    BINDINGS = [
        _key("e", "axis", "Axis", "x axis: epoch, step or time", show=True),
        _key("l", "log", "Log", "Logarithmic y axis of the loss", show=True),
        _key("m", "smooth(1)", "Smooth", "More smoothing; the raw line stays, faint", show=True),
        _key("M", "smooth(-1)", "Less smooth", "Less smoothing"),
        _key("v", "cursor", "Cursor", "Values under a cursor; arrows or the mouse move it"),
        _key("plus,z", "zoom(0.5)", "Zoom in", "Show half of the x axis"),
        _key("minus", "zoom(2)", "Zoom out", "Show twice as much of the x axis"),
        _key("left", "move(-1)", "Left", "Move the cursor or the window"),
        _key("right", "move(1)", "Right", "Move the cursor or the window"),
        _key("f", "focus_chart", "Enlarge", "One chart alone, the next one, all"),
    ]
    CHARTS: tuple[str, ...] = ()
    """Ids of the charts."""

    def __init__(self) -> None:
        super().__init__()
        self.axis: Axis = "epoch"
        self.log_y = False
        self.smoothing = 0
        self.window: tuple[float, float] | None = None
        self.cursor: float | None = None
        self.enlarged: int | None = None
        self._drawn_at = 0.0
        self._drawn_points: Any = None
        self._limits: tuple[float, float] = (0.0, 1.0)

    # ---- what subclasses say ----------------------------------------------------------------

    def plans(self) -> dict[str, Plan]:
        """The charts to show now, by id."""
        raise NotImplementedError

    def runs_shown(self) -> list[Follower]:
        """The runs whose curves the charts have; the chosen one last, so that it is on top."""
        marked = self.store.marked()
        current = self.store.current
        if current is not None and current not in marked:
            marked.append(current)
        return marked

    # ---- painting ---------------------------------------------------------------------------

    def draw_charts(self, *, now: bool = False) -> None:
        """Draw when a curve has a new point, at most once a second; at once after a key."""
        runs = self.runs_shown()
        colours = tuple(self.cifar.run_colour(run.run.id) for run in runs)
        points = (tuple((run.run.id, id(run.state), run.state.points) for run in runs), colours)
        if not now and points == self._drawn_points:
            return
        if not now and time.monotonic() - self._drawn_at < self._pace(points):
            return
        self._drawn_points, self._drawn_at = points, time.monotonic()
        for name, plan in self.plans().items():
            self.query_one(f"#{name}", CurveChart).draw(plan)

    def _pace(self, points: Any) -> float:
        """Seconds between two pictures; other runs or colours are shown at once."""
        before = self._drawn_points
        same = before is not None and [p[:2] for p in before[0]] == [p[:2] for p in points[0]]
        return REPAINT_SECONDS if same and before[1] == points[1] else 0.0

    def redraw_later(self, changes: Changes) -> None:
        """Called at each poll: draws what is due."""
        self.draw_charts()

    # ---- plans ------------------------------------------------------------------------------

    def plan(self, title: str, quantity: Quantity, splits: Sequence[Split], *, raw: bool) -> Plan:
        """A chart of one quantity of all shown runs.

        ``raw`` adds the training means over a few steps, faintly; they are no epoch's mean and
        have no place in the legend.
        """
        shown: list[Curve] = []
        runs = self.runs_shown()
        everything: list[Points] = []
        for run in runs:
            colour = self.cifar.run_colour(run.run.id)
            if raw and quantity != "lr" and (len(runs) == 1 or run is self.store.current):
                points = curves.step_points(run.state, quantity, self.axis)
                shown.append(Curve("", points, colour, RAW_FAINT))
                everything.append(points)
            for split in splits:
                points = self._points(run, quantity, split)
                everything.append(points)
                faint = TRAIN_FAINT if split == "train" and len(splits) > 1 else 0.0
                label = _label(run, split, quantity, runs, splits)
                weight = curves.SMOOTHING[self.smoothing]
                if weight and len(points.x) > 2:
                    shown.append(Curve("", points, colour, RAW_FAINT))
                    points = curves.smooth(points, weight)
                shown.append(Curve(label, points, colour, faint))
        self._limits = limits_of(self.axis, everything, self._planned(runs))
        return Plan(
            title=title + self._suffix(quantity),
            curves=tuple(shown),
            axis=self.axis,
            x_limits=self.window or self._limits,
            share=quantity == "accuracy",
            log=self.log_y and quantity == "loss",
            cursor=self.cursor,
        )

    def _points(self, run: Follower, quantity: Quantity, split: Split) -> Points:
        if quantity == "lr":
            return curves.step_points(run.state, "lr", self.axis)
        return curves.epoch_points(run.state, quantity, split, self.axis)

    def _planned(self, runs: Sequence[Follower]) -> float:
        if self.axis == "epoch":
            return float(max((r.state.queued.epochs for r in runs if r.state.queued), default=1))
        steps = [
            r.state.queued.epochs * r.state.started.steps_per_epoch
            for r in runs
            if r.state.queued is not None and r.state.started is not None
        ]
        return float(max(steps, default=1))

    def _suffix(self, quantity: Quantity) -> str:
        words = [f"by {self.axis}"] if self.axis != "epoch" else []
        words += ["log"] if self.log_y and quantity == "loss" else []
        weight = curves.SMOOTHING[self.smoothing]
        words += [f"smoothed {weight:g}"] if weight else []
        return f" ({', '.join(words)})" if words else ""

    # ---- keys -------------------------------------------------------------------------------

    def action_axis(self) -> None:
        """Next x axis."""
        self.axis = curves.AXES[(curves.AXES.index(self.axis) + 1) % len(curves.AXES)]
        self.window = self.cursor = None
        self.draw_charts(now=True)

    def action_log(self) -> None:
        """Logarithmic y axis of the loss, or not."""
        self.log_y = not self.log_y
        self.draw_charts(now=True)

    def action_smooth(self, step: int) -> None:
        """More or less smoothing."""
        self.smoothing = min(max(self.smoothing + step, 0), len(curves.SMOOTHING) - 1)
        self.draw_charts(now=True)

    def action_cursor(self) -> None:
        """Show or hide the cursor; it begins at the newest point."""
        low, high = self.window or self._limits
        ends = [p.x[-1] for r in self.runs_shown() if (p := self._points(r, "loss", "train"))]
        self.cursor = None if self.cursor is not None else min(max(ends, default=low), high)
        self.draw_charts(now=True)

    def action_zoom(self, factor: float) -> None:
        """Narrow or widen the window around the cursor or its middle."""
        low, high = self.window or self._limits
        centre = self.cursor if self.cursor is not None else (low + high) / 2
        self._look_at(centre - (centre - low) * factor, centre + (high - centre) * factor)

    def action_move(self, direction: int) -> None:
        """Move the cursor by a fiftieth of the axis, or else the window by a quarter."""
        low, high = self.window or self._limits
        if self.cursor is None:
            if self.window is not None:
                shift = direction * (high - low) / 4
                self._look_at(low + shift, high + shift)
            return
        step = (high - low) / 50
        if self.axis == "epoch":
            step = max(1.0, round(step))
        self.cursor = min(max(self.cursor + direction * step, low), high)
        self.draw_charts(now=True)

    def _look_at(self, low: float, high: float) -> None:
        first, last = self._limits
        width = min(high - low, last - first)
        low = min(max(low, first), last - width)
        whole = width >= last - first
        self.window = None if whole else (low, low + width)
        self.draw_charts(now=True)

    def action_focus_chart(self) -> None:
        """Enlarge the first chart, the next, then show all again."""
        following = 0 if self.enlarged is None else self.enlarged + 1
        self.enlarged = following if following < len(self.CHARTS) else None
        for i, name in enumerate(self.CHARTS):
            self.query_one(f"#{name}").display = self.enlarged in (None, i)
        self.set_class(self.enlarged is not None, "-enlarged")

    def on_curve_chart_pointed(self, message: CurveChart.Pointed) -> None:
        """The mouse moves the cursor."""
        if self.cursor is not None:
            self.cursor = message.x
            self.draw_charts(now=True)


def _label(
    run: Follower,
    split: Split,
    quantity: Quantity,
    runs: Sequence[Follower],
    splits: Sequence[Split],
) -> str:
    words = [name_of(run)] if len(runs) > 1 else []
    if quantity != "lr" and len(splits) > 1:
        words.append(split)
    return " ".join(words) or ("learning rate" if quantity == "lr" else split)


def is_active(run: Follower | None) -> bool:
    """Whether a run trains, waits or is paused."""
    return run is not None and run.status in ACTIVE

"""What the screens with charts share: which curves there are, and the keys of the charts."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from textual.binding import Binding, BindingType
from textual.color import Color
from textual.timer import Timer

from trainer.runs.follower import Follower
from trainer.runs.runstate import ACTIVE
from tui import themes
from tui.charts import curves, figure
from tui.charts.curves import Axis, Points, Quantity, Split
from tui.charts.figure import Curve, Plan
from tui.screens.base import StoreScreen
from tui.widgets.curve_chart import CurveChart

REPAINT_SECONDS = 1.0
SLOWEST_SECONDS = 5.0
"""However little a dot is of the x axis: a curve that stands still looks broken."""
SHARED_PACE = 2
"""All of it so many times as long beside a run on this machine's processor,"""
SHARED_PART = 0.0025
"""and drawing an epoch as it goes on takes at most this part of the time: it is the run's."""
TRAIN_FAINT, RAW_FAINT = 0.35, 0.7
TEST_SAMPLE, TRAIN_SAMPLE, RAW_SAMPLE = "━", "┅", "░"

Chart = tuple[str, Quantity, tuple[Split, ...]]
"""Id, what is shown, of which splits."""


def _key(key: str, action: str, name: str, tooltip: str, *, show: bool = False) -> BindingType:
    stable = "charts." + action.partition("(")[0]
    return Binding(key, action, name, id=f"{stable}.{key}", tooltip=tooltip, show=show)


class ChartScreen(StoreScreen):
    """Keeps how charts are shown; subclasses name the charts."""

    BINDINGS = [
        _key("e", "axis", "Axis", "x axis: epoch, step or time", show=True),
        _key("l", "log", "Log", "Logarithmic y axis of losses", show=True),
        _key("m", "smooth(1)", "Smooth", "More smoothing; the raw line stays, faint", show=True),
        _key("M", "smooth(-1)", "Less smooth", "Less smoothing"),
        _key("v", "cursor", "Values", "Values under a cursor; arrows or mouse move it", show=True),
        _key("f", "enlarge", "Enlarge", "One chart alone, the next one, all", show=True),
        _key("plus", "zoom(0.5)", "Zoom in", "Show half of the x axis"),
        _key("minus", "zoom(2)", "Zoom out", "Show twice as much of the x axis"),
        _key("z", "zoom(0)", "Whole axis", "Show the whole x axis"),
        _key("left", "move(-1)", "Left", "Move the cursor, else the zoomed window"),
        _key("right", "move(1)", "Right", "Move the cursor, else the zoomed window"),
        Binding("shift+left", "move(-10)", show=False),
        Binding("shift+right", "move(10)", show=False),
        Binding("escape", "calm", show=False),
    ]
    CHARTS: tuple[Chart, ...] = ()
    VIEWS: tuple[tuple[str, ...], ...] = ()
    """Ids of the charts that are visible together; ``f`` takes the next."""
    RAW = False
    """Whether the chosen run's training between evaluations is shown, faintly."""

    def __init__(self) -> None:
        super().__init__()
        self.axis: Axis = "epoch"
        self.log_y = False
        self.smoothing = 0
        self.window: tuple[float, float] | None = None
        self.cursor: float | None = None
        self.view = 0
        self._drawn_at = 0.0
        self._drawn: tuple[object, object] | None = None
        self._figures: tuple[int, ...] = ()
        self._dot = 0.0
        self._cost = 0.0
        """Seconds that the last drawing took."""
        self._due: Timer | None = None
        self._due_at = 0.0
        self._waiting: list[Chart] = []
        self._key: object = None
        """What the charts are drawn for that wait."""

    def runs_shown(self) -> list[Follower]:
        """The runs whose curves the charts have; the chosen one last, so that it is on top."""
        current = self.store.current
        marked = [run for run in self.store.marked() if run is not current]
        return [*marked, current] if current is not None else marked

    # ---- painting ---------------------------------------------------------------------------

    def draw_charts(self) -> None:
        """Draw what has changed; new points at most once a second (slower links: less often), and
        within an epoch only when they reach the next dot; everything else at once."""
        runs = self.runs_shown()
        points = tuple((id(run.state), run.state.points) for run in runs)
        figures = tuple(run.state.figures for run in runs)
        look = (
            tuple((run.run.id, self.cifar.run_colour(run.run.id), _live(run)) for run in runs),
            (self.axis, self.log_y, self.smoothing, self.window, self.cursor, self.view),
            self.app.theme,
            self.store.unfinished,  # a long log is drawn at once when all of it is read
        )
        if (points, look) == self._drawn:
            return
        due = self._drawn_at + self._pace(fresh=figures != self._figures)
        wait = due - time.monotonic()
        if self._drawn is not None and look == self._drawn[1] and wait > 0:
            if self._due is None or due < self._due_at:
                if self._due is not None:
                    self._due.stop()
                self._due, self._due_at = self.set_timer(wait, self._draw_due), due
            return
        self._drawn, self._drawn_at = (points, look), time.monotonic()
        self._figures, self._dot = figures, self._dot_seconds()
        self._waiting = [chart for chart in self.CHARTS if chart[0] in self.VIEWS[self.view]]
        self._cost = 0.0
        self._key = (points, look[0], self.axis, self.log_y, self.smoothing, self.window)
        self._draw_next(self._key)

    def draw_charts_when_due(self) -> None:
        """There is progress and nothing else: a drawing that is arranged for comes soon enough."""
        if self._due is None:
            self.draw_charts()

    def _pace(self, *, fresh: bool) -> float:
        """Seconds from one drawing to the next; ``fresh``: an epoch's figures are new."""
        shared = self.cifar.shares_processor
        slow = SHARED_PACE if shared else 1
        pace, slowest = REPAINT_SECONDS * slow, SLOWEST_SECONDS * slow
        if not fresh:
            part = self._cost / SHARED_PART if shared else 0.0
            pace = min(max(pace, self._dot, part), slowest)
        elif shared and self.store.current is not None and _between(self.store.current):
            pace = slowest  # its evaluation has not ended: one drawing for both
        return pace * self.cifar.terminal.charts

    def _dot_seconds(self) -> float:
        """Seconds of training that one dot of the x axis is; 0 while that is not known."""
        run = self.store.current
        end = _end(run, self.axis) if run is not None else None
        if run is None or not end:
            return 0.0
        low, high = self.window or (0.0, self.reach())
        columns = max((chart.size.width for chart in self.query(CurveChart)), default=0)
        dots = figure.DOTS * max(1, columns - figure.GUTTER)
        return run.state.elapsed * (high - low) / end / dots

    def _draw_next(self, key: object) -> None:
        """Draw a chart, the next after it is on the screen: a key is answered in half the time.

        ``key`` is what the drawing was begun for: another one, begun since, goes on by itself.
        """
        if not self._waiting or key is not self._key:
            return
        name, quantity, splits = self._waiting.pop(0)
        build = partial(self.plan, quantity, splits)
        began = time.thread_time()
        self.query_one(f"#{name}", CurveChart).draw(key, build, self.cursor)
        self._cost += time.thread_time() - began
        if self._waiting:
            self.call_after_refresh(self._draw_next, key)

    def _draw_due(self) -> None:
        self._due = None
        self.draw_charts()

    def show_view(self) -> None:
        """Show the charts of the chosen view, hide the others."""
        visible = self.VIEWS[self.view]
        for name, _, _ in self.CHARTS:
            self.query_one(f"#{name}").display = name in visible
        self.set_class(self.view > 0, "-enlarged")
        self.call_after_refresh(self.keep_focus)

    # ---- plans ------------------------------------------------------------------------------

    def plan(self, quantity: Quantity, splits: tuple[Split, ...]) -> Plan:
        """A chart of one quantity of all shown runs.

        Of the chosen run there are also the training means over a few steps, faintly: no epoch's
        mean, so they count neither for the axis nor for the cursor.
        """
        runs = self.runs_shown()
        alike = self.cifar.terminal.few_colours or self.app.no_color
        shown: list[Curve] = []
        legend: list[tuple[str, str, str]] = []
        for run in runs:
            colour = self.cifar.run_colour(run.run.id)
            mark = self.glyph(run) if len(runs) > 1 else ""
            own = run is self.store.current and self.RAW and quantity != "lr"
            found: list[Curve] = []
            for split in splits:
                found += self._curves(run, quantity, split, colour, mark, dotted=len(splits) > 1)
            if alike:
                found = [curve if curve.behind else replace(curve, end=mark) for curve in found]
            if own:
                raw = curves.step_points(run.state, quantity, self.axis)
                found.insert(0, Curve("", raw, self.blend(colour, RAW_FAINT), behind=True))
            shown += sorted(found, key=lambda curve: not curve.behind)
            if run is runs[-1]:
                legend = self._legend(run, quantity, splits, colour, raw=own)
        return Plan(
            title=self._title(quantity, splits),
            legend=tuple(legend),
            quantity=quantity,
            axis=self.axis,
            curves=tuple(shown),
            x_limits=self.window or (0.0, self.reach()),
            zoomed=self.window is not None,
            log=self.log_y and quantity == "loss",
        )

    def _curves(
        self,
        run: Follower,
        quantity: Quantity,
        split: Split,
        colour: str,
        mark: str,
        *,
        dotted: bool,
    ) -> list[Curve]:
        """A curve, and if it is smoothed the raw line behind it."""
        points = self._points(run, quantity, split)
        train = split == "train" and dotted
        line = self.blend(colour, TRAIN_FAINT if train else 0.0)
        label = name(run, quantity, split)
        mark = f"{mark} {split}" if mark and dotted else mark
        weight = curves.SMOOTHING[self.smoothing]
        if not weight or len(points) < 3 or quantity == "lr":
            return [Curve(label, points, line, dotted=train, mark=mark)]
        faint = Curve("", points, self.blend(colour, RAW_FAINT), dotted=train, behind=True)
        smoothed = curves.smooth(points, weight)
        return [faint, Curve(label, smoothed, line, dotted=train, mark=mark, exact=points)]

    def _points(self, run: Follower, quantity: Quantity, split: Split) -> Points:
        if quantity == "lr" and len(run.state.steps):
            return curves.step_points(run.state, "lr", self.axis)
        return curves.epoch_points(run.state, quantity, split, self.axis)

    def _legend(
        self,
        run: Follower,
        quantity: Quantity,
        splits: tuple[Split, ...],
        colour: str,
        *,
        raw: bool,
    ) -> list[tuple[str, str, str]]:
        if len(splits) < 2:
            return []
        found = [
            (
                TRAIN_SAMPLE if split == "train" else TEST_SAMPLE,
                name(run, quantity, split),
                self.blend(colour, TRAIN_FAINT if split == "train" else 0.0),
            )
            for split in reversed(splits)
        ]
        if raw:
            found.append((RAW_SAMPLE, "within the epoch", self.blend(colour, RAW_FAINT)))
        return found

    def _title(self, quantity: Quantity, splits: tuple[Split, ...]) -> str:
        title = "learning rate" if quantity == "lr" else ""
        if not title and len(splits) == 1:
            names = [name(run, quantity, splits[0]) for run in self.runs_shown()]
            title = max(names, key=len, default="")
        words = ["log"] if self.log_y and quantity == "loss" else []
        weight = curves.SMOOTHING[self.smoothing]
        words += [f"smoothed {weight:g}"] if weight and quantity != "lr" else []
        words += ["seconds"] if self.axis == "time" else ["steps"] if self.axis == "step" else []
        return f"{title} ({', '.join(words)})".strip() if words else title

    def reach(self) -> float:
        """Where the x axis ends, for all charts alike."""
        runs = self.runs_shown()
        ends = [end for run in runs if (end := _end(run, self.axis)) is not None]
        live = [run for run in runs if _live(run)]
        planned = max((_planned(run, self.axis) for run in live), default=0.0)
        return curves.reach(self.axis, max(ends, default=0.0), planned, live=bool(live))

    def glyph(self, run: Follower) -> str:
        """The mark of a run in legends: another shape for each."""
        slot = self.store.slot(run.run.id)
        return TEST_SAMPLE if slot is None else themes.run_glyph(slot)

    def blend(self, colour: str, faint: float) -> str:
        """The colour, mixed into the background as far as it is faint."""
        background = Color.parse(self.app.current_theme.background or "#000000")
        return Color.parse(colour).blend(background, faint).hex6.lower()

    # ---- keys -------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a run there are no charts."""
        if action in ("axis", "log", "smooth", "cursor", "zoom", "move", "enlarge"):
            return bool(self.runs_shown())
        return True

    def action_axis(self) -> None:
        """Next x axis."""
        self.axis = curves.AXES[(curves.AXES.index(self.axis) + 1) % len(curves.AXES)]
        self.window = self.cursor = None
        self.draw_charts()

    def action_log(self) -> None:
        """Logarithmic y axis of losses, or not."""
        self.log_y = not self.log_y
        self.draw_charts()

    def action_smooth(self, step: int) -> None:
        """More or less smoothing."""
        self.smoothing = min(max(self.smoothing + step, 0), len(curves.SMOOTHING) - 1)
        self.draw_charts()

    def action_cursor(self) -> None:
        """Show or hide the cursor; it begins at the newest evaluation."""
        low = self._limits()[0]
        if self.cursor is not None:
            self.cursor = None
        else:
            found = [_evaluated(run, self.axis) for run in self.runs_shown()]
            self._put_cursor(max((end for end in found if end is not None), default=low))
        self.draw_charts()

    def _put_cursor(self, x: float) -> None:
        """Within the window; on whole epochs and steps."""
        low, high = self._limits()
        if self.axis != "time":
            low, high = float(math.ceil(low)), float(math.floor(high))
            x = float(round(x))
        self.cursor = max(min(x, high), low)

    def action_calm(self) -> None:
        """Escape: hide the cursor, else show the whole axis, else all charts."""
        if self.cursor is not None:
            self.cursor = None
        elif self.window is not None:
            self.window = None
        elif self.view:
            self.view = 0
            self.show_view()
        self.draw_charts()

    def action_zoom(self, factor: float) -> None:
        """Narrow or widen the window around the cursor or its middle; 0 shows all."""
        low, high = self._limits()
        centre = self.cursor if self.cursor is not None else (low + high) / 2
        if factor:
            self._look_at(centre - (centre - low) * factor, centre + (high - centre) * factor)
        else:
            self.window = None
            self.draw_charts()

    def action_move(self, direction: int) -> None:
        """Move the cursor by a point or so, or else the window by a quarter."""
        low, high = self._limits()
        if self.cursor is None:
            if self.window is not None:
                shift = max(-1, min(1, direction)) * (high - low) / 4
                self._look_at(low + shift, high + shift)
            return
        step = (high - low) / 60
        if self.axis != "time":
            step = max(1.0, float(round(step)))
        self._put_cursor(self.cursor + direction * step)
        self.draw_charts()

    def action_enlarge(self) -> None:
        """The next view."""
        self.view = (self.view + 1) % len(self.VIEWS)
        self.show_view()
        self.draw_charts()

    def on_curve_chart_pointed(self, message: CurveChart.Pointed) -> None:
        """The mouse moves the cursor; a click brings it."""
        if self.cursor is not None or message.clicked:
            self._put_cursor(message.x)
            self.draw_charts()

    def _limits(self) -> tuple[float, float]:
        return self.window or (0.0, self.reach())

    def _look_at(self, low: float, high: float) -> None:
        last = self.reach()
        least = last / 50 if self.axis == "time" else min(2.0, last)
        width = max(min(high - low, last), least)
        low = min(max(low, 0.0), last - width)
        self.window = None if width >= last else (low, low + width)
        self.draw_charts()


def name(run: Follower, quantity: Quantity, split: Split) -> str:
    """What a curve shows. An accuracy measured on augmented images says so."""
    if quantity == "lr":
        return "learning rate"
    if (quantity, split) == ("accuracy", "train") and run.state.queued is not None:
        return f"train accuracy{' (augmented)' if _augmented(run.state.queued.config) else ''}"
    return f"{split} {quantity}"


def _augmented(text: str) -> bool:
    from trainer import config as settings

    config = settings.of_log(text)
    if config is None:
        return True
    augment = config.augment
    chances = (augment.shift, augment.shift_scale_rotate, augment.dropout, augment.grayscale)
    return augment.flip != "none" or any(chances)


def _live(run: Follower) -> bool:
    return run.status in ACTIVE


def _between(run: Follower) -> bool:
    """Whether an epoch's steps are done and the next one's have not begun."""
    now = run.state.progress
    return _live(run) and now is not None and (now.phase == "test" or now.done >= now.total)


def _end(run: Follower, axis: Axis) -> float | None:
    """The newest point's place on an axis."""
    state = run.state
    steps = state.steps
    ends: Sequence[float] = steps.step[-1:]
    if axis != "step":
        ends = (steps.epoch if axis == "epoch" else steps.elapsed)[-1:]
    found = [float(x) for x in ends]
    if state.epochs:
        found.append(curves.position(state.epochs[-1], axis))
    return max(found, default=None)


def _evaluated(run: Follower, axis: Axis) -> float | None:
    """The place of the newest row of the epoch table; of the newest point where there is none."""
    if not run.state.epochs:
        return _end(run, axis)
    return curves.position(run.state.epochs[-1], axis)


def _planned(run: Follower, axis: Axis) -> float:
    state = run.state
    if state.queued is None or axis == "time":
        return 0.0
    if axis == "step":
        return float(state.total_steps or state.queued.epochs)
    return float(state.queued.epochs)

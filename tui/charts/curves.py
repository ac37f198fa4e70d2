"""Curves of runs for the charts: pure functions from a run's state to points. Torch-free.

Train points are means over whole epochs, as test points are: the two compare. Means over a few
steps are a curve of their own, drawn faintly behind.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.runs.runstate import EpochRow, RunState

Axis = Literal["epoch", "step", "time"]
Quantity = Literal["loss", "accuracy", "lr"]
Split = Literal["train", "test"]
Floats = NDArray[np.float64]

AXES: tuple[Axis, ...] = ("epoch", "step", "time")
SMOOTHING = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.98)
"""Weights of the exponential moving average to choose from."""

LEAST = 1e-290
"""Spans of an axis are longer: parts of it are numbers with all their digits."""
_BLOCK = 128
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800)


@dataclass(frozen=True, eq=False)
class Points:
    """A curve: x ascending and finite, y finite or nan where the line is broken."""

    x: Floats
    y: Floats

    def __len__(self) -> int:
        return len(self.x)

    def finite(self) -> Points:
        """Without the gaps."""
        known = np.isfinite(self.y)
        return Points(self.x[known], self.y[known])


def points(x: Sequence[float], y: Sequence[float | None]) -> Points:
    """Points out of plain numbers; ``None`` and infinities become gaps."""
    return _in_order(np.array(x, np.float64), np.array([math.nan if v is None else v for v in y]))


def _in_order(x: Floats, y: Floats) -> Points:
    """Points by x: a damaged log has them in any order, and far outside what is shown."""
    if (x[1:] < x[:-1]).any():
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
    return Points(x, np.where(np.isfinite(y), y, math.nan))


# ---- out of the state ---------------------------------------------------------------------------


def epoch_points(state: RunState, quantity: Quantity, split: Split, axis: Axis) -> Points:
    """One point an epoch, at its end: what the coursework's graphs show."""
    rows = [(row, _value(row, quantity, split)) for row in state.epochs]
    known = [(position(row, axis), value) for row, value in rows if value is not None]
    return points([x for x, _ in known], [y for _, y in known])


def step_points(state: RunState, quantity: Quantity, axis: Axis) -> Points:
    """Training as it went: means over the few steps between two events, or the learning rate."""
    steps = state.steps
    y = {"loss": steps.loss, "accuracy": steps.accuracy, "lr": steps.lr}[quantity]
    x: array[Any] = steps.step
    if axis != "step":
        x = steps.epoch if axis == "epoch" else steps.elapsed
    return _in_order(_copy(x), _copy(y))


def _copy(column: array[Any]) -> Floats:
    # a copy: an array that numpy looks into cannot grow
    kind = np.int64 if column.typecode == "q" else np.float64
    return np.frombuffer(column, kind).astype(np.float64) if len(column) else np.empty(0)


def position(row: EpochRow, axis: Axis) -> float:
    """Where an epoch's end is on an axis."""
    return float({"epoch": row.epoch, "step": row.step, "time": row.elapsed}[axis])


def _value(row: EpochRow, quantity: Quantity, split: Split) -> float | None:
    if quantity == "lr":
        return row.lr
    if split == "train":
        return row.train_loss if quantity == "loss" else row.train_accuracy
    return row.test_loss if quantity == "loss" else row.test_accuracy


# ---- smoothing and reduction --------------------------------------------------------------------


def smooth(curve: Points, weight: float) -> Points:
    """Exponential moving average without the bias towards 0 at the start (Kingma & Ba 2015, §3).

    A gap stays one and the average goes on after it.
    """
    known = np.isfinite(curve.y)
    count = int(known.sum())
    if not weight or not count:
        return curve
    blocks = -(-count // _BLOCK)
    values = np.zeros((blocks, _BLOCK))
    values.ravel()[:count] = curve.y[known]
    lag = np.arange(_BLOCK)[None, :] - np.arange(_BLOCK)[:, None]
    # within a block a matrix product, between blocks the recursion: a million points take 50 ms
    averages = values @ np.where(lag >= 0, (1 - weight) * weight ** np.maximum(lag, 0), 0.0)
    carried, decay = 0.0, weight ** np.arange(1, _BLOCK + 1)
    for block in averages:
        block += carried * decay
        carried = block[-1]
    kept = averages.ravel()[:count]
    biased = min(count, math.ceil(-37 / math.log(weight)))  # after that the bias is below 1e-16
    kept[:biased] /= 1 - weight ** np.arange(1, biased + 1)
    smoothed = np.full(len(curve), math.nan)
    smoothed[known] = kept
    return Points(curve.x, smoothed)


def within(curve: Points, low: float, high: float) -> Points:
    """The points of a window, and where lines cross its borders a point on the border."""
    first = int(np.searchsorted(curve.x, low, "left"))
    last = int(np.searchsorted(curve.x, high, "right"))
    if first == 0 and last == len(curve):
        return curve
    x, y = [curve.x[first:last]], [curve.y[first:last]]
    if 0 < first < len(curve) and not (last > first and curve.x[first] == low):
        x.insert(0, np.array([low]))
        y.insert(0, _between(curve, first - 1, low))
    if 0 < last < len(curve) and not (last > first and curve.x[last - 1] == high):
        x.append(np.array([high]))
        y.append(_between(curve, last - 1, high))
    return Points(np.concatenate(x), np.concatenate(y))


def _between(curve: Points, left: int, at_x: float) -> Floats:
    """The value on the line from a point to the next."""
    return np.interp([at_x], curve.x[left : left + 2], curve.y[left : left + 2])


def reduce(curve: Points, columns: int, low: float, high: float) -> Points:
    """At most two points a column, the least and the greatest, in the order they came.

    The columns divide the axis from ``low`` to ``high``, so that what is drawn stays where it is
    while the curve grows. The first and the last point are kept besides. A gap survives as long as
    it fills a column.
    """
    count = len(curve)
    if count <= 2 * columns or columns < 1 or high <= low:
        return curve
    place = (curve.x - low) / (high - low) * columns
    column = np.clip(place, 0, columns - 1).astype(np.int64)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    sizes = np.diff(starts, append=count)
    kept = [np.array([0, count - 1])]
    for extreme in (np.fmin, np.fmax):
        hits = np.flatnonzero(curve.y == np.repeat(extreme.reduceat(curve.y, starts), sizes))
        if not len(hits):
            continue
        at_hit = np.minimum(np.searchsorted(hits, starts), len(hits) - 1)
        first = hits[at_hit]
        found = (first >= starts) & (first < starts + sizes)
        # a column of nothing but gaps keeps one of them
        kept.append(np.where(found, first, starts))
    index = np.unique(np.concatenate(kept))
    return Points(curve.x[index], curve.y[index])


def log_points(curve: Points) -> Points:
    """Decimal logarithms; at 0 or below there is a gap."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ys = np.log10(curve.y)
    return Points(curve.x, np.where(np.isfinite(ys), ys, math.nan))


def at(curve: Points, x: float) -> tuple[float, float] | None:
    """The known point nearest to a position."""
    known = curve.finite()
    if not len(known):
        return None
    right = int(np.searchsorted(known.x, x))
    near = [i for i in (right - 1, right) if 0 <= i < len(known)]
    best = min(near, key=lambda i: abs(float(known.x[i]) - x))
    return float(known.x[best]), float(known.y[best])


# ---- axes ---------------------------------------------------------------------------------------


def nice_step(span: float, parts: int = 5) -> float:
    """The least round step (1, 2, 2.5, 5 times a power of ten) with at most ``parts`` in a span."""
    span = max(span, LEAST)
    size: float = 10 ** math.floor(math.log10(span / parts))
    return next(size * f for f in _STEPS if span / (size * f) <= parts * (1 + 1e-9))


def value_limits(curves: Iterable[Points], quantity: Quantity, *, fit: bool) -> tuple[float, float]:
    """Limits of the value axis that seldom change, so that a growing curve stays put.

    Accuracy ends at 1 and begins at a tenth, losses begin at 0; ``fit`` (zoomed in) takes the
    visible values alone.
    """
    values = np.concatenate([np.empty(0), *(curve.y for curve in curves)])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if quantity == "accuracy" and not fit:
        return math.floor(low * 10 + 1e-9) / 10 if low < 1 else 0.9, 1.0
    if not fit and low >= 0:
        low = 0.0
    span = high - low
    if span <= 1e-12 * max(abs(low), abs(high)):  # rounding, or no difference at all
        span = abs(high) or 1.0
    step = nice_step(span, 8)
    floor, ceiling = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if quantity == "accuracy":
        floor, ceiling = max(0.0, floor), min(1.0, ceiling)
    if ceiling > floor:
        return floor, ceiling
    at_most = quantity == "accuracy" and floor + step > 1
    return (floor - step, floor) if at_most else (floor, floor + step)


def log_limits(curves: Iterable[Points]) -> tuple[float, float]:
    """Limits for logarithms: at 1, 2 and 5 times a power of ten."""
    values = np.concatenate([np.empty(0), *(curve.y for curve in curves)])
    values = values[np.isfinite(values)]
    if not len(values):
        return -1.0, 0.0
    marks = [d + math.log10(f) for d in range(-12, 13) for f in (1, 2, 5)]
    low = max((m for m in marks if m <= values.min() + 1e-9), default=-12.0)
    high = min((m for m in marks if m >= values.max() - 1e-9), default=12.0)
    return (low, high) if high > low else (low, low + 1)


def ticks(low: float, high: float, parts: int) -> list[float]:
    """Round values between two limits, about ``parts`` of them."""
    return _multiples(low, high, nice_step(max(high - low, 1e-9), max(1, parts)))


def whole_ticks(low: float, high: float, parts: int) -> list[float]:
    """Round whole numbers: epochs and steps."""
    step = nice_step(max(high - low, 1e-9), max(1, parts))
    return _multiples(low, high, 5.0 if step == 2.5 else max(1.0, step))


def time_ticks(low: float, high: float, parts: int) -> list[float]:
    """Round times in seconds."""
    return _multiples(low, high, float(time_step((high - low) / max(1, parts))))


def log_ticks(low: float, high: float) -> list[float]:
    """Logarithms of 1, 2 and 5 times powers of ten; of the powers alone over many decades."""
    factors = (1, 2, 5) if high - low < 3 else (1,)
    marks = [
        d + math.log10(f) for d in range(math.floor(low), math.ceil(high) + 1) for f in factors
    ]
    return [m for m in marks if low - 1e-9 <= m <= high + 1e-9]


def time_step(least: float) -> int:
    """The smallest round number of seconds that is not less."""
    return next((s for s in _TIME_STEPS if s >= least), math.ceil(least / 86_400) * 86_400)


def _multiples(low: float, high: float, step: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def reach(axis: Axis, reached: float, planned: float, *, live: bool) -> float:
    """Where the x axis ends.

    A run that has ended takes what it has. A live one takes half, a quarter, … of the plan until
    it comes near its end: the axis changes a few times in a run, not with every point.
    """
    if axis == "time":
        if not live:
            return reached or 1.0
        step = time_step(max(reached * 1.1, 10.0) / 8)
        return float(math.ceil(max(reached * 1.1, 10.0) / step) * step)
    if not live or planned <= reached:
        return reached or max(planned, 1.0)
    end = planned
    while end / 2 >= max(reached * 1.25, 5.0):
        end /= 2
    return float(math.ceil(end))

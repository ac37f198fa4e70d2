"""Curves of runs for the charts: pure functions from a run's state to points. Torch-free.

Train points are means over whole epochs, as test points are: the two compare. Means over a few
steps are a curve of their own, drawn faintly behind.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.runstate import EpochRow, RunState

Axis = Literal["epoch", "step", "time"]
Quantity = Literal["loss", "accuracy", "lr"]
Split = Literal["train", "test"]

AXES: tuple[Axis, ...] = ("epoch", "step", "time")
SMOOTHING = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95)
"""Weights of the exponential moving average to choose from."""


@dataclass(frozen=True)
class Points:
    """A curve: x ascending, both of one length, no number that is not finite."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.x)


EMPTY = Points((), ())


def epoch_points(state: RunState, quantity: Quantity, split: Split, axis: Axis) -> Points:
    """One point an epoch, at its end: what the coursework's graphs show."""
    return _finite((_position(row, axis), _value(row, quantity, split)) for row in state.epochs)


def step_points(state: RunState, quantity: Quantity, axis: Axis) -> Points:
    """Training as it went: means over the few steps between two events, or the learning rate."""
    steps = state.steps
    y = {"loss": steps.loss, "accuracy": steps.accuracy, "lr": steps.lr}[quantity]
    x: Iterable[float] = steps.step
    if axis != "step":
        x = steps.epoch if axis == "epoch" else steps.elapsed
    return _finite(zip(x, y, strict=True))


def _position(row: EpochRow, axis: Axis) -> float:
    return float({"epoch": row.epoch, "step": row.step, "time": row.elapsed}[axis])


def _value(row: EpochRow, quantity: Quantity, split: Split) -> float | None:
    if quantity == "lr":
        return row.lr
    if split == "train":
        return row.train_loss if quantity == "loss" else row.train_accuracy
    return row.test_loss if quantity == "loss" else row.test_accuracy


def _finite(pairs: Iterable[tuple[float, float | None]]) -> Points:
    kept = [
        (float(x), float(y))
        for x, y in pairs
        if y is not None and math.isfinite(y) and math.isfinite(x)
    ]
    return Points(tuple(x for x, _ in kept), tuple(y for _, y in kept))


def smooth(points: Points, weight: float) -> Points:
    """Exponential moving average without the bias towards 0 at the start (Kingma & Ba 2015)."""
    if not weight:
        return points
    average, total, smoothed = 0.0, 0.0, []
    for y in points.y:
        average = weight * average + (1 - weight) * y
        total = weight * total + (1 - weight)
        smoothed.append(average / total)
    return Points(points.x, tuple(smoothed))


def within(points: Points, low: float, high: float) -> Points:
    """The points of a window, and one more on each side so that lines reach its borders."""
    first = max(0, bisect_left(points.x, low) - 1)
    last = bisect_right(points.x, high) + 1
    return Points(points.x[first:last], points.y[first:last])


def reduce(points: Points, columns: int) -> Points:
    """At most two points a column, the least and the greatest, in the order they came.

    The first and the last point are always kept.
    """
    if len(points.x) <= 2 * columns or columns < 1:
        return points
    low, high = points.x[0], points.x[-1]
    width = (high - low) / columns or 1.0
    kept: list[int] = []
    start = 0
    while start < len(points.x):
        column = min(columns - 1, int((points.x[start] - low) / width))
        end = start + 1
        while (
            end < len(points.x) and min(columns - 1, int((points.x[end] - low) / width)) == column
        ):
            end += 1
        span = range(start, end)
        least, most = min(span, key=points.y.__getitem__), max(span, key=points.y.__getitem__)
        kept += sorted({least, most})
        start = end
    if kept[0] != 0:
        kept[0] = 0
    if kept[-1] != len(points.x) - 1:
        kept[-1] = len(points.x) - 1
    return Points(tuple(points.x[i] for i in kept), tuple(points.y[i] for i in kept))


def log_points(points: Points) -> Points:
    """Decimal logarithms; points at 0 or below have none and are left out."""
    kept = [(x, math.log10(y)) for x, y in zip(points.x, points.y, strict=True) if y > 0]
    return Points(tuple(x for x, _ in kept), tuple(y for _, y in kept))


def limits(curves: Sequence[Points], *, share: bool = False) -> tuple[float, float]:
    """Limits of an axis of values that change in steps, so that a growing curve stays put.

    Few outliers at a run's start do not flatten the rest: for losses the top 2 % are cut off.
    """
    values = sorted(y for curve in curves for y in curve.y)
    if not values:
        return (0.0, 1.0)
    low, high = values[0], values[-1]
    if len(values) > 50 and not share:
        high = max(values[int(0.98 * (len(values) - 1))], low)
    step = nice_step((high - low) or abs(high) or 1.0)
    floor, ceiling = math.floor(low / step) * step, math.ceil(high / step) * step
    if share:
        floor, ceiling = max(0.0, floor), min(1.0, ceiling)
    return (floor, ceiling) if ceiling > floor else (floor, floor + step)


def nice_step(span: float) -> float:
    """A round step that divides a span into four to ten parts."""
    size: float = 10 ** math.floor(math.log10(span / 4))
    return next(size * f for f in (1, 2, 2.5, 5, 10) if span / (size * f) <= 8)


def at(points: Points, x: float) -> tuple[float, float] | None:
    """The point nearest to a position."""
    if not points:
        return None
    right = bisect_left(points.x, x)
    near = [i for i in (right - 1, right) if 0 <= i < len(points.x)]
    best = min(near, key=lambda i: abs(points.x[i] - x))
    return points.x[best], points.y[best]

"""Points of training, by column: nearly all that a log consists of. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from struct import error, pack, unpack

import msgspec

from trainer import events
from trainer.events import Envelope

FEW = 8
"""Fewer points are folded sooner one by one."""


class Points(msgspec.Struct, frozen=True, kw_only=True):
    """Points of one epoch and attempt that follow each other without a gap.

    Columns of 8 bytes a point: integers of ``step``, else floats, nan where there is no number.
    """

    attempt: int
    first: int
    """Its ``seq``."""
    count: int
    last: events.Progress
    time: float
    """Of the last, seconds since 1970."""
    furthest: int
    """The largest step."""
    memory: int | None
    """As told last."""
    elapsed: bytes
    """Seconds of the attempt."""
    step: bytes
    epoch: bytes
    """Fractional: 2.5 is half way through the third."""
    loss: bytes
    accuracy: bytes
    lr: bytes

    @classmethod
    def of(cls, many: Sequence[Envelope], points: Sequence[events.Progress]) -> Points | None:
        """Of such envelopes and their events; ``None``: they are others."""
        count, first, attempt, epoch = len(many), many[0].seq, many[0].attempt, points[0].epoch
        losses = [point.loss for point in points]
        if (
            [envelope.seq for envelope in many] != list(range(first, first + count))
            or [envelope.attempt for envelope in many].count(attempt) < count
            or [point.epoch for point in points].count(epoch) < count
            or [point.phase for point in points].count("train") < count
            or None in losses
        ):
            return None
        steps = [point.step for point in points]
        told = (point.memory for point in reversed(points))
        return cls(
            attempt=attempt,
            first=first,
            count=count,
            last=points[-1],
            time=many[-1].time,
            furthest=max(steps),
            memory=next((memory for memory in told if memory is not None), None),
            elapsed=floats([envelope.elapsed for envelope in many]),
            step=pack(f"{count}q", *steps),
            epoch=floats([epoch - 1 + point.done / (point.total or 1) for point in points]),
            loss=floats(losses),
            accuracy=floats([point.accuracy for point in points]),
            lr=floats([point.lr for point in points]),
        )

    def run_seconds(self, base: float) -> tuple[bytes, float]:
        """Seconds of the run, and the last of them, of an attempt that began after ``base``."""
        elapsed = self.elapsed
        if base:
            elapsed = floats([base + seconds for seconds in unpack(f"{self.count}d", elapsed)])
        return elapsed, unpack("d", elapsed[-8:])[0]


def gathered(envelopes: Sequence[Envelope]) -> Iterator[tuple[Points | None, Sequence[Envelope]]]:
    """Envelopes in their order: points by column, where they are such, and what they are of."""
    all_events = [envelope.event for envelope in envelopes]
    end = 0
    for kind, same in groupby(map(type, all_events)):
        at, end = end, end + len(list(same))
        many = envelopes[at:end]
        points = None
        if kind is events.Progress and end - at >= FEW:
            points = Points.of(many, all_events[at:end])  # type: ignore[arg-type]
        yield points, many


def floats(values: Sequence[float | None]) -> bytes:
    """A column; packed in half the time that ``array`` takes over its elements."""
    form = f"{len(values)}d"
    try:
        return pack(form, *values)  # nearly always there is no None
    except error:
        return pack(form, *[math.nan if value is None else value for value in values])

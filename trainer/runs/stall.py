"""Whether a run that trains is stuck: no sign of life for many of its usual steps. Torch-free.

A fold over the run's events and the clock, the same for live and attached runs.
"""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from trainer import events

if TYPE_CHECKING:
    from trainer.runs.runstate import RunState

STEPS = 20
"""A run without a step for so many times its median step has stalled, but not before"""
SHORTEST = 30.0
"""seconds: a data set on a network, an evaluation, a busy machine."""
COMPILING = 900.0
"""seconds: a step for which the net is compiled, with little else to tell of it."""
POINTS = 33
"""Points of training that the usual step is measured on."""


def median_step(state: RunState) -> float | None:
    """The median seconds of an optimizer step over the last points; ``None`` when not known."""
    steps, elapsed = state.steps.step[-POINTS:], state.steps.elapsed[-POINTS:]
    pairs = zip(pairwise(steps), pairwise(elapsed), strict=True)
    found = [(e1 - e0) / (s1 - s0) for (s0, s1), (e0, e1) in pairs if s1 > s0 and e1 >= e0]
    return median(found) if found else None


def limit(state: RunState, steps: int = STEPS) -> float | None:
    """Seconds without a sign of life after which a run has stalled; ``None``: not known.

    Nothing is known before the first steps of an attempt (data is loaded, a net compiled), while it
    is paused, and while its log cannot be written.
    """
    if state.progress is None or state.paused or state.ended is not None or _unwritten(state):
        return None
    step = median_step(state)
    if step is None:
        return None
    return max(COMPILING if state.compiling else SHORTEST, steps * step)


def _unwritten(state: RunState) -> bool:
    for _, notice in reversed(state.notices):
        if notice.code in (events.DISK_FULL, events.DISK_ERROR, events.DISK_WRITABLE):
            return notice.code != events.DISK_WRITABLE
    return False


class Pulse:
    """How long a run has given no sign of life, by this process's own clock.

    The clock of the run's machine counts only for what happened before the first look, so that a
    clock that is wrong, or jumps, neither hides a stall for long nor makes one.
    """

    def __init__(self, steps: int = STEPS) -> None:
        self._steps = steps
        self._seen = -1
        self._looked: float | None = None
        self._since = 0.0

    def look(self, state: RunState) -> int | None:
        """Whole seconds without a sign of life when that is a stall, else ``None``."""
        now = time.monotonic()
        if state.alive_seq != self._seen or self._looked is None:
            age = max(0.0, time.time() - state.alive_at)
            if self._looked is not None:
                age = min(age, now - self._looked)
            self._seen, self._since = state.alive_seq, now - age
        self._looked = now
        quiet = now - self._since
        if quiet <= SHORTEST:
            return None
        longest = limit(state, self._steps)
        return int(quiet) if longest is not None and quiet > longest else None

"""Which evaluation of a run the mistakes screen shows: a chosen one, or the newest."""

from __future__ import annotations

import time

from trainer.events import PredictionsSaved
from trainer.runs.runstate import RunState
from tui.images import evaluations

CELL_BYTES = 42
"""Of a cell of an image, the colours of two pixels and a character, and of what is around it."""
BYTES_A_SECOND = 1800
"""What pages of images may take of the link to the terminal on average while a run goes on."""
LONGEST = 90.0
"""Seconds that a page stays at most: a huge terminal takes more bytes instead."""
READING = 10.0
"""Seconds that a page stays after someone has moved in it."""


class EvaluationChoice:
    """The newest evaluation is followed, but a page of images stays a while.

    A page of true pixels is over 100 kB, and a run may evaluate once a second: painted at once each
    would take the link to the terminal, and nobody could look at an image. So a page stays for as
    many seconds as its bytes are worth, and as long as someone moves in it; that newer ones are
    there is said at once, and a key away. Times are seconds of ``time.monotonic``.
    """

    def __init__(self) -> None:
        self.chosen: PredictionsSaved | None = None
        """Of the run's; ``None``: the newest is followed."""
        self._shown: PredictionsSaved | None = None
        self._cells = 0
        self._stays_until = 0.0
        self._read_until = 0.0

    def wanted(self, state: RunState) -> PredictionsSaved | None:
        """The evaluation to show now."""
        if not _has(state, self.chosen):
            self.chosen = None
        if self.chosen is not None:
            return self.chosen
        return self._shown if self.seconds_left(state) else evaluations.newest(state)

    def seconds_left(self, state: RunState) -> float:
        """How long the shown evaluation will stay although there is a newer one; 0: it won't."""
        newest = evaluations.newest(state)
        if self.chosen is not None or self._shown is newest or not _has(state, self._shown):
            return 0.0
        # the last one is the result, but is not put in the place of what is looked at
        until = self._read_until if state.ended else max(self._stays_until, self._read_until)
        return max(0.0, until - time.monotonic())

    def shown(self, saved: PredictionsSaved | None, cells: int) -> None:
        """This one is painted, with so many cells of images; again only when there are more."""
        if saved is self._shown and cells <= self._cells:
            return
        self._shown, self._cells = saved, cells
        self._stays_until = time.monotonic() + min(LONGEST, cells * CELL_BYTES / BYTES_A_SECOND)

    def read(self) -> None:
        """Someone moved in the page."""
        self._read_until = time.monotonic() + READING

    def opened(self) -> None:
        """The screen is painted anew: what is older saves nothing, and stays only if it is read."""
        self._stays_until = 0.0

    def let_go(self) -> None:
        """Show the newest now."""
        self.chosen, self._stays_until, self._read_until = None, 0.0, 0.0

    def step(self, state: RunState, step: int) -> None:
        """To the evaluation before, or after; after the last one the newest is followed."""
        now, newest, listed = self.wanted(state), evaluations.newest(state), state.predictions
        if step > 0 and self.chosen is None and now is not newest:
            self.let_go()  # one that only stays is no choice
            return
        at = next((i for i, one in enumerate(listed) if one is now), 0) + step
        one = listed[max(0, min(at, len(listed) - 1))]
        if one is newest:
            self.let_go()
        else:
            self.chosen = one


def _has(state: RunState, saved: PredictionsSaved | None) -> bool:
    return saved is not None and any(one is saved for one in state.predictions)

"""The points of training between evaluations, in bounded memory. Torch-free.

A run of a day makes hundreds of thousands. Whenever ``LIMIT`` is reached, neighbours are thinned
out: of each stretch of steps the points with the least and the greatest loss, accuracy and learning
rate stay, so that no spike is lost however coarse the curve becomes. What remains depends on the
points and their order alone, not on how many came at a time.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from trainer import events
from trainer.runs.points import Points

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIMIT = 32_768
"""Points kept at most; six columns of eight bytes are 1.5 MiB."""
_WIDEST = 2**53
_BOUNDS = (
    (0, _WIDEST, False),
    (-1, 2 * _WIDEST, False),
    (-1e15, 1e15, False),
    (-events.LARGEST, events.LARGEST, True),
    (0, 1, True),
    (-events.LARGEST, events.LARGEST, True),
)
"""Of each column: what events may come to, and whether there are gaps."""


class Steps:
    """Columns of the training progress: one point an event, not finite numbers as nan."""

    def __init__(self) -> None:
        self.step = array("q")
        self.epoch = array("d")
        self.elapsed = array("d")
        self.loss = array("d")
        self.accuracy = array("d")
        self.lr = array("d")
        self.stretch = 1
        """Steps of which the extremes are kept."""

    def __len__(self) -> int:
        return len(self.step)

    def __eq__(self, other: object) -> bool:
        # by bytes: a nan equals itself here
        return isinstance(other, Steps) and all(
            mine.tobytes() == theirs.tobytes()
            for mine, theirs in zip(self._columns(), other._columns(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # it grows

    def dump(self) -> tuple[int | bytes, ...]:
        """Everything in it: the stretch and the columns' bytes."""
        return self.stretch, *(column.tobytes() for column in self._columns())

    @classmethod
    def restored(cls, stretch: int, *columns: bytes) -> Steps:
        """From a ``dump``.

        Raises:
            ValueError: it is none.
        """
        made = cls()
        made.stretch = stretch
        for mine, data in zip(made._columns(), columns, strict=True):
            mine.frombytes(data)
        if not stretch or {len(mine) for mine in made._columns()} != {len(made)}:
            raise ValueError("columns of different lengths")
        if len(made) >= LIMIT:
            raise ValueError("more points than are ever kept")
        for (low, high, gaps), column in zip(_BOUNDS, made._columns(), strict=True):
            known = [value for value in column if value == value]  # a nan does not equal itself
            bad = known and not low <= min(known) <= max(known) <= high
            if bad or (len(known) < len(column) and not gaps):
                raise ValueError("numbers that no event has")
        return made

    def append(self, at: events.Progress, elapsed: float) -> None:
        """Add a point; its epoch is fractional: 2.5 is half way through the third."""
        self.step.append(at.step)
        self.epoch.append(at.epoch - 1 + at.done / (at.total or 1))
        self.elapsed.append(elapsed)
        self.loss.append(_number(at.loss))
        self.accuracy.append(_number(at.accuracy))
        self.lr.append(_number(at.lr))
        if len(self) >= LIMIT:
            self._thin()

    def extend(self, new: Points, elapsed: bytes) -> None:
        """Add points; ``elapsed``: the column of the run's seconds."""
        columns = new.step, new.epoch, elapsed, new.loss, new.accuracy, new.lr
        at, end = 0, 8 * new.count
        while at < end:
            to = at + 8 * (LIMIT - len(self))
            for mine, data in zip(self._columns(), columns, strict=True):
                mine.frombytes(data[at:to])
            at = to
            if len(self) >= LIMIT:
                self._thin()

    def drop_after(self, step: int) -> None:
        """Forget the points past a step."""
        keep = bisect_right(self.step, step)
        for column in self._columns():
            del column[keep:]

    def _columns(self) -> tuple[array[Any], ...]:
        return self.step, self.epoch, self.elapsed, self.loss, self.accuracy, self.lr

    def _thin(self) -> None:
        """Keep the extremes of each stretch, and the newest point."""
        import numpy as np  # only long runs need it here: the first paint must not wait for it

        kept = self._extremes()
        while len(kept) > LIMIT // 2 and self.stretch < _WIDEST:
            self.stretch *= 2
            kept = self._extremes()
        if len(kept) > LIMIT // 2:  # no run has such steps, but a damaged log may
            kept = kept[::2]
        for column in self._columns():
            kind = np.int64 if column.typecode == "q" else np.float64
            values = np.frombuffer(column, kind)[kept]
            column[:] = array(column.typecode, values.tobytes())

    def _extremes(self) -> NDArray[np.intp]:
        import numpy as np

        stretch = np.frombuffer(self.step, np.int64) // self.stretch
        starts = np.flatnonzero(_changed(stretch))
        lengths = np.diff(starts, append=len(stretch))
        number = np.repeat(np.arange(len(starts)), lengths)
        kept = np.zeros(len(stretch), bool)
        kept[-1] = True
        for column in (self.loss, self.accuracy, self.lr):
            values = np.frombuffer(column, np.float64)
            for extreme in (np.fmin, np.fmax):
                found = np.repeat(extreme.reduceat(values, starts), lengths)
                hits = np.flatnonzero(values == found)
                kept[hits[_changed(number[hits])]] = True
        return np.flatnonzero(kept)


def _changed(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each is another than the one before it; ``np.diff`` would copy them first."""
    import numpy as np

    changed = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=changed[1:])
    return changed


def _number(value: float | None) -> float:
    return math.nan if value is None else value

"""What all ranks have to know at the same step: commands, sums of the loss, figures of each rank.

Rank 0 alone reads the commands. At a few agreed ticks a second (a tick is a training step or an
evaluation batch) the ranks add up one small vector on the host, in the background, and act on it at
the next of these ticks: nothing waits for the device, and a step between costs a comparison. How
many ticks lie between is in the vector too, so that all know it though only rank 0 takes times.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

from trainer.distributed.group import Group
from trainer.runs.control import Control

SECONDS = 0.2
"""Between two exchanges, roughly: a command takes effect after two at most."""
MOST_TICKS = 10_000


@dataclass(frozen=True)
class Figures:
    """What a rank has to tell: sums over its own images since the epoch began, and of itself."""

    loss: float = 0.0
    correct: float = 0.0
    images: int = 0
    images_per_second: float = 0.0
    memory: int = 0


@dataclass(frozen=True)
class Heard:
    """The same on all ranks."""

    loss: float
    correct: float
    images: int
    images_per_second: tuple[float, ...]
    """By rank."""
    memory: tuple[int, ...]


class Agreement(Control):
    """Control of a run on several ranks: its answers are the same on all at the same tick.

    Args:
        group: all ranks; every one makes the same calls.
        control: what rank 0 was asked to do; of the others nothing is asked.
    """

    def __init__(self, group: Group, control: Control) -> None:
        super().__init__()
        self._group, self._asked = group, control
        self._ticks = 0
        self._due = 1
        self._interval = 1
        self._sent: tuple[torch.Tensor, dist.Work] | None = None
        self._measured = (time.monotonic(), 0)

    def due(self) -> bool:
        """Count a tick; whether ``exchange`` is to be called now."""
        self._ticks += 1
        return self._ticks >= self._due

    def exchange(self, mine: Figures) -> Heard | None:
        """Send this rank's figures; give what the exchange before has brought."""
        heard = self._receive()
        self._send(mine)
        self._due = self._ticks + self._interval
        return heard

    def wait(self, seconds: float) -> None:
        """Wait together while paused; every rank then knows what rank 0 was asked meanwhile."""
        if self._group.first:
            self._asked.wait(seconds)
        self._receive()
        self._send(Figures())
        self._receive()

    def settle(self) -> None:
        """Take in what is under way, before the last tick is followed by other collectives."""
        self._receive()

    def poll(self, *, now: bool = False) -> None:
        """Nothing is read here: ``exchange`` brings it."""

    def _send(self, mine: Figures) -> None:
        size = self._group.size
        values = torch.zeros(8 + 2 * size, dtype=torch.float64)
        if self._group.first:
            asked = self._asked
            flags = asked.stopping(), asked.paused(), asked.take_checkpoint_request()
            told = *flags, asked.deleted, self._next_interval()
            values[:5] = torch.tensor([*map(float, told)])
        values[5:8] = torch.tensor([mine.loss, mine.correct, mine.images], dtype=torch.float64)
        values[8 + self._group.rank] = mine.images_per_second
        values[8 + size + self._group.rank] = mine.memory
        work = dist.all_reduce(values, group=self._group.signals, async_op=True)
        assert work is not None
        self._sent = values, work

    def _receive(self) -> Heard | None:
        if self._sent is None:
            return None
        sent, work = self._sent
        self._sent = None
        work.wait()
        values = sent.tolist()
        stop, pause, save, deleted, interval = values[:5]
        self.request("pause" if pause else "resume")
        if stop:
            self.request("stop")
        if save:
            self.request("checkpoint")
        self.deleted = bool(deleted)
        self._interval = int(interval)
        size = self._group.size
        return Heard(
            loss=values[5],
            correct=values[6],
            images=int(values[7]),
            images_per_second=tuple(values[8 : 8 + size]),
            memory=tuple(map(int, values[8 + size :])),
        )

    def _next_interval(self) -> int:
        """Ticks until the exchange after the next, by rank 0's clock."""
        now, (since, ticks) = time.monotonic(), self._measured
        done = self._ticks - ticks
        if not done:
            return self._interval
        self._measured = now, self._ticks
        fitting = int(SECONDS * done / max(1e-6, now - since))
        return max(1, min(fitting, 2 * self._interval, MOST_TICKS))

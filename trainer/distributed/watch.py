"""Looks after the other ranks while training waits for them: a lost one must end the wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from trainer.distributed.world import World

if TYPE_CHECKING:
    from trainer.distributed.group import Group

SECONDS = 0.5
PATIENCE = 5.0
"""Seconds for the collective calls to fail by themselves; NCCL's may hang instead."""


class Watch:
    """A thread that calls ``on_loss`` with one line when others are gone and nobody has noticed.

    Args:
        world: torchrun itself is watched, from the first.
        on_loss: does not return.
    """

    def __init__(self, world: World, on_loss: Callable[[str], None]) -> None:
        self._world, self._on_loss = world, on_loss
        self.group: Group | None = None
        """Once the ranks have met: its members are watched where they run on this machine."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="ranks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Others may end now. Safe to call twice."""
        self._over.set()

    def _look(self) -> None:
        since: float | None = None
        while not self._over.wait(SECONDS):
            lost = self._lost()
            if not lost:
                since = None
                continue
            since = since or time.monotonic()
            if time.monotonic() - since >= PATIENCE and not self._over.is_set():
                self._on_loss(lost)
                return

    def _lost(self) -> str:
        return self.group.lost_process() if self.group is not None else self._world.orphaned

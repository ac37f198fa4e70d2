"""Looks after the other ranks while training waits for them: a lost one must end the wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from trainer.distributed.group import Group

SECONDS = 0.5
PATIENCE = 5.0
"""Seconds for the collective calls to fail by themselves; NCCL's may hang instead."""


class Watch:
    """A thread that calls ``on_loss`` with one line when others are gone and nobody has noticed.

    Args:
        group: its members are watched where they run on this machine, as is torchrun itself.
        on_loss: does not return.
    """

    def __init__(self, group: Group, on_loss: Callable[[str], None]) -> None:
        self._group, self._on_loss = group, on_loss
        self._parent = os.getppid()
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
        if os.getppid() != self._parent:
            return "torchrun, which started the ranks, is gone"
        return self._group.lost_process()

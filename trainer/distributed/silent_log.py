"""The log of the ranks that write none. Torch-free."""

from __future__ import annotations

from trainer.events import Event
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog


class SilentLog(RunLog):
    """Takes events and forgets them: rank 0 writes the same ones."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self.attempt = 0

    @property
    def waiting(self) -> int:
        """Nothing waits."""
        return 0

    @property
    def deleted(self) -> bool:
        """Rank 0 looks."""
        return False

    def begin_attempt(self) -> None:
        """Count an attempt."""
        self.attempt += 1

    def emit(self, event: Event) -> None:
        """Forget it."""

    def close(self) -> None:
        """There is nothing to close."""

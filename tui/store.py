"""All runs of a runs directory, folded from their logs. Torch-free, no widgets.

The app polls it from one timer on the UI thread; screens read it and never write runs' states.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainer.errors import RunError
from trainer.rundir import RunDir, scan
from trainer.runstate import Follower

SCAN_SECONDS = 1.0
FINISHED_SECONDS = 1.0
CHUNK_BYTES = 1 << 20


@dataclass
class Changes:
    """What a poll found."""

    listing: bool = False
    """Runs have appeared or gone."""
    runs: set[str] = field(default_factory=set)
    """Runs whose state or status changed."""

    def __bool__(self) -> bool:
        return self.listing or bool(self.runs)


class Store:
    """The followers of all runs, the chosen run and the marked ones."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir
        self.followers: dict[str, Follower] = {}
        self.selected: str | None = None
        self.error: str = ""
        """Why the runs directory cannot be read; empty when it can."""
        self.loading = False
        """Whether logs of the directory are still being read for the first time."""
        self._scanned = 0.0
        self._checked: dict[str, float] = {}

    def __iter__(self) -> Iterator[Follower]:
        """Runs, newest first."""
        return iter([self.followers[run] for run in sorted(self.followers, reverse=True)])

    def __len__(self) -> int:
        return len(self.followers)

    @property
    def current(self) -> Follower | None:
        """The chosen run."""
        return self.followers.get(self.selected) if self.selected else None

    def get(self, run: str) -> Follower | None:
        """The follower of a run's id."""
        return self.followers.get(run)

    def active(self) -> list[Follower]:
        """Runs that train, wait in the queue or are paused, oldest first."""
        states = ("training", "paused", "queued")
        return [f for f in reversed(list(self)) if f.status in states]

    def poll(self, *, budget: float = 0.05, now: bool = False) -> Changes:
        """Fold what is new on disk, for at most about ``budget`` seconds; the rest comes next."""
        changes = Changes()
        began = time.monotonic()
        if now or began - self._scanned >= SCAN_SECONDS:
            self._scan(changes)
            self._scanned = began
        self.loading = False
        for follower in self._due(began):
            if time.monotonic() - began > budget:
                self.loading = True
                break
            self._checked[follower.run.id] = began
            if follower.poll(limit=CHUNK_BYTES):
                changes.runs.add(follower.run.id)
        return changes

    def _scan(self, changes: Changes) -> None:
        try:
            found = {run.id: run for run in scan(self.runs_dir)}
        except RunError as error:
            self.error = str(error)
            return
        self.error = ""
        for gone in self.followers.keys() - found.keys():
            del self.followers[gone]
            self._checked.pop(gone, None)
            changes.listing = True
        for new in found.keys() - self.followers.keys():
            self.followers[new] = Follower(RunDir(found[new].path))
            changes.listing = True
        if self.selected not in self.followers:
            self.selected = max(self.followers, default=None)

    def _due(self, now: float) -> list[Follower]:
        """The chosen run first, then the longest not looked at; ended ones only now and then."""
        due = []
        for run, follower in self.followers.items():
            seen = self._checked.get(run)
            ended = follower.state.ended is not None and not follower.behind()
            if ended and seen is not None and now - seen < FINISHED_SECONDS:
                continue
            due.append((run != self.selected, seen or 0.0, run))
        return [self.followers[run] for _, _, run in sorted(due)]

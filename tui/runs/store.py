"""All runs of a runs directory, folded from their logs. Torch-free, no widgets.

The app polls it from one timer on the UI thread; screens read it and never write runs' states.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from trainer.errors import RunError
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir, scan
from trainer.runs.runstate import ACTIVE, Status
from trainer.runs.stall import STEPS
from tui.runs.view import View

SCAN_SECONDS = 1.0
FINISHED_SECONDS = 1.0
CHUNK_BYTES = 1 << 20
WHOLE_KEPT = 12
"""So many ended runs keep their curves after another is chosen; of the others a glance is left."""
SUBMIT_SECONDS = 10.0
"""For so long after it was put on disk a run may be without a lock: its trainer is starting."""

RESTING_EACH = 24
"""So many of the runs that do nothing are looked at in a poll: a thousand cost no more, and it is
seconds until one that is resumed elsewhere is noticed."""
SETTLED_SECONDS = 2.0
"""A directory's time of change is trusted when it is older: file systems count in ticks."""


class Changes(msgspec.Struct):
    """What a poll found."""

    listing: bool = False
    """Runs have appeared or gone."""
    runs: set[str] = msgspec.field(default_factory=set)
    """Runs whose state, status or mark changed."""
    transitions: dict[str, tuple[Status, Status]] = {}
    """Runs that began or ceased to go on while they were watched: their status, from and to."""
    news: bool = True
    """Whether there is more than progress within an epoch, which is nearly all that ever comes."""
    gone: set[str] = msgspec.field(default_factory=set)
    """Runs whose folders have gone."""
    lost: Follower | None = None
    """The chosen run, if it has gone: another is chosen now."""

    def __bool__(self) -> bool:
        return self.listing or bool(self.runs)

    def add(self, later: Changes) -> None:
        """Take in what the next poll found."""
        self.listing |= later.listing
        self.runs |= later.runs
        self.transitions.update(later.transitions)
        self.news |= later.news
        self.gone |= later.gone
        self.lost = later.lost or self.lost


class Store:
    """The followers of all runs, the chosen run and the marked ones."""

    def __init__(self, runs_dir: Path, *, stall_steps: int = STEPS) -> None:
        self.runs_dir = runs_dir
        self._stall_steps = stall_steps
        self.view = View(runs_dir)
        self.followers: dict[str, Follower] = {}
        self.selected: str | None = None
        self.error: str = ""
        """Why the runs directory cannot be read; empty when it can."""
        self.loading = True
        """Whether logs of the directory are still being read for the first time."""
        self.listed = False
        """Whether the directory was looked at: before that no run means nothing."""
        self.unfinished = False
        """Whether the last poll ran out of time: the next should follow at once."""
        self._expected: set[str] = set()
        self._scanned = 0.0
        self._listed: tuple[int, int] | None = None
        self._checked: dict[str, float] = {}
        """When runs were looked at, those first that were the longest ago."""
        self._status: dict[str, Status] = {}
        self._going: set[str] = set()
        """Runs that train, wait or are paused."""
        self._empty: set[str] = set()
        """Runs without a line in their log, as far as is known: being made, copied or removed."""
        self._unread: set[str] = set()
        """Runs whose logs are longer than a poll could read."""
        self._pass = 0.0
        """When the first poll began of those that ran out of time one after the other."""
        self._left: set[str] = set()
        """Runs whose logs a poll had no time to read to the end."""
        self._touched: set[str] = set()
        self._hinted: set[str] = set()
        """Runs to be looked at though they rest."""
        self._whole: dict[str, None] = {}

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
        """Runs that train, wait in the queue or are paused, oldest first.

        One whose log was not looked at yet is none of them, whatever it will turn out to be.
        """
        return [self.followers[run] for run in sorted(self._going)]

    def marked(self) -> list[Follower]:
        """Runs marked for comparison, in the order they were marked."""
        return [self.followers[run] for run in self.view.marked if run in self.followers]

    def slot(self, run: str) -> int | None:
        """The number of a marked run's colour; ``None`` when it is not marked."""
        return self.view.slot(run)

    def toggle_mark(self, run: str) -> bool:
        """Mark or unmark a run; whether it is marked now."""
        self._touched.add(run)
        before = self._marks()
        marked = self.view.toggle(run)
        self._touched.update(other for other, _ in before ^ self._marks())
        return marked

    def clear_marks(self) -> None:
        """Unmark all runs."""
        before = self._marks()
        self.view.clear()
        self._touched.update(run for run, _ in before ^ self._marks())

    def _marks(self) -> set[tuple[str, int | None]]:
        """With their colours: a change of one's own brings in those of another app."""
        return {(run, self.view.slot(run)) for run in self.view.marked}

    def look_at(self, runs: Collection[str]) -> None:
        """Something of these has changed, or of the directory: the next poll looks at them."""
        self._hinted.update(runs)
        self._scanned = 0.0

    def expect(self, run: str) -> None:
        """This app gave the run to its worker, which will lock it soon: until then it is queued."""
        self._expected.add(run)
        self._scanned = 0.0

    def give_up(self, given: Collection[str] = ()) -> None:
        """Runs that no trainer was given, or that it has refused, are not waited for."""
        lost = self._expected.difference(given)
        self._touched |= lost
        self._expected -= lost

    def poll(self, *, budget: float = 0.05, now: bool = False) -> Changes:
        """Fold what is new on disk, for at most about ``budget`` seconds; the rest comes next."""
        changes = Changes(runs=self._touched, news=bool(self._touched))
        self._touched = set()
        began = time.monotonic()
        if now or began - self._scanned >= SCAN_SECONDS:
            self._scan(changes)
            self._scanned = began
            if not self.listed:
                self.listed = changes.listing = True
        end = began + budget
        if not self.unfinished:
            self._pass = began
        self.unfinished = False
        for count, follower in enumerate(self._due(began)):
            if count and time.monotonic() >= end:
                self.unfinished = True
                break
            self._hinted.discard(follower.run.id)
            self._checked.pop(follower.run.id, None)  # to the end of those that were looked at
            self._checked[follower.run.id] = began
            known, told, before = _shown(follower), _told(follower), follower.status
            self._read(follower, end)
            if before in ACTIVE and follower.status == "crashed" and _vanishes(follower.run):
                follower.status = before  # no lock, but nobody knows whether it is trained
                self._scanned = 0.0
                continue
            corrected = self._correct(follower, changes)
            if corrected or known != _shown(follower):
                changes.runs.add(follower.run.id)
                changes.news = changes.news or corrected or told != _told(follower)
        changes.news = changes.news or changes.listing or self.unfinished
        self.loading = len(self._checked) < len(self.followers)
        changes.runs &= self.followers.keys()
        self._forget_curves()
        return changes

    def _read(self, follower: Follower, end: float) -> None:
        """Fold a run as far as it is shown: the chosen and the marked ones whole."""
        run = follower.run.id
        self._left.discard(run)
        needed = run == self.selected or run in self.view.marked
        if run not in self._status and not needed and follower.glance():
            return
        idle = not self._going
        follower.poll(limit=CHUNK_BYTES, whole=needed, may_start_process=idle)
        while not follower.partial and follower.behind():
            if time.monotonic() >= end:
                self.unfinished = True
                self._left.add(run)
                return
            follower.poll(limit=CHUNK_BYTES)
        if needed:
            follower.keep()
            self._whole.pop(run, None)
            self._whole[run] = None

    def _forget_curves(self) -> None:
        """Scrolling through a thousand runs must not keep a thousand curves."""
        for run in list(self._whole)[: max(0, len(self._whole) - WHOLE_KEPT)]:
            if run == self.selected or run in self.view.marked:
                continue
            del self._whole[run]
            follower = self.followers.get(run)
            if follower is not None and follower.status not in ACTIVE:
                follower.glance()

    def _correct(self, follower: Follower, changes: Changes) -> bool:
        """Runs on their way to a trainer are queued, not crashed; note what changed."""
        run = follower.run.id
        state = follower.state
        before = self._status.get(run)
        if follower.status == "crashed" and state.waiting:
            # one that was known has lost its log: its folder has changed, but it waits for nobody
            may_wait = state.queued is not None or before in (None, "queued")
            made = _made(follower) if may_wait else 0.0
            if run in self._expected or abs(time.time() - made) < SUBMIT_SECONDS:
                follower.status = "queued"
        elif follower.status != "queued":
            self._expected.discard(run)
        unknown = run in self._empty or state.seq < 0
        (self._empty.add if state.seq < 0 else self._empty.discard)(run)
        (self._unread.add if follower.halfway else self._unread.discard)(run)
        if before is None and follower.halfway:
            # still being read for the first time: what it was before is not known
            return True
        self._status[run] = follower.status
        (self._going.add if follower.status in ACTIVE else self._going.discard)(run)
        if before is None or before == follower.status:
            return before is None
        # a run that is copied into the directory, or removed from it, does not end meanwhile
        if not unknown and {before, follower.status} & set(ACTIVE):
            changes.transitions[run] = (before, follower.status)
        return True

    def _scan(self, changes: Changes) -> None:
        stamp = _stamp(self.runs_dir)
        if stamp is not None and stamp == self._listed:
            return
        try:
            found = {run.id: run for run in scan(self.runs_dir)}
        except RunError as error:
            self._listed = None  # the directory may be readable again without a change
            changes.listing = changes.listing or self.error != str(error)
            self.error = str(error)
            return
        self._listed = stamp
        changes.listing = bool(self.error)
        self.error = ""
        for gone in self.followers.keys() - found.keys():
            follower = self.followers.pop(gone)
            changes.gone.add(gone)
            if gone == self.selected:
                changes.lost = follower
            self._checked.pop(gone, None)
            self._hinted.discard(gone)
            self._status.pop(gone, None)
            self._empty.discard(gone)
            self._going.discard(gone)
            self._unread.discard(gone)
            changes.listing = True
        for new in found.keys() - self.followers.keys():
            self.followers[new] = Follower(RunDir(found[new].path), stall_steps=self._stall_steps)
            changes.listing = True
        if self.selected not in self.followers:
            # the next older one takes the place of one that has gone
            older = [run for run in self.followers if changes.lost and run < changes.lost.run.id]
            newest = max(self.followers, default=None)
            self.selected = max(older) if older else newest

    def _due(self, now: float) -> list[Follower]:
        """The chosen run first, then the longest not looked at; ended ones only now and then.

        What was looked at by a poll that ran out of time is not due at once in the next: a run
        that takes all of a poll would keep the others from being looked at for ever.
        """
        chosen = [] if self.selected is None else [self.selected]
        partial = (run for run in self.view.marked if self._partial(run))
        shown = {run for run in (*chosen, *partial) if run in self._checked}
        wanted = (
            self._going
            | self._unread
            | (self._hinted & self.followers.keys())
            | {run for run in self._expected if run in self._checked}
        )
        for run in shown - wanted:
            if self._rested(run, now) or self.followers[run].behind():
                wanted.add(run)
        if len(self._checked) < len(self.followers):
            wanted |= self.followers.keys() - self._checked.keys()
        resting = 0
        for run in self._checked:  # the longest not looked at first
            if resting == RESTING_EACH or not self._rested(run, now):
                break
            if run not in wanted and run not in shown:
                wanted.add(run)
                resting += 1
        if self._pass < now:
            seen = wanted - self._unread - self._left - self._hinted
            wanted -= {
                run
                for run in seen & self._checked.keys()
                if self._checked[run] >= self._pass and not self._rested(run, now)
            }
        due = sorted(wanted, reverse=True)  # the newest first: they are in view
        due.sort(key=lambda run: (run != self.selected, self._checked.get(run, 0.0)))
        return [self.followers[run] for run in due]

    def _rested(self, run: str, now: float) -> bool:
        return now - self._checked[run] >= FINISHED_SECONDS

    def _partial(self, run: str) -> bool:
        follower = self.followers.get(run)
        return follower is not None and follower.partial


def _stamp(directory: Path) -> tuple[int, int] | None:
    """What changes with a directory's listing; ``None`` when that cannot be told (yet)."""
    try:
        stat = directory.stat()
    except OSError:
        return None
    settled = abs(time.time() - stat.st_mtime) > SETTLED_SECONDS
    # not st_mtime_ns, which stays when its permissions change
    return (stat.st_ino, stat.st_ctime_ns) if settled else None


def _shown(follower: Follower) -> tuple[object, ...]:
    """What a repaint depends on."""
    state = follower.state
    return id(state), state.revision, follower.stalled, follower.reading, follower.lost


def _told(follower: Follower) -> tuple[object, ...]:
    """The same, but for the progress."""
    state = follower.state
    seen = follower.damaged, follower.reading, follower.lost
    return id(state), state.news, follower.stalled, *seen


def _vanishes(run: RunDir) -> bool:
    """Whether a run's folder has gone, or is just being removed."""
    if os.path.exists(run.log):  # noqa: PTH110  # never raises
        return False
    try:
        changed = run.path.stat().st_mtime
    except OSError:
        return True
    return abs(time.time() - changed) < SETTLED_SECONDS


def _made(follower: Follower) -> float:
    """When the run was queued, seconds since 1970; of a run without a log its folder's."""
    if follower.state.queued is not None:
        return follower.state.asked_at
    try:
        return follower.run.path.stat().st_mtime
    except OSError:
        return 0.0

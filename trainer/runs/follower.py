"""A run being watched: its folder, the tail of its log, what it came to. Torch-free."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from trainer.errors import RunError
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import Tail, file_of
from trainer.runs.runstate import LONG_BYTES, RunState, Status
from trainer.runs.stall import STEPS, Pulse

if TYPE_CHECKING:
    from trainer.runs.ahead import Ahead

PIECE_BYTES = 1 << 18
"""Read and folded at a time: it stays in the processor's cache meanwhile; 8 MiB would take twice as
long."""
AHEAD_BYTES = 64 << 20
"""What is shorter is read in hardly more than the time that it takes to start a process."""


class Follower:
    """A run being watched: its folder, the tail of its log, and the state folded from it.

    After a ``glance`` the state is what the ends of the log tell, until the log changes or the
    whole is asked for.
    """

    def __init__(self, run: RunDir, *, stall_steps: int = STEPS) -> None:
        self.run = run
        self.state = RunState()
        self._tail = Tail(run.log)
        self._ahead: Ahead | None = None
        self._glanced: tuple[int, int] | None = None
        self._unread = True
        """Whether the last look did not come to the end of the log, or there was none yet."""
        self._kept = 0
        """Bytes of the log whose fold is kept beside it, as far as is known."""
        self._cut_off = -1
        """Bytes of the file that took the log's place under its trainer, which writes elsewhere."""
        self._pulse = Pulse(stall_steps)
        self.status: Status = "queued"
        self.stalled: int | None = None
        """Seconds without a sign of life, when that is a stall."""

    @property
    def damaged(self) -> int:
        """Lines of the log that could not be read."""
        return self._tail.damaged

    @property
    def problem(self) -> str:
        """Why nothing of the run is known; empty when something is."""
        if self.state.seq >= 0 or self.partial:
            return ""
        if self._tail.problem:
            return f"the log cannot be read: {self._tail.problem}"
        return "no line of the log can be read" if self.damaged else "the log is empty"

    @property
    def lost(self) -> str:
        """What is not known of the run, and why, where its log went away while it was watched."""
        if self.state.ended is not None or self.state.seq < 0:
            return ""
        if not self._tail.gone and self.offset > self._cut_off:  # nor has anybody written since
            return ""
        done = "deleted" if self._tail.gone else "replaced by another file"
        what = "how it ended" if self.status == "crashed" else "what it has done since"
        return f"its log was {done}: {what} is not known"

    @property
    def name(self) -> str:
        """What the run is called; of one whose log tells nothing its folder's name."""
        return self.state.name or self.run.id

    @property
    def more(self) -> str:
        """What to say behind a run's error: which file tells where it failed; empty without one.

        A resumed run's may be of an earlier attempt, and then tells nothing of this one.
        """
        if self.status != "failed":
            return ""
        try:
            written = self.run.traceback.stat().st_mtime
        except OSError:
            return ""
        found = written >= self.state.asked_at
        return f"; {self.run.traceback.name} in its folder tells more" if found else ""

    @property
    def here(self) -> bool:
        """Whether it was begun on this machine; so is a run whose log names none."""
        begun = self.state.started
        return begun is not None and begun.host in ("", platform.node())

    @property
    def offset(self) -> int:
        """Bytes of the log that were folded."""
        return self._tail.offset

    @property
    def partial(self) -> bool:
        """Whether there was only a glance at the log: no curves."""
        return self._glanced is not None

    @property
    def reading(self) -> bool:
        """Whether the state is not yet what the whole log comes to: figures of it would be false.

        That a run has gone on since the last look does not count.
        """
        return self.partial or self._unread

    @property
    def halfway(self) -> bool:
        """Whether the state is of the log's beginning alone; what a glance tells is true."""
        return self._unread and not self.partial

    def glance(self) -> bool:
        """Know the run by the ends of its log alone, if they tell enough; whether they did.

        What was folded of the whole log is forgotten.
        """
        from trainer.runs.glance import glance

        found = glance(self.run.log)
        if found is None:
            return False
        self.read_alone()
        self.state, self._glanced, self._tail = found.state, found.file, Tail(self.run.log)
        self.status = self._status()
        return True

    def poll(
        self, *, limit: int = 8 << 20, whole: bool = True, may_start_process: bool = False
    ) -> bool:
        """Fold what is new; whether anything changed, the status included.

        Not ``whole``: a glance that is still true is enough. A second process, where it may be
        started, reads the further part of a very long log; then a poll may find nothing yet.
        """
        if self._glanced is not None:
            file = file_of(self.run.log)
            if file is None or (not whole and self._glanced == file):
                return False  # what was known of a log that is gone is not forgotten, either
            self._glanced, self.state = None, RunState()
        fresh = not self._tail.offset
        changed = fresh and self._remember()
        if fresh and may_start_process:
            self._look_ahead()
        while limit > 0:
            before, ahead = self._tail.offset, self._ahead
            if ahead is not None and before >= ahead.begin:
                if self._fold_ahead(ahead):
                    changed, limit = True, limit - (self._tail.offset - before)
                elif not ahead.over:
                    self._unread = True
                    break
                continue
            wanted = min(limit, PIECE_BYTES)
            if ahead is not None:
                wanted = min(wanted, ahead.begin - before)
            new = self._tail.read(wanted)
            if self._tail.restarted:
                self.read_alone()
                self.state, self._kept, before, changed = RunState(), 0, 0, True
                lives = self.status in ("training", "paused")
                self._cut_off = self._tail.replaced if lives else -1
            self.state.apply_all(new)
            changed = changed or bool(new)
            if self._tail.offset - before < wanted:
                self._unread = False
                break
            limit -= wanted
        else:
            self._unread = self._tail.behind()
        told = self.status, self.stalled
        self.status = self._status()
        # at each poll: what it heard last and when it looked last belong together
        quiet = self._pulse.look(self.state)
        self.stalled = quiet if self.status == "training" else None
        return changed or told != (self.status, self.stalled)

    def _look_ahead(self) -> None:
        """Have the further part of a very long log read by another process."""
        file, offset = file_of(self.run.log), self._tail.offset
        if file is None or file[1] - offset < AHEAD_BYTES or self._ahead is not None:
            return
        if self.run.is_locked():  # the processor is its trainer's
            return
        from trainer.runs import ahead

        self._ahead = ahead.start(self.run.log, offset=offset)

    def _fold_ahead(self, ahead: Ahead) -> bool:
        """Fold what the other process has read; ``False``: nothing yet, or it is ``over``."""
        piece = ahead.next()
        if piece is None and not ahead.over:
            return False
        # what was folded of a piece in vain is read again: repeated events are ignored
        if piece is None or not self.state.apply_parts(piece.parts):
            self.read_alone()
            return False
        damaged = self._tail.damaged
        self._tail.go_on(inode=ahead.inode, size=piece.end, end=piece.mark, damaged=damaged)
        if ahead.over:
            self.read_alone()
        return True

    def read_alone(self) -> None:
        """Have no other process read ahead, from now on."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def _remember(self) -> bool:
        """Begin with what the trainer kept of a long log, if that is still true; whether it is."""
        if not os.path.exists(self.run.folded):  # noqa: PTH110  # another's folder is no error
            return False
        from trainer.runs import (
            folded,  # few runs are so long: the first paint need not wait for it
        )

        found = folded.load(self.run)
        if found is None:
            return False
        self.state, self._kept = found.state, found.size
        self._tail.go_on(inode=found.inode, size=found.size, end=found.mark, damaged=found.damaged)
        return True

    def keep(self) -> bool:
        """Keep what a long log came to that nobody writes any more, where its trainer has not;
        whether it is kept now. It will be known at once when it is opened again.
        """
        if self.offset - self._kept < LONG_BYTES or self.partial or self.behind():
            return False
        if self.state.ended is None and self.status != "crashed":
            return False
        self._kept = self.offset  # tried once, whether the folder can be written or not
        try:
            self.run.refuse_links()
        except RunError:
            return False
        return self._save()

    def keep_growing(self) -> bool:
        """The same of a log that its trainer still writes: fold what is new, and keep the whole
        once it is long and again when it is much longer. Called by who holds the run's lock.
        """
        try:
            if self.run.log.stat().st_size - self._kept < LONG_BYTES:
                return False
        except OSError:
            return False
        self.catch_up()
        if not self._save():
            return False
        self._kept = self.offset
        return True

    def _save(self) -> bool:
        from trainer.runs import folded

        return folded.save(self.run, self.state, size=self.offset, damaged=self.damaged)

    def behind(self) -> bool:
        """Whether the log has more than was folded; of a glance nearly everything is left."""
        return self._tail.behind()

    def catch_up(self) -> RunState:
        """Fold the whole log."""
        self.read_alone()
        before = -1
        while before != self._tail.offset:  # a log that cannot be read gets no further
            before = self._tail.offset
            self.poll()
        return self.state

    def _status(self) -> Status:
        if self.state.ended is not None:
            return self.state.ended.state
        status = self.state.status(locked=self.run.is_locked())
        if status == "crashed" and self._tail.behind():
            # it ended between the read and the look at the lock: the next poll tells
            return self.status
        return status

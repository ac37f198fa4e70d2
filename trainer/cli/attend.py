"""A run that trains in this process while its terminal watches and may stop it."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from trainer import events
from trainer.cli.caller import Caller
from trainer.cli.output import warn
from trainer.cli.progress import View
from trainer.distributed.world import World
from trainer.errors import UserError
from trainer.events import Envelope
from trainer.exit_codes import STOPPED
from trainer.lifecycle.alerts import AlertSettings
from trainer.lifecycle.submit import withdraw
from trainer.runs.control import Control
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import Tail

POLL_SECONDS = 0.1
STOPS_UNTIL_ABORT = 3


def attend(
    run: RunDir,
    control: Control,
    view: View,
    data_directory: Path | None = None,
    *,
    resume: bool = False,
    new: bool = True,
    settings: AlertSettings | None = None,
    world: World | None = None,
) -> events.RunEnded:
    """Train a run on a thread of its own and show it until it ends; ``world`` as in ``train_run``.

    A ``new`` run that was refused before its first step leaves no folder, unless another process
    has taken it up.

    Raises:
        UserError: bad input that was found while it was prepared.
    """
    settings = settings or AlertSettings()
    trainer = _Trainer(
        run, control, data_directory, resume=resume, on_end=settings.on_end, world=world
    )
    caller = Caller(settings)
    try:
        earlier = Tail(run.log)
        while earlier.behind():
            known = earlier.read()
            view.fold(known)
            trainer.know(known)
            caller.fold(known)
        with _signals(trainer):
            trainer.start()
            while not trainer.finished:
                found = trainer.news(POLL_SECONDS)
                view.show(found)
                caller.look(found)
                for number, user in trainer.taken_signals():
                    _stop(run, control, view, number, user=user, began=trainer.began)
            found = trainer.news(0)
            view.show(found)
            caller.look(found)
    finally:
        view.close()
    try:
        return trainer.result()
    except UserError:
        if new and not trainer.began:
            withdraw(run)
        raise


class _Trainer:
    """The training thread, its events, and the signals that came meanwhile."""

    def __init__(
        self,
        run: RunDir,
        control: Control,
        data_directory: Path | None,
        *,
        resume: bool,
        on_end: str,
        world: World | None,
    ) -> None:
        self._world = world
        self._resume, self._on_end = resume, on_end
        self._run, self._control, self._data_directory = run, control, data_directory
        self._queue: queue.SimpleQueue[Envelope | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._train, name="training", daemon=True)
        self._outcome: events.RunEnded | BaseException | None = None
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._stops: Counter[bool] = Counter()
        self.told = False
        """Whether a signal has come."""
        self.began = False
        """Whether data and net were fit to train, in this attempt or an earlier one."""
        self.finished = False

    def start(self) -> None:
        """Begin to train."""
        self._thread.start()

    def heard(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: only counts and wakes the main thread."""
        self.told = True
        self._signals.put(number)
        self._queue.put(None)

    def taken_signals(self) -> Iterator[tuple[int, bool]]:
        """How many, from 1, of signals since the last call, and whether they are Ctrl-C.

        The others are counted apart: a lost terminal may send three within milliseconds.
        """
        while not self._signals.empty():
            user = self._signals.get() == signal.SIGINT
            self._stops[user] += 1
            yield self._stops[user], user

    def news(self, seconds: float) -> list[Envelope]:
        """Everything that has come; waits so long for the first."""
        found: list[Envelope] = []
        with suppress(queue.Empty):
            one = self._queue.get(timeout=seconds) if seconds else self._queue.get_nowait()
            while True:
                if one is not None:
                    found.append(one)
                one = self._queue.get_nowait()
        self.know(found)
        return found

    def know(self, found: list[Envelope]) -> None:
        """What the log has, or has now."""
        self.began = self.began or any(isinstance(one.event, events.RunStarted) for one in found)

    def result(self) -> events.RunEnded:
        """The run's last event; what the thread raised is raised here."""
        self._thread.join()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def _train(self) -> None:
        from trainer.lifecycle.session import train_run

        try:
            self._outcome = train_run(
                self._run,
                self._control,
                listener=self._queue.put,
                data_dir=self._data_directory,
                resume=self._resume,
                on_end=self._on_end,
                world=self._world,
            )
        except BaseException as error:
            self._outcome = error
        finally:
            self.finished = True
            self._queue.put(None)


def _stop(
    run: RunDir, control: Control, view: View, number: int, *, user: bool, began: bool
) -> None:
    if user and number >= STOPS_UNTIL_ABORT:
        view.close()
        if (launch := sys.modules.get("trainer.distributed.launch")) is not None:
            launch.abort()
        kept = run.has_checkpoint("last")
        warn("aborted: the last checkpoint stays" if kept else "aborted without a checkpoint")
        sys.stdout.flush()
        os._exit(STOPPED)
    control.request("stop")
    if number == 1:
        how = "at the next step, saving a checkpoint" if began else "before the first step"
        view.message(f"stopping {how}")
    elif user:
        view.message("still stopping; once more aborts without a checkpoint")


@contextmanager
def _signals(trainer: _Trainer) -> Iterator[None]:
    """Ctrl-C, a polite kill and a lost terminal all stop the run cleanly.

    After a stop the latter two are ignored until the process has ended, so that its exit code tells
    how the run did; the interpreter drops handlers at its end, but what is ignored stays so.
    """
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    # what is ignored stays so: nohup, a background job of a plain shell
    wanted = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, trainer.heard) for number in wanted}
    try:
        yield
    finally:
        for number, old in before.items():
            ends = trainer.told and old == signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if ends else old)

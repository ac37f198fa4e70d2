"""The process that trains for the app: ``python -m trainer.worker``.

Reads runs to train as JSON lines on stdin, ``{"run": FOLDER, "data_dir": null}``, and tells its own
state as JSON lines on stdout; the runs' events go to their logs. A queued run's lock is taken as
soon as its line is read, so that everybody sees it waiting. When stdin ends, the app has gone: the
running and the queued runs are trained to their end, then the process exits. It runs in a session
of its own, so a lost terminal does not reach it. Questions about single images,
``{"inspect": {…}}``, go on to a process of their own (``trainer.inspector``).
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from trainer import heap
from trainer.control import Control
from trainer.distributed.aftermath import end_from_log
from trainer.errors import RunError, UserError
from trainer.inspector_process import InspectorProcess
from trainer.processes import keep_output
from trainer.protocol import Asked, Job, State
from trainer.rundir import RunDir
from trainer.runlog import RunLog
from trainer.session import train_locked

CANCEL_POLL_SECONDS = 0.5


class Held:
    """A run whose lock this process holds, and what it was asked to do."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.run = RunDir(Path(job.run))
        self.control = Control(self.run)
        self._lock = ExitStack()
        self._descriptor = self._lock.enter_context(self.run.locked())

    def train(self) -> None:
        """Train it on this thread; every end is in its log."""
        with self._lock, suppress(UserError):
            data_dir = Path(self.job.data_dir) if self.job.data_dir else None
            train_locked(
                self.run,
                self.control,
                data_dir=data_dir,
                resume=self.job.resume,
                on_end=self.job.on_end,
                lock=self._descriptor,
            )
        # the worker lives on, and should not hold what the run needed
        from trainer import device

        device.give_memory_back()
        heap.give_memory_back()

    def end(self, error: str = "") -> None:
        """End it before it began: as failed where there is an error, else as stopped."""
        with self._lock, suppress(RunError):
            log = RunLog(self.run)
            # who took it out of the queue himself need not be told
            on_end = self.job.on_end if error else ""
            end_from_log(self.run, log, error, began=False, on_end=on_end)
            log.close()


class Worker:
    """The queue of runs: filled by the reader thread, emptied by the training thread."""

    def __init__(self, tell: Callable[[State], None]) -> None:
        self._tell = tell
        self.inspector = InspectorProcess(tell)
        self._waiting: list[Held] = []
        self._running: Held | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._stopping = False

    def hear(self, line: bytes) -> None:
        """Take a line of stdin: a job, or a question about an image."""
        with suppress(msgspec.DecodeError):
            asked = msgspec.json.decode(line, type=Asked)
            if asked.inspect is not None:
                self.inspector.ask(asked.inspect)
                return
        self.add(line)

    def add(self, line: bytes) -> None:
        """Take a job over from a line of stdin."""
        job = None
        try:
            job = msgspec.json.decode(line, type=Job)
            held = Held(job)
        except (msgspec.DecodeError, RunError, OSError) as error:
            run = "" if job is None else job.run
            self._tell(State(state="refused", run=run, error=str(error)))
            return
        with self._changed:
            self._waiting.append(held)
            self._changed.notify_all()

    def close(self) -> None:
        """No more jobs will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Stop the running run, cancel the queued ones, then exit."""
        with self._changed:
            self._stopping = self._closed = True
            if self._running is not None:
                self._running.control.request("stop")
            self._changed.notify_all()

    def next(self) -> Held | None:
        """Wait for a run to train; None when there will be none."""
        with self._changed:
            self._running = None
            while True:
                self._cancel_unwanted()
                if self._waiting:
                    self._running = self._waiting.pop(0)
                    return self._running
                if self._closed:
                    return None
                self._changed.wait()

    def watch(self) -> None:
        """Cancel queued runs that were asked to stop while another one trains."""
        with self._changed:
            self._cancel_unwanted()

    def _cancel_unwanted(self) -> None:
        for held in list(self._waiting):
            if self._stopping or held.control.stopping():
                self._waiting.remove(held)
                held.end()

    def fail_all(self, reason: str) -> None:
        """Nothing can be trained: the queued runs say why."""
        with self._changed:
            for held in self._waiting:
                held.end(reason)
            self._waiting.clear()


def main() -> int:
    """Serve until stdin ends and all runs are trained."""
    tell = _teller(keep_output())  # first: nothing else may write there
    heap.share_one_arena()
    worker = Worker(tell)
    # the last message of a signal handler must be possible while the lock is held elsewhere
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=worker.stop).start())
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_read_jobs, args=(worker,), daemon=True, name="jobs").start()
    tell(State(state="loading"))
    try:
        tell(_ready())
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        reason = f"torch cannot be loaded: {lines[0]}"
        worker.fail_all(reason)
        tell(State(state="failed", error=reason))
        return 1
    trainer = threading.Thread(target=_train_all, args=(worker, tell), name="training")
    trainer.start()
    while trainer.is_alive():
        trainer.join(CANCEL_POLL_SECONDS)
        worker.watch()
    return 0


def _ready() -> State:
    import torch

    # loaded now rather than at the first start, which is then instant
    import trainer.engine  # noqa: F401
    from trainer import device as devices

    return State(
        state="ready",
        torch=str(torch.__version__),
        device=devices.describe(devices.resolve("auto")),
        devices=devices.available(),
        threads=torch.get_num_threads(),
    )


def _train_all(worker: Worker, tell: Callable[[State], None]) -> None:
    while (held := worker.next()) is not None:
        tell(State(state="training", run=held.run.id))
        worker.inspector.busy(True)
        try:
            held.train()
        except BaseException:  # a net can raise anything; the other runs have their turn
            traceback.print_exc()
        worker.inspector.busy(False)
        tell(State(state="idle"))


def _read_jobs(worker: Worker) -> None:
    # not through sys.stdin: its lock, held by a thread that waits, aborts the exit of the process
    rest = b""
    while data := os.read(0, 65536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            worker.hear(line)
    worker.close()


def _teller(out: int) -> Callable[[State], None]:
    """Write states to a descriptor; when nobody reads any more, stay quiet."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def write() -> None:
        while True:
            line = lines.get()
            with suppress(OSError):
                while line:
                    line = line[os.write(out, line) :]

    threading.Thread(target=write, daemon=True, name="states").start()
    return lambda state: lines.put(msgspec.json.encode(state) + b"\n")


if __name__ == "__main__":
    sys.exit(main())

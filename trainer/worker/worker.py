"""The process that trains for the app: ``python -m trainer.worker``.

Reads runs to train as JSON lines on stdin, ``{"run": FOLDER, "data_dir": null}``, and tells its own
state as JSON lines on stdout; the runs' events go to their logs. A queued run's lock is taken as
soon as its line is read, so that everybody sees it waiting. When stdin ends, the app has gone: the
running and the queued runs are trained to their end, then the process exits. It runs in a session
of its own, so a lost terminal does not reach it. Questions about single images,
``{"inspect": {…}}``, go on to a process of their own (``trainer.inspection``). After a run that has
ended with a CUDA error the queue goes on in a fresh image of the process (``handover``).
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from trainer.errors import RunError, UserError, first_line
from trainer.exit_codes import COMPLETED, FAILED
from trainer.inspection.inspector_process import InspectorProcess
from trainer.lifecycle.aftermath import end_from_log
from trainer.lifecycle.session import train_locked
from trainer.loop import cores, heap
from trainer.processes import keep_output
from trainer.protocol import Asked, Job, State
from trainer.runs.control import Control
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog
from trainer.spoiled import spoils
from trainer.worker.handover import Left, Waiting, replace_process, taken_over

CANCEL_POLL_SECONDS = 0.5
FLUSH_SECONDS = 2.0
"""How long an app that reads nothing is waited for before the process is replaced or ends."""
ENDING = (signal.SIGTERM, signal.SIGINT)


class Held:
    """A run whose lock this process holds, and what it was asked to do.

    Args:
        job: what was asked for.
        lock: the descriptor of its lock, where an earlier image of the process has taken it.
    """

    def __init__(self, job: Job, lock: int | None = None) -> None:
        self.job = job
        self.run = RunDir(Path(job.run))
        self.control = Control(self.run)
        self._lock = ExitStack()
        if lock is None:
            self.descriptor = self._lock.enter_context(self.run.locked())
        else:
            os.set_inheritable(lock, False)
            self._lock.callback(os.close, lock)
            self.descriptor = lock
        self.spoiled = False
        """Whether its end has left nothing that this process could train others with."""

    def judge(self, error: BaseException) -> None:
        """Look at what ended it. It is not kept: what it was raised in has the net."""
        self.spoiled = self.spoiled or spoils(error)

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
                lock=self.descriptor,
                on_failure=self.judge,
            )
        if self.spoiled:
            return
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
        self._ending = False
        self._reading = threading.Lock()
        self._rest = b""

    def take_over(self, left: Left) -> None:
        """Go on where an earlier image of this process ended; before anything is read."""
        self._waiting.extend(Held(waiting.job, waiting.lock) for waiting in left.waiting)
        self._rest = left.rest
        if left.ending:
            self.stop()
        elif left.inspect is not None:
            self.inspector.ask(left.inspect)

    def hand_over(self, out: int) -> None:
        """Have a fresh image of this process go on; returns when nothing is left to be done.

        Raises:
            OSError: there can be none.
        """
        with self._reading, self._changed:
            self._running = None
            self._cancel_unwanted()
            if self._closed and not self._waiting:
                return
            waiting = tuple(Waiting(held.job, held.descriptor) for held in self._waiting)
            left = Left(waiting=waiting, rest=self._rest, inspect=self.inspector.question())
            replace_process(left, out, lambda: self._ending)

    def read(self, descriptor: int) -> None:
        """Take lines from a pipe until it ends."""
        # not through sys.stdin: its lock, held by a thread that waits, aborts the process's exit
        while True:
            select.select([descriptor], [], [])
            with self._reading:  # what is read is taken, or is left in the pipe
                data = os.read(descriptor, 65536)
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self.hear(line)
            if not data:
                self.close()
                return

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

    def end(self) -> None:
        """As ``stop``, in a signal handler: what it interrupts may hold the lock."""
        self._ending = True  # also where this process is replaced before the thread has its turn
        threading.Thread(target=self.stop).start()

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
        with self._reading, self._changed:  # one that is just being taken is one of them
            for held in self._waiting:
                held.end(reason)
            self._waiting.clear()


def main(arguments: Sequence[str] = ()) -> int:
    """Serve until stdin ends and all runs are trained."""
    out = keep_output()  # first: nothing else may write there
    try:
        Path.cwd()
    except OSError:
        os.chdir("/")  # without one torch cannot be loaded; all paths that come are whole
    tell = Teller(out)
    code = _serve(out, tell, arguments)
    tell.flush(FLUSH_SECONDS)
    return code


def _serve(out: int, tell: Teller, arguments: Sequence[str]) -> int:
    heap.share_one_arena()
    cores.give_way()
    worker = Worker(tell)
    for number in ENDING:
        signal.signal(number, lambda *_: worker.end())
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # an earlier image has kept them waiting
    worker.take_over(taken_over(arguments))
    threading.Thread(target=worker.read, args=(0,), daemon=True, name="jobs").start()
    tell(State(state="loading"))
    try:
        tell(_ready())
    except Exception as error:
        reason = f"torch cannot be loaded: {first_line(error)}"
        worker.fail_all(reason)
        tell(State(state="failed", error=reason))
        return FAILED
    while not _train_all(worker, tell):
        tell.flush(FLUSH_SECONDS)
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            worker.hand_over(out)
        except OSError:  # the runs that are left may still be lucky here
            traceback.print_exc()
            os.close(keep_output())  # it may have been given to the next image
        else:
            return COMPLETED
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    return COMPLETED


def _ready() -> State:
    import torch

    # loaded now rather than at the first start, which is then instant
    import trainer.loop.engine  # noqa: F401
    from trainer import device as devices

    return State(
        state="ready",
        torch=str(torch.__version__),
        device=devices.describe(devices.resolve("auto")),
        devices=devices.available(),
        threads=torch.get_num_threads(),
    )


def _train_all(worker: Worker, tell: Callable[[State], None]) -> bool:
    """Train what comes, on a thread of its own; false: this process cannot train any more."""
    fit = True

    def train() -> None:
        nonlocal fit
        while fit and (held := worker.next()) is not None:
            tell(State(state="training", run=held.run.id))
            worker.inspector.busy(True)
            try:
                held.train()
            except BaseException as error:  # a net can raise anything; the others have their turn
                traceback.print_exc()
                held.judge(error)
            fit = not held.spoiled
            worker.inspector.busy(False)
            tell(State(state="idle"))

    trainer = threading.Thread(target=train, name="training")
    trainer.start()
    while trainer.is_alive():
        trainer.join(CANCEL_POLL_SECONDS)
        worker.watch()
    return fit


class Teller:
    """Writes states to a descriptor; when nobody reads any more, it stays quiet."""

    def __init__(self, out: int) -> None:
        self._out = out
        self._lines: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        threading.Thread(target=self._write, daemon=True, name="states").start()

    def __call__(self, state: State) -> None:
        """Write a state; it is not waited for."""
        self._lines.put(msgspec.json.encode(state) + b"\n")

    def flush(self, seconds: float) -> None:
        """Wait until all is written, so many seconds at most."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(seconds)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            if isinstance(line, threading.Event):
                line.set()
                continue
            with suppress(OSError):
                while line:
                    line = line[os.write(self._out, line) :]

"""The process that trains for the app: started after the first paint, fed through its stdin.

Everything a run tells comes from its log; this pipe only carries the trainer's own state. Nothing
here touches a widget: what comes is handed to the listener, a function, on the loop of the app.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec
import platformdirs

from trainer.processes import child_environment
from trainer.protocol import Asked, Inspect, Inspected, Job, State
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from tui.formatting import clean

LOG_LIMIT = 1 << 20
EXIT_SECONDS = 2.0


class WorkerInfo(msgspec.Struct, frozen=True):
    """What is known of the trainer."""

    phase: str = "off"
    """off, loading, ready, training, failed or dead."""
    torch: str = ""
    device: str = ""
    devices: tuple[str, ...] = ()
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether it cannot train."""
        return self.phase in ("failed", "dead")

    def lacks_for(self, device: str, processes: int) -> str:
        """Why so many processes cannot train on a device, as ``lacks`` tells it."""
        gpus = sum(known.startswith("cuda") for known in self.devices)
        wanted = device == "cuda" or (device == "auto" and gpus > 0)
        if processes > 1 and wanted and processes > gpus and self.devices:
            have = f"{gpus} GPU" + "s" * (gpus != 1)
            return f"this machine has {have}: at most so many processes, or device cpu"
        return self.lacks(device)

    def lacks(self, device: str) -> str:
        """Why a run cannot train on a device; empty when it can, or when it is not known yet."""
        names = [known.split()[0] for known in self.devices]  # "cuda:0 NVIDIA H200"
        kinds = {name.partition(":")[0] for name in names}
        if not names or device == "auto" or device in names or device in kinds:
            return ""
        return f"this machine has no {device}: choose auto or {', '.join(names)}"

    def line(self) -> str:
        """A few words for the header."""
        if self.phase == "off":
            return ""
        if self.phase == "loading":
            return "torch loading…"
        if self.failed:
            return f"worker failed: {clean(self.error, 120)}"
        return f"torch {clean(self.torch, 20)} · {clean(self.device, 40)}"


Listener = Callable[[WorkerInfo, str], None]
"""Called on the event loop's thread: what is known now, and a problem to tell or nothing."""


def default_command() -> tuple[str, ...]:
    """The trainer under the interpreter that runs the app."""
    # -P: a folder named trainer in the working directory must not be run instead
    return (sys.executable, "-P", "-m", "trainer.worker")


def default_log() -> Path:
    """Where the trainer's stderr goes."""
    return Path(platformdirs.user_log_dir("cifar-tui")) / "worker.log"


class Launcher:
    """Starts the trainer, gives it runs, listens to it. Used on the event loop's thread alone."""

    def __init__(
        self,
        listener: Listener,
        *,
        command: Sequence[str] | None = None,
        log: Path | None = None,
        on_end: str = "",
    ) -> None:
        self._on_end = on_end
        self.info = WorkerInfo()
        self._listener = listener
        self._command = tuple(command or default_command())
        self._log = log or default_log()
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        """Whether the app goes, or has gone: a timer of it that is due late starts nothing."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rest = b""
        self._given: set[str] = set()
        self._waiting: dict[str, Job] = {}
        """Those of which it has not told that they train."""
        self.training = ""
        """Id of the run that it trains; empty: none."""
        self._handed_on = False
        """Whether it has those of a trainer before it, and has trained none yet."""
        self.on_inspected: Callable[[Inspected], None] | None = None
        """Who wants answers about images; called on the event loop's thread."""
        self._question: int | None = None

    @property
    def alive(self) -> bool:
        """Whether a trainer runs that takes jobs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id of the trainer."""
        return self._process.pid if self._process is not None else None

    def start(self) -> bool:
        """Start the trainer unless it runs; whether there is one now."""
        if self._closed:
            return False
        self.hear_of_death()
        if self.alive:
            return True
        self._forget()
        try:
            with self._open_log() as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    env=child_environment(),
                )
        except OSError as error:
            problem = f"cannot start the trainer: {error.strerror}"
            self._tell(WorkerInfo(phase="failed", error=problem), problem)
            return False
        out = self._process.stdout
        assert out is not None
        os.set_blocking(out.fileno(), False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(out.fileno(), self._read)
        self._tell(WorkerInfo(phase="loading"))
        return True

    def queue(self, run: Path, *, resume: bool = False) -> bool:
        """Give the trainer a run; it is started first if there is none."""
        if not self.start():
            return False
        assert self._process is not None
        assert self._process.stdin is not None
        job = Job(run=str(run.absolute()), resume=resume, on_end=self._on_end)
        try:
            self._write(job)
        except BrokenPipeError:
            pass  # it is ending: the run waits for it, as one that it had been given before
        except OSError as error:
            self._tell(self.info, f"the trainer does not take the run: {error.strerror}")
            return False
        self._given.add(run.name)
        self._waiting[run.name] = job
        return True

    def inspect(self, asked: Inspect) -> None:
        """Ask about an image; a trainer is started first if there is none.

        The answers, also that there can be none, come to ``on_inspected``.
        """
        if not asked.run:
            self._question = None
            if self.alive:
                with suppress(OSError):
                    self._write(Asked(inspect=asked))
            return
        started = self.start()  # with it a trainer that has died leaves earlier questions
        self._question = asked.ask
        if not started:
            self._answer_for_the_dead(self.info.error)
            return
        try:
            self._write(Asked(inspect=asked))
        except BrokenPipeError:
            pass  # it is ending: why is the answer, when it is known
        except OSError as error:
            self._answer_for_the_dead(f"the trainer does not answer: {error.strerror}")

    def _write(self, line: Job | Asked) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        os.write(self._process.stdin.fileno(), msgspec.json.encode(line) + b"\n")

    def _answer_for_the_dead(self, error: str) -> None:
        """Nobody waits for ever."""
        asked, self._question = self._question, None
        if asked is not None and self.on_inspected is not None:
            self.on_inspected(Inspected(ask=asked, error=error))

    @property
    def given(self) -> frozenset[str]:
        """Ids of the runs that the living trainer was given."""
        return frozenset(self._given) if self.alive else frozenset()

    def stop(self) -> None:
        """Have it stop all its runs, also one that no file reaches, and end."""
        self._waiting.clear()  # whichever way it ends, no new one takes them
        if self._process is not None:
            with suppress(OSError):
                self._process.terminate()

    def close(self, *, busy: bool) -> None:
        """The app goes. A busy trainer finishes its runs without it; an idle one ends by itself."""
        self._closed = True
        process = self._process
        if process is None:
            return
        self._detach()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        if not busy and self.info.phase == "loading":
            # it would load torch to the end only to find that there is nothing to do
            with suppress(OSError):
                process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(EXIT_SECONDS)
        # left to itself on purpose: no warning that a process was not waited for
        process.returncode = process.returncode if process.returncode is not None else 0
        self._process = None

    def _open_log(self) -> IO[bytes]:
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            log = self._log.open("ab")
            if log.tell() > LOG_LIMIT:
                log.truncate(0)
            self._log_start = log.tell()
        except OSError:
            return Path(os.devnull).open("wb")
        return log

    def _read(self) -> None:
        """Take what the trainer says; at the end of its output find out how it ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            data = os.read(self._process.stdout.fileno(), 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._detach()
            self._await_end(self._process, tries=40)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            with suppress(msgspec.DecodeError):
                self._heard(msgspec.json.decode(line, type=State))

    def _heard(self, state: State) -> None:
        info = self.info
        if state.inspected is not None:
            if self.on_inspected is not None:
                self.on_inspected(state.inspected)
        elif state.state == "refused":
            self._given.discard(Path(state.run).name)
            self._waiting.pop(Path(state.run).name, None)
            self._tell(info, f"the trainer refused a run: {clean(state.error, 200)}")
        elif state.state == "failed":
            info = msgspec.structs.replace(info, phase="failed", error=state.error)
            self._tell(info, clean(state.error, 200))
        elif state.state == "ready":
            self._tell(
                WorkerInfo(
                    phase="ready", torch=state.torch, device=state.device, devices=state.devices
                )
            )
        elif state.state in ("loading", "training", "idle"):
            self.training = state.run if state.state == "training" else ""
            if state.state == "training":
                self._waiting.pop(state.run, None)
                self._handed_on = False
            phase = "ready" if state.state == "idle" else state.state
            self._tell(msgspec.structs.replace(info, phase=phase))

    def hear_of_death(self) -> None:
        """Tell of a trainer that has died, and hand on its runs, before another takes its place.

        The loop, which would have told of it, comes later than the death.
        """
        process = self._process
        if process is None or process.poll() is None:
            return
        self._read()  # what it said last
        self._await_end(process, tries=0)

    def _await_end(self, process: subprocess.Popen[bytes], *, tries: int) -> None:
        """Its output has ended; the exit status follows at once or a little later."""
        if self._process is not process or self._loop is None:
            return
        if process.poll() is None and tries:
            self._loop.call_later(0.05, lambda: self._await_end(process, tries=tries - 1))
            return
        if process.poll() is None:
            process.kill()
            process.wait()
        error = self.info.error if self.info.phase == "failed" else self._reason(process.returncode)
        told = self.info.phase == "failed"
        lost = process.returncode != 0 and not told and not self._handed_on
        waiting = [job for job in self._waiting.values() if _waits(job)] if lost else []
        self._forget()
        self._answer_for_the_dead(clean(error, 200))
        if self._hand_on(waiting):
            runs = "run that waits" if len(waiting) == 1 else f"{len(waiting)} runs that wait"
            self._tell(self.info, f"{error}; a new one takes the {runs}")
        else:
            self._tell(WorkerInfo(phase="dead", error=error), "" if told else error)

    def _hand_on(self, waiting: Sequence[Job]) -> bool:
        """Give a new trainer the runs that one before it had not begun; whether it has them.

        Once, until one of them trains: what ends the trainer may end each.
        """
        if not waiting or not self.start():
            return False
        self._handed_on = True
        with suppress(OSError):
            for job in waiting:
                self._write(job)
                name = Path(job.run).name
                self._given.add(name)
                self._waiting[name] = job
        return bool(self._given)

    def _reason(self, code: int) -> str:
        how = f"exit status {code}"
        if code < 0:
            with suppress(ValueError):
                how = f"signal {signal.Signals(-code).name}"
        last = self._last_line()
        return f"the trainer ended ({how}){': ' + last if last else ''}"

    def _last_line(self) -> str:
        """The last thing it wrote to its log."""
        try:
            with self._log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, size - 4096))
                lines = file.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((clean(line, 160) for line in reversed(lines) if line.strip()), "")

    def _detach(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            with suppress(OSError, ValueError, RuntimeError):
                if self._loop is not None:
                    self._loop.remove_reader(self._process.stdout.fileno())

    def _forget(self) -> None:
        """Close the pipes of a trainer that has ended."""
        if self._process is not None:
            self._detach()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()
        self._process, self._rest, self.training = None, b"", ""
        self._given.clear()
        self._waiting.clear()
        self._handed_on = False

    def _tell(self, info: WorkerInfo, problem: str = "") -> None:
        self.info = info
        self._listener(info, problem)


def _waits(job: Job) -> bool:
    """Whether a run was neither begun nor taken out of the queue: its log tells."""
    state = Follower(RunDir(Path(job.run))).catch_up()
    return state.waiting and state.ended is None

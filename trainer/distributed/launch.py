"""Starts torchrun for a run of several processes on this machine, and watches it. Torch-free.

What the ranks tell comes from the run's log, as for every other watcher. torchrun inherits the
run's lock: the run counts as being trained for as long as torchrun lives, over all restarts and
also when this process is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from trainer import events
from trainer.config import RunConfig
from trainer.errors import RunError
from trainer.files.regular_file import open_regular
from trainer.lifecycle.aftermath import end_from_log
from trainer.processes import child_environment, lives
from trainer.protocol import Job
from trainer.runs import control as commands
from trainer.runs.control import Control
from trainer.runs.rundir import DELETED, RunDir
from trainer.runs.runlog import Listener, RunLog, Tail

POLL_SECONDS = 0.1
STOP_SECONDS = 10.0
"""After a stop, for ranks that have not begun and may not hear it; then torchrun is ended."""
KILL_SECONDS = 30.0
RANK = "trainer.distributed.rank"


def launch(
    run: RunDir,
    control: Control,
    config: RunConfig,
    lock: int,
    *,
    job: Job,
    listener: Listener | None = None,
) -> events.RunEnded:
    """Train a run in several processes and wait for its end.

    Args:
        run: its folder.
        control: a stop that this process is asked for is passed on.
        config: the run's; says how many processes and restarts.
        lock: descriptor of the run's lock, which this process holds.
        job: what rank 0 is told.
        listener: called with every new envelope of the log.

    Raises:
        RunError: it was refused before its first step, for what it was asked to do; the log says
            the same. Whatever else keeps it from beginning is its failed end, and its folder has
            more to tell.
    """
    text = msgspec.json.encode(job).decode()
    traceback, written = _stamp(run.traceback), _size(run)
    tail = Tail(run.log)
    while tail.behind():
        tail.read()
    heard = _Heard(listener)
    control.poll(now=True)
    problem, code = "", 0
    if not control.stopping():
        try:
            process = _start(run, config, lock, text)
        except OSError as error:
            problem = f"torchrun cannot be started: {error.strerror}"
        else:
            _started.append(process)
            code = _watch(process, run, control, tail, heard)
            _started.remove(process)
            _end_ranks(text)
    heard.take(tail)
    if heard.ended is None and run.deleted(lock):
        heard.lose(run)
    elif heard.ended is None:
        _end(run, heard, control, problem or _why(run, code, written), job.on_end)
        heard.take(tail)
    elif (
        heard.ended.error and not (heard.began or heard.lost) and _stamp(run.traceback) == traceback
    ):
        raise RunError(heard.ended.error)
    assert heard.ended is not None
    return heard.ended


def _stamp(path: Path) -> int | None:
    """When a file was written; ``None`` where there is none."""
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return None


def _size(run: RunDir) -> int:
    """Bytes that earlier attempts wrote to their standard error."""
    with suppress(OSError):
        return run.ranks_log.stat().st_size
    return 0


_started: list[subprocess.Popen[bytes]] = []


def abort() -> None:
    """End the ranks that were started, at once: torchrun ends them when it is told to end."""
    for process in _started:
        process.terminate()


class _Heard:
    """What the log tells of this launch."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self.began = False
        self.lost = False
        """Whether a rank was."""
        self.ended: events.RunEnded | None = None
        self._last: events.Envelope | None = None

    def lose(self, run: RunDir) -> None:
        """The log has gone with the run's folder, and whatever rank 0 has told of that in it."""
        last = self._last
        self.ended = events.RunEnded(
            state="failed", seconds=last.elapsed if last else 0.0, error=DELETED
        )
        if self._listener is not None:
            envelope = events.Envelope(
                v=events.VERSION,
                run=run.id,
                attempt=last.attempt if last else 1,
                seq=last.seq + 1 if last else 0,
                time=time.time(),
                elapsed=self.ended.seconds,
                event=self.ended,
            )
            self._listener(envelope)

    def take(self, tail: Tail) -> None:
        """Read what is new and pass it on."""
        while True:
            found = tail.read()
            for envelope in found:
                self._last, event = envelope, envelope.event
                self.began = self.began or isinstance(event, events.RunStarted)
                lost = isinstance(event, events.Notice) and event.code == events.RANK_LOST
                self.lost = self.lost or lost
                if isinstance(event, events.RunEnded):
                    self.ended = event
                elif isinstance(event, events.RunStarted):
                    self.ended = None
                if self._listener is not None:
                    self._listener(envelope)
            if not found:
                return


def _start(run: RunDir, config: RunConfig, lock: int, job: str) -> subprocess.Popen[bytes]:
    train = config.train
    threads = max(1, (os.cpu_count() or 1) // train.processes)
    environment = {"OMP_NUM_THREADS": str(threads), **child_environment(), "PYTHONSAFEPATH": "1"}
    for name in [n for n in environment if n.startswith(("TORCHELASTIC_", "PET_"))]:
        del environment[name]
    with run.ranks_log.open("ab") as log:
        return subprocess.Popen(
            (
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--local-addr", "127.0.0.1"),  # the host's own name may mean no address
                *("--nproc-per-node", str(train.processes)),
                *("--max-restarts", str(train.max_restarts)),
                *("-m", RANK, job),
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for this process, which then asks for a stop
            pass_fds=(lock,),
            env=environment,
        )


def _watch(
    process: subprocess.Popen[bytes], run: RunDir, control: Control, tail: Tail, heard: _Heard
) -> int:
    """Pass on what comes and goes until torchrun has ended; gives its exit status."""
    told: float | None = None
    ending = False
    while process.poll() is None:
        heard.take(tail)
        if control.stopping() and told is None:
            told = time.monotonic()
            try:
                commands.send(run, "stop")
            except RunError:  # a full disk: torchrun tells the ranks to end, and they stop as well
                process.terminate()
                ending = True
        deaf = told is not None and not heard.began and time.monotonic() - told >= STOP_SECONDS
        if deaf and not ending:
            process.terminate()
            ending = True
        time.sleep(POLL_SECONDS)
    return process.returncode


def _end_ranks(job: str) -> None:
    """End what a torchrun that was killed has left behind, while this process holds the lock.

    Known by their arguments: one may have been started as torchrun died, and each has a session of
    its own.
    """
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline()[-2:] == [RANK, job]:
                process.kill()
                left.append(process)
    until = time.monotonic() + KILL_SECONDS
    while any(map(lives, left)) and time.monotonic() < until:
        time.sleep(0.01)


def _end(run: RunDir, heard: _Heard, control: Control, reason: str, on_end: str) -> None:
    """The ranks have not said how it ended: rank 0 was killed, or they have never begun."""
    log = RunLog(run)
    end_from_log(run, log, "" if control.stopping() else reason, began=heard.began, on_end=on_end)
    log.close()


def _why(run: RunDir, code: int, since: int = 0) -> str:
    """One line on why torchrun has ended, from what it wrote behind so many bytes."""
    if code < 0:
        return f"torchrun was killed (signal {-code})"
    with suppress(OSError), open_regular(run.ranks_log) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(since, size - 16_384))
        text = file.read().decode("utf-8", "replace")
        if "No module named torch.distributed" in text:
            return "there is no torchrun: install PyTorch with its distributed package"
        lines = [line.strip() for line in text.splitlines()]
        parts = [line.partition(":") for line in lines if ":" in line]
        fields = {name.strip(): said.strip() for name, _, said in parts}
        rank, how = fields.get("rank", "").split(), fields.get("traceback", "")
        if rank and how:
            return f"rank {rank[0]} ended: {how}; {run.ranks_log.name} tells more"
    return (
        f"torchrun ended without an end of the run (exit status {code}); see {run.ranks_log.name}"
    )

"""A run in a process of its own, which goes on when the terminal is closed."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from trainer.errors import RunError
from trainer.processes import child_environment
from trainer.protocol import Job, State
from trainer.runs.rundir import RunDir

LOCK_SECONDS = 30.0
POLL_SECONDS = 0.02


def detach(
    run: RunDir, *, data_dir: Path | None = None, resume: bool = False, on_end: str = ""
) -> int:
    """Train a submitted run in another session; returns when that process holds its lock.

    Returns:
        The process id.

    Raises:
        RunError: the run cannot be locked, the process cannot be started, or does not take the run.
    """
    with run.locked():  # what keeps the other process from its lock is told here, by the system
        pass
    job = Job(run=str(run.path.absolute()), data_dir=_text(data_dir), resume=resume, on_end=on_end)
    try:
        process = subprocess.Popen(
            (sys.executable, "-P", "-m", "trainer.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=child_environment(),
        )
    except OSError as error:
        raise RunError(f"cannot start a process for the run: {error.strerror}") from None
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError):
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        # the end of its input: it trains this run to its end, then it goes
        process.stdin.close()
    problem = _await_lock(process, run)
    process.stdout.close()
    if problem:
        with suppress(OSError):
            process.terminate()
        raise RunError(problem)
    # left to itself on purpose: no warning that it was not waited for
    process.returncode = 0
    return process.pid


def _await_lock(process: subprocess.Popen[bytes], run: RunDir) -> str:
    """Empty when the process has locked the run, else what went wrong."""
    until = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < until:
        if run.is_locked():
            return ""
        if process.poll() is not None:
            return _refusal(process) or f"the trainer ended (exit status {process.returncode})"
        time.sleep(POLL_SECONDS)
    return f"the trainer did not take run {run.id} within {LOCK_SECONDS:.0f} s"


def _refusal(process: subprocess.Popen[bytes]) -> str:
    """Why it did not take the run, out of what it said before it ended."""
    assert process.stdout is not None
    for line in process.stdout:
        with suppress(msgspec.DecodeError):
            said = msgspec.json.decode(line, type=State)
            if said.error:
                return said.error
    return ""


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())

"""Trains a tiny run while killing its trainer: ``python -m tests.kill_harness FOLDER KILLS``.

One process imports torch and forks a child for every attempt, so that an attempt costs little more
than its training. It never trains itself: torch has no threads yet when it forks. Prints one JSON
object with what happened.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo

import model.summary  # noqa: F401  # this and dynamo: a child shall not import them each time
import trainer.lifecycle.session
import trainer.loop.reports
from tests.training_helpers import tiny_dataset, tiny_run, wait
from trainer.data import sources
from trainer.lifecycle.session import train_run
from trainer.lifecycle.submit import resubmit
from trainer.runs import checkpoint
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir

EPOCHS = 80
SAVES = 1
"""A child that its killer comes late for waits after so many checkpoints: the kills do not run out
of epochs."""
PLACES = ("open", "write", "fsync", "replace", "folder", "log", "predictions")
"""Where a child kills itself: in the writing of a checkpoint, of the log, of predictions."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(place: str, count: int) -> None:
    """Let this process die at the ``count``-th time that it comes to a place."""
    left = [count]

    def now() -> bool:
        left[0] -= 1
        return left[0] == 0

    def before(do: Callable[..., Any], applies: Callable[..., bool]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if applies(*arguments) and now():
                die()
            return do(*arguments, **named)

        return wrapped

    def is_file(fd: int) -> bool:
        return "checkpoints/" in str(Path(f"/proc/self/fd/{fd}").readlink())

    def is_folder(fd: int) -> bool:
        return Path(f"/proc/self/fd/{fd}").readlink().name == "checkpoints"

    if place in ("open", "write"):
        _die_in_write(now, half=place == "write")
    elif place == "fsync":
        os.fsync = before(os.fsync, is_file)
    elif place == "folder":
        os.fsync = before(os.fsync, is_folder)
    elif place == "replace":
        Path.replace = before(Path.replace, lambda path, target: target.suffix == ".pt")
    elif place == "predictions":
        Path.replace = before(Path.replace, lambda path, target: target.suffix == ".npz")
    else:
        pwrite = os.pwrite

        def half(fd: int, data: bytes, offset: int) -> int:
            if now():
                pwrite(fd, data[: len(data) // 2], offset)
                die()
            return pwrite(fd, data, offset)

        os.pwrite = half


def _die_in_write(now: Callable[[], bool], *, half: bool) -> None:
    open_file = os.open

    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        handle = open_file(path, flags, *rest, **named)
        where = Path(path)
        if where.suffix == ".partial" and where.parent.name == "checkpoints" and now():
            whole = (where.parent / "last.pt").read_bytes() if half else b""
            os.write(handle, whole[: len(whole) // 2])
            die()
        return handle

    os.open = opened


def wait_to_be_killed() -> None:
    """Let this process save so many checkpoints and no more."""
    write, written = checkpoint.write, []

    def counted(packed: memoryview, path: Path) -> None:
        while len(written) == SAVES:
            time.sleep(1)
        write(packed, path)
        written.extend(["last"] * (path.name == "last.pt"))

    checkpoint.write = counted


def attempt(run: RunDir) -> None:
    """Train it from its last checkpoint to its end."""
    resume = run.checkpoint("last").exists()
    if resume:
        resubmit(run)
    train_run(run, Control(run), resume=resume)


def child(run: RunDir, prepare: Callable[[], None] = lambda: None) -> int:
    """Train in a forked process; its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            prepare()
            attempt(run)
            code = 0
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int | None:
    """The signal that ended a child, or ``None`` when it ended by itself, and well."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    assert os.WEXITSTATUS(status) == 0, "the run could not go on from its checkpoint"
    return None


def main(folder: Path, kills: int) -> None:
    """Train a run in one go, then one that is killed all the time."""
    torch.set_num_threads(1)
    data = tiny_dataset()
    sources.load = lambda source, data_dir=None: data  # type: ignore[assignment]
    trainer.loop.reports.PROGRESS_SECONDS = 0.0
    options = (f"train.epochs={EPOCHS}", "train.ema=0.9", "augment.shift_scale_rotate=0.5")
    whole, run = (tiny_run(folder / name, *options) for name in ("whole", "killed"))
    began = time.monotonic()
    assert ended(child(whole)) is None
    seconds = time.monotonic() - began
    chance = random.Random(4)
    told = {"random": 0, "aimed": 0, "without_checkpoint": 0, "in_checkpoint": 0}
    torn: set[Path] = set()
    follower = Follower(run)
    while told["random"] < kills:
        attempt = follower.catch_up().attempt
        pid = child(run, wait_to_be_killed)
        if told["random"] % 2:  # the others may not even have begun, on a busy machine none has
            wait(lambda attempt=attempt: follower.catch_up().attempt > attempt)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 6 * seconds / EPOCHS))
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == signal.SIGKILL
        told["random"] += 1
        told["without_checkpoint"] += not run.checkpoint("last").exists()
        torn |= set(run.checkpoint("last").parent.glob("*.partial"))
    for place in PLACES:
        for count in (1, 2):
            assert ended(child(run, partial(kill_at, place, count))) == signal.SIGKILL
            told["aimed"] += 1
            checkpoint.load(run.checkpoint("last"))
    assert ended(child(run)) is None
    told["in_checkpoint"] = len(torn)
    print(json.dumps({**told, "seconds": seconds, "total": time.monotonic() - began}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

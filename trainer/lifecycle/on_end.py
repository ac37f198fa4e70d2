"""The command that a user wants started when a run has ended. Torch-free.

Started by the process that trains, so that it also works without a terminal; without a shell, in a
session of its own, not waited for. Its output goes to ``on-end.log`` in the run's folder.
"""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import IO

import msgspec

from trainer import events
from trainer.errors import UserError
from trainer.lifecycle import alerts
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog
from trainer.runs.runstate import RunState


def start(
    command: str, run: RunDir, ended: events.RunEnded, *, name: str = "", epochs: int = 0
) -> str:
    """Start a command; empty when it runs, else one line that says why it does not.

    Args:
        command: split as a shell would, nothing else of a shell is done. Empty: nothing is started.
        run: its folder; named in the environment.
        ended: how it ended; with the seconds of all attempts.
        name: the run's name.
        epochs: epochs that were trained to their end, over all attempts.
    """
    try:
        words = alerts.split(command)
    except UserError as error:
        return str(error)
    if not words:
        return ""
    try:
        with _output(run) as output:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment(run, ended, name, epochs)},
            )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return f"the command of --on-end cannot be started: {words[0]!r}: {reason}"
    # nobody waits for it; this process may train other runs for days, and keeps no zombie
    threading.Thread(target=process.wait, name="on-end", daemon=True).start()
    return ""


def _output(run: RunDir) -> IO[bytes]:
    """Where the command prints to; of a run whose folder was deleted nothing is kept."""
    try:
        return run.on_end_log.open("ab")
    except FileNotFoundError:
        return Path(os.devnull).open("wb")


def call(
    command: str,
    run: RunDir,
    log: RunLog,
    ended: events.RunEnded,
    state: RunState | None = None,
    *,
    epochs: int | None = None,
) -> None:
    """As ``start``; a command that cannot be started is a notice after the end.

    Args:
        command: empty: nothing is done, and the log is not read.
        run: its folder.
        log: its log, to write to.
        ended: how this attempt ended.
        state: what the log came to, where that is known.
        epochs: as ``start`` wants them, where the training tells: of what it did some may not be
            on disk yet.
    """
    if not command:
        return
    if state is None:
        state = Follower(run).catch_up()
    if epochs is None:
        epochs = state.epochs_trained
    if log.attempt > 1:
        ended = msgspec.structs.replace(ended, seconds=seconds_of(state, ended))
    problem = start(command, run, ended, name=state.name or run.id, epochs=epochs)
    if problem:
        log.emit(events.Notice(level="warning", code="on-end", message=problem))


def seconds_of(state: RunState, ended: events.RunEnded) -> float:
    """A run's seconds over all attempts; of its last events some may not be on disk yet."""
    if state.attempt <= 1:
        return ended.seconds
    return max(state.elapsed, state.elapsed - state.attempt_seconds + ended.seconds)


def environment(
    run: RunDir, ended: events.RunEnded, name: str = "", epochs: int = 0
) -> dict[str, str]:
    """The result in environment variables, over all attempts; empty where there is none."""
    values = {
        "CIFAR_TUI_RUN": run.id,
        "CIFAR_TUI_RUN_DIR": str(run.path.absolute()),
        "CIFAR_TUI_RUNS": str(run.path.absolute().parent),
        "CIFAR_TUI_NAME": name,
        "CIFAR_TUI_STATUS": ended.state,
        "CIFAR_TUI_BEST_ACCURACY": ended.best_accuracy,
        "CIFAR_TUI_BEST_EPOCH": ended.best_epoch,
        "CIFAR_TUI_FINAL_ACCURACY": ended.final_accuracy,
        "CIFAR_TUI_EPOCHS": epochs,
        "CIFAR_TUI_SECONDS": round(ended.seconds, 3),
        "CIFAR_TUI_ERROR": ended.error,
    }
    return {key: "" if value is None else _text(value) for key, value in values.items()}


def _text(value: object) -> str:
    """What an environment can hold."""
    return str(value).replace("\0", "").encode("utf-8", "replace").decode()

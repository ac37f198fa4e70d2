"""The end of a run whose training can no longer tell it. Torch-free."""

from __future__ import annotations

from trainer import events
from trainer.follower import Follower
from trainer.on_end import call
from trainer.rundir import RunDir
from trainer.runlog import RunLog


def end_from_log(
    run: RunDir, log: RunLog, error: str, *, began: bool = True, on_end: str = ""
) -> None:
    """Write a run's last event from what its log knows, and start the command of ``--on-end``.

    Args:
        run: its folder.
        log: its log, to write to.
        error: why it failed; empty when it was stopped.
        began: whether this attempt came as far as training.
        on_end: a command.
    """
    state = Follower(run).catch_up()
    tested = [row for row in state.epochs if row.test_accuracy is not None]
    ended = events.RunEnded(
        state="failed" if error else "stopped",
        error=error or None,
        best_accuracy=state.best.test_accuracy if state.best is not None else None,
        best_epoch=state.best.epoch if state.best is not None else None,
        final_accuracy=tested[-1].test_accuracy if tested else None,
        seconds=state.attempt_seconds if began else 0.0,
    )
    log.emit(ended)
    name = state.queued.name if state.queued is not None else run.id
    call(on_end, run, log, ended, name=name, epochs=len(state.epochs))

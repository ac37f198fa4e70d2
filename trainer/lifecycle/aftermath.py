"""The end of a run whose training does not tell it, or never began. Torch-free."""

from __future__ import annotations

from trainer import events
from trainer.lifecycle.on_end import call
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog
from trainer.runs.runstate import RunState


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
    how: events.EndState | None = "stopped" if not error else "failed" if began else None
    last, state = tell_end(log, how, error or None, seconds=None if began else 0.0)
    call(on_end, run, log, last, state)


def tell_end(
    log: RunLog, how: events.EndState | None, error: str | None, *, seconds: float | None
) -> tuple[events.RunEnded, RunState]:
    """Write a run's last event with the results that its log knows, those of earlier attempts, too.

    Args:
        log: its log, to write to.
        how: it ended; ``None``: it could not begin, or not go on.
        error: why it failed.
        seconds: of this attempt; ``None``: those that the log knows.

    Returns:
        The event, and what the log came to before it.
    """
    state = Follower(log.run).catch_up()
    tested = [row for row in state.epochs if row.test_accuracy is not None]
    last = events.RunEnded(
        state=_unbegun(state) if how is None else how,
        error=error,
        best_accuracy=state.best.test_accuracy if state.best is not None else None,
        best_epoch=state.best.epoch if state.best is not None else None,
        final_accuracy=tested[-1].test_accuracy if tested else None,
        seconds=state.attempt_seconds if seconds is None else seconds,
    )
    log.emit(last)
    return last, state


def ended(run: RunDir) -> events.RunEnded | None:
    """How the latest attempt ended the run for good, which a restart by torchrun does not change;
    ``None`` where it is being trained, or was lost.
    """
    return Follower(run).catch_up().ended


def _unbegun(state: RunState) -> events.EndState:
    """How a run ends that could not begin, or not go on: one that was stopped is as it was, and can
    go on when that is mended. Not so where it has gone on, and a restart could not.
    """
    before = None if state.queued is None or state.trained else state.queued.before
    return "stopped" if before == "stopped" else "failed"

"""That ``best.pt`` is of the evaluation that a run calls its best, whenever its trainer was killed.

``last.pt`` is written before the ``best.pt`` of the same moment, so a trainer that was killed in
between left one that is behind: it is made of ``last.pt``. One that is ahead is of an epoch that is
trained again (of a disk that was full, or of an earlier version): it is set aside.
"""

from __future__ import annotations

from pathlib import Path

from trainer import events
from trainer.errors import RunError
from trainer.runs import checkpoint
from trainer.runs.position import Position
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog


def settle(run: RunDir, log: RunLog, at: Position) -> None:
    """Called when an attempt begins, by whoever writes the checkpoints.

    Args:
        run: its folder.
        log: told of what was done.
        at: where the attempt goes on.
    """
    path = run.checkpoint("best")
    epoch, accuracy = _best_of(path)
    if at.best_epoch and (epoch, accuracy) == (at.best_epoch, at.best_accuracy):
        return
    known = at.best_epoch > 0 and _weights_are_best(at)
    try:
        if path.exists() and not (known and 0 < epoch < at.best_epoch):
            aside = path.with_name(f"dropped-epoch-{epoch:04d}.pt")
            path.replace(aside)
            log.emit(_notice("best-dropped", _dropped(epoch, at, aside.name, lost=not known)))
        if known:
            checkpoint.write(memoryview(checkpoint.read(run.checkpoint("last"))), path)
            log.emit(
                events.CheckpointSaved(
                    role="best",
                    epoch=at.best_epoch,
                    step=at.step,
                    path=str(path.relative_to(run.path)),
                )
            )
    except (OSError, RunError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        log.emit(_notice(f"checkpoint{events.NOT_SAVED}", f"checkpoint not saved: {reason}"))


def _best_of(path: Path) -> tuple[int, float]:
    """Epoch and accuracy that a ``best.pt`` is of; (0, -1) where there is none or it is damaged."""
    try:
        position = checkpoint.load(path)["position"]
        return int(position["best_epoch"]), float(position["best_accuracy"])
    except (RunError, KeyError, TypeError, ValueError):
        return 0, -1.0


def _weights_are_best(at: Position) -> bool:
    """Whether the weights at a position are those of the best evaluation."""
    whole = at.evaluated == at.epoch == at.best_epoch
    return whole or (at.epoch, at.batch) == (at.best_epoch + 1, 0)


def _dropped(epoch: int, at: Position, name: str, *, lost: bool) -> str:
    if not epoch:
        found = "best.pt is damaged"
    elif epoch > at.evaluated or epoch == at.best_epoch:
        found = f"the weights in best.pt are of an epoch {epoch} that was dropped"
    else:
        found = f"the weights in best.pt are of epoch {epoch}, which is not the best"
    rest = f"; those of the best, epoch {at.best_epoch}, are lost" if at.best_epoch and lost else ""
    return f"{found}: set aside as {name}{rest}"


def _notice(code: str, message: str) -> events.Notice:
    return events.Notice(level="warning", code=code, message=message)

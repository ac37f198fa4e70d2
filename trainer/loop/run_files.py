"""Files that training leaves beside its log: written on a thread, told of when they are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from trainer import events
from trainer.files.disk import Disk
from trainer.loop.snapshot import Pack
from trainer.runs import checkpoint, predictions
from trainer.runs.follower import Follower
from trainer.runs.position import Position
from trainer.runs.predictions import Predictions
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog


class Files:
    """Writes a run's files without holding the training up; a failure is a notice.

    Args:
        run: its folder.
        log: told of each file that is there.
    """

    def __init__(self, run: RunDir, log: RunLog) -> None:
        self._run, self._log = run, log
        self._disk = Disk("files")
        self._follower = Follower(run)
        self._unsaved: dict[str, str] = {}
        self.last_unsaved = ""
        """Why the newest checkpoint ``last`` is not there; empty: it is. Known after ``close``."""

    def put_predictions(self, found: Predictions, variant: events.Variant, *, step: int) -> None:
        """Write an evaluation's predictions.

        Args:
            found: these.
            variant: of the evaluation.
            step: optimizer steps that were done before it.
        """
        path = self._run.predictions(found.epoch, variant)
        saved = events.PredictionsSaved(
            epoch=found.epoch,
            step=step,
            split="test",
            variant=variant,
            path=str(path.relative_to(self._run.path)),
            images=len(found.predicted),
        )

        def job() -> None:
            self._write("predictions", partial(predictions.save, found, path), saved)

        self._disk.do(job, key=path.name)

    def put_checkpoint(
        self, pack: Pack, roles: Sequence[events.Role], at: Position, *, wait: bool = True
    ) -> None:
        """Write one checkpoint in all its roles, in this order; of those that wait the newest.

        Args:
            pack: gives its bytes, on the thread that writes them. What it raises ends the training.
            roles: which files it goes to.
            at: where it stands.
            wait: whether the caller has time for an ordinary disk.
        """
        saved = [
            events.CheckpointSaved(
                role=role,
                epoch=at.best_epoch if role == "best" else at.epoch,
                step=at.step,
                path=str(self._run.checkpoint(role).relative_to(self._run.path)),
            )
            for role in roles
        ]

        def job() -> None:
            packed = pack()
            for event in saved:
                path = self._run.checkpoint(event.role)
                reason = self._write("checkpoint", partial(checkpoint.write, packed, path), event)
                if event.role == "last":
                    self.last_unsaved = reason

        # a ``last`` that waits to be written before its ``best`` is not replaced by a later one
        self._disk.do(job, key=" ".join(roles), wait=wait)

    def keep_fold(self) -> None:
        """Keep what a long log comes to."""
        self._disk.do(self._keep, key="fold")

    def close(self) -> None:
        """Wait until all files are on disk, or are known not to be."""
        self._disk.close()

    def _write(self, what: str, write: Callable[[], None], saved: events.Event) -> str:
        """Write a file, then tell that it is there.

        Args:
            what: the kind of file, in a notice.
            write: raises OSError where it cannot.
            saved: the event that tells of it.

        Returns:
            Why it is not there; empty: it is.
        """
        try:
            write()
        except OSError as error:
            reason = error.strerror or str(error)
            self._not_saved(what, reason)
            return reason
        self._saved(what)
        self._log.emit(saved)
        return ""

    def _keep(self) -> None:
        self._follower.keep_growing()

    def _not_saved(self, what: str, reason: str) -> None:
        """Told once, not at every epoch of a night on a full disk."""
        if self._unsaved.get(what) != reason:
            self._unsaved[what] = reason
            self._notice("error", what + events.NOT_SAVED, f"{what} not saved: {reason}")

    def _saved(self, what: str) -> None:
        if self._unsaved.pop(what, None) is not None:
            self._notice("info", what + events.SAVED_AGAIN, f"{what} saved again")

    def _notice(self, level: events.Level, code: str, message: str) -> None:
        self._log.emit(events.Notice(level=level, code=code, message=message))

"""Files that training leaves beside its log: written on a thread, told of when they are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from trainer import events
from trainer.files.disk import Disk
from trainer.runs import checkpoint, predictions
from trainer.runs.follower import Follower
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

    def put(self, what: str, write: Callable[[], None], saved: events.Event, *, key: str) -> None:
        """Write a file, then tell that it is there; of files that wait the newest is enough.

        Args:
            what: the kind of file, in a notice.
            write: raises OSError where it cannot.
            saved: the event that tells of it.
            key: which file.
        """

        def job() -> None:
            try:
                write()
            except OSError as error:
                self._not_saved(what, error.strerror or str(error))
                return
            self._saved(what)
            self._log.emit(saved)

        self._disk.do(job, key=key)

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
        self.put("predictions", lambda: predictions.save(found, path), saved, key=path.name)

    def put_checkpoint(
        self, packed: memoryview, roles: Sequence[events.Role], *, epoch: int, step: int
    ) -> None:
        """Write one packed checkpoint in all its roles, in this order.

        Args:
            packed: its bytes.
            roles: which files it goes to.
            epoch: the one that it goes on in.
            step: optimizer steps that were done before it.
        """
        for role in roles:
            path = self._run.checkpoint(role)
            saved = events.CheckpointSaved(
                role=role, epoch=epoch, step=step, path=str(path.relative_to(self._run.path))
            )
            # a ``last`` that waits to be written before its ``best`` is not replaced by a later one
            key = " ".join((*roles, path.name))
            self.put("checkpoint", partial(checkpoint.write, packed, path), saved, key=key)

    def keep_fold(self) -> None:
        """Keep what a long log comes to."""
        self._disk.do(self._keep, key="fold")

    def close(self) -> None:
        """Wait until all files are on disk, or are known not to be."""
        self._disk.close()

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

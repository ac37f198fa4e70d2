"""What the mistakes screen reads from disk: predictions, their images, their history.

Torch-free. These functions block: they are called on threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.analysis import confusion as confusions
from trainer.analysis import mistakes
from trainer.analysis.confusion import Matrix
from trainer.analysis.mistakes import History, Mistakes
from trainer.errors import UserError
from trainer.events import PredictionsSaved
from trainer.runs import predictions
from trainer.runs.rundir import RunDir
from trainer.runs.runstate import RunState
from tui.images.opinions import Opinions

Pictures = NDArray[np.uint8]
"""uint8 [N, 3, 32, 32]."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """An evaluation of a run, read from its predictions."""

    run: str
    saved: PredictionsSaved
    images: Mistakes
    classes: tuple[str, ...]
    matrix: Matrix
    notices: tuple[str, ...] = ()
    """What is wrong with the files of what people say."""

    @property
    def fingerprint(self) -> str:
        """Of the images it was made on."""
        return self.images.source.fingerprint

    @property
    def accuracy(self) -> float | None:
        """Share of the images that are right; ``None`` without images."""
        return float(self.images.right.mean()) if len(self.images) else None


def newest(state: RunState) -> PredictionsSaved | None:
    """The predictions of the newest evaluation; of several variants of its epoch the plain one."""
    if not state.predictions:
        return None
    last = state.predictions[-1]
    same = [p for p in state.predictions if p.epoch == last.epoch and p.variant == "plain"]
    return same[-1] if same else last


def read(
    run: RunDir, saved: PredictionsSaved, names: Sequence[str], opinions: Opinions
) -> Evaluation:
    """Read an evaluation's predictions, and what people say of their images.

    Raises:
        RunError: as ``trainer.runs.predictions.of_run``.
    """
    images, notices = opinions.beside(mistakes.table(predictions.of_run(run, saved)))
    return Evaluation(
        run=run.id,
        saved=saved,
        images=images,
        classes=mistakes.class_names(names, images.classes),
        matrix=confusions.confusion(images.actual, images.predicted, images.classes),
        notices=notices,
    )


def read_pictures(candidates: Sequence[str], fingerprint: str) -> tuple[str, Pictures]:
    """The first source that has the test images that predictions were made on, and the images.

    Raises:
        DataError: none has; the reason is the first source's.
    """
    from trainer.analysis import pictures

    place, data = pictures.load(candidates, fingerprint)
    return place, data.test.images


def candidates(state: RunState, current: str) -> tuple[str, ...]:
    """Where a run's images may be: its own source, the set of that name, the app's source."""
    from trainer.analysis import pictures

    return pictures.candidates(state, current)


class Histories:
    """The evaluations of a run, one variant; what was read once is kept."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self._read: dict[str, tuple[list[PredictionsSaved], History]] = {}

    def update(self, saved: Sequence[PredictionsSaved], variant: str) -> History:
        """Read what is new; a file that cannot be read is left out."""
        wanted = [one for one in saved if one.variant == variant]
        known, history = self._read.get(variant, ([], History()))
        again = any(a is not b for a, b in zip(known, wanted, strict=False))
        if again or len(known) > len(wanted):
            known, history = [], History()  # the run was resumed from an earlier step
        for one in wanted[len(known) :]:
            with suppress(UserError):
                history.add(predictions.of_run(self.run, one))
            known.append(one)
        self._read[variant] = known, history
        return history

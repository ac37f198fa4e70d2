"""An evaluation that a command line names: a run, perhaps an epoch, perhaps what people say."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer import events
from trainer.cli.output import clean, percent, warn
from trainer.errors import RunError, UserError
from trainer.files.paths import expanded
from trainer.runs.follower import Follower
from trainer.runs.rundir import find
from trainer.runs.runstate import ACTIVE, RunState

if TYPE_CHECKING:
    from trainer.analysis.mistakes import Mistakes
    from trainer.data.dataset import TestData
    from trainer.events import PredictionsSaved
    from trainer.runs.predictions import Predictions

HumanOption = Annotated[
    Path | None,
    typer.Option(
        "--human",
        metavar="FILE",
        help="People's answers, an .npy of counts as CIFAR-10H: whose fault the mistakes are.",
        show_default=False,
    ),
]
ReviewOption = Annotated[
    Path | None,
    typer.Option(
        "--review",
        metavar="FILE",
        help="A label review, JSON as label-errors has it: accuracy without doubtful labels.",
        show_default=False,
    ),
]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A run's predictions of one epoch, and the names of its classes."""

    run: str
    folded: RunState
    found: Predictions
    images: Mistakes
    classes: tuple[str, ...]

    @property
    def accuracy(self) -> float | None:
        """Share of the images that are right; ``None`` without images."""
        return float(self.images.right.mean()) if len(self.images) else None

    @property
    def heading(self) -> str:
        """How many images are wrong, of which data."""
        split = clean(self.found.split)
        return (
            f"{len(self.found.wrong):,} of {len(self.images):,} {split} images misclassified: "
            f"{percent(self.accuracy)} {split} accuracy, "
            f"epoch {self.found.epoch}, data {clean(self.folded.data_kind)}"
        )

    def pictures(self, source: str | None, folder: Path | None) -> tuple[str, TestData]:
        """The data set of the images, checked, and its name.

        Args:
            source: where to look; default: where the run had it.
            folder: where downloaded sets lie.

        Raises:
            DataError: it is gone, or has other images.
        """
        from trainer.analysis import pictures

        places = (source,) if source else pictures.candidates(self.folded)
        return pictures.load(places, self.found.fingerprint, data_dir=folder)

    def paths(self, source: str | None, folder: Path | None) -> list[str] | None:
        """Where each image lies; ``None``, and a line that says why, where they are gone.

        Raises:
            DataError: a source is given and does not have them.
        """
        from trainer.data import sources

        try:
            place, _ = self.pictures(source, folder)
            found = sources.image_paths(place, len(self.images), data_dir=folder)
            # a file's name that is no UTF-8 cannot be written as it is
            return [os.fsencode(path).decode(errors="replace") for path in found]
        except UserError as error:
            if source:
                raise
            warn(f"no paths: {error}")
            return None


def open_evaluation(
    directory: Path,
    run: str,
    epoch: int | None,
    human_file: Path | None = None,
    review_file: Path | None = None,
) -> Evaluation:
    """Read a run's predictions of an epoch, the newest by default, and what people say of them.

    Raises:
        UserError: there is no such run or epoch, or a file is damaged or does not fit.
    """
    from trainer.analysis import human, mistakes, review
    from trainer.runs import predictions

    follower = Follower(find(directory, run))
    folded = follower.catch_up()
    saved = _choose(follower, epoch)
    try:
        found = predictions.of_run(follower.run, saved)
    except RunError as error:
        raise RunError(f"{error}{_others(folded, saved)}") from None
    images = mistakes.table(found)
    people = reviewed = None
    if human_file is not None:
        people = human.load(expanded(human_file), found.labels, images.classes)
        if people.notice:
            warn(people.notice)
    if review_file is not None:
        reviewed = review.load(expanded(review_file), found.labels, images.classes)
    names = folded.started.classes if folded.started is not None else ()
    return Evaluation(
        run=follower.run.id,
        folded=folded,
        found=found,
        images=images.beside(people, reviewed),
        classes=mistakes.class_names(names, images.classes),
    )


def _choose(follower: Follower, epoch: int | None) -> PredictionsSaved:
    run = follower.run.id
    plain = [p for p in follower.state.predictions if p.variant == "plain"]
    if not plain:
        raise RunError(f"run {run} has no predictions{_why_none(follower)}")
    fits = [p for p in plain if epoch is None or p.epoch == epoch]
    if not fits:
        have = ", ".join(str(p.epoch) for p in plain[-10:])
        raise RunError(f"run {run} has no predictions of epoch {epoch}, but of {have}")
    return fits[-1]


def _why_none(follower: Follower) -> str:
    if follower.problem:
        return f": {follower.problem}"
    folded = follower.state
    evaluated = any(e.variant == "plain" for e in folded.evals)
    if evaluated and folded.told(f"predictions{events.NOT_SAVED}"):
        return ": those of its evaluations were not saved, see its notices (cifar-tui show)"
    if follower.status in ACTIVE:
        return " yet: its next evaluation saves them"
    # there may have been some: a log may have lost its end without a trace
    some = "is incomplete, and " if follower.damaged or folded.incomplete else ""
    return f": its log {some}tells of {'none' if folded.evals else 'no evaluation'}"


def _others(folded: RunState, saved: PredictionsSaved) -> str:
    """Which other epochs may be asked for."""
    epochs = [p.epoch for p in folded.predictions if p.variant == "plain" and p is not saved]
    if not epochs:
        return ""
    few = ", ".join(map(str, epochs[-5:]))
    return f"; there are other epochs (--epoch): {'…, ' if len(epochs) > 5 else ''}{few}"

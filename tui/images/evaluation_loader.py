"""Reads evaluations and their images on threads, one wish at a time, and keeps what it read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from textual.screen import Screen

from trainer.analysis.mistakes import History
from trainer.errors import UserError
from trainer.events import PredictionsSaved
from trainer.runs.follower import Follower
from tui.images import evaluations
from tui.images.evaluations import Evaluation, Histories, Pictures

if TYPE_CHECKING:
    from tui.app import CifarApp

KEPT = 6
"""Evaluations kept in memory: stepping back and forth reads no file again."""


class EvaluationLoader:
    """What is wanted, what is there, and why something is not. Lives on the UI thread."""

    def __init__(
        self,
        screen: Screen[Any],
        changed: Callable[[], None],
        *,
        name: str = "",
        with_pictures: bool = True,
    ) -> None:
        """``name`` tells several loaders of a screen apart: one wish of each at a time."""
        self._screen = screen
        self._changed = changed
        self._name = name
        self._with_pictures = with_pictures
        self._wanted: PredictionsSaved | None = None
        self._kept: list[Evaluation] = []
        self._pictures_of: tuple[object, ...] = ()
        """What was asked for: which images, where they may be, whether the app's data is there."""
        self._history_of: Histories | None = None
        self.evaluation: Evaluation | None = None
        self.pictures: Pictures | None = None
        self.place = ""
        """The source that has them."""
        self.problem = ""
        """Why there is no evaluation."""
        self.pictures_problem = ""
        """Why there are no images."""

    @property
    def waiting(self) -> bool:
        """Whether something is being read."""
        return self._wanted is not None and self.evaluation is None and not self.problem

    def forget(self) -> None:
        """Nothing is wanted."""
        self._wanted, self.evaluation, self.problem = None, None, ""

    def want(self, run: Follower, saved: PredictionsSaved, source: str) -> None:
        """Read an evaluation of a run and its images; ``source``: the app's own data."""
        if saved is self._wanted:
            if self.evaluation is not None and self.pictures_problem:
                self._want_pictures(self.evaluation, evaluations.candidates(run.state, source))
            return
        if self.evaluation is not None and self.evaluation.run != run.run.id:
            self.evaluation = None
        self._wanted, self.problem = saved, ""
        known = next((one for one in self._kept if one.saved is saved), None)
        if known is not None:
            self._take(known, evaluations.candidates(run.state, source))
        else:
            self._screen.run_worker(
                self._read(run, saved, source),
                group=f"predictions{self._name}",
                description="read predictions",
                exclusive=True,
            )

    async def _read(self, run: Follower, saved: PredictionsSaved, source: str) -> None:
        names = run.state.started.classes if run.state.started else ()
        opinions = cast("CifarApp", self._screen.app).opinions
        try:
            found = await asyncio.to_thread(evaluations.read, run.run, saved, names, opinions)
        except UserError as error:
            if saved is self._wanted:
                self.evaluation, self.problem = None, str(error)
                self._changed()
            return
        self._kept = [*self._kept[1 - KEPT :], found]
        if saved is self._wanted:
            self._take(found, evaluations.candidates(run.state, source))

    def _take(self, found: Evaluation, candidates: tuple[str, ...]) -> None:
        self.evaluation = found
        self._want_pictures(found, candidates)
        self._changed()

    def _want_pictures(self, found: Evaluation, candidates: tuple[str, ...]) -> None:
        """Read the images, unless they are there, or were looked for in the same places before."""
        if not self._with_pictures:
            return
        known = self.pictures is not None or not self.pictures_problem
        if known and self._pictures_of[:1] == (found.fingerprint,):
            return
        status = cast("CifarApp", self._screen.app).runs.data_status
        wanted = (found.fingerprint, candidates, status is not None and status.ready)
        if wanted == self._pictures_of:
            return
        self._pictures_of = wanted
        self.pictures, self.pictures_problem = None, ""
        self._screen.run_worker(
            self._read_pictures(candidates, wanted, len(found.images)),
            group=f"images{self._name}",
            description="read test images",
            exclusive=True,
        )

    async def _read_pictures(
        self, candidates: tuple[str, ...], wanted: tuple[object, ...], images: int
    ) -> None:
        try:
            place, found = await asyncio.to_thread(
                evaluations.read_pictures, candidates, str(wanted[0])
            )
        except UserError as error:
            if wanted == self._pictures_of:
                self.pictures_problem = str(error)
                self._changed()
            return
        if wanted == self._pictures_of:
            if len(found) == images:
                self.place, self.pictures = place, found
            else:
                self.pictures_problem = f"{len(found)} images, but {images} predictions"
            self._changed()

    async def history(self, run: Follower, variant: str) -> History:
        """All evaluations of a run that can be read, one variant."""
        if self._history_of is None or self._history_of.run != run.run:
            self._history_of = Histories(run.run)
        saved = tuple(run.state.predictions)
        return await asyncio.to_thread(self._history_of.update, saved, variant)

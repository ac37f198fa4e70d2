"""Rank 0's side of a run on several ranks: gathers them, tells them what to train, ends with them.

Torch is loaded when the ranks are gathered.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trainer import config as settings
from trainer import events
from trainer.config import RunConfig
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.exit_codes import FAILED
from trainer.lifecycle.aftermath import end_from_log
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog

if TYPE_CHECKING:
    from trainer.distributed.group import Group


class Start(msgspec.Struct, frozen=True):
    """What rank 0 tells the others: all that they need of the run's folder."""

    run: str
    config: str
    data_dir: str | None
    resume: bool


class Lead:
    """Rank 0 with its ranks.

    Raises:
        RankLost: not all have come in time.
        ConfigError: a batch cannot be shared by so many.
    """

    def __init__(self, world: World, run: RunDir, log: RunLog, on_end: str = "") -> None:
        from trainer.distributed.group import Group
        from trainer.distributed.watch import Watch

        self.world, self._run, self._log, self._on_end = world, run, log, on_end
        if world.restarts:
            log.emit(
                events.Notice(level="warning", code="restarted", message=_restarted(world, run))
            )
        self._watch = Watch(world, self._abort)
        try:
            self.group: Group = Group(world)
        except BaseException:
            self.settled()
            raise

    def dismiss(self) -> None:
        """There is nothing to train."""
        self.settled()
        self.group.tell(b"")

    def begin(self, run: RunDir, config: RunConfig, data_dir: Path | None, *, resume: bool) -> None:
        """Let the others begin, and watch over them too from now on."""
        batch = config.train.batch_size
        if batch < self.world.size:
            raise ConfigError(
                f"{self.world.size} processes cannot share a batch of {batch} images: "
                "raise --batch-size"
            )
        start = Start(
            run=str(run.path.absolute()),
            config=settings.to_toml(config),
            data_dir=None if data_dir is None else str(data_dir.absolute()),
            resume=resume,
        )
        self.group.tell(msgspec.json.encode(start))
        self._watch.group = self.group

    def settled(self) -> None:
        """The training is over on all ranks: whoever ends from now on is not lost."""
        self._watch.close()

    def reason(self, error: BaseException) -> str:
        """Who was lost, when that is what an exception is about; else nothing."""
        from trainer.distributed.group import is_loss

        return self.group.why_lost(error) if is_loss(error) else ""

    def end(self) -> None:
        """All ranks have come to the same end: leave them."""
        self.settled()
        self.group.part_ways()
        self.group.close()

    def _abort(self, lost: str) -> None:
        """The training thread hangs in a call that will never return."""
        tell_loss(self._log, self.world, lost)
        if not self.world.restarts_left:
            end_from_log(self._run, self._log, lost, on_end=self._on_end)
        self._log.close()
        os._exit(FAILED)


def tell_loss(log: RunLog, world: World, reason: str) -> None:
    """A notice of what ended the attempt, and of what torchrun does now."""
    left = world.restarts_left
    then = f"torchrun starts all ranks anew ({left} restarts left)" if left else "the run ends"
    log.emit(events.Notice(level="error", code=events.RANK_LOST, message=f"{reason}; {then}"))


def _restarted(world: World, run: RunDir) -> str:
    state = Follower(run).catch_up()
    known = [n.message for _, n in state.notices[-3:] if n.code == events.RANK_LOST]
    why = "" if known else ": a rank was killed or ended without a word"
    ranks = f"all {world.size} ranks" if world.size > 1 else "one rank"
    return (
        f"torchrun has started {ranks} anew (restart {world.restarts} of {world.max_restarts}){why}"
    )

"""The state of a run: a fold over its events. Torch-free.

Live, attached and replayed runs go through the same ``apply``. Only the thread that polls owns a
state; widgets read it there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from trainer import events
from trainer.events import Envelope, Number, Seconds, Share, Whole
from trainer.runs.points import Points, gathered
from trainer.runs.steps import Steps

Last = Annotated[int, msgspec.Meta(ge=-1, le=2**53)]
"""A number that counts from 0; -1: there is none."""
Evaluated = TypeVar("Evaluated", events.EvalEnded, events.PredictionsSaved)
Status = Literal["queued", "training", "paused", "completed", "stopped", "failed", "crashed"]
RUNNING: tuple[Status, ...] = ("training", "paused")
ACTIVE: tuple[Status, ...] = (*RUNNING, "queued")
"""A living process has the run."""
NOTICES_KEPT = 200
LAYER_STATS_KEPT = 128
MEANWHILE = (events.Progress, events.Ranks, events.LayerStats)
"""Events of what goes on within a phase."""
MESSAGE_KEPT = 4000
VARIANTS = 3
"""Evaluations at one step, at most."""
CIFAR = ("cifar10", "cifar100")
LONG_BYTES = 16 << 20
"""Shorter logs are folded in the time of a blink."""


class EpochRow(msgspec.Struct):
    """One line of the epoch table; ``None`` where nothing was measured (yet)."""

    epoch: Whole
    step: Whole
    lr: Number | None = None
    train_loss: Number | None = None
    train_accuracy: Share | None = None
    train_seconds: Seconds | None = None
    images_per_second: Number | None = None
    test_loss: Number | None = None
    test_accuracy: Share | None = None
    test_seconds: Seconds | None = None
    elapsed: Seconds = 0.0
    """The run's seconds, over all attempts, at the end of the row."""
    train_images: Whole = 0
    """Of which training loss and accuracy are; 0: not told (earlier versions)."""
    hardest: bool | None = None
    """Whether those were the hardest ones; None: not told (earlier versions)."""


class RunState(msgspec.Struct):
    """Everything a screen shows of a run."""

    run: str = ""
    queued: events.RunQueued | None = None
    queued_at: Seconds = 0.0
    asked_at: Seconds = 0.0
    """When it was queued last: later than ``queued_at`` in a resumed run."""
    waiting: bool = True
    """Whether no attempt has begun since it was queued last."""
    trained: bool = False
    """Whether an attempt has begun to train since it was queued last."""
    started: events.RunStarted | None = None
    started_at: Seconds = 0.0
    described: events.ModelDescribed | None = None
    epochs: list[EpochRow] = []
    steps: Steps = msgspec.field(default_factory=Steps)
    evals: list[events.EvalEnded] = []
    """Only the newest of each variant may have its confusion matrix; the log has them all."""
    predictions: list[events.PredictionsSaved] = []
    checkpoints: dict[str, events.CheckpointSaved] = {}
    notices: list[tuple[Seconds, events.Notice]] = []
    progress: events.Progress | None = None
    evaluating: bool = False
    """Whether the evaluation that progress tells of is under way."""
    memory: Whole | None = None
    """As progress told it last: evaluations do not tell it."""
    compiling: bool = False
    """Whether its step under way is one that compiles the net."""
    ranks: events.Ranks | None = None
    layer_stats: deque[events.LayerStats] = msgspec.field(
        default_factory=lambda: deque(maxlen=LAYER_STATS_KEPT)
    )
    paused: bool = False
    ended: events.RunEnded | None = None
    attempt: Whole = 0
    seq: Last = -1
    missing: Whole = 0
    """Events that the sequence numbers say are not in the log."""
    elapsed: Seconds = 0.0
    """Seconds of all attempts: loading, training, evaluating; without pauses, and without what a
    resume has dropped."""
    alive_at: Seconds = 0.0
    """Wall clock of the last event that is more than a notice"""
    alive_seq: Last = -1
    """and its number: signs of life."""
    best: EpochRow | None = None
    revision: Whole = 0
    """Grows with every change: what was painted at this revision is still true."""
    points: Whole = 0
    """Grows when a curve has changed."""
    figures: Whole = 0
    """Grows when an epoch's figures have changed: with a curve, but not with each of its points."""
    news: Whole = 0
    """Grows with every change but progress within a phase and what is measured meanwhile."""
    _base: Seconds = 0.0
    """What is added to the time of an attempt: that of those before,"""
    _pauses: Seconds = 0.0
    """without the pauses in it."""
    _saved: tuple[Last, Seconds] = (-1, 0.0)
    """Step and time of the newest checkpoint ``last``."""
    _best_unknown: bool = False
    _furthest: Last = -1
    """The largest step of anything that a resume may drop."""
    _rows: dict[int, EpochRow] = {}

    def apply(self, envelope: Envelope) -> None:
        """Fold one envelope. Repeated ones are ignored, gaps counted."""
        self._fold(envelope)
        self._settle()

    def _settle(self) -> None:
        if self._best_unknown:
            _find_best(self)

    def _fold(self, envelope: Envelope) -> None:
        if envelope.seq <= self.seq:
            return
        self.missing += envelope.seq - self.seq - 1
        self.seq = envelope.seq
        self.run = self.run or envelope.run
        if envelope.attempt != self.attempt:
            # before the first attempt it was but queued
            self._base, self._pauses = self.elapsed if self.attempt else 0.0, 0.0
            self.attempt, self.waiting = envelope.attempt, False
        # a checkpoint or a notice within a pause: that is no time of training
        if not self.paused or type(envelope.event) is events.Progress:
            self.elapsed = self._base + envelope.elapsed
        if type(envelope.event) is not events.Notice:
            self.alive_at, self.alive_seq = envelope.time, envelope.seq
        self.revision += 1
        self.news += type(envelope.event) not in MEANWHILE
        self._furthest = max(self._furthest, getattr(envelope.event, "step", -1))
        handler = _HANDLERS.get(type(envelope.event))
        if handler is not None:
            handler(self, envelope, envelope.event)

    def apply_all(self, envelopes: Sequence[Envelope]) -> None:
        """Fold envelopes in their order: what ``apply`` does with each, in a quarter of the time.

        Nearly all events of a log are training progress: those that follow each other are folded
        together.
        """
        for points, many in gathered(envelopes):
            if points is None or not self._take(points):
                for envelope in many:
                    self._fold(envelope)
        self._settle()

    def apply_parts(self, parts: Sequence[Points | Sequence[Envelope]]) -> bool:
        """Fold what was gathered elsewhere; ``False``: there are points that do not go on here,
        and all has to be folded again, envelope by envelope. What was folded already does no harm.
        """
        for part in parts:
            if not isinstance(part, Points):
                for envelope in part:
                    self._fold(envelope)
            elif not self._take(part):
                return False
        self._settle()
        return True

    def _take(self, new: Points) -> bool:
        """Fold points of training together; ``False``: they do not go on here, fold them singly."""
        if not self.run or (new.first, new.attempt) != (self.seq + 1, self.attempt):
            return False
        elapsed, self.elapsed = new.run_seconds(self._base)
        self.steps.extend(new, elapsed)
        self.news += not _goes_on(self.progress, new.last)
        self.seq, self.progress = self.seq + new.count, new.last
        self.compiling = self.evaluating = False
        self.memory = self.memory if new.memory is None else new.memory
        self.alive_at, self.alive_seq = new.time, self.seq
        self.revision += new.count
        self.points += new.count
        self._furthest = max(self._furthest, new.furthest)
        return True

    def row(self, epoch: int, step: int) -> EpochRow:
        """The row of an epoch, made when it is new."""
        row = self._rows.get(epoch)
        if row is None:
            row = self._rows[epoch] = EpochRow(epoch=epoch, step=step)
            self.epochs.append(row)
        return row

    def take_best(self, end: events.RunEnded) -> None:
        """Have the best epoch from a run's end, where evaluations before it are not there."""
        if end.best_accuracy is None or end.best_epoch is None:
            return
        best = self._rows.get(end.best_epoch)
        if best is None:
            best = EpochRow(end.best_epoch, 0, test_accuracy=end.best_accuracy)
        elif best.test_accuracy is None:
            best.test_accuracy = end.best_accuracy
        self.best, self._best_unknown = best, False

    def told(self, code: str) -> bool:
        """Whether there is a notice of a code among those that are kept."""
        return any(notice.code == code for _, notice in self.notices)

    @property
    def begun(self) -> bool:
        """Whether it may have trained: of a log that has lost its beginning this is not known."""
        return self.queued is None or self.started is not None

    @property
    def incomplete(self) -> bool:
        """Whether the log says that something is not in it."""
        return bool(self.missing) or self.told(events.LOG_GAP)

    def status(self, *, locked: bool) -> Status:
        """What the run is doing; ``locked``: a living process holds its lock."""
        if self.ended is not None:
            return self.ended.state
        if not locked:
            return "crashed"
        if self.paused:
            return "paused"
        return "queued" if self.waiting else "training"

    def latest_eval(self, variant: events.Variant = "plain") -> events.EvalEnded | None:
        """The newest evaluation of a variant."""
        return next((e for e in reversed(self.evals) if e.variant == variant), None)

    def left_easy_out(self, row: EpochRow) -> bool:
        """Whether training loss and accuracy of an epoch are of the hardest images only."""
        if row.hardest is not None:
            return row.hardest
        whole = self.started.steps_per_epoch * self.started.batch_size if self.started else 0
        return 0 < row.train_images < whole

    @property
    def attempt_seconds(self) -> float:
        """Seconds of the last attempt, pauses not counted."""
        return max(0.0, self.elapsed - self._base - self._pauses)

    @property
    def name(self) -> str:
        """What the run is called: as it was queued, else its id. Of others: not clean."""
        return (self.queued.name if self.queued is not None else "") or self.run

    @property
    def data_kind(self) -> str:
        """cifar10, cifar100, synthetic or folder: what was loaded, before that what was asked for;
        empty: neither is known.
        """
        if self.started is not None:
            return self.started.data_kind
        asked = self.queued.data if self.queued is not None else ""
        return asked if asked in ("", *CIFAR, "synthetic") else "folder"

    @property
    def real_data(self) -> bool:
        """Whether it is CIFAR itself: figures of other images must not pass for those of CIFAR."""
        return self.data_kind in CIFAR

    @property
    def epochs_trained(self) -> int:
        """The last epoch that was trained to its end, over all attempts; 0: none was.

        Not the number of rows: of a glance or a damaged log some are not there.
        """
        return self.epochs[-1].epoch if self.epochs else 0

    def epochs_done(self, step: int) -> int:
        """The last epoch that was whole after so many optimizer steps; 0: none was."""
        return max((row.epoch for row in self.epochs if row.step <= step), default=0)

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the whole run; None while that is not known."""
        if self.queued is None or self.started is None:
            return None
        return self.started.total_steps or self.queued.epochs * self.started.steps_per_epoch


def _queued(state: RunState, envelope: Envelope, event: events.RunQueued) -> None:
    state.queued, state.asked_at, state.waiting = event, envelope.time, True
    state.trained = False
    state.queued_at = state.queued_at or envelope.time
    if state.attempt or state.ended:  # once more: what is known of the earlier attempts stays
        state.ended, state.paused = None, False
        state.progress = state.memory = None
        state._base = state.elapsed - envelope.elapsed  # it may have been killed in a pause


def _started(state: RunState, envelope: Envelope, event: events.RunStarted) -> None:
    if state.started is not None or event.resumed_step is not None:
        _rewind(state, event.resumed_step or 0, envelope)
    state.started, state.ended, state.paused = event, None, False
    state.trained = True
    state.progress = state.ranks = state.memory = None
    state.compiling = False
    state.started_at = state.started_at or envelope.time


def _rewind(state: RunState, step: int, envelope: Envelope) -> None:
    """Drop what an earlier attempt did past the step that was resumed from."""
    if state._furthest <= step:  # nothing to drop; a log may say a million times that it resumes
        state.points += 1
        state.figures += 1
        return
    state._furthest = step
    state.steps.drop_after(step)
    state.epochs = [row for row in state.epochs if row.step <= step]
    state._rows = {row.epoch: row for row in state.epochs}
    state.evals = [e for e in state.evals if e.step <= step]
    state.predictions = [p for p in state.predictions if p.step <= step]
    state.checkpoints = {role: c for role, c in state.checkpoints.items() if c.step <= step}
    while state.layer_stats and state.layer_stats[-1].step > step:
        state.layer_stats.pop()
    state._base = _time_at(state, step)
    state.elapsed = state._base + envelope.elapsed
    state._best_unknown = True
    state.points += 1
    state.figures += 1


def _time_at(state: RunState, step: int) -> float:
    """The run's seconds when the checkpoint of this step was saved, or where the curves end."""
    saved, then = state._saved
    known = [r.elapsed for r in state.epochs[-1:]] + list(state.steps.elapsed[-1:])
    return max(known, default=0.0) if saved != step else max([then, *known])


def _described(state: RunState, envelope: Envelope, event: events.ModelDescribed) -> None:
    state.described = event


def _goes_on(before: events.Progress | None, now: events.Progress) -> bool:
    """Whether a phase goes on, and no other has begun."""
    return before is not None and (before.phase, before.epoch) == (now.phase, now.epoch)


def _progress(state: RunState, envelope: Envelope, event: events.Progress) -> None:
    state.news += not _goes_on(state.progress, event)
    state.progress, state.compiling = event, False
    state.evaluating = event.phase == "test"
    state.memory = state.memory if event.memory is None else event.memory
    if event.phase == "train" and event.loss is not None:
        state.steps.append(event, state.elapsed)
        state.points += 1


def _ranks(state: RunState, envelope: Envelope, event: events.Ranks) -> None:
    state.ranks = event


def _layer_stats(state: RunState, envelope: Envelope, event: events.LayerStats) -> None:
    state.layer_stats.append(event)


def _epoch_ended(state: RunState, envelope: Envelope, event: events.EpochEnded) -> None:
    row = state.row(event.epoch, event.step)
    row.lr, row.train_loss, row.train_accuracy = event.lr, event.loss, event.accuracy
    row.train_seconds, row.images_per_second = event.seconds, event.images_per_second
    row.train_images, row.hardest = event.images, event.hardest
    row.elapsed = state.elapsed
    state.points += 1
    state.figures += 1


def _eval_ended(state: RunState, envelope: Envelope, event: events.EvalEnded) -> None:
    state.evaluating = False
    _forget_matrix(state.evals, event.variant)
    _put(state.evals, event)
    state.points += 1
    state.figures += 1
    if event.variant != "plain":
        return
    row = state.row(event.epoch, event.step)
    row.test_loss, row.test_accuracy = event.loss, event.accuracy
    row.test_seconds, row.elapsed = event.seconds, state.elapsed
    best = state.best
    if row is best or row is not state.epochs[-1]:
        state._best_unknown = True
    elif best is None or event.accuracy > (best.test_accuracy or 0.0):
        state.best = row  # to look at all epochs again at each would take minutes in a long run


def _put(entries: list[Evaluated], new: Evaluated) -> None:
    """Add an evaluation, in place of the same one of an attempt that was stopped within it."""
    for at in range(len(entries) - 1, max(-1, len(entries) - 1 - VARIANTS), -1):
        old = entries[at]
        if (old.step, old.epoch, old.variant) == (new.step, new.epoch, new.variant):
            del entries[at]
            break
    entries.append(new)


def _forget_matrix(evals: list[events.EvalEnded], variant: events.Variant) -> None:
    """Of the evaluation that was the newest until now: of a thousand classes each takes 8 MB."""
    for at in range(len(evals) - 1, max(-1, len(evals) - 1 - VARIANTS), -1):
        if evals[at].variant == variant:
            evals[at] = msgspec.structs.replace(evals[at], confusion=())
            return


def _find_best(state: RunState) -> None:
    state._best_unknown = False
    rows = [row for row in state.epochs if row.test_accuracy is not None]
    state.best = max(rows, key=lambda row: row.test_accuracy or 0.0, default=None)


def _predictions(state: RunState, envelope: Envelope, event: events.PredictionsSaved) -> None:
    _put(state.predictions, event)


def _checkpoint(state: RunState, envelope: Envelope, event: events.CheckpointSaved) -> None:
    state.checkpoints[event.role] = event
    if event.role == "last":
        state._saved = event.step, state.elapsed


def _paused(state: RunState, envelope: Envelope, event: events.Paused) -> None:
    state.paused = True


def _resumed(state: RunState, envelope: Envelope, event: events.Resumed) -> None:
    state.paused = False
    # a pause is no training time: the curves over time must not show it
    state._base -= event.seconds
    state._pauses += event.seconds
    state.elapsed = state._base + envelope.elapsed


def _notice(state: RunState, envelope: Envelope, event: events.Notice) -> None:
    if len(event.message) > MESSAGE_KEPT or len(event.code) > MESSAGE_KEPT:
        event = msgspec.structs.replace(
            event, message=event.message[:MESSAGE_KEPT], code=event.code[:MESSAGE_KEPT]
        )
    state.compiling |= event.code == events.COMPILE
    state.notices.append((envelope.time, event))
    del state.notices[:-NOTICES_KEPT]


def _ended(state: RunState, envelope: Envelope, event: events.RunEnded) -> None:
    if state.paused:  # killed in a pause, which lasted until now
        seconds = state._base + envelope.elapsed - state.elapsed
        state._base -= seconds
        state._pauses += seconds
    state.ended, state.paused = event, False
    best = state._rows.get(event.best_epoch or 0)
    # of a log that has lost its end, and went on, no sequence number tells
    if state.missing or best is None or best.test_accuracy is None:
        state.take_best(event)


_HANDLERS: dict[type, Callable[[RunState, Envelope, Any], None]] = {
    events.RunQueued: _queued,
    events.RunStarted: _started,
    events.ModelDescribed: _described,
    events.Progress: _progress,
    events.Ranks: _ranks,
    events.LayerStats: _layer_stats,
    events.EpochEnded: _epoch_ended,
    events.EvalEnded: _eval_ended,
    events.PredictionsSaved: _predictions,
    events.CheckpointSaved: _checkpoint,
    events.Paused: _paused,
    events.Resumed: _resumed,
    events.Notice: _notice,
    events.RunEnded: _ended,
}

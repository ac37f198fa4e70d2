"""How long a run will still take. Torch-free.

Apart from the fold: what was kept of it is true of that very code only, see ``folded.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from trainer import events
from trainer.runs.runstate import VARIANTS, EpochRow, RunState

if TYPE_CHECKING:
    from trainer.config import TrainSettings

Cost = Callable[[int], float]
"""Of a run's first so many steps, in steps on whole images."""
ROWS, FEW = 12, 3
"""Epochs, at most and at least, of which is learnt how a step's time depends on its pixels."""
DIFFERENT = 0.1
"""By how much their images must differ for that, as shares of a whole one's pixels."""
_TESTED = 16
"""Evaluations among which the last ones of each variant are looked for."""
_VIEWS = {"flip": 2, "flip+shift": 6}
"""Passes over the test split, by ``evaluate.tta``."""


def eta(state: RunState) -> float | None:
    """Seconds until the whole run ends: training and evaluation timed apart.

    Before the first evaluation they are those of the training alone; ``None`` in the last epoch,
    where the evaluation may take longer than what is left of that.
    """
    if state.ended is not None or state.queued is None or state.started is None:
        return None
    size, steps = state.started.batch_size, state.total_steps or 0
    cost = _cost(state, _plan(state.queued.config), steps)
    earlier, speed = _speeds(state, cost)
    if not speed:
        return None
    now = state.progress
    done = max(
        state.started.resumed_step or 0,
        now.step if now is not None else 0,
        state.epochs[-1].step if state.epochs else 0,
    )
    testing = _evaluation_seconds_left(state, earlier / speed if earlier else 1.0)
    if testing is None:
        if done >= steps or (now is not None and now.epoch >= state.queued.epochs):
            return None
        testing = 0.0
    return max(0.0, cost(steps) - cost(done)) * size / speed + testing


def _speeds(state: RunState, cost: Cost) -> tuple[float | None, float | None]:
    """Images a second, as if whole, in the last epochs of earlier attempts, and now.

    A run may go on with another device or number of processes: what the newest attempt has trained
    counts, an epoch's progress until it has one, the earlier attempts' only before that.
    """
    own = [row for row in state.epochs if _is_own(state, row)]
    earlier = _mean_speed(state, state.epochs[: len(state.epochs) - len(own)], cost)
    speed = _mean_speed(state, own, cost)
    now = state.progress
    if speed is None and now is not None and now.phase == "train" and now.images_per_second:
        at = max(1, now.step)
        speed = now.images_per_second * (cost(at) - cost(at - 1))
    return earlier, speed or earlier


def _is_own(state: RunState, row: EpochRow) -> bool:
    """Whether the newest attempt has trained all of an epoch."""
    assert state.started is not None
    return row.step - _steps(state, row) >= (state.started.resumed_step or 0)


def _mean_speed(state: RunState, rows: Sequence[EpochRow], cost: Cost) -> float | None:
    return _mean([_whole_speed(state, row, cost) for row in rows[-3:]])


def _cost(state: RunState, plan: _Plan, total: int) -> Cost:
    """By pixels, but for what a step takes at any size: on a GPU that may be nearly all."""
    if plan.shrinking is None:
        return float
    from trainer import schedule  # not for the first paint of other runs

    settings = plan.shrinking

    def by_pixels(steps: int) -> float:
        return schedule.whole_steps(settings, min(steps, total), total)

    fixed = _fixed_share(state, by_pixels)
    return lambda steps: fixed * steps + (1 - fixed) * by_pixels(steps)


def _fixed_share(state: RunState, by_pixels: Cost) -> float:
    """Of a step on whole images, the share of its time that smaller ones take as well, 0 to 1.

    A straight line through the epochs' times over their pixels, the first one left out, in which
    much is done once; 0 until there were images of other sizes.
    """
    every = 1 + len(state.epochs) // ROWS
    found = [
        (_mean_cost(state, row, by_pixels), 1 / row.images_per_second)
        for row in state.epochs[1::every]
        if row.images_per_second is not None and row.images_per_second > 0
    ]
    if len(found) < FEW or max(found)[0] - min(found)[0] < DIFFERENT:
        return 0.0
    size = sum(s for s, _ in found) / len(found)
    time = sum(t for _, t in found) / len(found)
    slope = sum((s - size) * (t - time) for s, t in found) / sum((s - size) ** 2 for s, _ in found)
    if not slope > 0:
        return 1.0
    at_none = time - slope * size
    return max(0.0, at_none / (at_none + slope))


def _mean_cost(state: RunState, row: EpochRow, cost: Cost) -> float:
    """Of an epoch's steps."""
    steps = _steps(state, row)
    return (cost(row.step) - cost(row.step - steps)) / steps


def _steps(state: RunState, row: EpochRow) -> int:
    """How many an epoch had: 1 or more."""
    assert state.started is not None
    steps = row.train_images // max(1, state.started.batch_size) or state.started.steps_per_epoch
    return max(1, min(steps, row.step))


def _whole_speed(state: RunState, row: EpochRow, cost: Cost) -> float | None:
    """Images a second in an epoch, as if they had been whole ones of the same cost."""
    if row.images_per_second is None:
        return None
    return row.images_per_second * _mean_cost(state, row, cost)


def _evaluation_seconds_left(state: RunState, quicker: float) -> float | None:
    """Of the evaluations that are still due, as long as those before, or by their passes; ``None``
    where there was none before.

    Args:
        state: the run's.
        quicker: seconds now over those in earlier attempts, for the same work.
    """
    assert state.queued is not None
    plan = _plan(state.queued.config)
    last = state.evals[-_TESTED:]
    plain = _evaluation_seconds(state, last, "plain", quicker)
    if plain is None:
        return None
    due = [(_evaluations_left(state, plan.every, "plain"), plain)]
    if plan.ema:
        ema = _evaluation_seconds(state, last, "ema", quicker)
        due.append((_evaluations_left(state, plan.every, "ema"), plain if ema is None else ema))
    if plan.views and not any(e.variant == "tta" for e in last[-VARIANTS:]):
        due.append((1, plan.views * plain))
    now = state.progress
    under_way = 0.0
    if state.evaluating and now is not None and now.total:
        # after an epoch the one of which most are left comes first, at the end that of all views
        most = max((count for count, _ in due), default=0)
        seconds = next((seconds for count, seconds in due if count == most), 0.0)
        under_way = min(1.0, now.done / now.total) * seconds if most else 0.0
    return sum(count * seconds for count, seconds in due) - under_way


def _evaluation_seconds(
    state: RunState, last: Sequence[events.EvalEnded], variant: events.Variant, quicker: float
) -> float | None:
    """Of one evaluation: the newest attempt's, else the earlier ones' at the speed of now."""
    assert state.started is not None
    began = state.started.resumed_step or 0
    known = [e for e in last if e.variant == variant]
    own = _mean([e.seconds for e in known if e.step > began][-3:])
    if own is not None:
        return own
    earlier = _mean([e.seconds for e in known][-3:])
    return None if earlier is None else earlier * quicker


def _evaluations_left(state: RunState, every: int, variant: events.Variant) -> int:
    """Evaluations that are still due: every so many epochs, and after the last."""
    assert state.queued is not None
    epochs, last = state.queued.epochs, state.latest_eval(variant)
    done = last.epoch if last is not None else 0
    if done >= epochs:
        return 0
    return epochs // every - done // every + (epochs % every > 0)


class _Plan(NamedTuple):
    """What a run's settings say of its course."""

    every: int = 1
    """Epochs from one evaluation to the next."""
    ema: bool = False
    """Whether there is one of the averaged weights after each."""
    views: int = 0
    """Passes of the test-time augmentation at the end; 0: there is none."""
    shrinking: TrainSettings | None = None
    """Where images start; ``None``: they have their own size from the first step on."""


@lru_cache(64)
def _plan(config: str) -> _Plan:
    """Of settings as TOML; what they do not tell is as it is by default."""
    import tomllib

    # a log may come from anyone: an infinite number, brackets too deep in one another
    with suppress(AttributeError, TypeError, ValueError, OverflowError, RecursionError):
        found = tomllib.loads(config)
        asked, train = found.get("evaluate", {}), found.get("train", {})
        return _Plan(
            every=max(1, int(asked.get("every", 1))),
            ema=float(train.get("ema", 0)) > 0,
            views=_VIEWS.get(asked.get("tta"), 0),
            shrinking=_shrinking(train),
        )
    return _Plan()


def _shrinking(train: dict[str, object]) -> TrainSettings | None:
    names = ("low_resolution", "low_resolution_share")
    asked = {name: train[name] for name in names if name in train}
    if not asked.get("low_resolution"):
        return None
    from trainer.config import TrainSettings

    with suppress(msgspec.ValidationError):
        found = msgspec.convert(asked, TrainSettings)
        return found if math.isfinite(found.low_resolution_share) else None
    return None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None

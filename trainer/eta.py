"""How long a run will still take. Torch-free.

Apart from the fold: what was kept of it is true of that very code only, see ``folded.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from trainer import events
from trainer.runstate import VARIANTS, RunState

_TESTED = 16
"""Evaluations among which the last ones of each variant are looked for."""
_VIEWS = {"flip": 2, "flip+shift": 6}
"""Passes over the test split, by ``evaluate.tta``."""


def eta(state: RunState) -> float | None:
    """Seconds until the whole run ends: training and evaluation timed apart."""
    if state.ended is not None or state.queued is None or state.started is None:
        return None
    speed = _mean([r.images_per_second for r in state.epochs[-3:]])
    now = state.progress
    if now is not None and now.phase == "train" and now.images_per_second:
        speed = speed or now.images_per_second
    if not speed:
        return None
    steps = state.total_steps or 0
    done = now.step if now is not None else state.started.resumed_step or 0
    images = max(0, steps - done) * state.started.batch_size
    return images / speed + _evaluation_seconds_left(state)


def _evaluation_seconds_left(state: RunState) -> float:
    """Of the evaluations that are still due, as long as those before, or by their passes."""
    assert state.queued is not None
    settings = _evaluation(state.queued.config)
    last = state.evals[-_TESTED:]
    plain = _mean([e.seconds for e in last if e.variant == "plain"][-3:]) or 0.0
    left = _evaluations_left(state, settings.every, "plain") * plain
    if settings.ema:
        ema = _mean([e.seconds for e in last if e.variant == "ema"][-3:])
        left += _evaluations_left(state, settings.every, "ema") * (plain if ema is None else ema)
    if settings.views and not any(e.variant == "tta" for e in last[-VARIANTS:]):
        left += settings.views * plain
    return left


def _evaluations_left(state: RunState, every: int, variant: events.Variant) -> int:
    """Evaluations that are still due: every so many epochs, and after the last."""
    assert state.queued is not None
    epochs, last = state.queued.epochs, state.latest_eval(variant)
    done = last.epoch if last is not None else 0
    if done >= epochs:
        return 0
    return epochs // every - done // every + (epochs % every > 0)


class _Evaluation(NamedTuple):
    """What a run's settings say of its evaluations."""

    every: int = 1
    """Epochs from one to the next."""
    ema: bool = False
    """Whether there is one of the averaged weights after each."""
    views: int = 0
    """Passes of the test-time augmentation at the end; 0: there is none."""


@lru_cache(64)
def _evaluation(config: str) -> _Evaluation:
    """Of settings as TOML; what they do not tell is as it is by default."""
    import tomllib

    with suppress(tomllib.TOMLDecodeError, AttributeError, TypeError, ValueError):
        found = tomllib.loads(config)
        asked = found.get("evaluate", {})
        return _Evaluation(
            every=max(1, int(asked.get("every", 1))),
            ema=float(found.get("train", {}).get("ema", 0)) > 0,
            views=_VIEWS.get(asked.get("tta"), 0),
        )
    return _Evaluation()


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None

"""What changes over a run as a pure function of the step: learning rate, image size. Torch-free."""

from __future__ import annotations

import math

from trainer.config import ScheduleSettings, TrainSettings


def factor(settings: ScheduleSettings, step: int, total: int, steps_per_epoch: int) -> float:
    """Learning rate of a step as a share of the peak.

    Args:
        settings: the schedule.
        step: optimizer steps done before this one, 0 to ``total - 1``.
        total: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps of one epoch.

    Sources: cosine, Loshchilov & Hutter 2017; onecycle, Smith & Topin 2018, with cosine
    annealing; triangular, Smith 2017, one cycle.
    """
    last = max(1, total - 1)
    rise = settings.warmup * last
    fall = last - rise
    progress = (step - rise) / fall if fall else 0.0
    if settings.name == "onecycle":
        if step < rise:
            return _cosine(settings.start_factor, 1.0, step / rise)
        return _cosine(1.0, settings.end_factor, progress)
    if step < rise:
        return settings.start_factor + (1.0 - settings.start_factor) * step / rise
    if settings.name == "cosine":
        return _cosine(1.0, settings.end_factor, progress)
    if settings.name in ("linear", "triangular"):
        return 1.0 + (settings.end_factor - 1.0) * progress
    if settings.name == "step":
        return float(settings.gamma ** (step // (settings.step_epochs * steps_per_epoch)))
    return 1.0


SIDE = 32
"""Pixels of a whole image's side."""
SIDE_STEP = 4


def sides(settings: TrainSettings) -> tuple[int, ...]:
    """The sides in pixels that images have one after another, the last one their own."""
    low = settings.low_resolution or SIDE
    return (*range(low, SIDE, SIDE_STEP), SIDE)


def side(settings: TrainSettings, step: int, total: int) -> int:
    """Pixels of the images' side at a step: each shrunk size for as many steps.

    Coarse shapes are learnt first, and a step at 24 pixels costs about half of one at 32: Howard
    2018 ("progressive resizing", DAWNBench), Tan and Le 2021 (arXiv:2104.00298).

    Args:
        settings: where images start, and for which share of the run they are shrunk.
        step: optimizer steps done before this one, 0 to ``total - 1``.
        total: optimizer steps of the whole run.
    """
    *shrunk, whole = sides(settings)
    until = settings.low_resolution_share * total
    return shrunk[int(step / until * len(shrunk))] if step < until and shrunk else whole


def whole_steps(settings: TrainSettings, steps: int, total: int) -> float:
    """How many steps on whole images cost as much as a run's first ``steps``: by their pixels.

    Args:
        settings: as for ``side``.
        steps: optimizer steps, 0 to ``total``.
        total: optimizer steps of the whole run.
    """
    *shrunk, whole = sides(settings)
    each = settings.low_resolution_share * total / len(shrunk) if shrunk else 0.0
    cost = float(steps)
    for stage, pixels in enumerate(shrunk):
        begin, end = math.ceil(each * stage), math.ceil(each * (stage + 1))
        cost -= (min(steps, end) - min(steps, begin)) * (1 - (pixels / whole) ** 2)
    return cost


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * min(1.0, progress))) / 2.0

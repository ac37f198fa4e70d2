"""Learning rate schedules: pure functions of the step. Torch-free."""

from __future__ import annotations

import math

from trainer.config import ScheduleSettings


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
    if settings.name == "onecycle":
        if step < rise:
            return _cosine(settings.start_factor, 1.0, step / rise)
        return _cosine(1.0, settings.end_factor, (step - rise) / max(1.0, last - rise))
    if step < rise:
        return settings.start_factor + (1.0 - settings.start_factor) * step / rise
    progress = (step - rise) / max(1.0, last - rise)
    if settings.name == "cosine":
        return _cosine(1.0, settings.end_factor, progress)
    if settings.name in ("linear", "triangular"):
        return 1.0 + (settings.end_factor - 1.0) * progress
    if settings.name == "step":
        return float(settings.gamma ** (step // (settings.step_epochs * steps_per_epoch)))
    return 1.0


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * min(1.0, progress))) / 2.0

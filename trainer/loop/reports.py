"""What training tells of itself: progress and its rate, epochs, and figures that are no numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from trainer import device as devices
from trainer import events
from trainer.distributed.together import Together
from trainer.loop.hard_examples import HardExamples
from trainer.loop.meter import Meter
from trainer.runs.position import Position
from trainer.runs.runlog import RunLog

PROGRESS_SECONDS = 0.25


class TrainingFailed(Exception):  # noqa: N818
    """Training cannot go on; the message is one line."""


class Reports:
    """Tells the log of a run's epochs, within them a few times a second; nothing waits for a GPU.

    Args:
        log: the run's.
        meter: of the training images: what was read is told, not what is queued.
        examples: how many steps an epoch has.
        batch_size: training images per step, of all processes.
        peak: the largest learning rate of the run.
        factor: that of the step after so many, as a share of it.
        device: where the net is trained.
        together: the ranks that train together.
    """

    def __init__(
        self,
        log: RunLog,
        meter: Meter,
        examples: HardExamples,
        *,
        batch_size: int,
        peak: float,
        factor: Callable[[int], float],
        device: torch.device,
        together: Together | None,
    ) -> None:
        self._log, self._meter, self._examples = log, meter, examples
        self._batch_size, self._peak, self._factor = batch_size, peak, factor
        self._device, self._together = device, together
        self._progress_at = 0.0
        self._rate_from = (time.monotonic(), 0)

    def begin_epoch(self, at: Position) -> None:
        """An epoch begins, or goes on."""
        self._rate_from = (time.monotonic(), self._meter.images)
        if at.epoch == self._examples.first and not at.batch:
            images = self._examples.steps(at.epoch) * self._batch_size
            self._notice(
                "info",
                "skip-easy",
                f"epochs from {at.epoch} on train on the {images:,} hardest images: their "
                "training loss and accuracy are of those",
            )

    def paused(self, seconds: float) -> None:
        """So long a pause is over: it does not slow the rate down."""
        rate_from, images = self._rate_from
        self._rate_from = rate_from + seconds, images

    def training(self, at: Position) -> None:
        """A step of training is queued.

        Raises:
            TrainingFailed: the loss is not a number.
        """
        if self._together is not None:
            self._training_together(at, self._together)
            return
        now = time.monotonic()
        if not self._meter.reading() and now - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = now
            self._meter.begin_read()
        if not self._meter.ready():
            return
        window = self._meter.window()
        if window is None:
            return
        # what was read, not what is queued: the host may be ahead of the device
        memory, images = devices.memory(self._device), self._meter.read_sums[2]
        self._progress(at, window, now, memory, images)

    def testing(self, at: Position, epoch: int, done: int, total: int) -> None:
        """So much of an evaluation after an epoch is done."""
        now = time.monotonic()
        if now - self._progress_at < PROGRESS_SECONDS:
            return
        self._progress_at = now
        self._log.emit(
            events.Progress(phase="test", epoch=epoch, step=at.step, done=done, total=total)
        )

    def end_epoch(
        self, at: Position, loss: float, accuracy: float, *, lr: float, seconds: float
    ) -> None:
        """An epoch is trained to its end.

        Raises:
            TrainingFailed: the loss is not a number.
        """
        if not math.isfinite(loss):
            self._not_a_number(at.epoch, at.step)
        images = self._examples.steps(at.epoch) * self._batch_size
        self._log.emit(
            events.EpochEnded(
                epoch=at.epoch,
                step=at.step,
                loss=loss,
                accuracy=accuracy,
                lr=lr,
                seconds=seconds,
                images_per_second=images / seconds,
                images=images,
                hardest=self._examples.leaves_out(at.epoch),
            )
        )

    def _training_together(self, at: Position, together: Together) -> None:
        heard = together.exchange(self._meter)
        window = together.window(heard) if heard is not None else None
        if heard is None or window is None:
            return
        self._progress(at, window, time.monotonic(), sum(heard.memory), int(heard.images))
        if (news := together.news(heard, step=at.step)) is not None:
            self._log.emit(news)

    def _progress(
        self, at: Position, window: tuple[float, float], now: float, memory: int, images: int
    ) -> None:
        """Tell of the epoch's first so many images."""
        began, before = self._rate_from
        self._rate_from = (now, images)
        done = images // self._batch_size
        step = at.step - at.batch + done
        if not all(map(math.isfinite, window)):
            self._not_a_number(at.epoch, step)
        self._log.emit(
            events.Progress(
                phase="train",
                epoch=at.epoch,
                step=step,
                done=done,
                total=self._examples.steps(at.epoch),
                loss=window[0],
                accuracy=window[1],
                lr=self._peak * self._factor(step - 1),
                images_per_second=(images - before) / (now - began) if now > began else None,
                memory=memory,
            )
        )

    def _not_a_number(self, epoch: int, step: int) -> None:
        message = (
            f"the loss is not a number in epoch {epoch}, step {step}: "
            "lower the learning rate or set train.grad_clip"
        )
        self._notice("error", events.NOT_A_NUMBER, message)
        raise TrainingFailed(message)

    def _notice(self, level: events.Level, code: str, message: str) -> None:
        self._log.emit(events.Notice(level=level, code=code, message=message))


def no_numbers(epoch: int, variant: events.Variant = "plain") -> str:
    """Why an evaluation has no accuracy."""
    which = "" if variant == "plain" else f" ({variant})"
    return (
        f"the net's output on the test images{which} is not a number after epoch {epoch}: "
        "there is no accuracy; lower the learning rate or set train.grad_clip"
    )


def not_saved(reason: str, *, there: bool, again: bool) -> str:
    """Why a run that was trained to its end is not completed.

    ``there``: its folder is where it was; ``again``: it has a checkpoint.
    """
    if not there:
        return "its last checkpoint could not be saved: its folder was moved while it trained"
    goes_on = "resume it: it goes on from the checkpoint before" if again else "train it again"
    return f"its last checkpoint could not be saved ({reason}): make room for it and {goes_on}"

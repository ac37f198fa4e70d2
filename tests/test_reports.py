from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
import torch

from trainer import events
from trainer.config import TrainSettings
from trainer.loop import reports
from trainer.loop.hard_examples import HardExamples
from trainer.loop.meter import Meter
from trainer.loop.reports import Reports, TrainingFailed
from trainer.runs.position import Position
from trainer.runs.runlog import RunLog

CPU = torch.device("cpu")
BATCH = 8


class Run:
    """Steps of a batch on a clock that stands still in between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(reports, "time", SimpleNamespace(monotonic=lambda: self.now))
        settings = msgspec.structs.replace(TrainSettings(), batch_size=BATCH, epochs=2)
        self.told: list[events.Event] = []
        self.meter, self.at = Meter(CPU), Position()
        self.reports = Reports(
            cast("RunLog", SimpleNamespace(emit=self.told.append)),
            self.meter,
            HardExamples(10 * BATCH, settings, CPU),
            batch_size=BATCH,
            peak=2.0,
            factor=lambda step: 1 / (1 + step),
            device=CPU,
            together=None,
        )
        self.reports.begin_epoch(self.at)

    def step(self, seconds: float, loss: float = 1.0) -> None:
        self.now += seconds
        self.meter.add(torch.tensor(loss * BATCH), torch.tensor(2))
        self.meter.images += BATCH
        self.at.batch, self.at.step = self.at.batch + 1, self.at.step + 1
        self.reports.training(self.at)

    @property
    def progress(self) -> list[events.Progress]:
        return [event for event in self.told if isinstance(event, events.Progress)]


def test_progress_is_told_a_few_times_a_second_of_all_images_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    for loss in (1.0, 2.0, 4.0):
        run.step(0.125, loss)
    first, second = run.progress
    assert (first.step, first.done, first.total, first.loss) == (1, 1, 10, 1.0)
    assert (second.step, second.loss, second.accuracy) == (3, 3.0, 2 / BATCH)
    assert second.lr == pytest.approx(2 / 3), "of the step that was read"
    assert second.images_per_second == 2 * BATCH / 0.25


def test_a_pause_is_no_time_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.step(1.0)
    run.now += 50.0
    run.reports.paused(50.0)
    run.step(1.0)
    assert [told.images_per_second for told in run.progress] == [BATCH, BATCH]


def test_a_loss_that_is_not_a_number_ends_training_and_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    with pytest.raises(TrainingFailed, match="not a number in epoch 1, step 1: lower"):
        run.step(1.0, float("nan"))
    with pytest.raises(TrainingFailed, match="not a number in epoch 1, step 1: lower"):
        run.reports.end_epoch(run.at, float("inf"), 0.1, lr=0.1, seconds=1.0)
    codes = [event.code for event in run.told if isinstance(event, events.Notice)]
    assert codes == [events.NOT_A_NUMBER] * 2
    assert len(run.told) == 2, "no figures of it"

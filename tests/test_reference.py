"""The engine beside a training loop of plain torch, and what is told of it while it goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import registry
from tests.training_helpers import tiny_dataset, tiny_run
from trainer import events, schedule
from trainer.data.dataset import Dataset
from trainer.lifecycle.session import train_run
from trainer.lifecycle.submit import read_config
from trainer.loop.augment import Augment
from trainer.loop.hard_examples import _shuffled
from trainer.runs import checkpoint, predictions
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir

EPOCHS, STEPS, BATCH = 2, 6, 16
OPTIONS = (
    "train.precision=fp32",
    "train.label_smoothing=0.1",
    "train.grad_clip=0.5",
    "train.ema=0.9",
    "optimizer.weight_decay=1e-3",
    "optimizer.momentum=0.9",
)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    found = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: found)
    return found


def plain_loop(
    run: RunDir, data: Dataset
) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """What ``OPTIONS`` say, written down: mean losses of the epochs, weights, their average."""
    config = read_config(run)
    torch.manual_seed(config.train.seed)
    net = registry.build(config.model.name, classes=len(data.classes))
    net.to(memory_format=torch.channels_last)
    augment = Augment(
        config.augment,
        mean=data.mean,
        std=data.std,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim < 2]
    groups = [{"params": weights, "weight_decay": 1e-3}, {"params": others, "weight_decay": 0.0}]
    sgd = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    images, labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
    losses: list[float] = []
    average: dict[str, Tensor] = {}
    net.train()
    for epoch in range(1, EPOCHS + 1):
        drawn = augment.draw(len(labels), epoch=epoch, seed=config.train.seed)
        order = _shuffled(len(labels), epoch, config.train.seed)
        total = 0.0
        for step in range(STEPS):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            at = (epoch - 1) * STEPS + step
            for group in sgd.param_groups:
                group["lr"] = 0.05 * schedule.factor(config.schedule, at, EPOCHS * STEPS, STEPS)
            batch = augment(images[chosen], chosen, drawn)
            logits = net(batch.contiguous(memory_format=torch.channels_last))
            sgd.zero_grad()
            F.cross_entropy(logits, labels[chosen], label_smoothing=0.1).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            sgd.step()
            total += F.cross_entropy(logits, labels[chosen], reduction="sum").item()
            now = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
            average = {
                name: 0.9 * average[name] + 0.1 * tensor
                if average and tensor.is_floating_point()
                else tensor
                for name, tensor in now.items()
            }
        losses.append(total / len(labels))
    return losses, net.state_dict(), average


def test_a_run_is_what_a_plain_loop_gives(tmp_path: Path, data: Dataset) -> None:
    run = tiny_run(tmp_path, *OPTIONS)
    assert train_run(run, Control(run)).state == "completed"
    losses, weights, average = plain_loop(run, data)
    told = [row.train_loss for row in Follower(run).catch_up().epochs]
    assert told == pytest.approx(losses, abs=1e-5)
    saved = checkpoint.load(run.checkpoint("last"))
    for name, tensor in weights.items():
        assert torch.allclose(saved["net"][name], tensor, atol=1e-5), name
    for name, tensor in average.items():
        assert torch.allclose(saved["ema"][f"module.{name}"], tensor, atol=1e-5), name


def test_the_confusion_matrix_has_actual_classes_as_rows(tmp_path: Path, data: Dataset) -> None:
    run = tiny_run(tmp_path, "train.epochs=1")
    train_run(run, Control(run))
    state = Follower(run).catch_up()
    found, told = predictions.load(run.inside(state.predictions[-1].path)), state.evals[-1]
    classes = len(data.classes)
    counted = [[0] * classes for _ in range(classes)]
    for actual, predicted in zip(data.test.labels, found.predicted, strict=True):
        counted[int(actual)][int(predicted)] += 1
    assert counted != [list(column) for column in zip(*counted, strict=True)]
    assert [list(row) for row in told.confusion] == counted
    assert told.correct == sum(counted[i][i] for i in range(classes))
    assert told.per_class == tuple(counted[i][i] / sum(counted[i]) for i in range(classes))
    best = found.probabilities[np.arange(len(found.predicted)), found.predicted]
    assert np.array_equal(best, found.probabilities.max(1))


def test_progress_adds_up_to_the_epoch_and_tells_the_rate_of_its_last_step(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.loop.reports.PROGRESS_SECONDS", 0.0)
    run = tiny_run(tmp_path, "schedule.name='linear'", "schedule.warmup=0.25")
    train_run(run, Control(run))
    config = read_config(run)
    told = [e.event for e in Follower(run)._tail.read()]
    for epoch in range(1, EPOCHS + 1):
        parts = [e for e in told if isinstance(e, events.Progress) and e.phase == "train"]
        parts = [e for e in parts if e.epoch == epoch]
        (end,) = (e for e in told if isinstance(e, events.EpochEnded) and e.epoch == epoch)
        done = np.diff([0, *(e.done for e in parts)])
        assert done.sum() == STEPS
        for mean, name in ((end.loss, "loss"), (end.accuracy, "accuracy")):
            figures = [getattr(e, name) for e in parts]
            assert np.average(figures, weights=done) == pytest.approx(mean)
        for part in parts:
            share = schedule.factor(config.schedule, part.step - 1, EPOCHS * STEPS, STEPS)
            assert part.lr == pytest.approx(config.optimizer.lr * share)

"""Tiny data, nets and runs, so that training in a test takes well under a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainer import config as settings
from trainer import events
from trainer.data.dataset import Dataset, TestSplit, TrainSplit
from trainer.events import Envelope
from trainer.lifecycle.session import train_run
from trainer.lifecycle.submit import resubmit, submit
from trainer.presets import catalog
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir

TINY_NET = '''
import torch
from torch import nn


class Tiny(nn.Sequential):
    """Two convolutions, batch norm, dropout: all that has state or randomness."""

    def __init__(
        self, classes: int, explode: bool = False, wrong: bool = False, prints: int = 0
    ) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, classes + wrong),
        )
        self.explode = explode
        self.prints = prints

    def forward(self, x):
        if self.prints:
            print("x" * self.prints)
        y = super().forward(x)
        return y * float("nan") if self.explode and self.training else y
'''


def tiny_dataset(train: int = 96, test: int = 40, classes: int = 4) -> Dataset:
    """Images whose brightness tells the class, with noise."""
    rng = np.random.default_rng(0)

    def images(labels: np.ndarray) -> np.ndarray:
        noise = rng.integers(0, 60, (len(labels), 3, 32, 32))
        return (noise + labels[:, None, None, None] * 190 // classes).astype(np.uint8)

    train_labels, test_labels = np.arange(train) % classes, np.arange(test) % classes
    return Dataset(
        kind="folder",
        source="tiny",
        classes=tuple(f"class {i}" for i in range(classes)),
        train=TrainSplit(images(train_labels), train_labels.astype(np.int64)),
        test=TestSplit(images(test_labels), test_labels.astype(np.int64)),
        notices=(),
    )


def tiny_run(folder: Path, *overrides: str) -> RunDir:
    """A submitted run of the tiny net; two epochs of six steps by default."""
    folder.mkdir(parents=True, exist_ok=True)
    net = folder / "tiny.py"
    net.write_text(TINY_NET)
    config = catalog.load(
        "quick",
        [
            f"model.name='{net}:Tiny'",
            "train.epochs=2",
            "train.batch_size=16",
            "train.device=cpu",
            "evaluate.batch_size=16",
            "optimizer.lr=0.05",
            *overrides,
        ],
    )
    settings.check(config)
    return submit(config, folder / "runs")


def log_of(run: RunDir) -> list[events.Event]:
    """Train it: its events."""
    train_run(run, Control(run))
    return [envelope.event for envelope in Follower(run)._tail.read()]


def train(run: RunDir, *, stopped: bool) -> None:
    """To its end; stopped after the first epoch's evaluation, and resumed, or not."""
    asked = Control(run)

    def listen(envelope: events.Envelope) -> None:
        if isinstance(envelope.event, events.EvalEnded) and stopped:
            asked.request("stop")

    train_run(run, asked, listener=listen)
    if stopped:
        resubmit(run)
        assert train_run(run, Control(run), resume=True).state == "completed"


def losses_of(run: RunDir, *, stopped: bool) -> list[tuple[float | None, float | None]]:
    """Losses of training and test of each epoch, trained as by ``train``."""
    train(run, stopped=stopped)
    state = Follower(run).catch_up()
    return [(row.train_loss, row.test_loss) for row in state.epochs]


def binary_folder(folder: Path, train: int = 100, test: int = 30) -> Path:
    """A data set in CIFAR-10's binary layout, ten classes told by their brightness: ``folder``."""
    rng = np.random.default_rng(1)
    target = folder / "cifar-10-batches-bin"
    target.mkdir(parents=True)

    def write(name: str, count: int) -> None:
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = rng.integers(0, 40, (count, 3072)) + labels[:, None] * 20
        records = np.concatenate([labels[:, None], pixels.astype(np.uint8)], 1)
        (target / name).write_bytes(records.tobytes())

    for batch in range(1, 6):
        write(f"data_batch_{batch}.bin", train // 5)
    write("test_batch.bin", test)
    return folder


def wait(condition: Callable[[], object], seconds: float = 120) -> None:
    """Until something holds, which another process brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def at_step(step: int, do: Callable[[], object]) -> Callable[[Envelope], None]:
    """A listener that acts once, when progress of the training part reaches a step."""
    done = []

    def listener(envelope: Envelope) -> None:
        event = envelope.event
        if isinstance(event, events.Progress) and event.step >= step and not done:
            done.append(do())

    return listener

"""Nets of a user's own file that do what nets in the wild do: exit, use views, keep odd state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from model import registry
from model.summary import summarize
from tests.training_helpers import tiny_dataset, tiny_run
from trainer import worker
from trainer.control import Control
from trainer.follower import Follower
from trainer.rundir import RunDir
from trainer.session import train_run

BASE = """
import random
import numpy as np
import torch
from torch import nn


class Base(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


"""


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., RunDir]:
    """A run of the class ``Own``, whose body is given."""

    def run(body: str, *overrides: str, name: str = "own") -> RunDir:
        path = tmp_path / f"{name}.py"
        path.write_text(f"{BASE}class Own(Base):\n{body}")
        return tiny_run(tmp_path / name, f"model.name='{path}:Own'", *overrides)

    return run


EXITS = """
    steps = 0

    def forward(self, x):
        self.steps += self.training and len(x) > 2
        if self.steps == 3:
            exit(0)
        return super().forward(x)
"""


def test_a_net_that_exits_fails_its_run_and_says_where(own: Callable[..., RunDir]) -> None:
    run = own(EXITS)
    ended = train_run(run, Control(run))
    assert ended.state == "failed"
    lines = (run.path.parents[2] / "own.py").read_text().splitlines()
    assert ended.error == f"own.py, line {1 + lines.index('            exit(0)')}: SystemExit: 0"


def test_a_net_that_exits_at_once_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(f"{BASE}class Own(Base):\n    def forward(self, x):\n        exit(0)\n")
    net = registry.build(f"{path}:Own")
    for look in (lambda: registry.check_output(net, 10), lambda: summarize(net)):
        with pytest.raises(registry.ModelError, match=r": own\.py, line \d+: SystemExit: 0$"):
            look()


def test_whatever_a_run_raises_the_next_one_is_trained(
    own: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def train(run: RunDir, *_: object, **__: object) -> None:
        tried.append(run.id)
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "train_locked", train)
    runs = [own(EXITS, name=name) for name in "ab"]
    serving = worker.Worker(lambda state: None)
    for run in runs:
        serving.add(f'{{"run": "{run.path}"}}'.encode())
    serving.close()
    worker._train_all(serving, lambda state: None)
    assert tried == [run.id for run in runs]
    assert not any(run.is_locked() for run in runs)


NOT_A_NUMBER = """
    def forward(self, x):
        y = super().forward(x)
        return y if self.training or len(x) == 2 or {when} else y * float("nan")
"""


def test_an_output_that_is_no_number_is_no_accuracy(own: Callable[..., RunDir]) -> None:
    run = own(NOT_A_NUMBER.format(when="False"), "evaluate.tta='flip'", "train.ema=0.9")
    ended = train_run(run, Control(run))
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error.startswith("the net's output on the test images is not a number")
    assert (ended.best_accuracy, ended.best_epoch, ended.final_accuracy) == (None, None, None)
    state = Follower(run).catch_up()
    assert (state.evals, state.predictions) == ([], [])
    told = [notice.message for _, notice in state.notices if notice.code == "not-a-number"]
    assert ["(ema)" in message for message in told] == [False, True, False, True]
    assert run.checkpoint("last").is_file()
    assert not run.checkpoint("best").exists()
    assert not (run.path / "predictions").exists()


def test_training_goes_on_after_an_evaluation_that_gave_no_numbers(
    own: Callable[..., RunDir],
) -> None:
    body = NOT_A_NUMBER.format(when="self.finite")
    body += "\n    finite = property(lambda self: self.body[1].num_batches_tracked > 6)\n"
    run = own(body)
    ended = train_run(run, Control(run))
    assert (ended.state, ended.best_epoch) == ("completed", 2)
    assert ended.final_accuracy == ended.best_accuracy
    state = Follower(run).catch_up()
    assert [row.test_accuracy is not None for row in state.epochs] == [False, True]
    assert [n.level for _, n in state.notices if n.code == "not-a-number"] == ["warning"]

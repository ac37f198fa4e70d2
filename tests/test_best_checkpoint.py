"""``best.pt`` is of the evaluation that a run calls its best, wherever its trainer was killed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.training_helpers import tiny_dataset, tiny_run
from trainer import events
from trainer.events import Envelope
from trainer.lifecycle.session import train_run
from trainer.lifecycle.submit import resubmit
from trainer.loop.engine import Training
from trainer.runs import checkpoint
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.runs.runstate import RunState


class Killed(KeyboardInterrupt):
    """As SIGKILL: nothing is saved any more. Any other error ends a run in its log."""


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: tiny_dataset())


@pytest.fixture(autouse=True)
def accuracies(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """What evaluations come to, by epoch: a GPU's second attempt is not the first one."""
    found: dict[int, float] = {}
    count = Training._count_evaluation

    def counted(self: Training, epoch: int, accuracy: float) -> None:
        count(self, epoch, found.get(epoch, accuracy))

    monkeypatch.setattr(Training, "_count_evaluation", counted)
    return found


def killed(run: RunDir, monkeypatch: pytest.MonkeyPatch, *, before: tuple[str, int]) -> None:
    """Train, killed right before it writes this checkpoint at this step."""
    step = 0
    write = checkpoint.write

    def guarded(packed: memoryview, path: Path) -> None:
        if (path.stem, step) == before:
            raise Killed
        write(packed, path)

    def at(self: Training) -> dict[str, object]:
        nonlocal step
        step = self.at.step
        return state(self)

    state = Training.state_dict
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write", guarded)
        patched.setattr(Training, "state_dict", at)
        with pytest.raises(Killed):
            train_run(run, Control(run))


def resumed(run: RunDir) -> RunState:
    resubmit(run)
    assert train_run(run, Control(run), resume=True).state == "completed"
    return Follower(run).catch_up()


def best(run: RunDir) -> tuple[int, float]:
    position = checkpoint.load(run.checkpoint("best"))["position"]
    return position["best_epoch"], position["best_accuracy"]


def told(run: RunDir) -> list[str]:
    return [n.message for _, n in Follower(run).catch_up().notices if n.level == "warning"]


def test_killed_after_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accuracies: dict[int, float]
) -> None:
    """The evaluation that it is of stands, and is not done again, with another result."""
    accuracies.update({1: 0.2, 2: 0.4})
    run = tiny_run(tmp_path, "train.ema=0.9", "train.epochs=2")
    evaluate = Training._evaluate

    def until_the_averaged(self: Training, net: nn.Module, epoch: int, *rest: Any) -> Any:
        if (epoch, rest[0]) == (2, "ema"):
            raise Killed
        return evaluate(self, net, epoch, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_evaluate", until_the_averaged)
        with pytest.raises(Killed):
            train_run(run, Control(run))
    accuracies[2] = 0.1
    state = resumed(run)
    assert state.ended is not None
    assert (state.ended.best_epoch, state.ended.best_accuracy) == best(run) == (2, 0.4)
    assert [(e.epoch, e.variant) for e in state.evals][-2:] == [(2, "plain"), (2, "ema")]
    assert told(run) == []


def test_killed_before_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accuracies: dict[int, float]
) -> None:
    """``last`` is of the same moment: what was not written is made of it."""
    accuracies.update({1: 0.2, 2: 0.4})
    run = tiny_run(tmp_path, "train.ema=0.9", "train.epochs=2")
    killed(run, monkeypatch, before=("best", 12))
    assert best(run) == (1, 0.2)
    state = resumed(run)
    assert best(run) == (2, 0.4)
    assert state.ended is not None
    assert state.ended.best_epoch == 2
    assert (state.checkpoints["best"].epoch, state.checkpoints["best"].step) == (2, 12)
    assert told(run) == []


def test_one_that_is_ahead_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accuracies: dict[int, float]
) -> None:
    """As a full disk or an earlier version leaves it."""
    accuracies.update({1: 0.2, 2: 0.4})
    run = tiny_run(tmp_path, "train.epochs=2")
    killed(run, monkeypatch, before=("last", 12))
    whole = tiny_run(tmp_path, "train.epochs=2")
    train_run(whole, Control(whole))
    shutil.copy(whole.checkpoint("best"), run.checkpoint("best"))
    accuracies[2] = 0.1
    state = resumed(run)
    assert state.ended is not None
    # ``last`` is of the end of epoch 1: the best of that can be made anew
    assert (state.ended.best_epoch, state.ended.best_accuracy) == best(run) == (1, 0.2)
    assert state.checkpoints["best"].epoch == 1
    aside = run.checkpoint("best").with_name("dropped-epoch-0002.pt")
    assert checkpoint.load(aside)["position"]["best_accuracy"] == 0.4
    assert told(run) == [
        "the weights in best.pt are of an epoch 2 that was dropped: set aside as "
        "dropped-epoch-0002.pt"
    ]


def test_what_is_lost_is_said(tmp_path: Path, accuracies: dict[int, float]) -> None:
    accuracies.update({1: 0.4, 2: 0.2})
    run = tiny_run(tmp_path, "train.epochs=3")
    asked = Control(run)

    def listen(envelope: Envelope) -> None:
        if isinstance(envelope.event, events.EpochStarted) and envelope.event.epoch == 3:
            asked.request("stop")

    train_run(run, asked, listener=listen)
    run.checkpoint("best").write_bytes(b"damaged")
    accuracies[3] = 0.1
    resumed(run)
    assert not run.has_checkpoint("best")
    assert told(run) == [
        "best.pt is damaged: set aside as dropped-epoch-0000.pt; those of the best, epoch 1, are "
        "lost"
    ]

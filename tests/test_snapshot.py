"""A checkpoint that is packed while training goes on holds what was when it was asked for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training_helpers import tiny_dataset, tiny_run, train
from trainer import events
from trainer.files import disk
from trainer.lifecycle.session import train_run
from trainer.loop import snapshot
from trainer.loop.engine import Training
from trainer.loop.snapshot import Snapshot, packing
from trainer.runs import checkpoint
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: tiny_dataset())


@pytest.fixture
def aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a CPU do as a GPU does."""
    monkeypatch.setattr(snapshot, "ASIDE", ("cpu",))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other) and one.stride() == other.stride()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_it_is_of_the_moment_that_it_was_taken() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)

    def step() -> None:
        net(torch.ones(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()

    step()
    extra = {"list": [1, [2]], "set": {1}}
    state = {"net": net.state_dict(), "optimizers": [optimizer.state_dict()], "extra": extra}
    before = bytes(checkpoint.pack(state))
    taken = Snapshot(state, CPU)
    step()
    extra["list"][1].append(3)  # type: ignore[index]
    extra["set"].add(2)  # type: ignore[attr-defined]
    found = checkpoint.unpack(bytes(taken.pack()), "taken")
    assert same(found, checkpoint.unpack(before, "before"))
    assert found["net"]._metadata == net.state_dict()._metadata  # type: ignore[attr-defined]
    assert not same(found["net"], net.state_dict())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_it_is_of_the_moment_although_the_steps_go_on() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    weights = [torch.zeros(1 << 20, device=device) for _ in range(8)]
    work = torch.ones(4096, 4096, device=device)
    for _ in range(50):  # so that nothing is there yet when the snapshot is asked for
        work = work @ work * 0
    for weight in weights:
        weight += 1 + work.sum()
    taken = Snapshot({"net": {str(i): w for i, w in enumerate(weights)}}, device)
    for weight in weights:
        weight += 1
    found = list[memoryview]()
    thread = threading.Thread(target=lambda: found.append(taken.pack()))
    thread.start()
    while thread.is_alive():  # memory that was given back too early would be theirs
        for weight in weights:
            weight.copy_(weight.clone().fill_(5))
        torch.cuda.synchronize()
    thread.join()
    net = checkpoint.unpack(bytes(found[0]), "taken")["net"]
    assert all(torch.equal(w, torch.ones(1 << 20)) for w in net.values())


def test_only_what_waits_on_a_gpu_is_copied() -> None:
    weight = torch.ones(3)
    pack = packing({"net": {"w": weight}}, CPU)
    weight.zero_()
    assert checkpoint.unpack(bytes(pack()), "packed")["net"]["w"].tolist() == [1, 1, 1]


def test_a_gpu_without_room_for_copies_has_its_state_packed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = {"net": [torch.zeros(100)]}
    for free, room in ((4 * 400 - 1, False), (4 * 400, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 1 << 40))
        assert snapshot._has_room(state, torch.device("cuda")) is room


def test_training_goes_on_while_a_checkpoint_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aside: None
) -> None:
    """The first one hangs until epoch 2 was trained, and is of epoch 1 all the same."""
    opened, threads = threading.Event(), set[str]()
    pack, found = Snapshot.pack, list[dict[str, Any]]()

    def slow(self: Snapshot) -> memoryview:
        threads.add(threading.current_thread().name)
        assert opened.wait(120)
        packed = pack(self)
        found.append(checkpoint.unpack(bytes(packed), "packed"))
        return packed

    monkeypatch.setattr(Snapshot, "pack", slow)

    def listener(envelope: events.Envelope) -> None:
        event = envelope.event
        if isinstance(event, events.EpochEnded) and event.epoch == 2:
            opened.set()

    run = tiny_run(tmp_path / "aside")
    assert train_run(run, Control(run), listener=listener).state == "completed"
    assert threads == {"files"}
    assert [f["position"]["epoch"] for f in found] == [2, 3]

    monkeypatch.setattr(snapshot, "ASIDE", ())
    at_once = list[dict[str, Any]]()
    kept = checkpoint.pack

    def packed(state: dict[str, Any]) -> memoryview:
        whole = kept(state)
        if "position" in state:
            at_once.append(checkpoint.unpack(bytes(whole), "packed"))
        return whole

    monkeypatch.setattr(checkpoint, "pack", packed)
    plain = tiny_run(tmp_path / "plain")
    train_run(plain, Control(plain))
    for one, other in zip(found, at_once, strict=True):
        for part in ("net", "optimizers", "random", "random_host", "meter"):
            assert same(one[part], other[part]), part


@pytest.mark.parametrize("ema", [(), ("train.ema=0.9",)])
def test_stopped_and_resumed_equals_uninterrupted(
    tmp_path: Path, aside: None, ema: tuple[str, ...]
) -> None:
    states = []
    for stopped in (False, True):
        run = tiny_run(tmp_path / str(stopped), *ema)
        train(run, stopped=stopped)
        states.append(checkpoint.load(run.checkpoint("last")))
    assert same(states[0]["net"], states[1]["net"])
    assert same(states[0]["optimizers"], states[1]["optimizers"])
    assert same(states[0]["random"], states[1]["random"])


def written(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names = list[str]()
    write = checkpoint.write

    def noted(packed: memoryview, path: Path) -> None:
        names.append(path.stem)
        write(packed, path)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write", noted)
        train_run(run, Control(run))
    return names


def test_the_best_epoch_is_packed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an averaged net, whose evaluation may be stopped, before and after that."""
    run = tiny_run(tmp_path / "plain", "train.epochs=1")
    assert written(run, monkeypatch) == ["last", "best"]
    assert run.checkpoint("last").read_bytes() == run.checkpoint("best").read_bytes()
    saved = Follower(run).catch_up().checkpoints
    assert (saved["last"].epoch, saved["best"].epoch) == (2, 1)
    averaged = tiny_run(tmp_path / "averaged", "train.epochs=1", "train.ema=0.9")
    assert written(averaged, monkeypatch) == ["last", "best", "last"]


def test_an_error_while_packing_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aside: None
) -> None:
    def fails(self: Snapshot) -> memoryview:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Snapshot, "pack", fails)
    run = tiny_run(tmp_path)
    ended = train_run(run, Control(run))
    assert (ended.state, "illegal memory access" in str(ended.error)) == ("failed", True)
    assert Follower(run).catch_up().ended == ended


def test_a_run_whose_gpu_fails_on_both_threads_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aside: None
) -> None:
    """What the training came upon is the reason."""
    monkeypatch.setattr(disk, "PATIENCE", 0.0)
    failed, train = threading.Event(), Training._train_epoch

    def fails(self: Snapshot) -> memoryview:
        assert failed.wait(120)
        raise RuntimeError("CUDA error: of the copy")

    def epoch(self: Training) -> None:
        if self.at.epoch == 2:
            failed.set()
            raise RuntimeError("CUDA error: of the step")
        train(self)

    monkeypatch.setattr(Snapshot, "pack", fails)
    monkeypatch.setattr(Training, "_train_epoch", epoch)
    run = tiny_run(tmp_path)
    ended = train_run(run, Control(run))
    assert (ended.state, "of the step" in str(ended.error)) == ("failed", True)
    assert Follower(run).catch_up().ended == ended

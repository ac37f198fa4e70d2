"""A slow disk does not hold the training up, and the order of what is written stays."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests import sample_log
from tests.training_helpers import tiny_dataset, tiny_run
from trainer import events
from trainer.files import disk
from trainer.files.disk import Disk
from trainer.lifecycle.session import train_run
from trainer.runs import checkpoint
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog, Tail


class Gate:
    """Lets nobody through until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.came = threading.Event()

    def __call__(self, *_: object) -> None:
        self.came.set()
        assert self.open.wait(120)


def test_an_ordinary_disk_is_waited_for() -> None:
    done: list[int] = []
    one = Disk("test", patience=30)
    for i in range(5):
        one.do(lambda i=i: done.append(i))  # type: ignore[misc]
        assert done == list(range(i + 1))
    one.close()
    one.close()


def test_the_next_job_is_waited_for_although_the_thread_has_not_come_back_from_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a machine with more to do than it has cores."""

    class Late(threading.Event):
        def set(self) -> None:
            super().set()
            time.sleep(0.2)

    made = disk._Task
    monkeypatch.setattr(disk, "_Task", lambda job, key: made(job, key, Late()))
    done: list[int] = []
    one = Disk("test", patience=30)
    for i in range(3):
        one.do(lambda i=i: done.append(i))  # type: ignore[misc]
        assert done == list(range(i + 1))
    one.close()


def test_a_slow_disk_is_not_and_the_newest_of_a_key_is_written() -> None:
    gate, done = Gate(), list[str]()
    one = Disk("test", patience=0)
    one.do(gate)
    for i in range(3):
        one.do(lambda i=i: done.append(f"a{i}"), key="a")  # type: ignore[misc]
        one.do(lambda i=i: done.append(f"b{i}"), key="b")  # type: ignore[misc]
        one.do(lambda i=i: done.append(f"c{i}"))  # type: ignore[misc]
    assert not done
    gate.open.set()
    one.close()
    assert done == ["c0", "c1", "a2", "b2", "c2"]
    one.do(lambda: done.append("again"))
    one.close()
    assert done[-1] == "again"


@pytest.mark.parametrize("patience", [0, 30])
def test_what_a_job_raises_is_raised_once(patience: float) -> None:
    one = Disk("test", patience=patience)

    def fails() -> None:
        raise ValueError("it")

    def do() -> None:
        one.do(fails)
        one.close()

    with pytest.raises(ValueError, match="it"):
        do()
    one.do(lambda: None)
    one.close()


def test_a_log_on_a_disk_that_hangs_takes_events_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "PATIENCE", 0.0)
    run = RunDir(tmp_path / sample_log.RUN)
    run.path.mkdir()
    gate, fsync = Gate(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (gate(), fsync(fd)))
    told: list[events.Envelope] = []
    log = RunLog(run, told.append)
    log.emit(sample_log.queued())  # it is synced, and hangs
    assert gate.came.wait(60)
    log.begin_attempt()
    for i in range(50):
        log.emit(events.Notice(level="info", code="test", message=str(i)))
    assert log.waiting == 50
    assert not told, "told only when it is on disk"
    gate.open.set()
    log.close()
    found = Tail(run.log).read()
    assert told == found
    assert [e.seq for e in found] == list(range(51))
    assert [e.event.message for e in found[1:]] == [str(i) for i in range(50)]  # type: ignore[union-attr]
    assert [e.elapsed for e in found[1:]] == sorted(e.elapsed for e in found[1:])


def test_events_of_many_threads_are_whole_lines_in_one_order(tmp_path: Path) -> None:
    run = RunDir(tmp_path / sample_log.RUN)
    run.path.mkdir()
    told: list[events.Envelope] = []
    log = RunLog(run, told.append)

    def write(who: int) -> None:
        for i in range(40):
            log.emit(events.Notice(level="info", code=str(who), message=str(i)))

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = Tail(run.log).read()
    assert told == found
    assert [e.seq for e in found] == list(range(160))
    for who in range(4):
        mine = [e.event.message for e in found if e.event.code == str(who)]  # type: ignore[union-attr]
        assert mine == [str(i) for i in range(40)]


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first checkpoint hangs until the last epoch was trained."""
    monkeypatch.setattr(disk, "PATIENCE", 0.0)
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)
    gate, write = Gate(), checkpoint.write
    written: list[str] = []

    def slow(packed: memoryview, path: Path) -> None:
        gate()
        write(packed, path)
        written.append(path.stem)

    monkeypatch.setattr(checkpoint, "write", slow)

    def listener(envelope: events.Envelope) -> None:
        event: Any = envelope.event
        if isinstance(event, events.EpochEnded) and event.epoch == 4:
            gate.open.set()

    run = tiny_run(tmp_path, "train.epochs=4")
    assert train_run(run, Control(run), listener=listener).state == "completed"
    state = Follower(run).catch_up()
    assert len(state.epochs) == 4
    assert state.ended is not None
    assert checkpoint.load(run.checkpoint("last"))["position"]["epoch"] == 5
    assert state.checkpoints["last"].epoch == 5
    assert written.count("last") < 4, "of those that waited only the newest is written"
    assert [p.epoch for p in state.predictions] == [1, 2, 3, 4]

"""Bad input through the real program: one clear line, the right exit status, nothing lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests import sample_log
from tests.checkpoint_helpers import save_checkpoint
from tests.training_helpers import TINY_NET, binary_folder, tiny_run
from tests.tui_helpers import make_app, make_run, until
from trainer import events
from trainer.cli import main
from trainer.cli import output as outputs
from trainer.config import ModelSettings, RunConfig
from trainer.errors import ConfigError
from trainer.lifecycle.admission import admitted
from trainer.lifecycle.session import train_run
from trainer.lifecycle.submit import resubmit
from trainer.runs import checkpoint
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir, create, scan
from trainer.runs.runlog import RunLog
from tui.runs.launcher import WorkerInfo

Train = Callable[..., tuple[int, str, str]]

NETS = (
    TINY_NET
    + """

class OutOfMemory(Tiny):
    def forward(self, x):
        if self.training and len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().forward(x)


class Wide(Tiny):
    def __init__(self, classes):
        super().__init__(classes + 1)


class Raises(Tiny):
    def __init__(self, classes):
        raise ValueError("no such thing")


class Fails(Tiny):
    def forward(self, x):
        raise RuntimeError("shapes")
"""
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return binary_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


@pytest.fixture
def train(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Train:
    """``train quick`` in this process: exit status, standard output and error."""
    monkeypatch.setattr(outputs.out, "lost", None)
    monkeypatch.setattr(outputs.out, "required", True)
    monkeypatch.setenv("CIFAR_TUI_RUNS", str(tmp_path / "runs"))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main.run(["train", "quick", *arguments])
        return code, *capsys.readouterr()

    return call


def program(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """The same in a process of its own, which sees no GPU."""
    environment = {
        **os.environ,
        "CIFAR_TUI_RUNS": str(folder / "runs"),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "train", "quick", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def small(data: Path, net: str, *more: str) -> list[str]:
    return [
        *("--data", str(data), "--epochs", "1", "--batch-size", "16", "--device", "cpu"),
        *("--set", f"model.name='{net}'", *more),
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Wide", "has shape [2, 11]: it must be [2, 10]"),
        ("Raises", "no such thing"),
        ("Fails", "RuntimeError: shapes"),
    ],
)
def test_a_net_that_cannot_train_leaves_no_run(
    train: Train, tmp_path: Path, data: Path, net: Path, name: str, said: str
) -> None:
    code, _, err = train(*small(data, f"{net}:{name}"))
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert scan(tmp_path / "runs") == []


def test_a_class_that_the_file_lacks_is_refused_before_there_is_a_run(net: Path) -> None:
    config = RunConfig(data="synthetic", model=ModelSettings(name=f"{net}:Nope"))
    with pytest.raises(ConfigError, match="has no class 'Nope': it has"):
        admitted(config)


def test_a_batch_above_the_training_images_leaves_no_run(
    train: Train, tmp_path: Path, data: Path, net: Path
) -> None:
    code, out, err = train(*small(data, f"{net}:Tiny", "--batch-size", "101"))
    assert (code, out) == (2, "")
    assert "batch size 101 is above the data set's 100 training images" in err
    assert err.count("\n") == 1
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_device_that_is_not_here_leaves_no_run(tmp_path: Path, data: Path, net: Path) -> None:
    code, out, err = program(tmp_path, *small(data, f"{net}:Tiny", "--device", "cuda"))
    assert (code, out) == (2, "")
    assert "torch sees no CUDA device here" in err
    assert err.count("\n") == 1
    assert list((tmp_path / "runs").iterdir()) == []


def test_out_of_memory_and_not_a_number_fail_with_their_reason(
    train: Train, tmp_path: Path, data: Path, net: Path
) -> None:
    known: set[str] = set()
    for arguments, reason in (
        (small(data, f"{net}:OutOfMemory"), "out of memory: lower the batch size"),
        (small(data, f"{net}:Tiny", "--lr", "1e30"), "the loss is not a number in epoch 1"),
    ):
        code, _, err = train(*arguments)
        assert code == 1
        assert err.count(reason) == 1
        (run,) = (run for run in scan(tmp_path / "runs") if run.id not in known)
        known.add(run.id)
        state = Follower(run).catch_up()
        assert state.ended is not None
        assert state.ended.state == "failed"
        assert reason in (state.ended.error or "")


def test_paths_in_a_run_are_absolute(
    train: Train, tmp_path: Path, data: Path, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = train(*small(Path(os.path.relpath(data)), "nets.py:Tiny"), "--name", " ")
    assert code == 0, err
    queued = Follower(scan(tmp_path / "runs")[0]).catch_up().queued
    assert queued is not None
    assert Path(queued.data).is_absolute()
    assert queued.model == f"{net}:Tiny"
    assert queued.name == "quick", "a blank name is none"


def test_ctrl_c_while_the_program_loads_is_no_traceback(tmp_path: Path) -> None:
    slow = tmp_path / "typer.py"
    slow.write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "tui", "runs"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"loading\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")


# a full disk


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[RunDir], None]:
    """Fills the disk: from then on a log can grow only when a reserve is given up."""
    pwrite = os.pwrite
    run: list[RunDir] = []
    given_up: set[str] = set()

    def write(fd: int, data: bytes, offset: int) -> int:
        room = 0
        for name, size in ((".reserve", 600), (".reserve-last", 4000)):
            if run and name not in given_up and not (run[0].path / name).exists():
                given_up.add(name)
                room += size
        if run and room < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", write)
    return run.append


def test_the_end_is_in_the_log_of_a_disk_that_stays_full(
    tmp_path: Path, full_disk: Callable[[RunDir], None]
) -> None:
    run = create(tmp_path, "x")
    log = RunLog(run)
    log.emit(sample_log.queued())
    log.begin_attempt()
    log.emit(sample_log.started())
    full_disk(run)
    for event in sample_log.epoch_events(1, 0.5):
        log.emit(event)
    log.emit(events.RunEnded(state="completed", best_accuracy=0.5, best_epoch=1))
    log.close()
    follower = Follower(run)
    state = follower.catch_up()
    assert state.ended is not None
    assert state.ended.state == "completed"
    assert state.missing > 0
    assert follower.damaged == 0
    assert not list(run.path.glob(".reserve*"))


@pytest.mark.parametrize("length", [20, 5000])
def test_the_end_is_kept_for_sure_and_not_the_notice_after_it(
    tmp_path: Path, full_disk: Callable[[RunDir], None], length: int
) -> None:
    run = create(tmp_path, "x")
    log = RunLog(run)
    log.begin_attempt()
    log.emit(sample_log.started())
    full_disk(run)
    for event in sample_log.epoch_events(1, 0.5):
        log.emit(event)
    ended = events.RunEnded(state="completed", best_accuracy=0.5, best_epoch=1)
    log.emit(ended)
    log.emit(events.Notice(level="warning", code="on-end", message="x" * length))
    log.close()
    assert Follower(run).catch_up().ended == ended


def test_a_checkpoint_that_does_not_fit_says_so_in_the_systems_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    target = tmp_path / "checkpoints" / "last.pt"
    save_checkpoint({"a": 1}, target)
    before = target.read_bytes()
    opened = os.open
    monkeypatch.setattr(
        os,
        "open",
        lambda path, flags, mode=0o777, **options: (
            opened("/dev/full", os.O_WRONLY)
            if str(path).endswith(".partial")
            else opened(path, flags, mode, **options)
        ),
    )
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint({"a": 2}, target)
    assert target.read_bytes() == before
    assert list(target.parent.iterdir()) == [target]


# the app


def test_a_device_that_is_not_here_is_refused_when_it_is_known() -> None:
    info = WorkerInfo(devices=("cuda:0 NVIDIA H200", "cpu"))
    assert [info.lacks(d) for d in ("auto", "cpu", "cuda", "cuda:0")] == [""] * 4
    assert info.lacks("cuda:1") == "this machine has no cuda:1: choose auto or cuda:0, cpu"
    assert info.lacks("mps")
    assert WorkerInfo().lacks("cuda") == "", "torch is still loading"
    assert [info.lacks_for(d, 2) for d in ("auto", "cuda")] == [
        "this machine has 1 GPU: at most so many processes, or device cpu"
    ] * 2
    assert info.lacks_for("cpu", 2) == info.lacks_for("auto", 1) == ""
    assert WorkerInfo().lacks_for("auto", 2) == "", "torch is still loading"


@pytest.mark.usefixtures("data_is_there")
async def test_the_app_starts_nothing_on_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    make_run(runs)
    app = make_app(runs, device="cuda")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.worker.info.devices)
        await pilot.press("s")
        await until(pilot, lambda: app._notifications)
        assert [n.message for n in app._notifications] == [
            "this machine has no cuda: choose auto or cpu"
        ]
    assert len(scan(runs)) == 1


def test_what_is_not_saved_is_told_once_and_when_it_is_saved_again(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tmp_path, f"data='{data}'", "train.epochs=5")
    write, calls = checkpoint.write, [0]

    def fails(packed: memoryview, path: Path) -> None:
        calls[0] += path.stem == "last"
        if path.stem == "best" or 2 <= calls[0] <= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(packed, path)

    monkeypatch.setattr(checkpoint, "write", fails)
    state_of_end = train_run(run, Control(run))
    assert state_of_end.state == "completed"
    told = [n.code for _, n in Follower(run).catch_up().notices if n.code.startswith("checkpoint")]
    assert told.count("checkpoint-not-saved") == told.count("checkpoint-saved-again")
    assert all(a != b for a, b in pairwise(told)), "never twice in a row"
    assert run.checkpoint("last").is_file()


@pytest.mark.parametrize("before", [False, True])
def test_a_run_whose_last_checkpoint_is_not_saved_is_not_completed(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """It would be, with the weights gone, and could not be resumed."""
    run = tiny_run(tmp_path, f"data='{data}'", "train.epochs=3")
    write, calls = checkpoint.write, [0]

    def fails(packed: memoryview, path: Path) -> None:
        calls[0] += path.stem == "last"
        if calls[0] > before:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(packed, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", fails)
        ended = train_run(run, Control(run))
    state = Follower(run).catch_up()
    assert state.ended == ended
    assert ended.state == "failed"
    assert ended.final_accuracy is not None
    assert ended.error is not None
    assert ended.error.startswith("its last checkpoint could not be saved (No space left on dev")
    assert ended.error.endswith("checkpoint before" if before else "train it again")
    assert len(state.epochs) == 3
    if before:
        resubmit(run)
        again = train_run(run, Control(run), resume=True)
        assert again.state == "completed"
        assert [row.epoch for row in Follower(run).catch_up().epochs] == [1, 2, 3]

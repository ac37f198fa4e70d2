"""A run that ended too early goes on from its checkpoint: engine, command line, app."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from tests import sample_log
from tests.training_helpers import TINY_NET, binary_folder, tiny_run, wait
from tests.tui_helpers import (
    append,
    give_checkpoint,
    held,
    keys,
    make_app,
    make_run,
    status,
    told,
    until,
)
from trainer import config as run_config
from trainer import events
from trainer.errors import ConfigError, DataError, RunError
from trainer.lifecycle import submit as submit_module
from trainer.lifecycle.aftermath import end_from_log
from trainer.lifecycle.session import train_run
from trainer.lifecycle.submit import read_config, resubmit, submit
from trainer.presets import catalog
from trainer.runs import control
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir, scan
from trainer.runs.runlog import RunLog, Tail
from trainer.runs.runstate import RunState


def folded(run: RunDir) -> RunState:
    return Follower(run).catch_up()


def stopped_run(folder: Path, data: Path) -> RunDir:
    """Two epochs of six steps, stopped in the second after the first was evaluated."""
    run = tiny_run(folder, f"data='{data}'", "train.precision=fp32")
    asked = Control(run)

    def listen(envelope: events.Envelope) -> None:
        if isinstance(envelope.event, events.EvalEnded):
            asked.request("stop")

    assert train_run(run, asked, listener=listen).state == "stopped"
    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return binary_folder(tmp_path_factory.mktemp("data"))


def test_it_goes_on_in_fp16_where_it_began_in_another_precision(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU without bf16: its loss scaling begins then, and is none of the checkpoint's."""
    run = stopped_run(tmp_path, data)
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(device))
    resubmit(run)
    assert train_run(run, Control(run), resume=True).state == "completed"


def test_stop_resume_completed_gives_one_clean_curve(tmp_path: Path, data: Path) -> None:
    run = stopped_run(tmp_path / "a", data)
    control.send(run, "stop")  # of the earlier attempt: it must not stop the next one
    resubmit(run)
    assert folded(run).status(locked=True) == "queued"
    assert folded(run).epochs, "what is known stays while it waits"
    ended = train_run(run, Control(run), resume=True)
    assert ended.state == "completed"
    state = folded(run)
    assert state.attempt == 2
    assert state.status(locked=False) == "completed"
    assert [row.epoch for row in state.epochs] == [1, 2]
    steps = list(state.steps.step)
    assert steps == sorted(set(steps))
    assert list(state.steps.elapsed) == sorted(state.steps.elapsed)
    assert state.missing == 0
    whole = tiny_run(tmp_path / "b", f"data='{data}'", "train.precision=fp32")
    train_run(whole, Control(whole))
    # the batch order, the augmentation, the optimizer: as if it had never stopped
    assert [(r.train_loss, r.test_loss) for r in state.epochs] == [
        (r.train_loss, r.test_loss) for r in folded(whole).epochs
    ]


def stop_at(asked: Control, kind: type, epoch: int) -> Callable[[events.Envelope], None]:
    def listen(envelope: events.Envelope) -> None:
        if isinstance(envelope.event, kind) and getattr(envelope.event, "epoch", 0) == epoch:
            asked.request("stop")

    return listen


def gaps(state: RunState) -> list[str]:
    return [notice.message for _, notice in state.notices if notice.code == events.LOG_GAP]


def test_a_log_that_lost_its_end_says_which_epochs_it_lacks(tmp_path: Path, data: Path) -> None:
    run = tiny_run(tmp_path, f"data='{data}'", "train.epochs=4")
    asked = Control(run)
    train_run(run, asked, listener=stop_at(asked, events.EvalEnded, 3))
    lines = run.log.read_bytes().splitlines(keepends=True)
    second = [i for i, line in enumerate(lines) if b'"EpochStarted","epoch":2' in line]
    run.log.write_bytes(b"".join(lines[: second[0]]))
    resubmit(run)
    asked = Control(run)
    train_run(run, asked, resume=True, listener=stop_at(asked, events.EpochStarted, 4))
    line = (
        "the log lacks figures of epochs 2 to 3, which the checkpoint has: "
        "no table or curve shows them"
    )
    assert gaps(folded(run)) == [line]
    done = cifar_tui(tmp_path, "train", "--resume", run.id)
    assert done.returncode == 0, done.stderr
    state = folded(run)
    assert gaps(state) == [line], "told once"
    assert [row.epoch for row in state.epochs] == [1, 4]


@pytest.mark.parametrize("lost", ["end", "evaluation", "all", "times"])
def test_the_best_of_a_log_that_lost_it_is_what_its_end_says(
    tmp_path: Path, data: Path, lost: str
) -> None:
    run = tiny_run(tmp_path, f"data='{data}'")
    whole = train_run(run, Control(run))
    log = run.log.read_bytes()
    lines = log.splitlines(keepends=True)
    tested = [i for i, line in enumerate(lines) if b'"kind":"EvalEnded"' in line]
    if lost == "times":
        run.log.write_bytes(log.replace(b'"time":', b'"time":1e300,"was":'))
    else:
        kept = {"end": tested[0], "evaluation": tested[1], "all": 0}[lost]
        run.log.write_bytes(b"".join(lines[:kept]))
    resubmit(run)
    done = cifar_tui(tmp_path, "train", "--resume", run.id)
    assert done.returncode == 0, done.stderr
    lacks = "epoch 2" if lost == "evaluation" and whole.best_epoch else "epochs 1 to 2"
    assert f"warning: the log lacks figures of {lacks}, which" in done.stderr
    state = folded(run)
    assert state.ended is not None
    assert (state.ended.best_accuracy, state.ended.best_epoch) == (
        *(whole.best_accuracy, whole.best_epoch),
    )
    assert state.best is not None
    assert (state.best.test_accuracy, state.best.epoch) == (whole.best_accuracy, whole.best_epoch)
    refused = cifar_tui(tmp_path, "mistakes", run.id, "--epoch", "2")
    assert refused.returncode == 2
    if lost != "evaluation":
        assert "has no predictions: its log is incomplete, and tells of no" in refused.stderr


def test_a_run_goes_on_with_the_same_data_from_where_they_lie_by_now(tmp_path: Path) -> None:
    folder = binary_folder(tmp_path / "before")
    run = stopped_run(tmp_path / "a", folder)
    moved = folder.rename(tmp_path / "by-now")
    gone = cifar_tui(tmp_path / "a", "train", "--resume", run.id, "--data", str(folder))
    assert (gone.returncode, gone.stderr.count("\n")) == (2, 1)
    assert "does not exist" in gone.stderr
    other = binary_folder(tmp_path / "other", test=20)
    before = run.config.read_bytes(), run.log.read_bytes()
    with pytest.raises(DataError, match="give the same one with --data"):
        resubmit(run, data=str(other))
    dark = binary_folder(tmp_path / "dark")
    batch = dark / "cifar-10-batches-bin" / "data_batch_1.bin"
    batch.write_bytes(bytes(3073) + batch.read_bytes()[3073:])
    refused = cifar_tui(tmp_path / "a", "train", "--resume", run.id, "--data", str(dark))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "the training images are not those that the run was trained on" in refused.stderr
    assert (run.config.read_bytes(), run.log.read_bytes()) == before, "the run is as it was"
    assert folded(run).status(locked=False) == "stopped"
    done = subprocess.run(
        command("train", "--resume", run.id, "--data", "by-now"),
        env=environment(tmp_path / "a"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read_config(run).data == str(moved)
    state = folded(run)
    assert state.queued is not None
    assert state.queued.data == str(moved)
    assert [row.epoch for row in state.epochs] == [1, 2]


def test_what_cannot_be_resumed_is_one_clear_line(tmp_path: Path) -> None:
    done = make_run(tmp_path, seed=1)
    with pytest.raises(RunError, match="is completed: there is nothing left to train"):
        resubmit(done)
    bare = make_run(tmp_path, seed=2, end="stopped")
    bare.checkpoint("last").unlink()
    with pytest.raises(RunError, match="no checkpoint to go on from"):
        resubmit(bare)
    with pytest.raises(RunError, match=f"cifar-tui train {bare.config}"):
        resubmit(bare)
    going = make_run(tmp_path, seed=3, end=None)
    with held(going), pytest.raises(RunError, match="is being trained by another process"):
        resubmit(going)
    broken = make_run(tmp_path, seed=4, end="stopped")
    broken.config.unlink()
    with pytest.raises(RunError, match="cannot read"):
        resubmit(broken)
    assert folded(done).ended is not None
    assert folded(bare).ended is not None


def test_other_settings_are_refused_before_the_run_is_shown_with_them(
    tmp_path: Path, data: Path
) -> None:
    run = stopped_run(tmp_path, data)
    whole, log = run.config.read_text(), run.log.read_bytes()
    for changed in (whole.replace("epochs = 2", "epochs = 40"), ""):
        assert changed != whole
        run.config.write_text(changed)
        with pytest.raises(ConfigError, match=r"config\.toml was changed after the checkpoint"):
            resubmit(run)
        assert run.log.read_bytes() == log
    queued = folded(run).queued
    assert queued is not None
    earlier = RunLog(run)  # an earlier version took it into the log
    earlier.emit(msgspec.structs.replace(queued, config=run_config.to_toml(read_config(run))))
    earlier.close()
    run.config.write_text(whole)
    resubmit(run)
    assert train_run(run, Control(run), resume=True).state == "completed"


@pytest.mark.parametrize("end", [None, "stopped"])
def test_a_run_that_never_began_is_queued_to_begin(tmp_path: Path, end: str | None) -> None:
    """Its worker was killed, or it was taken out of the queue."""
    run = submit(catalog.load("quick", []), tmp_path)
    if end is not None:
        asked = Control(run)
        asked.request("stop")
        assert train_run(run, asked).state == "stopped"
    assert folded(run).status(locked=False) == (end or "crashed")
    resubmit(run)
    assert folded(run).status(locked=True) == "queued"
    assert not run.checkpoint("last").exists()


def test_a_run_that_never_began_does_not_begin_as_another(tmp_path: Path) -> None:
    """What is left of a file that was cut short may be settings, too."""
    run = submit(catalog.load("fast", ["data='synthetic'", "train.seed=5"]), tmp_path)
    whole = run.config.read_bytes()
    for end in (0, whole.index(b"data"), whole.index(b"[train]"), len(whole) - 20):
        run.config.write_bytes(whole[: whole.rfind(b"\n", 0, end) + 1])
        with pytest.raises(ConfigError, match="changed after the run was queued"):
            resubmit(run)
    run.config.write_bytes(whole)
    assert resubmit(run, data="cifar10").data == "cifar10"
    assert resubmit(run).data == "cifar10"


@pytest.mark.parametrize("killed", ["before the log", "after it"])
def test_a_kill_while_a_run_is_queued_once_more_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt  # what no handler takes for an error

    run = submit(catalog.load("quick", ["data='synthetic'"]), tmp_path)
    with monkeypatch.context() as patch:
        place = "trainer.lifecycle.submit._queue"
        patch.setattr(place if killed == "before the log" else "pathlib.Path.replace", die)
        with pytest.raises(KeyboardInterrupt):
            resubmit(run, data="cifar10", processes=2)
    queued = folded(run).queued
    assert queued is not None
    assert queued.data == ("synthetic" if killed == "before the log" else "cifar10")
    config = resubmit(run)
    assert (config.data, config.train.processes) == (
        ("synthetic", 1) if killed == "before the log" else ("cifar10", 2)
    )
    assert read_config(run) == config


def test_a_stopped_run_that_was_killed_in_the_queue_stays_stopped(tmp_path: Path) -> None:
    run = make_run(tmp_path, epochs=4, done=2, end="stopped")
    give_checkpoint(run)
    resubmit(run)
    # whoever was to train it is killed before it begins
    resubmit(run)
    run.checkpoint("last").unlink()
    with pytest.raises(RunError, match="no checkpoint to go on from"):
        train_run(run, Control(run), resume=True)
    ended = folded(run).ended
    assert ended is not None
    assert ended.state == "stopped"


def test_settings_are_on_disk_before_the_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.files.whole_file.os.fsync", full)
    with pytest.raises(RunError, match="free some space"):
        submit(catalog.load("quick", []), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_waits_trains_and_can_be_taken_out_of_the_queue(tmp_path: Path) -> None:
    run = make_run(tmp_path, epochs=4, done=2, end="stopped")
    give_checkpoint(run)
    before = folded(run)
    resubmit(run)
    state = folded(run)
    assert state.ended is None
    assert state.status(locked=True) == "queued"
    assert state.status(locked=False) == "crashed"
    assert state.queued_at == before.queued_at < state.asked_at
    assert state.elapsed == pytest.approx(before.elapsed, abs=0.5), "waiting is no time"
    asked = Control(run)
    asked.request("stop")
    assert train_run(run, asked, resume=True).state == "stopped"
    assert [row.epoch for row in folded(run).epochs] == [1, 2]


@pytest.mark.parametrize("end", ["stopped", None])
def test_a_checkpoint_that_goes_while_the_run_waits_takes_no_results_along(
    tmp_path: Path, end: events.EndState | None
) -> None:
    run = make_run(tmp_path, epochs=4, done=2, end=end)
    give_checkpoint(run)
    if end is None:
        append(
            run, events.CheckpointSaved(role="last", path="checkpoints/last.pt", epoch=2, step=8)
        )
    resubmit(run)
    run.checkpoint("last").unlink()
    with pytest.raises(RunError, match="no checkpoint to go on from"):
        train_run(run, Control(run), resume=True)
    state = folded(run)
    assert state.ended is not None
    assert state.ended.state == (end or "failed")
    assert "no checkpoint to go on from" in (state.ended.error or "")
    assert [row.epoch for row in state.epochs] == [1, 2]


def test_a_restart_that_cannot_go_on_is_no_stop(tmp_path: Path) -> None:
    run = make_run(tmp_path, epochs=4, done=2, end="stopped")
    give_checkpoint(run)
    resubmit(run)
    append(run, msgspec.structs.replace(sample_log.started(), resumed_step=8))
    log = RunLog(run)
    log.begin_attempt()
    end_from_log(run, log, "no GPU any more", began=False)
    log.close()
    ended = folded(run).ended
    assert ended is not None
    assert (ended.state, ended.error) == ("failed", "no GPU any more")


# the command line, with real training


def cifar_tui(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(folder), capture_output=True, text=True, timeout=120
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "trainer", *arguments]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "CIFAR_TUI_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1"}


def settings(folder: Path, data: Path, epochs: int) -> list[str]:
    net = folder / "tiny.py"
    net.write_text(TINY_NET)
    return [
        *("quick", "--data", str(data), "--epochs", str(epochs), "--batch-size", "16"),
        *("--device", "cpu", "--set", f"model.name='{net}:Tiny'"),
    ]


@pytest.fixture
def left_alone(tmp_path: Path) -> Iterator[None]:
    """Ends the trainers that a test has detached, should it fail before it does so itself."""
    yield
    for run in scan(tmp_path / "runs"):
        started = folded(run).started
        if started is not None and run.is_locked():
            os.kill(started.pid, signal.SIGKILL)


@pytest.mark.usefixtures("left_alone")
def test_detach_returns_at_once_and_resume_goes_on(tmp_path: Path, data: Path) -> None:
    left = cifar_tui(tmp_path, "train", *settings(tmp_path, data, 20_000), "--detach")
    (run,) = scan(tmp_path / "runs")
    assert (left.returncode, left.stderr) == (0, "")
    assert run.id in left.stdout
    assert f"cifar-tui show {run.id}" in left.stdout
    assert run.is_locked(), "it is not trained to its end before"
    wait(lambda: folded(run).epochs)
    started = folded(run).started
    assert started is not None
    assert os.getsid(started.pid) == started.pid, "a session of its own"
    again = cifar_tui(tmp_path, "train", "--resume", "last")
    assert again.returncode == 2
    assert again.stderr == f"cifar-tui: run {run.id} is being trained by another process\n"
    os.kill(started.pid, signal.SIGTERM)
    wait(lambda: not run.is_locked())
    before = folded(run)
    assert before.status(locked=False) == "stopped"
    with subprocess.Popen(
        command("train", "--resume", run.id),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait(lambda: len(folded(run).epochs) > len(before.epochs))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert f"run {run.id} goes on from step " in out
    assert "epoch 1/" not in out.split("goes on")[1].split("\n", 3)[2]
    assert "stopping at the next step" in err
    state = folded(run)
    assert [row.epoch for row in state.epochs] == list(range(1, len(state.epochs) + 1))
    log = Tail(run.log)
    assert [e.seq for e in log.read()] == list(range(state.seq + 1))
    assert log.damaged == 0


def test_detach_and_resume_with_bad_input(tmp_path: Path, data: Path) -> None:
    for arguments, said in (
        (("quick", "--detach", "--data", str(tmp_path / "none")), "does not exist"),
        (("--resume", "nothing"), "no run 'nothing'"),
        (("quick", "--resume", "last"), "give no others with it"),
        (("--resume", "last", "--epochs", "3"), "give no others with it"),
        ((), "give a preset"),
    ):
        done = cifar_tui(tmp_path, "train", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert scan(tmp_path / "runs") == []


# the app


@pytest.mark.usefixtures("data_is_there")
async def test_r_resumes_the_chosen_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", epochs=3, done=1, end="stopped")
    give_checkpoint(run)
    control.send(run, "stop")
    app = make_app(tmp_path / "runs", "steps=3", f"go={tmp_path / 'go'}")
    async with app.run_test(size=(160, 50)) as pilot:
        await until(pilot, lambda: "r Resume" in keys(app))
        await pilot.press("r")
        await until(pilot, lambda: "goes on from its checkpoint" in told(app))
        await until(pilot, lambda: status(app, run) == "training")
        await until(pilot, lambda: "r Resume" not in keys(app))
        await pilot.press("r")
        await until(pilot, lambda: "is training: there is nothing to resume" in told(app))
        (tmp_path / "go").touch()
        await until(pilot, lambda: status(app, run) == "completed")
        await pilot.press("r")
        await until(pilot, lambda: "is completed: there is nothing to resume" in told(app))
        assert status(app, run) == "completed"
    assert folded(run).attempt == 2


async def test_r_looks_first_whether_the_data_are_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = binary_folder(tmp_path / "by now")
    asked: list[str | None] = []

    def resubmitted(run: RunDir, data: str | None = None) -> None:
        asked.append(data)
        raise RunError("far enough")

    monkeypatch.setattr(submit_module, "resubmit", resubmitted)
    run = make_run(
        tmp_path / "runs", data=str(tmp_path / "before"), epochs=3, done=1, end="stopped"
    )
    give_checkpoint(run)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(160, 50)) as pilot:
        await until(pilot, lambda: "r Resume" in keys(app))
        await pilot.press("r")
        await until(
            pilot,
            lambda: "does not exist: choose the folder its data lie in by now (F)" in told(app),
        )
        assert f"{tmp_path / 'before'}' does not exist" in told(app)
        assert asked == []
        app.runs.data = str(moved)
        await pilot.press("r")
        await until(pilot, lambda: "far enough" in told(app))
        assert asked == [str(moved)]


@pytest.mark.usefixtures("data_is_there")
async def test_a_run_without_a_checkpoint_stays_as_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", epochs=3, done=1, end=None)
    run.checkpoint("last").unlink()
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: status(app, run) == "crashed")
        await pilot.press("r")
        await until(pilot, lambda: "has no checkpoint to go on from" in told(app))
        assert status(app, run) == "crashed"


@pytest.mark.usefixtures("data_is_there")
async def test_r_lets_a_run_begin_that_never_began(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", done=0, end=None)
    app = make_app(tmp_path / "runs", "steps=4")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: status(app, run) == "crashed")
        await pilot.press("r")
        await until(pilot, lambda: "begins: it had not yet" in told(app))
        await until(pilot, lambda: status(app, run) == "completed")


@pytest.mark.usefixtures("data_is_there")
async def test_a_run_that_could_not_go_on_says_why(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", done=1, end=None)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(80, 24)) as pilot:
        with held(run):
            await until(pilot, lambda: status(app, run) == "training")
            append(run, events.RunEnded(state="stopped", error="the net has a typo"))
            await until(pilot, lambda: "stays stopped: the net has a typo" in told(app))
    assert folded(run).status(locked=False) == "stopped"

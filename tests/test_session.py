"""Training from a run's folder to its end, on tiny data: what the log and the folder then hold."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from tests.checkpoint_helpers import save_checkpoint
from tests.training_helpers import at_step, tiny_dataset, tiny_run, wait
from trainer import events
from trainer.data.dataset import TrainSplit
from trainer.errors import ConfigError, DataError, DeviceError, RunError, UserError
from trainer.events import Envelope
from trainer.lifecycle.session import train_run
from trainer.lifecycle.submit import resubmit
from trainer.loop import engine
from trainer.loop.augment import resized
from trainer.runs import checkpoint, control, predictions
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import DELETED, RunDir
from trainer.runs.runstate import RunState


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)


def kinds(run: RunDir) -> list[str]:
    return [type(e.event).__name__ for e in Follower(run)._tail.read()]


def losses(state: RunState) -> list[float | None]:
    return [x for row in state.epochs for x in (row.train_loss, row.test_loss)]


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.loop.reports.PROGRESS_SECONDS", 0.0)


def test_a_completed_run_leaves_everything_behind(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    heard: list[Envelope] = []
    ended = train_run(run, Control(run), listener=heard.append)
    follower = Follower(run)
    state = follower.catch_up()
    assert ended.state == follower.status == "completed"
    assert [row.epoch for row in state.epochs] == [1, 2]
    assert state.best is not None
    assert ended.best_accuracy == state.best.test_accuracy
    assert state.missing == 0
    live = RunState()
    for envelope in [*Follower(run)._tail.read()[:1], *heard]:
        live.apply(envelope)
    assert live == state
    last = state.evals[-1]
    assert last.split == "test"
    assert last.images == 40 == sum(map(sum, last.confusion))
    saved = predictions.load(run.inside(state.predictions[-1].path))
    assert (saved.predicted == saved.labels).mean() == pytest.approx(last.accuracy)
    assert len(saved.wrong) == last.images - last.correct
    np.testing.assert_allclose(saved.probabilities.astype(float).sum(1), 1, atol=2e-3)
    for role in ("last", "best"):
        assert checkpoint.load(run.checkpoint(role))["net"]
    assert state.described is not None
    assert state.described.parameters == 8 * 28 + 16 + 16 * 73 + 17 * 4
    assert not run.is_locked()


def test_the_same_seed_gives_the_same_losses_to_the_last_bit(tmp_path: Path) -> None:
    folds = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = tiny_run(tmp_path / name, f"train.seed={seed}", "augment.dropout=0.5")
        train_run(run, Control(run))
        folds.append(losses(Follower(run).catch_up()))
    assert folds[0] == folds[1]
    assert folds[0] != folds[2]


@pytest.mark.parametrize("stop_at", [1, 4, 6, 9])
@pytest.mark.parametrize("skip", [(), ("train.skip_easy=0.4", "train.skip_easy_from=0")])
def test_stopped_and_resumed_equals_uninterrupted(
    tmp_path: Path, every_step: None, stop_at: int, skip: tuple[str, ...]
) -> None:
    options = ("train.epochs=2", "train.ema=0.9", "augment.shift_scale_rotate=0.5", *skip)
    stop_at -= 4 if skip and stop_at > 6 else 0
    whole = tiny_run(tmp_path / "whole", *options)
    train_run(whole, Control(whole))
    run = tiny_run(tmp_path / "parts", *options)
    first = Control(run)
    ended = train_run(run, first, listener=at_step(stop_at, lambda: first.request("stop")))
    assert ended.state == "stopped"
    assert train_run(run, Control(run), resume=True).state == "completed"
    states = [checkpoint.load(r.checkpoint("last")) for r in (whole, run)]
    for part in ("net", "ema"):
        for name, tensor in states[0][part].items():
            assert torch.equal(tensor, states[1][part][name]), name
    once, twice = Follower(whole).catch_up(), Follower(run).catch_up()
    assert losses(once) == losses(twice)
    assert list(twice.steps.step) == sorted(set(twice.steps.step))
    assert twice.attempt == 2


def test_an_old_run_without_a_checkpoint_begins(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "train.epochs=1")
    assert train_run(run, Control(run), resume=True).state == "completed"
    started = Follower(run).catch_up().started
    assert started is not None
    assert started.resumed_step is None


def test_a_stop_during_evaluation_is_obeyed_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tmp_path)
    first = Control(run)
    asked: list[int] = []

    def stop(envelope: Envelope) -> None:
        if isinstance(envelope.event, events.EpochEnded) and not asked:
            asked.append(1)
            first.request("stop")

    assert train_run(run, first, listener=stop).state == "stopped"
    assert "EvalEnded" not in kinds(run)
    assert train_run(run, Control(run), resume=True).state == "completed"
    state = Follower(run).catch_up()
    assert [row.test_accuracy is not None for row in state.epochs] == [True, True]
    assert all(row.images_per_second and row.images_per_second < 1e6 for row in state.epochs)


def test_pause_waits_and_goes_on(tmp_path: Path, every_step: None) -> None:
    run = tiny_run(tmp_path)

    class GoesOn(Control):
        """Somebody lets it go on after it has waited for a while."""

        def wait(self, seconds: float) -> None:
            time.sleep(0.4)
            control.send(run, "resume")

    asked = GoesOn(run)
    pause = at_step(2, lambda: control.send(run, "pause"))
    times: dict[str, float] = {}

    def listener(envelope: Envelope) -> None:
        times.setdefault(type(envelope.event).__name__, time.monotonic())
        pause(envelope)
        asked.poll(now=True)

    began = time.monotonic()
    ended = train_run(run, asked, listener=listener)
    wall = time.monotonic() - began
    assert ended.state == "completed"
    log = [e.event for e in Follower(run)._tail.read()]
    (resumed,) = (e for e in log if isinstance(e, events.Resumed))
    assert resumed.seconds >= 0.4
    row = Follower(run).catch_up().epochs[0]
    assert row.train_seconds is not None
    # neither the epoch's time nor the run's has the pause in it
    assert row.train_seconds + resumed.seconds <= times["EpochEnded"] - times["EpochStarted"]
    assert ended.seconds + resumed.seconds <= wall


def test_a_checkpoint_can_be_asked_for_while_paused(tmp_path: Path, every_step: None) -> None:
    run = tiny_run(tmp_path, "train.epochs=1")
    asked = Control(run)
    order: list[str] = []

    def listener(envelope: Envelope) -> None:
        name = type(envelope.event).__name__
        if name == "Progress" and not order:
            asked.request("pause")
        elif name == "Paused":
            asked.request("checkpoint")
        elif name == "CheckpointSaved":
            asked.request("resume")
        if name in ("Progress", "Paused", "CheckpointSaved", "Resumed"):
            order.append(name)

    assert train_run(run, asked, listener=listener).state == "completed"
    paused = order.index("Paused")
    assert order[paused : paused + 3] == ["Paused", "CheckpointSaved", "Resumed"]


def test_an_evaluation_waits_while_paused_and_does_not_count_it(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "train.epochs=1")
    asked = Control(run)
    order: list[tuple[str, float]] = []

    def listener(envelope: Envelope) -> None:
        name = type(envelope.event).__name__
        order.append((name, envelope.elapsed))
        if name == "EpochEnded":  # the last
            asked.request("pause")
        elif name == "Paused":
            asked.request("checkpoint")
        elif name == "CheckpointSaved":
            asked.request("resume")

    ended = train_run(run, asked, listener=listener)
    assert ended.state == "completed"
    names = [name for name, _ in order if name != "Progress"]
    at = names.index("EpochEnded")
    assert names[at + 1 : at + 5] == ["Paused", "CheckpointSaved", "Resumed", "EvalEnded"]
    log = [e.event for e in Follower(run)._tail.read()]
    (resumed,) = (e for e in log if isinstance(e, events.Resumed))
    (evaluated,) = (e for e in log if isinstance(e, events.EvalEnded))
    elapsed = dict(order)
    between = elapsed["EvalEnded"] - elapsed["EpochEnded"]
    assert resumed.seconds >= 0.1
    assert resumed.seconds + evaluated.seconds <= between + 0.05
    assert resumed.seconds + ended.seconds <= elapsed["RunEnded"] + 0.05


def test_a_stop_ends_a_pause_in_an_evaluation(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "train.epochs=1", "evaluate.batch_size=100")
    asked = Control(run)

    def listener(envelope: Envelope) -> None:
        if isinstance(envelope.event, events.EpochEnded):
            asked.request("pause")
        elif isinstance(envelope.event, events.Paused):
            asked.request("stop")

    assert train_run(run, asked, listener=listener).state == "stopped"
    assert "EvalEnded" not in kinds(run), "its only batch comes after the pause"


@pytest.mark.parametrize(("after", "epoch"), [("EpochEnded", 2), ("plain", 2), ("ema", 3)])
def test_a_checkpoint_within_an_evaluation_is_resumed_exactly(
    tmp_path: Path, every_step: None, after: str, epoch: int
) -> None:
    options = ("train.ema=0.9", "evaluate.tta='flip'")
    whole, run = (tiny_run(tmp_path, *options) for _ in range(2))
    asked = Control(whole)
    seen: set[str] = set()
    kept: list[bytes] = []

    def listener(envelope: Envelope) -> None:
        event = envelope.event
        if getattr(event, "epoch", 0) == 2:
            seen.update((type(event).__name__, getattr(event, "variant", "")))
        tests = isinstance(event, events.Progress) and event.phase == "test"
        if tests and after in seen and "asked" not in seen:
            seen.add("asked")
            asked.request("checkpoint")
        saved = isinstance(event, events.CheckpointSaved) and event.role == "last"
        if saved and "asked" in seen and not kept:
            kept.append(whole.checkpoint("last").read_bytes())

    train_run(whole, asked, listener=listener)
    run.checkpoint("last").parent.mkdir()
    run.checkpoint("last").write_bytes(kept[0])
    assert checkpoint.load(run.checkpoint("last"))["position"]["epoch"] == epoch
    assert train_run(run, Control(run), resume=True).state == "completed"
    states = [checkpoint.load(r.checkpoint("last")) for r in (whole, run)]
    for part in ("net", "ema"):
        for name, tensor in states[0][part].items():
            assert torch.equal(tensor, states[1][part][name]), name
    for key in states[0]["position"]:
        assert states[0]["position"][key] == states[1]["position"][key], key
    once, twice = ({e.variant: e for e in Follower(r).catch_up().evals} for r in (whole, run))
    # a plain evaluation that was counted stands
    left = {"EpochEnded": ["ema", "plain", "tta"], "plain": ["ema", "tta"], "ema": ["tta"]}
    assert sorted(twice) == left[after]
    for variant, again in twice.items():
        assert msgspec.structs.replace(again, seconds=once[variant].seconds) == once[variant]


def test_stop_before_the_start_trains_nothing(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    control.send(run, "stop")
    assert train_run(run, Control(run)).state == "stopped"
    assert kinds(run) == ["RunQueued", "RunEnded"]


def test_checkpoint_now(tmp_path: Path, every_step: None) -> None:
    run = tiny_run(tmp_path, "train.epochs=1")
    asked = Control(run)
    listener = at_step(2, lambda: asked.request("checkpoint"))
    train_run(run, asked, listener=listener)
    saved = [e.event for e in Follower(run)._tail.read()]
    steps = [e.step for e in saved if isinstance(e, events.CheckpointSaved) and e.role == "last"]
    assert steps[0] in range(2, 6)


def test_a_loss_that_is_no_number_ends_the_run_as_failed(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "model.options.explode=true")
    ended = train_run(run, Control(run))
    assert ended.state == "failed"
    assert ended.error is not None
    assert "not a number" in ended.error
    notices = [n.code for _, n in Follower(run).catch_up().notices]
    assert "not-a-number" in notices


def test_an_exception_ends_the_run_as_failed_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")

    monkeypatch.setattr("trainer.loop.engine.Training._step", boom)
    run = tiny_run(tmp_path)
    ended = train_run(run, Control(run))
    assert ended.state == "failed"
    assert ended.error is not None
    assert "lower the batch size" in ended.error
    assert "\n" not in ended.error
    assert "Traceback" in (run.path / "traceback.txt").read_text()
    follower = Follower(run)
    follower.catch_up()
    assert follower.more == "; traceback.txt in its folder tells more"


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("train.batch_size=97", ConfigError, "above the data set's 96"),
        ("model.options.wrong=true", ConfigError, "4"),
        ("model.options.nonsense=1", ConfigError, "nonsense"),
        ("model.name=no-such-net", ConfigError, "no-such-net"),
        ("train.precision=fp16", DeviceError, "needs a GPU"),
    ],
)
def test_bad_input_is_one_line_and_in_the_log(
    tmp_path: Path, override: str, error: type[UserError], message: str
) -> None:
    run = tiny_run(tmp_path, override)
    with pytest.raises(error, match=message) as raised:
        train_run(run, Control(run))
    assert "\n" not in str(raised.value)
    state = Follower(run).catch_up()
    assert state.ended is not None
    assert (state.ended.state, state.ended.error) == ("failed", str(raised.value))


def test_only_one_process_trains_a_run(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    with run.locked(), pytest.raises(RunError, match="another process"):
        train_run(run, Control(run))


def test_resume_refuses_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path)
    train_run(run, Control(run))
    other = tiny_dataset(test=36)
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: other)
    with pytest.raises(DataError, match="not the one"):
        train_run(run, Control(run), resume=True)


def test_the_first_part_of_a_run_can_be_trained_on_shrunk_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[int] = []

    def resize(images: torch.Tensor, side: int) -> torch.Tensor:
        small = resized(images, side)
        sides.append(small.shape[-1])
        return small

    monkeypatch.setattr(engine, "resized", resize)
    run = tiny_run(tmp_path, "train.low_resolution=20", "train.low_resolution_share=0.75")
    assert train_run(run, Control(run)).state == "completed"
    assert sides == [20] * 3 + [24] * 3 + [28] * 3 + [32] * 3


def test_a_net_that_cannot_take_shrunk_images_is_refused_at_the_start(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "model.name='fast'", "train.low_resolution=3")
    with pytest.raises(ConfigError, match=r"fails on a batch \[2, 3, 3, 3\]"):
        train_run(run, Control(run))


def test_a_checkpoint_of_a_version_with_fewer_settings_can_be_resumed(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    train_run(run, Control(run))
    state = checkpoint.load(run.checkpoint("last"))
    assert "low_resolution = 0\n" in state["config"]
    state["config"] = state["config"].replace("low_resolution = 0\n", "")
    save_checkpoint(state, run.checkpoint("last"))
    assert train_run(run, Control(run), resume=True).state == "completed"


def test_early_stop_and_test_time_augmentation(tmp_path: Path) -> None:
    run = tiny_run(
        tmp_path,
        "train.epochs=30",
        "train.early_stop=2",
        "optimizer.lr=1e-9",
        "evaluate.tta='flip+shift'",
    )
    ended = train_run(run, Control(run))
    state = Follower(run).catch_up()
    assert ended.state == "completed"
    assert len(state.epochs) < 30
    assert "early-stop" in [n.code for _, n in state.notices]
    assert state.evals[-1].variant == "tta"


def test_a_run_whose_folder_was_moved_says_so(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)

    class Moved(Control):
        """As if somebody moved it while an epoch is trained."""

        def stopping(self) -> bool:
            if run.predictions(1, "plain").exists():
                run.path.rename(tmp_path / "elsewhere")
            return super().stopping()

    ended = train_run(run, Moved(run))
    assert ended.state == "failed"
    assert ended.error == (
        "its last checkpoint could not be saved: its folder was moved while it trained"
    )


@pytest.mark.parametrize("command", ["train", "pause"])
def test_a_run_whose_folder_is_deleted_ends_as_failed(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.runs.control.FOLDER_SECONDS", 0.05)
    run = tiny_run(tmp_path, "train.epochs=100000")
    asked, heard = Control(run), list[Envelope]()
    at = events.Paused if command == "pause" else events.EvalEnded

    def listen(envelope: Envelope) -> None:
        heard.append(envelope)
        if command == "pause":
            asked.request("pause")
        if isinstance(envelope.event, at):
            shutil.rmtree(run.path, ignore_errors=True)  # a file may be written meanwhile
            shutil.rmtree(run.path, ignore_errors=True)

    late = threading.Timer(240, asked.request, ("stop",))
    late.start()
    ended = train_run(run, asked, listener=listen, on_end=f"touch '{tmp_path / 'called'}'")
    late.cancel()
    assert (ended.state, ended.error) == ("failed", DELETED)
    assert heard[-1].event == ended, "whoever watches is told"
    assert not run.path.exists(), "nothing is made there anew"
    wait((tmp_path / "called").exists)


def test_a_folder_deleted_just_before_the_end_was_not_moved(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)

    class Gone(Control):
        """As if somebody deleted it in the last epoch."""

        def stopping(self) -> bool:
            if run.predictions(1, "plain").exists():
                shutil.rmtree(run.path)
            return super().stopping()

    ended = train_run(run, Gone(run))
    assert (ended.state, ended.error) == ("failed", DELETED)


def test_a_full_disk_for_predictions_and_checkpoints_is_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.runs.predictions.save", full)
    monkeypatch.setattr("trainer.runs.checkpoint.write", full)
    run = tiny_run(tmp_path)
    ended = train_run(run, Control(run))
    assert ended.state == "failed", "all is trained, and nothing of it is left"
    assert ended.error is not None
    assert "could not be saved" in ended.error
    assert ended.final_accuracy is not None
    codes = {n.code for _, n in Follower(run).catch_up().notices}
    assert {"predictions-not-saved", "checkpoint-not-saved"} <= codes


def stopped_in_test(run: RunDir, *, epoch: int) -> None:
    """Train, and stop right after the plain evaluation of this epoch was counted."""
    asked = Control(run)

    def listen(envelope: Envelope) -> None:
        event = envelope.event
        if isinstance(event, events.EvalEnded) and (event.epoch, event.variant) == (epoch, "plain"):
            asked.request("stop")

    assert train_run(run, asked, listener=listen).state == "stopped"


@pytest.mark.parametrize("settings_", [("train.ema=0.9",), ("evaluate.tta='flip'",)])
def test_an_early_stop_is_the_same_after_a_stop_in_an_evaluation(
    tmp_path: Path, settings_: tuple[str, ...]
) -> None:
    """The evaluation that was stopped is done again, but counted once; no epoch is added."""
    found = {}
    for stopped in (False, True):
        run = tiny_run(
            tmp_path / str(stopped),
            *("train.epochs=12", "train.early_stop=1", "optimizer.lr=1e-6", *settings_),
        )
        if stopped:
            plain = found[False]
            stopped_in_test(run, epoch=plain[-1][0])
            resubmit(run)
        assert train_run(run, Control(run), resume=stopped).state == "completed"
        state = Follower(run).catch_up()
        found[stopped] = [(row.epoch, row.test_accuracy, row.lr) for row in state.epochs]
        tested = [e.epoch for e in state.evals if e.variant != "plain"]
        assert tested
        assert max(tested) == state.epochs[-1].epoch
    assert found[True] == found[False]


def test_progress_of_tests_is_of_an_epoch_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.loop.reports.PROGRESS_SECONDS", 0.0)
    run = tiny_run(tmp_path, "evaluate.tta='flip'")
    train_run(run, Control(run))
    log = [e.event for e in Follower(run)._tail.read()]
    told = [e.epoch for e in log if isinstance(e, events.Progress) and e.phase == "test"]
    assert set(told) == {1, 2}
    state = Follower(run).catch_up()
    assert state.epochs_done(state.checkpoints["last"].step) == 2


def test_resume_refuses_other_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tmp_path)
    train_run(run, Control(run))
    data = tiny_dataset()
    labels = data.train.labels
    other = replace(data, train=TrainSplit(data.train.images, labels[::-1].copy()))
    assert other.fingerprint == data.fingerprint
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: other)
    with pytest.raises(DataError, match="training images are not those"):
        train_run(run, Control(run), resume=True)

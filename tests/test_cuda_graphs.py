"""Steps that are recorded and replayed: here by a recorder that runs them again, on a GPU for real.

What a replay reads and writes must lie where it lay when the step was recorded: a CUDA graph knows
places in memory. The stand-in looks whether all of it is still there.
"""

from __future__ import annotations

import gc
import random
import re
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.training_helpers import log_of, losses_of, tiny_dataset, tiny_run
from trainer import config as settings
from trainer import device, events
from trainer.device import HostCopy
from trainer.lifecycle.session import train_run
from trainer.lifecycle.submit import resubmit
from trainer.loop import engine, layer_stats, reports
from trainer.loop.cuda_graphs import CaptureFailed, Replay, RunAhead, steps_undone
from trainer.loop.engine import Training
from trainer.loop.meter import Meter
from trainer.runs import checkpoint
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir

CPU = torch.device("cpu")
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
EVERYTHING = (
    "augment.flip='alternating'",
    "augment.shift=2",
    "augment.dropout=0.5",
    "augment.grayscale=0.2",
    "augment.shift_scale_rotate=0.5",
    "train.low_resolution=24",
    "train.skip_easy=0.5",
    "train.ema=0.9",
    "train.grad_clip=1",
    "optimizer.l1=1e-4",
)
OPTIMIZERS = ("sgd", "adam", "adamw", "muon")


@pytest.fixture(autouse=True)
def _tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)


class Again:
    """Runs the work some times, as a warm-up does, and does it again at each replay."""

    recorded = 0

    def __init__(self, device: torch.device) -> None:
        pass

    def __call__(self, work: Replay) -> Replay:
        Again.recorded += 1
        for _ in range(3):
            work()
        training: Training = work.func.__self__  # type: ignore[attr-defined]  # a partial method
        recorded = places(training)
        assert len(recorded) > 10

        def replay() -> None:
            assert recorded.items() <= places(training).items()
            work()

        return replay


def places(training: Training) -> dict[str, int]:
    """Where all lies that a step finds by itself, the learning rates aside."""
    found = {**dict(training.net.named_parameters()), **dict(training.net.named_buffers())}
    found["sums"] = training.meter.device_sums
    if training.examples.losses is not None:
        found["losses"] = training.examples.losses
    for side, (left, _) in training.layer_stats._left.items():
        found[f"layers at {side}"] = left
    for number, optimizer in enumerate(training.optimizers.all):
        for place, state in enumerate(optimizer.state.values()):
            found |= {f"{number} {place} {key}": value for key, value in state.items()}
    return {name: tensor.data_ptr() for name, tensor in found.items()}


def record_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    Again.recorded = 0
    monkeypatch.setattr(Training, "_record_or_tell", Training._record_steps)
    monkeypatch.setattr(engine, "Recorder", Again)


def figures_of(log: list[events.Event]) -> list[object]:
    """All figures of epochs, evaluations and layers, but none of time."""
    found: list[object] = []
    for event in log:
        if isinstance(event, events.EpochEnded):
            found.append((event.loss, event.accuracy, event.lr, event.images))
        elif isinstance(event, events.EvalEnded):
            found.append((event.variant, event.loss, event.confusion))
        elif isinstance(event, events.LayerStats):
            found.append((event.step, event.weight_norm, event.gradient_norm, event.dead))
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_recorded_run_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    overrides = (*EVERYTHING, f"optimizer.name='{name}'", "train.epochs=4")
    plain = log_of(tiny_run(tmp_path / "plain", *overrides))
    record_on_the_cpu(monkeypatch)
    recorded = log_of(tiny_run(tmp_path / "recorded", *overrides))
    assert Again.recorded == 6, "two for each of 24, 28 and 32 pixels: one that is measured"
    assert figures_of(recorded) == figures_of(plain)
    assert len(figures_of(plain)) > 20
    told = [e.message for e in recorded if isinstance(e, events.Notice) and e.code == "cuda-graphs"]
    assert len(told) == 1
    assert "recorded" in told[0]


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_a_recorded_run_goes_on_as_if_it_had_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    record_on_the_cpu(monkeypatch)
    overrides = (*EVERYTHING, f"optimizer.name='{name}'")
    stopped, whole = (
        losses_of(tiny_run(tmp_path / str(stopped), *overrides), stopped=stopped)
        for stopped in (True, False)
    )
    assert stopped == whole


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_that_was_stopped_in_an_evaluation_records_what_it_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """After that evaluation, and nothing where that was the last."""
    record_on_the_cpu(monkeypatch)
    run = tiny_run(tmp_path)
    asked, told = Control(run), list[str]()
    on_test_batch = Training._on_test_batch

    def stop(self: Training, of: int, done: int, total: int) -> None:
        if of == epoch:
            asked.request("stop")
        on_test_batch(self, of, done, total)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_on_test_batch", stop)
        assert train_run(run, asked).state == "stopped"
    resubmit(run)

    def listen(envelope: events.Envelope) -> None:
        event = envelope.event
        if isinstance(event, events.EvalEnded):
            told.append("evaluated")
        elif isinstance(event, events.Notice) and event.code == "cuda-graphs":
            told.append("recorded")

    assert train_run(run, Control(run), listener=listen, resume=True).state == "completed"
    assert told == ["evaluated", *(["recorded", "evaluated"] if epoch == 1 else [])]


def test_steps_that_are_undone_leave_the_random_numbers_of_the_host() -> None:
    """Which a net of the user's own may draw."""
    random.seed(1)
    np.random.seed(1)
    with steps_undone(nn.Linear(1, 1), [], []):
        expected = random.random(), np.random.rand(), torch.rand(1)
        random.seed(2)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_nothing_of_a_recorded_run_outlives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its graphs and it know each other, and hold the memory of a GPU."""
    made: list[weakref.ref[Training]] = []
    begin = Training.__post_init__

    def look(self: Training) -> None:
        made.append(weakref.ref(self))
        begin(self)

    monkeypatch.setattr(Training, "__post_init__", look)
    record_on_the_cpu(monkeypatch)
    run = tiny_run(tmp_path, "train.epochs=1")
    gc.disable()  # it may happen to come by
    try:
        assert train_run(run, Control(run)).state == "completed"
    finally:
        gc.enable()
    assert [reference() for reference in made] == [None]


@pytest.mark.parametrize(
    ("message", "first"),
    [
        (
            "called a synchronizing CUDA operation\nand more",
            "called a synchronizing CUDA operation",
        ),
        ("", "RuntimeError"),
    ],
)
def test_what_cannot_be_recorded_is_trained_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, first: str
) -> None:
    plain = log_of(tiny_run(tmp_path / "plain"))

    class Fails(Again):
        def __call__(self, work: Replay) -> Replay:
            super().__call__(work)
            raise RuntimeError(message)

    record_on_the_cpu(monkeypatch)
    monkeypatch.setattr(engine, "Recorder", Fails)
    log = log_of(tiny_run(tmp_path / "fails"))
    told = [e for e in log if isinstance(e, events.Notice) and e.code == "no-cuda-graphs"]
    assert [e.message for e in told] == [f"training without CUDA graphs: {first}"]
    assert figures_of(log) == figures_of(plain), "the steps tried before it left no trace"


def test_what_fails_while_layers_are_measured_leaves_nothing_in_the_net(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = log_of(tiny_run(tmp_path / "plain"))
    left: list[int] = []

    class Fails(Again):
        def __call__(self, work: Replay) -> Replay:
            replay = super().__call__(work)
            training = work.func.__self__  # type: ignore[attr-defined]  # a partial method
            if work.args[-1]:  # type: ignore[attr-defined]  # whether it is measured
                training.layer_stats.watch()
                left.append(sum(len(m._forward_hooks) for m in training.net.modules()))
                raise RuntimeError("cannot be measured")
            return replay

    record_on_the_cpu(monkeypatch)
    monkeypatch.setattr(engine, "Recorder", Fails)
    seen: list[int] = []
    evaluate = Training._evaluate_epoch

    def look(self: Training, epoch: int) -> None:
        seen.append(sum(len(m._forward_hooks) for m in self.net.modules()))
        evaluate(self, epoch)

    monkeypatch.setattr(Training, "_evaluate_epoch", look)
    log = log_of(tiny_run(tmp_path / "fails"))
    assert left == [7], "two activations, and the layers that tell where their channels are"
    assert seen == [0, 0]
    assert figures_of(log) == figures_of(plain)


def test_a_step_that_fails_while_it_is_captured_ends_the_run_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(Again):
        def __call__(self, work: Replay) -> Replay:
            raise CaptureFailed("operation not permitted when stream is capturing")

    record_on_the_cpu(monkeypatch)
    monkeypatch.setattr(engine, "Recorder", Fails)
    ended = log_of(tiny_run(tmp_path))[-1]
    assert isinstance(ended, events.RunEnded)
    assert ended.state == "failed"
    assert "set train.cuda_graphs=off" in (ended.error or "")


@pytest.mark.parametrize("error", [RuntimeError("first"), CaptureFailed("first"), None])
def test_what_cannot_be_put_back_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """It went on with what the trial steps had left."""

    def fails(state: torch.Tensor) -> None:
        raise RuntimeError("operation failed due to a previous error during capture")

    class Fails(Again):
        def __call__(self, work: Replay) -> Replay:
            replay = super().__call__(work)
            monkeypatch.setattr(torch, "set_rng_state", fails)
            if error is not None:
                raise error
            return replay

    record_on_the_cpu(monkeypatch)
    monkeypatch.setattr(engine, "Recorder", Fails)
    ended = log_of(tiny_run(tmp_path))[-1]
    assert isinstance(ended, events.RunEnded)
    assert ended.state == "failed"
    reason = "operation failed due to a previous error during capture" if error is None else "first"
    assert ended.error == f"the step cannot be recorded: set train.cuda_graphs=off ({reason})"


def test_a_net_that_exchanges_its_buffers_is_trained_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_of(folder: Path) -> RunDir:
        run = tiny_run(folder)
        net = folder / "tiny.py"
        text = net.read_text().replace(
            "self.explode = explode",
            "self.explode = explode; self.register_buffer('seen', torch.zeros(1))",
        )
        net.write_text(text.replace("y = super()", "self.seen = self.seen + x.mean(); y = super()"))
        return run

    plain = run_of(tmp_path / "plain")
    log_of(plain)
    record_on_the_cpu(monkeypatch)
    monkeypatch.setattr(Again, "__call__", lambda self, work: [work() for _ in range(3)])
    run = run_of(tmp_path / "exchanges")
    log = log_of(run)
    told = [e.message for e in log if isinstance(e, events.Notice) and e.code == "no-cuda-graphs"]
    assert told == ["training without CUDA graphs: the net exchanges its buffers for others"]
    seen = [checkpoint.load(r.checkpoint("last"))["net"]["seen"] for r in (plain, run)]
    assert torch.equal(*seen), "the steps tried before it are not in it"


def test_too_little_memory_for_recording_is_enough_for_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = log_of(tiny_run(tmp_path / "plain"))

    class Full(Again):
        def __call__(self, work: Replay) -> Replay:
            super().__call__(work)
            raise torch.OutOfMemoryError("CUDA out of memory")

    record_on_the_cpu(monkeypatch)
    monkeypatch.setattr(engine, "Recorder", Full)
    log = log_of(tiny_run(tmp_path / "full"))
    told = [e for e in log if isinstance(e, events.Notice) and e.code == "no-cuda-graphs"]
    assert "too little memory" in told[0].message
    assert figures_of(log) == figures_of(plain)


class Late(Meter):
    """As on a GPU, which is some steps behind the host: a read is there some steps later."""

    polls = 0

    def begin_read(self) -> None:
        super().begin_read()
        self.polls = 0

    def ready(self) -> bool:
        self.polls += 1
        return super().ready() and self.polls > 2


def test_progress_tells_what_is_done_not_what_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "Meter", Late)
    monkeypatch.setattr(reports, "PROGRESS_SECONDS", 0)
    log = log_of(tiny_run(tmp_path, "train.layer_stats=0"))
    at = 0
    told = []
    for event in log:
        at = event.step if isinstance(event, events.EpochStarted) else at
        if isinstance(event, events.Progress) and event.phase == "train":
            assert event.done == event.step - at
            told.append(event.done)
    # of six steps those after which a read began; each was there two steps later
    assert told == [1, 4] * 2


def test_the_rate_after_a_pause_is_that_of_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host pauses some steps ahead of what has been read, on a GPU far ahead."""
    run = tiny_run(tmp_path, "train.layer_stats=0", "train.batch_size=4", "train.epochs=1")
    control = Control(run)
    asked: list[str] = []

    class Pausing(Late):
        def ready(self) -> bool:
            if self.polls == 1 and self.images > 40 and not asked:
                asked.append("pause")
                control.request("pause")  # before what is being read is there
            return super().ready()

    monkeypatch.setattr(engine, "Meter", Pausing)
    monkeypatch.setattr(reports, "PROGRESS_SECONDS", 0)

    def listen(envelope: events.Envelope) -> None:
        if isinstance(envelope.event, events.Paused):
            control.request("resume")

    train_run(run, control, listener=listen)
    log = [envelope.event for envelope in Follower(run)._tail.read()]
    assert [e for e in log if isinstance(e, events.Resumed)]
    told = [e for e in log if isinstance(e, events.Progress) and e.phase == "train"]
    assert len(told) >= 3
    assert all(e.images_per_second is not None and e.images_per_second > 0 for e in told)


def test_a_stop_tells_what_was_measured_in_the_last_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[bool] = []

    class Behind(HostCopy):
        def ready(self) -> bool:
            return bool(done)

    monkeypatch.setattr(layer_stats, "HostCopy", Behind)
    monkeypatch.setattr(device, "synchronize", lambda of: done.append(True))
    run = tiny_run(tmp_path, "train.layer_stats=6")
    control = Control(run)
    queued = RunAhead.queued
    steps: list[bool] = []

    def stop_after_three(self: RunAhead) -> None:
        queued(self)
        steps.append(True)
        if len(steps) == 3:
            control.request("stop")

    monkeypatch.setattr(RunAhead, "queued", stop_after_three)
    assert train_run(run, control).state == "stopped"
    log = [envelope.event for envelope in Follower(run)._tail.read()]
    assert [e.step for e in log if isinstance(e, events.LayerStats)] == [1, 2, 3]


class Gpu:
    """Does one step after the other, by a clock of its own; the host takes no time."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.free_at = seconds, 0.0, 0.0

    def mark(self) -> Reached:
        self.free_at = max(self.free_at, self.now) + self.seconds
        return Reached(self, self.free_at)


class Reached:
    def __init__(self, gpu: Gpu, at: float) -> None:
        self.gpu, self.at = gpu, at

    def synchronize(self) -> None:
        self.gpu.now = max(self.gpu.now, self.at)


@pytest.mark.parametrize(("seconds", "ahead"), [(0.001, 16), (0.05, 5), (0.1, 2), (5.0, 2)])
def test_the_host_is_ahead_of_many_short_steps_or_few_long_ones(seconds: float, ahead: int) -> None:
    gpu = Gpu(seconds)
    run = RunAhead(torch.device("cuda"), gpu.mark, lambda: gpu.now)
    for _ in range(100):
        run.queued()
        assert len(run._queued) <= max(2, ahead)
    assert run.bound == len(run._queued) == ahead
    assert gpu.free_at - gpu.now == pytest.approx(ahead * seconds)


def test_the_bound_follows_the_steps_and_a_cpu_needs_none() -> None:
    gpu = Gpu(0.001)
    run = RunAhead(torch.device("cuda"), gpu.mark, lambda: gpu.now)
    for _ in range(100):
        run.queued()
    assert run.bound == 16
    gpu.seconds = 0.05  # images have become larger
    for _ in range(100):
        run.queued()
    assert run.bound == len(run._queued) == 5
    gpu.now += 60  # an evaluation, or a pause
    run.begin()
    for _ in range(20):
        run.queued()
    assert run.bound == 5
    nothing = RunAhead(CPU)
    nothing.queued()
    assert not nothing._queued


def run_on_cuda(folder: Path, *overrides: str) -> RunDir:
    return tiny_run(folder, "train.device=cuda", *overrides)


@pytest.mark.parametrize(
    ("device", "net", "asked", "told"),
    [
        ("cuda", "fast", {}, "recorded"),
        ("cpu", "fast", {"cuda_graphs": "on"}, ""),
        ("cuda", "fast", {"cuda_graphs": "off"}, ""),
        ("cuda", "own.py:Net", {}, "info: .* train.cuda_graphs=on makes training faster"),
        ("cuda", "own.py:Net", {"cuda_graphs": "on"}, "recorded"),
        ("cuda", "own.py:Net", {"cuda_graphs": "off"}, ""),
        ("cuda", "fast", {"precision": "fp16"}, ""),
        ("cuda", "fast", {"precision": "fp16", "cuda_graphs": "on"}, "warning: .* in fp16 each"),
    ],
)
def test_which_steps_are_recorded_and_who_is_told(
    monkeypatch: pytest.MonkeyPatch, device: str, net: str, asked: dict[str, str], told: str
) -> None:
    """A net of a file may decide in Python at each step; a recorded one decides once."""
    table = "\n".join(f'{key} = "{value}"' for key, value in asked.items())
    text = f'[model]\nname = "{net}"\n[train]\n{table}\n'
    training = object.__new__(Training)
    training.config = settings.from_toml(text, origin="test")
    training.device, training.group = torch.device(device), None
    training.scaler = torch.amp.GradScaler("cpu", enabled=asked.get("precision") == "fp16")
    heard: list[str] = []
    monkeypatch.setattr(Training, "_record_steps", lambda self: heard.append("recorded"))
    monkeypatch.setattr(
        Training, "_notice", lambda self, level, code, text: heard.append(f"{level}: {text}")
    )
    training._record_or_tell()
    assert len(heard) == bool(told)
    if told:
        assert re.match(told, heard[0]), heard


@pytest.mark.gpu
@on_cuda
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_cuda_a_recorded_run_is_the_same_run(tmp_path: Path, name: str) -> None:
    overrides = (*EVERYTHING, f"optimizer.name='{name}'", "train.precision='fp32'")
    found = {}
    for how in ("off", "on"):
        log = log_of(run_on_cuda(tmp_path / how, *overrides, f"train.cuda_graphs='{how}'"))
        told = {e.code: e.message for e in log if isinstance(e, events.Notice)}
        assert ("cuda-graphs" in told) == (how == "on"), told
        assert "own-net" not in told
        found[how] = [e.loss for e in log if isinstance(e, events.EpochEnded | events.EvalEnded)]
        assert isinstance(log[-1], events.RunEnded)
        assert log[-1].state == "completed", log[-1].error
    assert len(found["on"]) >= 4
    assert found["on"] == pytest.approx(found["off"], rel=2e-2)


@pytest.mark.gpu
@on_cuda
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_cuda_a_recorded_run_goes_on_where_it_stopped(tmp_path: Path, name: str) -> None:
    overrides = (*EVERYTHING, f"optimizer.name='{name}'", "train.precision='fp32'")
    stopped, whole = (
        losses_of(
            run_on_cuda(tmp_path / str(stopped), *overrides, "train.cuda_graphs='on'"),
            stopped=stopped,
        )
        for stopped in (True, False)
    )
    assert [x for pair in stopped for x in pair] == pytest.approx(
        [x for pair in whole for x in pair], rel=2e-2
    )


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_cuda_runs_of_one_process_are_recorded_on_the_gpu_of_each(tmp_path: Path) -> None:
    found = {}
    for number in (0, 1, 0):
        run = tiny_run(
            tmp_path / f"{len(found)}-{number}",
            f"train.device=cuda:{number}",
            "train.cuda_graphs='on'",
            "train.precision='fp32'",
        )
        log = log_of(run)
        assert "cuda-graphs" in {e.code for e in log if isinstance(e, events.Notice)}
        found[number] = [e.loss for e in log if isinstance(e, events.EpochEnded)]
    assert found[1] == pytest.approx(found[0], rel=2e-2)
    assert all(found[1])


@pytest.mark.gpu
@on_cuda
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_cuda_in_fp16_nothing_is_recorded_and_the_loss_is_a_number(
    tmp_path: Path, name: str
) -> None:
    log = log_of(run_on_cuda(tmp_path, "train.precision='fp16'", f"optimizer.name='{name}'"))
    assert isinstance(log[-1], events.RunEnded)
    assert log[-1].state == "completed", log[-1].error
    assert "cuda-graphs" not in {e.code for e in log if isinstance(e, events.Notice)}


@pytest.mark.gpu
@on_cuda
def test_cuda_measurements_a_step_apart_are_all_told(tmp_path: Path) -> None:
    log = log_of(run_on_cuda(tmp_path, "train.cuda_graphs='on'", "train.layer_stats=6"))
    measured = [e.step for e in log if isinstance(e, events.LayerStats)]
    assert measured == [*range(1, 13)]


@pytest.mark.gpu
@on_cuda
def test_cuda_what_a_run_held_goes_back_after_it(tmp_path: Path) -> None:
    device.give_memory_back()
    before = torch.cuda.memory_allocated()
    log_of(run_on_cuda(tmp_path, "train.cuda_graphs='on'", "optimizer.name='muon'"))
    assert torch.cuda.memory_allocated() <= before


@pytest.mark.gpu
@on_cuda
def test_cuda_what_waits_for_the_device_is_not_recorded(tmp_path: Path) -> None:
    run = run_on_cuda(tmp_path, "train.cuda_graphs='on'")
    net = tmp_path / "tiny.py"
    net.write_text(
        net.read_text().replace("y = super()", "assert x.max().item() < 99; y = super()")
    )
    log = log_of(run)
    told = {e.code: e.message for e in log if isinstance(e, events.Notice)}
    assert "synchronizing" in told["no-cuda-graphs"]
    assert isinstance(log[-1], events.RunEnded)
    assert log[-1].state == "completed", log[-1].error


@pytest.mark.gpu
@on_cuda
def test_cuda_a_compiled_net_is_recorded_and_pools_as_torch_does(tmp_path: Path) -> None:
    found = {}
    for compiled in ("false", "true"):
        run = run_on_cuda(
            tmp_path / compiled,
            "train.cuda_graphs='on'",
            f"train.compile={compiled}",
            "train.precision='fp32'",
        )
        net = tmp_path / compiled / "tiny.py"
        text = net.read_text().replace("nn.Dropout(0.1)", "nn.MaxPool2d(2)")
        net.write_text(text)
        log = log_of(run)
        told = {e.code: e.message for e in log if isinstance(e, events.Notice)}
        assert "cuda-graphs" in told, told
        assert "not-compiled" not in told, told
        found[compiled] = [e.loss for e in log if isinstance(e, events.EpochEnded)]
    assert found["true"] == pytest.approx(found["false"], rel=2e-2)


@pytest.mark.gpu
@on_cuda
def test_cuda_a_checkpoint_goes_on_on_the_cpu(tmp_path: Path) -> None:
    """Rates lie on the GPU there, and Adam's steps are counted there."""
    from trainer.config import OptimizerSettings
    from trainer.loop import optim

    net = torch.nn.Linear(3, 2)
    chosen = OptimizerSettings(name="adam")
    there = optim.Optimizers(net.to("cuda"), chosen, torch.device("cuda"))
    rate = there.all[0].param_groups[0]["lr"]
    there.set_factor(0.5)
    assert there.all[0].param_groups[0]["lr"] is rate, "where a recorded step looks for it"
    assert rate.item() == pytest.approx(chosen.lr * 0.5)
    net(torch.ones(1, 3, device="cuda")).sum().backward()
    for optimizer in there.all:
        optimizer.step()
    state = checkpoint.unpack(bytes(checkpoint.pack({"o": there.state_dict()})), "last")
    here = optim.Optimizers(net.to("cpu"), chosen, torch.device("cpu"))
    there.load_state_dict(state["o"])
    assert there.all[0].param_groups[0]["lr"] is rate
    here.load_state_dict(state["o"])
    here.set_factor(0.25)
    assert here.all[0].param_groups[0]["lr"] == chosen.lr * 0.25
    net.zero_grad()
    net(torch.ones(1, 3)).sum().backward()
    here.all[0].step()

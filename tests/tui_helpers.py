"""Run folders with plausible logs for the tests of the app, written through ``RunLog``.

Nothing here reads the clock: times start at ``START`` and grow by what the log tells.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec
import numpy as np

from trainer import config as settings
from trainer import events
from trainer.config import ModelSettings, RunConfig, TrainSettings
from trainer.errors import ConfigError
from trainer.presets import catalog
from trainer.runs import predictions
from trainer.runs.predictions import Predictions
from trainer.runs.rundir import RunDir, slug
from trainer.runs.runlog import RunLog

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from tui.app import CifarApp

START = 1_764_000_000.0
"""2025-11-24, 16:00 UTC."""
CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FINGERPRINT = "0" * 64
IMAGES = 200


class Clock:
    """Stands in for the module ``time``."""

    now = START
    elapsed = 0.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.elapsed


class TimedLog(RunLog):
    """A run log whose clock is a number."""

    def __init__(self, run: RunDir, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        with mock.patch("trainer.runs.runlog.time", self.clock):
            super().__init__(run)

    def emit(self, event: events.Event) -> None:
        """Stamp with the clock's time."""
        with mock.patch("trainer.runs.runlog.time", self.clock):
            super().emit(event)

    def begin_attempt(self) -> None:
        """Count from the clock's time."""
        with mock.patch("trainer.runs.runlog.time", self.clock):
            super().begin_attempt()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds
        self.clock.elapsed += seconds


def run_config(preset: str = "quick", **changes: object) -> RunConfig:
    """The configuration of a preset, or a plain one under a hostile name."""
    try:
        values = settings.to_mapping(catalog.load(preset))
    except ConfigError:
        values = settings.to_mapping(RunConfig(preset=preset))
    values.update({k: v for k, v in changes.items() if v is not None})
    return settings.from_mapping(values)


def give_checkpoint(run: RunDir) -> None:
    run.checkpoint("last").parent.mkdir(exist_ok=True)
    run.checkpoint("last").touch()


def make_run(
    runs_dir: Path,
    *,
    name: str = "",
    preset: str = "quick",
    model: str | None = None,
    data: str = "synthetic",
    data_kind: str | None = None,
    epochs: int = 5,
    done: int | None = None,
    end: str | None = "completed",
    error: str | None = None,
    best: float = 0.86,
    parameters: int = 98_442,
    steps_per_epoch: int = 8,
    created: float = 0.0,
    seed: int = 0,
    with_predictions: bool = False,
    paused: bool = False,
    notices: tuple[tuple[events.Level, str], ...] = (),
    layers: tuple[events.LayerRow, ...] | None = None,
    classes: tuple[str, ...] = CLASSES,
) -> RunDir:
    """Write a run's folder.

    ``done`` epochs of ``epochs`` are in the log (0: only queued). ``end`` is the state of
    ``RunEnded``; ``None`` leaves the log open: crashed, or running while ``held`` is on.
    ``created`` are seconds after ``START``. A run that has done epochs has a checkpoint, which is
    empty.
    """
    done = epochs if done is None else done
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(START + created))
    run = RunDir(runs_dir / f"{stamp}-{slug(preset)}-{seed:04x}")
    run.path.mkdir(parents=True)
    config = run_config(
        preset,
        data=data,
        model=msgspec.to_builtins(ModelSettings(name=model)) if model else None,
        train=msgspec.to_builtins(TrainSettings(epochs=epochs, seed=seed)),
    )
    text = settings.to_toml(config)
    run.config.write_text(text, "utf-8")
    clock = Clock()
    clock.now = START + created
    log = TimedLog(run, clock)
    log.emit(
        events.RunQueued(
            name=name or preset,
            preset=preset,
            model=config.model.name,
            data=data,
            epochs=epochs,
            config=text,
        )
    )
    if done or end:
        log.begin_attempt()
    if done:
        log.wait(1)
        kind = data_kind or (data if data in ("cifar10", "cifar100", "synthetic") else "folder")
        _begin(log, kind, data, steps_per_epoch, parameters, layers, classes)
        for level, message in notices:
            log.emit(events.Notice(level=level, code="test", message=message))
        for epoch in range(1, done + 1):
            last = epoch == done and with_predictions
            _epoch(log, run, epoch, epochs, steps_per_epoch, best, seed, classes, save=last)
        run.checkpoint("last").parent.mkdir(exist_ok=True)
        run.checkpoint("last").touch()
    if paused:
        log.emit(events.Paused(step=done * steps_per_epoch))
    if end:
        log.emit(
            events.RunEnded(
                state=end,  # type: ignore[arg-type]
                best_accuracy=accuracy(done, epochs, best) if done else None,
                best_epoch=done or None,
                final_accuracy=accuracy(done, epochs, best) if done else None,
                seconds=log.clock.elapsed,
                error=error,
            )
        )
    log.close()
    return run


def accuracy(epoch: int, epochs: int, best: float) -> float:
    """Test accuracy after an epoch, in steps of one image; ``best`` at the last."""
    share = (1 - math.exp(-3 * epoch / epochs)) / (1 - math.exp(-3))
    return round((0.1 + (best - 0.1) * share) * IMAGES) / IMAGES


@contextmanager
def held(*runs: RunDir) -> Iterator[None]:
    """Hold the lock of runs as their trainer would."""
    if not runs:
        yield
        return
    with runs[0].locked(), held(*runs[1:]):
        yield


def append(run: RunDir, *new: events.Event, seconds: float = 1.0) -> None:
    """Add events to a run's log, as its trainer would."""
    log = TimedLog(run)
    log.wait(3600)
    for event in new:
        log.wait(seconds)
        log.emit(event)
    log.close()


def started(kind: str = "synthetic", **changes: object) -> events.RunStarted:
    """The event of a run's start."""
    fields: dict[str, object] = {
        "device": "cpu",
        "precision": "fp32",
        "steps_per_epoch": 8,
        "batch_size": 256,
        "train_images": 2000,
        "test_images": IMAGES,
        "classes": CLASSES,
        "data_kind": kind,
        "data_source": kind,
        "data_fingerprint": FINGERPRINT,
        "host": "testhost",
        "torch": "2.0.0",
        "threads": 2,
        **changes,
    }
    return events.RunStarted(**fields)  # type: ignore[arg-type]


def _begin(
    log: TimedLog,
    kind: str,
    source: str,
    steps_per_epoch: int,
    parameters: int,
    layers: tuple[events.LayerRow, ...] | None,
    classes: tuple[str, ...],
) -> None:
    log.emit(started(kind, data_source=source, steps_per_epoch=steps_per_epoch, classes=classes))
    log.emit(
        events.ModelDescribed(
            layers=layers if layers is not None else some_layers(parameters),
            parameters=parameters,
            trainable_parameters=parameters,
            macs=12_500_000,
            receptive_field=(55, 55),
            depthwise_separable=2,
            dilated=1,
            strided3x3=3,
            global_average_pooling=True,
        )
    )


def some_layers(parameters: int) -> tuple[events.LayerRow, ...]:
    """Four layers that add up to the parameters."""

    def conv(
        path: str, own: int, into: int, out: int, side: int, *, dilation: int = 1, groups: int = 1
    ) -> events.LayerRow:
        return events.LayerRow(
            path=path,
            type="Conv2d",
            input_shape=(1, into, side, side),
            output_shape=(1, out, side, side),
            parameters=own,
            share=own / parameters,
            macs=own * side * side,
            kernel=(3, 3),
            stride=(1, 1),
            padding=(dilation, dilation),
            dilation=(dilation, dilation),
            groups=groups,
            jump=(1, 1),
            receptive_field=(3, 3),
        )

    parts = (parameters // 10, parameters // 5, parameters // 2)
    return (
        conv("stem.0", parts[0], 3, 32, 32),
        conv("body.0.depthwise", parts[1], 32, 32, 32, groups=32),
        conv("body.1.conv", parts[2], 32, 64, 16, dilation=2),
        events.LayerRow(
            path="head.fc",
            type="Linear",
            input_shape=(1, 64),
            output_shape=(1, 10),
            parameters=parameters - sum(parts),
            share=(parameters - sum(parts)) / parameters,
            macs=640,
            reason="after global pooling",
        ),
    )


def _epoch(
    log: TimedLog,
    run: RunDir,
    epoch: int,
    epochs: int,
    steps: int,
    best: float,
    seed: int,
    classes: tuple[str, ...],
    *,
    save: bool,
) -> None:
    first = (epoch - 1) * steps
    log.emit(events.EpochStarted(epoch=epoch, step=first))
    test = accuracy(epoch, epochs, best)
    for done in range(1, steps + 1):
        log.wait(0.25)
        at = epoch - 1 + done / steps
        noise = 0.05 * math.sin(7.3 * (first + done) + seed)
        log.emit(
            events.Progress(
                phase="train",
                epoch=epoch,
                step=first + done,
                done=done,
                total=steps,
                loss=2.3 * math.exp(-2 * at / epochs) + noise,
                accuracy=min(1.0, accuracy(1, 1, best) * at / epochs + 0.1 + noise / 4),
                lr=0.4 * (1 - at / epochs),
                images_per_second=2048.0,
                memory=300 << 20,
            )
        )
    log.emit(
        events.EpochEnded(
            epoch=epoch,
            step=epoch * steps,
            loss=2.3 * math.exp(-2 * epoch / epochs),
            accuracy=max(0.0, test - 0.02),
            lr=0.4 * (1 - epoch / epochs),
            seconds=0.25 * steps,
            images_per_second=2048.0,
        )
    )
    log.wait(0.5)
    _evaluate(log, run, epoch, epoch * steps, test, seed, classes, save=save)
    log.emit(
        events.CheckpointSaved(  # of the epoch that comes next, as the trainer counts
            role="last", epoch=epoch + 1, step=epoch * steps, path="checkpoints/last.pt"
        )
    )


def _evaluate(
    log: TimedLog,
    run: RunDir,
    epoch: int,
    step: int,
    test: float,
    seed: int,
    classes: tuple[str, ...],
    *,
    save: bool,
) -> None:
    found = some_predictions(test, epoch=epoch, classes=len(classes), seed=seed)
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (found.labels, found.predicted), 1)
    total = confusion.sum(1)
    log.emit(
        events.EvalEnded(
            epoch=epoch,
            step=step,
            split="test",
            variant="plain",
            loss=1.2 * (1 - test) + 0.2,
            accuracy=float(np.trace(confusion)) / IMAGES,
            correct=int(np.trace(confusion)),
            images=IMAGES,
            per_class=tuple(
                float(confusion[i, i] / total[i]) if total[i] else None for i in range(len(classes))
            ),
            confusion=tuple(tuple(int(x) for x in row) for row in confusion),
            seconds=0.5,
        )
    )
    if save:
        path = run.predictions(epoch, "plain")
        predictions.save(found, path)
        log.emit(
            events.PredictionsSaved(
                epoch=epoch,
                step=step,
                split="test",
                variant="plain",
                path=str(path.relative_to(run.path)),
                images=IMAGES,
            )
        )


def some_predictions(
    test: float, *, epoch: int = 1, classes: int = 10, seed: int = 0, images: int = IMAGES
) -> Predictions:
    """Probabilities of ``images`` images, of which the share ``test`` is right."""
    random = np.random.default_rng(1000 + seed)
    labels = np.arange(images) % classes
    wrong = random.permutation(images)[: images - round(test * images)]
    predicted = labels.copy()
    predicted[wrong] = (labels[wrong] + random.integers(1, classes, len(wrong))) % classes
    rest = random.random((images, classes)) * 0.1
    rest[np.arange(images), labels] += 0.15
    rest[np.arange(images), predicted] += 0.4 + random.random(images)
    probabilities = (rest / rest.sum(1, keepdims=True)).astype(np.float16)
    return Predictions(
        probabilities=probabilities,
        labels=labels.astype(np.int64),
        split="test",
        fingerprint=FINGERPRINT,
        epoch=epoch,
        predicted=predicted.astype(np.int64),
    )


def fake_worker(*options: str) -> tuple[str, ...]:
    """The command of a trainer without torch; ``steps=N``, ``die=CODE``, ``refuse``."""
    return (sys.executable, str(Path(__file__).with_name("fake_worker.py")), *options)


def make_app(runs_dir: Path, *options: str, **arguments: Any) -> CifarApp:
    """The app with a fake trainer, of such options."""
    from tui.app import CifarApp  # tests of the command line need none

    return CifarApp(
        runs_dir,
        worker_command=fake_worker(*options),
        worker_log=runs_dir.parent / "worker.log",
        **arguments,
    )


synthetic_app = partial(make_app, data="synthetic")


def told(app: CifarApp) -> str:
    """What is told in the corner, a line a message."""
    return "\n".join(notice.message for notice in app._notifications)


def status(app: CifarApp, run: RunDir) -> str:
    """As the app knows it; empty of a run that it does not know."""
    follower = app.store.get(run.id)
    return follower.status if follower is not None else ""


def keys(app: CifarApp) -> str:
    """The line of keys."""
    from tui.widgets.key_line import KeyLine

    return app.screen.query_one(KeyLine).render().plain


def progress(epoch: int, done: int, **changes: object) -> events.Progress:
    fields: dict[str, object] = {
        "phase": "train",
        "epoch": epoch,
        "step": (epoch - 1) * 8 + done,
        "done": done,
        "total": 8,
        "loss": 1.25,
        "accuracy": 0.5,
        "lr": 0.1,
        "images_per_second": 4200.0,
        "memory": 312 << 20,
        **changes,
    }
    return events.Progress(**fields)  # type: ignore[arg-type]


async def at_rest(pilot: Pilot[None], app: CifarApp) -> None:
    """Until all logs are read, all screens are made, and nothing is done on a thread."""
    await until(pilot, lambda: not app.store.loading and not app.store.unfinished)
    await until(pilot, lambda: all(app.get_screen(name).is_running for name in app.SCREENS))
    await until(pilot, lambda: all(worker.is_finished for worker in app.workers))
    await pilot.pause()


async def until(pilot: Pilot[None], holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Let the app go on until something holds; the time is for a machine that does much else."""
    for _ in range(int(seconds / 0.05)):
        if holds():
            return
        await pilot.pause(0.05)
    raise AssertionError("it did not happen in time")

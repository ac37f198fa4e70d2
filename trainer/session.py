"""One run from its folder to its end: lock, log, data, net, training, and the reason it ended.

Torch-free at import; torch is loaded when training begins.
"""

from __future__ import annotations

import os
import platform
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trainer import config as settings
from trainer import events
from trainer.config import RunConfig
from trainer.control import Control
from trainer.errors import ConfigError, DataError, UserError
from trainer.on_end import start as start_on_end
from trainer.rundir import RunDir
from trainer.runlog import Listener, RunLog
from trainer.submit import read_config

if TYPE_CHECKING:
    from trainer.data.dataset import Dataset
    from trainer.engine import Training


def train_run(
    run: RunDir,
    control: Control,
    *,
    listener: Listener | None = None,
    data_dir: Path | None = None,
    resume: bool = False,
    on_end: str = "",
) -> events.RunEnded:
    """Train a submitted run on the calling thread, holding its lock.

    Args:
        run: its folder, with ``config.toml``.
        control: asked at every step and evaluation batch.
        listener: called with every envelope after it is on disk.
        data_dir: where downloaded data sets lie; the user's data directory by default.
        resume: go on from the checkpoint ``last``.
        on_end: a command to start when the attempt has ended, however it did.

    Returns:
        The last event. Failures end the run as failed with their reason, they are not raised.

    Raises:
        UserError: bad input; the log says the same as its last event, when it can be written.
    """
    with run.locked():
        return train_locked(
            run, control, listener=listener, data_dir=data_dir, resume=resume, on_end=on_end
        )


def train_locked(
    run: RunDir,
    control: Control,
    *,
    listener: Listener | None = None,
    data_dir: Path | None = None,
    resume: bool = False,
    on_end: str = "",
) -> events.RunEnded:
    """As ``train_run``; the caller holds the lock."""
    log = RunLog(run, listener)
    began = time.monotonic()
    training: Training | None = None
    ended: events.RunEnded | None = None
    try:
        control.poll(now=True)
        if control.stopping():
            return _end(log, None, began, "stopped")
        run.sweep()
        log.begin_attempt()
        log.emit(events.Notice(level="info", code="preparing", message="loading data and model"))
        from trainer.engine import StopTraining, TrainingFailed

        try:
            training = _prepare(run, log, control, data_dir, resume)
            training.fit()
            ended = _end(log, training, began, "completed")
        except StopTraining:
            if training is not None:
                training.save_checkpoint("last")
            ended = _end(log, training, began, "stopped")
        except TrainingFailed as failure:
            ended = _end(log, training, began, "failed", str(failure))
    except UserError as error:
        ended = _end(log, training, began, "failed", str(error))
        raise
    except Exception as error:
        _keep_traceback(run)
        ended = _end(log, training, began, "failed", _reason(error))
    finally:
        if ended is not None:
            _call(on_end, run, log, ended, training)
        log.close()
    return ended


def _call(
    command: str, run: RunDir, log: RunLog, ended: events.RunEnded, training: Training | None
) -> None:
    """Start the user's command; a wrong one is a notice after the end."""
    name, epochs = "", 0
    if training is not None:
        name, epochs = training.config.name or training.config.preset, training.at.epoch - 1
    problem = start_on_end(command, run, ended, name=name or run.id, epochs=epochs)
    if problem:
        log.emit(events.Notice(level="warning", code="on-end", message=problem))


def _prepare(
    run: RunDir, log: RunLog, control: Control, data_dir: Path | None, resume: bool
) -> Training:
    import torch

    from model import registry
    from model.summary import summarize
    from trainer import checkpoint
    from trainer import device as devices
    from trainer.data import sources
    from trainer.engine import Training

    config = read_config(run)
    _check_origin(run, config)
    device = devices.resolve(config.train.device)
    if device.type == "cpu":
        devices.keep_freed_memory()
    precision = devices.precision(config.train.precision, device)
    dataset = _limited(sources.load(config.data, data_dir=data_dir), config)
    if len(dataset.classes) > events.CLASSES:
        raise DataError(
            f"the data set has {len(dataset.classes)} classes, at most {events.CLASSES}"
        )
    if config.train.batch_size > len(dataset.train.labels):
        raise ConfigError(
            f"batch size {config.train.batch_size} is above the data set's "
            f"{len(dataset.train.labels)} training images: lower --batch-size"
        )
    torch.manual_seed(config.train.seed)
    try:
        net = registry.build(
            config.model.name,
            classes=len(dataset.classes),
            norm=config.model.norm,
            options=config.model.options,
        )
        for side in {32, config.train.low_resolution or 32}:
            registry.check_output(net, len(dataset.classes), side)
        summary = summarize(net)
    except registry.ModelError as error:
        raise ConfigError(str(error)) from None
    _fit_to_data(net, dataset, config.train.seed)
    training = Training(config, dataset, net, summary, device, precision, run, log, control)
    state = None
    if resume:
        state = checkpoint.load(run.checkpoint("last"))
        _check_same(state, config, dataset)
        training.load_state_dict(state)
    _announce(training, resumed=state is not None)
    return training


def _check_origin(run: RunDir, config: RunConfig) -> None:
    """A net is code: one that came along with a run of others is not run by resuming it."""
    from model import registry

    if registry.is_file(config.model.name):
        file = Path(config.model.name.rpartition(":")[0]).expanduser().resolve()
        if file.is_relative_to(run.path.parent.resolve()):
            raise ConfigError(
                f"the net {config.model.name} lies among the runs, where others' files may be: "
                "copy it elsewhere if you trust it, and start a new run"
            )


def _limited(dataset: Dataset, config: RunConfig) -> Dataset:
    return dataset.limited(config.train_limit) if config.train_limit else dataset


def _fit_to_data(net: object, dataset: Dataset, seed: int) -> None:
    """Let a net look at normalised training images before the first step, if it wants to."""
    prepare = getattr(net, "prepare", None)
    if prepare is None:
        return
    import torch

    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(dataset.train.labels), generator=generator)[:5000]
    images = torch.from_numpy(dataset.train.images)[some].float() / 255
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (dataset.mean, dataset.std))
    prepare((images - mean) / std)


def _check_same(state: dict[str, object], config: RunConfig, dataset: Dataset) -> None:
    if state.get("fingerprint") != dataset.fingerprint:
        raise DataError(
            "the data set is not the one the run was trained on: give the same one with --data"
        )
    # compared as settings, not as text: a later version may have more of them
    if settings.from_toml(str(state.get("config")), origin="checkpoint") != config:
        raise ConfigError("config.toml was changed after the checkpoint: start a new run instead")


def _announce(training: Training, *, resumed: bool) -> None:
    import torch

    from trainer import device as devices

    dataset, summary = training.dataset, training.summary
    training.log.emit(
        events.RunStarted(
            device=devices.describe(training.device),
            precision=training.precision,
            steps_per_epoch=training.steps_per_epoch,
            batch_size=training.config.train.batch_size,
            train_images=len(dataset.train.labels),
            test_images=len(dataset.test.labels),
            classes=dataset.classes,
            data_kind=dataset.kind,
            data_source=dataset.source,
            data_fingerprint=dataset.fingerprint,
            host=platform.node(),
            pid=os.getpid(),
            torch=str(torch.__version__),
            threads=torch.get_num_threads(),
            resumed_step=training.at.step if resumed else None,
        )
    )
    for notice in dataset.notices:
        training.log.emit(events.Notice(level="warning", code="data", message=notice))
    training.log.emit(
        events.ModelDescribed(
            layers=msgspec.convert(
                summary.layers, tuple[events.LayerRow, ...], from_attributes=True
            ),
            parameters=summary.parameters,
            trainable_parameters=summary.trainable_parameters,
            macs=summary.macs,
            receptive_field=summary.receptive_field,
            depthwise_separable=summary.depthwise_separable,
            dilated=summary.dilated,
            strided3x3=summary.strided3x3,
            max_pools=summary.max_pools,
            global_average_pooling=summary.global_average_pooling,
            fc_after_pooling=summary.fc_after_pooling,
        )
    )


def _end(
    log: RunLog,
    training: Training | None,
    began: float,
    state: events.EndState,
    error: str | None = None,
) -> events.RunEnded:
    if training is not None:
        training.settle()
    at = training.at if training is not None else None
    evaluated = at is not None and at.best_epoch > 0
    event = events.RunEnded(
        state=state,
        best_accuracy=at.best_accuracy if at is not None and evaluated else None,
        best_epoch=at.best_epoch if at is not None and evaluated else None,
        final_accuracy=at.final_accuracy if at is not None and evaluated else None,
        seconds=time.monotonic() - began - (training.paused_seconds if training else 0.0),
        error=error,
    )
    log.emit(event)
    return event


def _reason(error: Exception) -> str:
    """One line for the user."""
    text = (str(error).strip().splitlines() or [""])[0][:300]
    name = type(error).__name__
    # torch.OutOfMemoryError is known by name: torch itself may be what failed to load
    known = name == "OutOfMemoryError" or "allocate memory" in text or "out of memory" in text
    if isinstance(error, MemoryError) or known:
        return f"out of memory: lower the batch size or choose a smaller model ({text or name})"
    return f"{name}: {text}" if text else name


def _keep_traceback(run: RunDir) -> None:
    with suppress(OSError):
        (run.path / "traceback.txt").write_text(traceback.format_exc(), "utf-8")

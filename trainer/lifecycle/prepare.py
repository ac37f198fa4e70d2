"""What a run trains: data, net and, to resume, the checkpoint; on every rank of a group alike.

Torch-free at import; torch is loaded when a run is prepared.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from model.errors import ModelError
from trainer import events, schedule
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError
from trainer.lifecycle.admission import check_batch
from trainer.loop import cores, heap
from trainer.runs import net_files
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.origin import check_origin
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog

if TYPE_CHECKING:
    import torch
    from torch import nn

    from model.fast import Fast
    from model.summary import Summary
    from trainer.data.dataset import Dataset
    from trainer.device import Precision
    from trainer.distributed.group import Group, Member
    from trainer.lifecycle.own_net import Way
    from trainer.loop.engine import Training


def prepare(
    run: RunDir,
    config: RunConfig,
    log: RunLog,
    control: Control,
    data_dir: Path | None,
    *,
    resume: bool,
    group: Group | None = None,
) -> Training:
    """Load data, net and, to resume, the checkpoint; every rank of a group does.

    Raises:
        UserError: bad input.
    """
    from trainer import device as devices
    from trainer.loop.engine import Training
    from trainer.runs import best_checkpoint

    check_origin(run, config)
    device = _device(config, group)
    precision = devices.precision(config.train.precision, device)
    dataset = _data(config, data_dir)
    first = group is None or group.first
    if first and resume:
        net_files.check(run, config)
    net, summary, way, otherwise = _net(config, dataset, device, precision, group)
    if group is not None:
        group.introduce(devices.describe(device), way.precision)
        check_alike(group.members, config)
    training = Training(
        *(config, dataset, net, summary, device, way.precision, run, log, control),
        group=group,
        only_layout=way.layout,
    )
    if resume:
        state = _checkpoint(run, group)
        _check_same(state, config, dataset)
        training.load_state_dict(state)
    if first:
        _keep_net(run, config, log, training.at.step, resume=resume)
    _announce(training, resumed=resume)
    if first and resume:
        _tell_gap(training)
    if first:
        best_checkpoint.settle(run, log, training.at)
    if otherwise:
        log.emit(events.Notice(level="warning", code="net-fallback", message=otherwise))
    return training


def _device(config: RunConfig, group: Group | None) -> torch.device:
    """Where this process trains; made ready for it."""
    import torch

    from trainer import device as devices

    if group is None:
        device = devices.resolve(config.train.device)
    else:
        world = group.world
        device = devices.of_rank(config.train.device, world.local_rank, world.local_size)
    if device.type == "cpu":
        heap.keep_freed_memory()
        cores.take()
    elif device.type == "cuda":
        torch.cuda.set_device(device)  # streams and events are those of the current one
    return device


def _data(config: RunConfig, data_dir: Path | None) -> Dataset:
    from trainer.runs import same_data

    dataset = same_data.load(config.data, config, data_dir=data_dir)
    if len(dataset.classes) > events.CLASSES:
        raise DataError(
            f"the data set has {len(dataset.classes)} classes, at most {events.CLASSES}"
        )
    check_batch(config, len(dataset.train.labels))
    return dataset


def _net(
    config: RunConfig,
    dataset: Dataset,
    device: torch.device,
    precision: Precision,
    group: Group | None,
) -> tuple[nn.Module, Summary, Way, str]:
    """Build the net from the run's seed, on the host.

    Returns:
        The net, what it consists of, the way in which it is trained, and one line on why that is
        another than the settings', or nothing.

    Raises:
        ConfigError: there is no such net, or it cannot be trained.
    """
    import torch

    from model import registry, user_file
    from model.checks import check_output
    from model.fast import Fast
    from model.summary import summarize
    from trainer.lifecycle import own_net
    from trainer.loop import host_random
    from trainer.loop.engine import settings_layout

    train, classes, sides = config.train, len(dataset.classes), schedule.sides(config.train)
    torch.manual_seed(train.seed)
    host_random.seed(train.seed)
    way, otherwise = own_net.Way(precision, settings_layout(config)), ""
    try:
        net = registry.build(
            config.model.name,
            classes=classes,
            norm=config.model.norm,
            options=config.model.options,
        )
        with user_file.importable(config.model.name):
            for side in sides:
                check_output(net, classes, side)
            summary = summarize(net)
            if user_file.is_file(config.model.name):
                own_net.check_state(net)
                batch = train.batch_size
                batch = batch if group is None else len(range(batch)[group.part(batch)])
                way, otherwise = own_net.find_way(net, classes, sides, device, way, batch=batch)
    except ModelError as error:
        raise ConfigError(str(error)) from None
    if isinstance(net, Fast):
        _fit_to_data(net, dataset, train.seed)
    return net, summary, way, otherwise


def _fit_to_data(net: Fast, dataset: Dataset, seed: int) -> None:
    """Let a net look at normalised training images before the first step."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(dataset.train.labels), generator=generator)[:5000]
    images = torch.from_numpy(dataset.train.images)[some].float() / 255
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (dataset.mean, dataset.std))
    net.prepare((images - mean) / std)


def check_alike(members: Sequence[Member], config: RunConfig) -> None:
    """Ranks that compute otherwise would part: each has the same gradients, but its own net.

    Raises:
        ConfigError: they have other precisions, or GPUs on which Muon's products differ.
    """
    other = next((m for m in members if m.precision != members[0].precision), None)
    if other is not None:
        raise ConfigError(
            f"one process trains in {members[0].precision} ({members[0].device}), another in "
            f"{other.precision} ({other.device}): choose one with --precision"
        )
    kinds = sorted({m.device.partition(" ")[2] for m in members})
    if config.optimizer.name == "muon" and len(kinds) > 1:
        raise ConfigError(
            f"Muon's products differ between {' and '.join(kinds)}: choose GPUs of one kind, or "
            "another optimizer"
        )


def _checkpoint(run: RunDir, group: Group | None) -> dict[str, Any]:
    """The checkpoint ``last``: read by rank 0, so that the others need not see the folder."""
    from trainer.runs import checkpoint

    path = run.checkpoint("last")
    if group is None:
        return checkpoint.load(path)
    packed = checkpoint.read(path) if group.first else b""
    return checkpoint.unpack(group.tell(packed), path.name)


def _check_same(state: dict[str, object], config: RunConfig, dataset: Dataset) -> None:
    from trainer.runs import same_data, same_settings

    same_data.check(state, dataset)
    same_settings.check_checkpoint(config, state)


def _keep_net(run: RunDir, config: RunConfig, log: RunLog, step: int, *, resume: bool) -> None:
    """Put down what is trained, for all attempts that go on with it; tell where it was changed.

    Called when the net was built and its weights fit: before, it may well be refused.

    Raises:
        ConfigError: the run has trained another net: an edit after it was compared.
    """
    from model import user_file

    if resume:
        net_files.check(run, config, user_file.sources())
    if file := net_files.changed(run, config, user_file.sources()):
        before = "trained it" if resume else "was queued"
        line = f"{file} was changed since the run {before}: it is trained as it is now"
        log.emit(events.Notice(level="warning", code="net-changed", message=line))
    try:
        net_files.keep(run, config, user_file.sources(), step=step)
    except OSError:
        if resume:
            return  # what was put down before is true, or told that this net was accepted
        with suppress(OSError):  # nothing is known then: that may be of another net
            run.net.unlink()


def _tell_gap(training: Training) -> None:
    """Tell which epochs the checkpoint has and the log has not: its end may be lost, or damaged.

    Of the epoch under way only an evaluation can be: its training is told when that ends.
    """
    at, known = training.at, Follower(training.run).catch_up()
    trained = {row.epoch for row in known.epochs if row.lr is not None}
    tested = {row.epoch for row in known.epochs if row.test_accuracy is not None}
    # of others it is not known whether they gave a figure
    counted = {at.best_epoch, at.evaluated if at.final_accuracy >= 0 else 0} - {0}
    lost = sorted((set(range(1, at.epoch)) - trained) | (counted - tested))
    if not lost:
        return
    which = f"{'epoch' if len(lost) == 1 else 'epochs'} {_spans(lost)}"
    line = (
        f"the log lacks figures of {which}, which the checkpoint has: no table or curve shows them"
    )
    if all(notice.message != line for _, notice in known.notices):  # an earlier resume told it
        training.log.emit(events.Notice(level="warning", code=events.LOG_GAP, message=line))


def _spans(numbers: Sequence[int]) -> str:
    """Ascending numbers, those in a row as the first to the last."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return ", ".join(" to ".join(map(str, span)) for span in spans)


def _announce(training: Training, *, resumed: bool) -> None:
    import torch

    from trainer import device as devices

    dataset, summary = training.dataset, training.summary
    training.log.emit(
        events.RunStarted(
            device=devices.describe(training.device),
            precision=training.precision,
            steps_per_epoch=training.steps_per_epoch,
            total_steps=training.total_steps,
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
            ranks=_ranks(training.group),
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
            input_shape=summary.input_shape,
        )
    )


def _ranks(group: Group | None) -> tuple[events.Rank, ...]:
    if group is None:
        return ()
    return tuple(events.Rank(host=m.host, pid=m.pid, device=m.device) for m in group.members)

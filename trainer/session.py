"""One run from its folder to its end: lock, log, data, net, training, and the reason it ended.

Torch-free at import; torch is loaded when training begins.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trainer import config as settings
from trainer import events, heap, net_files, schedule
from trainer.admission import check_batch
from trainer.config import RunConfig
from trainer.control import Control
from trainer.distributed.aftermath import last_event, unbegun
from trainer.distributed.world import World
from trainer.errors import ConfigError, DataError, UserError
from trainer.follower import Follower
from trainer.on_end import call
from trainer.origin import check_origin
from trainer.protocol import Job
from trainer.rundir import RunDir
from trainer.runlog import Listener, RunLog
from trainer.submit import read_config

if TYPE_CHECKING:
    from model.fast import Fast
    from trainer.data.dataset import Dataset
    from trainer.distributed.group import Group, Member
    from trainer.distributed.lead import Lead
    from trainer.engine import Training


def train_run(
    run: RunDir,
    control: Control,
    *,
    listener: Listener | None = None,
    data_dir: Path | None = None,
    resume: bool = False,
    on_end: str = "",
    world: World | None = None,
) -> events.RunEnded:
    """Train a submitted run on the calling thread, holding its lock.

    Args:
        run: its folder, with ``config.toml``.
        control: asked at every step and evaluation batch.
        listener: called with every envelope after it is on disk.
        data_dir: where downloaded data sets lie; the user's data directory by default.
        resume: go on from the checkpoint ``last`` if there is one, as an attempt before may have
            ended without; a new run begins.
        on_end: a command to start when the attempt has ended, however it did.
        world: the ranks that torchrun has started, of which this is number 0. Without it a run
            of several processes is trained by a torchrun that is started for it.

    Returns:
        The last event. Failures end the run as failed with their reason, they are not raised.

    Raises:
        UserError: bad input; the log says the same as its last event, when it can be written.
    """
    with run.locked() as lock:
        return train_locked(
            run,
            control,
            listener=listener,
            data_dir=data_dir,
            resume=resume,
            on_end=on_end,
            world=world,
            lock=lock,
        )


def train_locked(
    run: RunDir,
    control: Control,
    *,
    listener: Listener | None = None,
    data_dir: Path | None = None,
    resume: bool = False,
    on_end: str = "",
    world: World | None = None,
    lock: int | None = None,
    on_failure: Callable[[BaseException], None] = lambda _: None,
) -> events.RunEnded:
    """As ``train_run``; the caller holds the lock, whose descriptor a torchrun inherits.

    What ended a run of this process as failed is told to ``on_failure``, too.
    """
    if world is None and lock is not None and (processes := _processes(run)) is not None:
        from trainer.distributed.launch import launch

        return launch(
            run,
            control,
            processes,
            lock,
            listener=listener,
            job=Job(
                run=str(run.path.absolute()),
                data_dir=None if data_dir is None else str(data_dir.absolute()),
                resume=resume,
                on_end=on_end,
            ),
        )
    resume = resume and run.has_checkpoint("last")  # for all ranks: they are told
    log = RunLog(run, listener)
    began = time.monotonic()
    training: Training | None = None
    ended: events.RunEnded | None = None
    lead: Lead | None = None
    try:
        control.poll(now=True)
        if control.stopping() and world is None:
            ended = _end(log, None, began, "stopped")
            return ended
        run.sweep()
        log.begin_attempt()
        log.emit(
            events.Notice(level="info", code=events.PREPARING, message="loading data and model")
        )
        from trainer.engine import StopTraining, TrainingFailed

        try:
            config = read_config(run)
            if world is not None:
                lead = _gather(world, run, log, on_end)
                if control.stopping():
                    lead.dismiss()
                    ended = _end(log, None, began, "stopped")
                    return ended
                lead.begin(run, config, data_dir, resume=resume)
            training = prepare(
                run,
                config,
                log,
                control,
                data_dir,
                resume=resume,
                group=None if lead is None else lead.group,
            )
            training.fit()
            ended = _end(log, training, began, "completed", lead=lead)
        except StopTraining:
            if training is not None:
                training.save_checkpoint("last")
            ended = _end(log, training, began, "stopped", lead=lead)
        except TrainingFailed as failure:
            ended = _end(log, training, began, "failed", str(failure), lead=lead)
            on_failure(failure)
        if lead is not None:
            lead.end()
    except UserError as error:
        how = "failed" if training is not None else unbegun(Follower(run).catch_up())
        ended = _end(log, training, began, how, str(error), lead=lead)
        on_failure(error)
        raise
    except (Exception, SystemExit) as error:  # a net may call exit()
        on_failure(error)
        _keep_traceback(run)
        reason = (lead.reason(error) if lead is not None else "") or _reason(error)
        if world is not None and world.restarts_left:
            from trainer.distributed.lead import tell_loss

            tell_loss(log, world, reason)
            if training is not None:
                training.settle()
            return events.RunEnded(state="failed", error=reason)
        ended = _end(log, training, began, "failed", reason, lead=lead)
    finally:
        if ended is not None:
            _call(on_end, run, log, ended, training)
        log.close()
        if ended is not None:
            Follower(run).keep_growing()
        training = None
        _give_memory_back()
    return ended


def _give_memory_back() -> None:
    """What the run needed of a GPU: whoever trains the next one in this process has it all."""
    if "torch" in sys.modules:  # else it ended before it began
        from trainer import device

        with suppress(RuntimeError):  # of a GPU on which nothing works any more
            device.give_memory_back()


def _processes(run: RunDir) -> RunConfig | None:
    """The run's settings, when they ask for several processes."""
    try:
        config = read_config(run)
    except UserError:
        return None  # told below, in the log
    return config if config.train.processes > 1 else None


def _gather(world: World, run: RunDir, log: RunLog, on_end: str) -> Lead:
    from trainer.distributed.lead import Lead

    return Lead(world, run, log, on_end)


def _call(
    command: str, run: RunDir, log: RunLog, ended: events.RunEnded, training: Training | None
) -> None:
    """Start the user's command; a wrong one is a notice after the end."""
    if not command:
        return
    follower = Follower(run)
    state = follower.catch_up()  # of what this attempt did some may not be on disk yet
    epochs = state.epochs_trained if training is None else training.epochs_done
    call(command, run, log, ended, name=follower.name, epochs=epochs)


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
    import torch

    from model import registry
    from model.fast import Fast
    from model.summary import summarize
    from trainer import best_checkpoint, host_random, own_net, same_data
    from trainer import device as devices
    from trainer.engine import Training, settings_layout

    check_origin(run, config)
    if group is None:
        device = devices.resolve(config.train.device)
    else:
        world = group.world
        device = devices.of_rank(config.train.device, world.local_rank, world.local_size)
    if device.type == "cpu":
        heap.keep_freed_memory()
    elif device.type == "cuda":
        torch.cuda.set_device(device)  # streams and events are those of the current one
    precision = devices.precision(config.train.precision, device)
    dataset = same_data.load(config.data, config, data_dir=data_dir)
    if len(dataset.classes) > events.CLASSES:
        raise DataError(
            f"the data set has {len(dataset.classes)} classes, at most {events.CLASSES}"
        )
    check_batch(config, len(dataset.train.labels))
    first = group is None or group.first
    file = _net_as_it_is(run, config, log, resume=resume) if first else ""
    torch.manual_seed(config.train.seed)
    host_random.seed(config.train.seed)
    try:
        net = registry.build(
            config.model.name,
            classes=len(dataset.classes),
            norm=config.model.norm,
            options=config.model.options,
        )
        for side in schedule.sides(config.train):
            registry.check_output(net, len(dataset.classes), side)
        summary = summarize(net)
        way, otherwise = own_net.Way(precision, settings_layout(config)), ""
        if registry.is_file(config.model.name):
            own_net.check_state(net)
            sides = schedule.sides(config.train)
            batch = config.train.batch_size
            batch = batch if group is None else len(range(batch)[group.part(batch)])
            way, otherwise = own_net.find_way(
                net, len(dataset.classes), sides, device, way, batch=batch
            )
            precision = way.precision
    except registry.ModelError as error:
        raise ConfigError(str(error)) from None
    if isinstance(net, Fast):
        _fit_to_data(net, dataset, config.train.seed)
    if group is not None:
        group.introduce(devices.describe(device), precision)
        check_alike(group.members, config)
    training = Training(
        *(config, dataset, net, summary, device, precision, run, log, control),
        group=group,
        only_layout=way.layout,
    )
    state = None
    if resume:
        state = _checkpoint(run, group)
        _check_same(state, config, dataset)
        training.load_state_dict(state)
    elif first:
        _keep_net(run, config, file)
    _announce(training, resumed=state is not None)
    if first:
        best_checkpoint.settle(run, log, training.at)
    if otherwise:
        log.emit(events.Notice(level="warning", code="net-fallback", message=otherwise))
    return training


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


def _net_as_it_is(run: RunDir, config: RunConfig, log: RunLog, *, resume: bool) -> str:
    """Compare the net's files with those before; the SHA-256 of its own.

    Raises:
        ConfigError: the run has trained another net.
    """
    if resume:
        net_files.check(run, config)
    elif file := net_files.changed(run, config):
        line = f"{file} was changed since the run was queued: it is trained as it is now"
        log.emit(events.Notice(level="warning", code="net-changed", message=line))
    return net_files.digest(config)


def _keep_net(run: RunDir, config: RunConfig, file: str) -> None:
    """Put down what is trained, once and for all attempts that go on with it."""
    from model import registry

    try:
        net_files.keep(run, config, file, registry.beside())
    except OSError:  # nothing is known then: what was put down before may be of another net
        with suppress(OSError):
            run.net.unlink()


def _checkpoint(run: RunDir, group: Group | None) -> dict[str, Any]:
    """The checkpoint ``last``: read by rank 0, so that the others need not see the folder."""
    from trainer import checkpoint

    path = run.checkpoint("last")
    if group is None:
        return checkpoint.load(path)
    packed = checkpoint.read(path) if group.first else b""
    return checkpoint.unpack(group.tell(packed), path.name)


def _fit_to_data(net: Fast, dataset: Dataset, seed: int) -> None:
    """Let a net look at normalised training images before the first step."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(dataset.train.labels), generator=generator)[:5000]
    images = torch.from_numpy(dataset.train.images)[some].float() / 255
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (dataset.mean, dataset.std))
    net.prepare((images - mean) / std)


def _check_same(state: dict[str, object], config: RunConfig, dataset: Dataset) -> None:
    from trainer import same_data

    same_data.check(state, dataset)
    # compared as settings, not as text: a later version may have more of them
    if _comparable(settings.from_toml(str(state.get("config")), origin="checkpoint")) != (
        _comparable(config)
    ):
        raise ConfigError("config.toml was changed after the checkpoint: start a new run instead")


def _comparable(config: RunConfig) -> RunConfig:
    """Without what may be another in the next attempt; that the data are the same is compared."""
    train = msgspec.structs.replace(config.train, processes=1, max_restarts=0)
    return msgspec.structs.replace(config, train=train, data="")


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
        )
    )


def _ranks(group: Group | None) -> tuple[events.Rank, ...]:
    if group is None:
        return ()
    return tuple(events.Rank(host=m.host, pid=m.pid, device=m.device) for m in group.members)


def _end(
    log: RunLog,
    training: Training | None,
    began: float,
    state: events.EndState,
    error: str | None = None,
    *,
    lead: Lead | None = None,
) -> events.RunEnded:
    if lead is not None:
        lead.settled()
    if training is None:
        earlier = Follower(log.run).catch_up()
        event = last_event(earlier, state, error, seconds=time.monotonic() - began)
        log.emit(event)
        return event
    training.settle()
    at = training.at
    evaluated = at.best_epoch > 0
    event = events.RunEnded(
        state=state,
        best_accuracy=at.best_accuracy if evaluated else None,
        best_epoch=at.best_epoch if evaluated else None,
        final_accuracy=at.final_accuracy if at.final_accuracy >= 0 else None,
        seconds=time.monotonic() - began - training.clock.paused_total,
        error=error,
    )
    log.emit(event)
    return event


def _reason(error: BaseException) -> str:
    """One line for the user."""
    text = (str(error).strip().splitlines() or [""])[0][:300]
    name = type(error).__name__
    if name == "RankLost":
        return text
    # torch.OutOfMemoryError is known by name: torch itself may be what failed to load
    known = name == "OutOfMemoryError" or "allocate memory" in text or "out of memory" in text
    if isinstance(error, MemoryError) or known:
        return f"out of memory: lower the batch size or choose a smaller model ({text or name})"
    from model.registry import reason

    return reason(error)


def _keep_traceback(run: RunDir) -> None:
    with suppress(OSError):
        run.traceback.write_text(traceback.format_exc(), "utf-8")

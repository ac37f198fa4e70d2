"""Putting a run on disk before anything trains it, anew or once more. Torch-free."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import msgspec

from trainer import config as settings
from trainer.config import RunConfig
from trainer.errors import ConfigError, RunError
from trainer.events import EndState, RunQueued
from trainer.files.regular_file import open_regular
from trainer.files.whole_file import whole_file
from trainer.runs import control, net_files, same_settings
from trainer.runs.follower import Follower
from trainer.runs.origin import check_origin, check_owner
from trainer.runs.rundir import NoLocksError, RunDir, create, option
from trainer.runs.runlog import RunLog, Tail
from trainer.runs.runstate import RunState

CONFIG_BYTES = 1 << 20


def submit(config: RunConfig, runs_dir: Path) -> RunDir:
    """Make the run's folder with its configuration and the first event of its log.

    Raises:
        ConfigError: its limits make no sense.
        RunError: the runs directory cannot be written.
    """
    settings.check_limits(config.limits)
    run = create(runs_dir, config.preset or config.model.name.rpartition(":")[2])
    text = settings.to_toml(config)
    try:
        _write(run, text)
        net_files.keep(run, config)
    except OSError as error:
        run.discard()
        raise RunError(f"cannot write {run.config}: {error.strerror}; free some space") from None
    _queue(run, config, text)
    return run


def withdraw(run: RunDir) -> None:
    """Remove the folder of a run that was submitted and could not begin, unless another process has
    taken it up meanwhile: any other may find it from its first event on.
    """
    try:
        with run.locked():
            state = Follower(run).catch_up()
            once = state.asked_at == state.queued_at
            if once and state.started is None and not run.has_checkpoint("last"):
                run.discard()
    except NoLocksError:
        run.discard()
    except RunError:
        return  # it is another's now


def resubmit(
    run: RunDir,
    *,
    processes: int | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    trust_net: bool = False,
    changed_net: bool = False,
) -> RunConfig:
    """Queue a run that has ended, or whose trainer died, to go on from its checkpoint ``last``.

    One that never began to train has none, and is queued to begin: the caller asks for a resume
    only where the checkpoint is there.

    What was asked of the earlier attempt is forgotten: its stop must not stop the next one. It may
    be trained by another number of processes than before, and its data may lie elsewhere by now:
    others than those of the checkpoint would take its place for good, and leave the run as it is.

    Args:
        run: its folder.
        processes: that train it; by default as before.
        data: where its data lie; by default as before, and then they are compared by who trains.
        data_dir: where downloaded sets lie.
        trust_net: whether a net that others can change may be run.
        changed_net: whether the run may go on with a net whose files were changed since.

    Returns:
        What it is trained with.

    Raises:
        RunError: it is completed, being trained, without a checkpoint, or cannot be written.
        ConfigError: its ``config.toml`` is not one, or that of another run; its net is one that
            others can change, or was changed since.
        DataError: ``data`` cannot be read, or are others.
    """
    config = read_config(run)
    if not trust_net:
        check_owner(config)
    check_origin(run, config)
    with run.locked():
        state = Follower(run).catch_up()
        ended = state.ended
        if ended is not None and ended.state == "completed":
            raise RunError(f"run {run.id} is completed: there is nothing left to train")
        asked = config
        if not state.begun:
            asked = _as_queued(run, config)
        elif run.has_checkpoint("last"):
            _check_settings(run, config, state)
        else:
            raise no_checkpoint(run)
        if run.has_checkpoint("last") and not changed_net:
            net_files.check(run, config)
        if data and run.has_checkpoint("last"):
            _check_data(run, config, data, data_dir)
        try:
            if changed_net and run.has_checkpoint("last"):
                net_files.accept(run, config)
            control.clear(run)
            if processes is None:
                processes = asked.train.processes
            other = _with(asked, processes, data or asked.data)
            settings.check(other, origin=run.id)
            before = _before(state) if run.has_checkpoint("last") else None
            if other == config:
                _queue(run, config, settings.to_toml(config), before)
            else:
                _queue_changed(run, other, before)
        except OSError as error:
            raise RunError(f"cannot resume run {run.id}: {error.strerror}") from None
    return other


def no_checkpoint(run: RunDir) -> RunError:
    """A run that has trained cannot go on without what it has learnt."""
    return RunError(
        f"run {run.id} has no checkpoint to go on from: start a new run in its place with "
        f"'cifar-tui train {shlex.quote(str(run.config))}{option(run.path.parent)}'"
    )


def queue_again(run: RunDir, config: RunConfig) -> None:
    """Queue a run that was begun with other settings and has no end, checkpoint or not.

    Raises:
        RunError: it is being trained, or cannot be written.
    """
    with run.locked():
        try:
            _queue_changed(run, config, _before(Follower(run).catch_up()))
        except OSError as error:
            raise RunError(f"cannot write {run.config}: {error.strerror}") from None


def _write(run: RunDir, text: str) -> None:
    with whole_file(run.config) as file:
        file.write(text.encode())


def _queue_changed(run: RunDir, config: RunConfig, before: EndState | None) -> None:
    """Queue a run with other settings than its ``config.toml`` has so far.

    The log comes first: of what a process that is killed in between leaves behind, ``_as_queued``
    can tell what was asked last.

    Raises:
        OSError: the disk is full; nothing has changed.
    """
    text = settings.to_toml(config)
    with whole_file(run.config) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
        _queue(run, config, text, before)


def _check_settings(run: RunDir, config: RunConfig, state: RunState) -> None:
    """Before a run that has begun is queued: from then on it is shown with these settings.

    Raises:
        ConfigError: it has trained with others.
    """
    if state.queued is None or not state.queued.config:
        return  # its trainer compares, too
    try:
        same_settings.check(config, settings.from_toml(state.queued.config, origin="run log"))
    except ConfigError:
        # the log may tell of settings that were refused; the checkpoint knows, and wants torch
        from trainer.runs import checkpoint

        same_settings.check_checkpoint(config, checkpoint.load(run.checkpoint("last")))


def _as_queued(run: RunDir, config: RunConfig) -> RunConfig:
    """What a run that has not begun was queued with last, which ``config.toml`` may not say yet.

    Without a checkpoint the log alone tells whether that is whole: the rest of one that was cut
    short would be another run, by defaults.

    Raises:
        ConfigError: the file says what was never asked.
    """
    tail, queued = Tail(run.log), list[str]()
    while tail.behind():
        queued += [e.event.config for e in tail.read() if isinstance(e.event, RunQueued)]
    asked = [settings.from_toml(text, origin="run log") for text in queued if text]
    if not asked or asked[-1] == config:
        return config
    if config not in asked:
        raise ConfigError("config.toml was changed after the run was queued: start a new run")
    # no more than a resume can change: the log may be of others, its net was not looked at
    return _with(config, asked[-1].train.processes, asked[-1].data)


def _with(config: RunConfig, processes: int, data: str) -> RunConfig:
    train = msgspec.structs.replace(config.train, processes=processes)
    return msgspec.structs.replace(config, train=train, data=data)


def _before(state: RunState) -> EndState | None:
    """How the run had ended when it was queued first of all the times that it did not begin."""
    if state.ended is not None:
        return state.ended.state
    return None if state.queued is None or state.trained else state.queued.before


def _check_data(run: RunDir, config: RunConfig, data: str, data_dir: Path | None) -> None:
    from trainer.runs import checkpoint, same_data  # torch is loaded only here

    state = checkpoint.load(run.checkpoint("last"))
    same_data.check(state, same_data.load(data, config, data_dir=data_dir))


def read_config(run: RunDir) -> RunConfig:
    """The configuration in a run's folder.

    Raises:
        RunError: it cannot be read.
        ConfigError: it is not one.
    """
    try:
        with open_regular(run.config) as file:
            data = file.read(CONFIG_BYTES + 1)
        if len(data) > CONFIG_BYTES:
            raise RunError(f"cannot read {run.config}: it is too long for a configuration")
        text = data.decode()
    except OSError as error:
        raise RunError(f"cannot read {run.config}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RunError(f"cannot read {run.config}: not UTF-8 text") from None
    return settings.from_toml(text, origin=f"{run.id}/config.toml")


def name_of(config: RunConfig, run: RunDir) -> str:
    """What a run is called, from its queuing on."""
    return config.name.strip() or config.preset or run.id


def _queue(run: RunDir, config: RunConfig, text: str, before: EndState | None = None) -> None:
    log = RunLog(run)
    log.emit(
        RunQueued(
            name=name_of(config, run),
            preset=config.preset,
            model=config.model.name,
            data=config.data,
            epochs=config.train.epochs,
            config=text,
            before=before,
        )
    )
    log.close()

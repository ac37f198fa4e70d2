"""Which run a launch of torchrun trains: a new one, or the one that its earlier attempt began."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from trainer.config import RunConfig
from trainer.distributed.world import World
from trainer.errors import RunError, UserError
from trainer.files.regular_file import open_regular
from trainer.lifecycle.aftermath import ended
from trainer.lifecycle.submit import queue_again, read_config, resubmit, submit, withdraw
from trainer.runs.rundir import RunDir, find, scan

LOOKED_AT = 100
"""Newest runs among which the earlier attempt's is looked for."""


def submit_once(config: RunConfig, runs_dir: Path, world: World) -> tuple[RunDir, bool]:
    """Submit a run, or find the one that this launch of torchrun had submitted before a restart.

    A name of a launch (``--rdzv-id``) may be given again, so that a run is known by the agent that
    had it begun. Where rank 0 may have come from another node's agent, a run of a launch of that
    name is found as well if it did not come to its end.

    Returns:
        The run, and whether it was there before.

    Raises:
        RunError: the runs directory cannot be written.
    """

    def fits(run: RunDir) -> bool:
        with suppress(UserError):
            return _shared_by(world, read_config(run)) == config
        return False

    run = _begun(runs_dir, world, fits) or _left_behind(runs_dir, world, fits)
    if run is not None:
        _go_on(run, world)
        return run, True
    run = submit(config, runs_dir)
    try:
        _sign(run, world)
    except RunError:
        withdraw(run)
        raise
    return run, False


def resubmit_once(
    query: str,
    runs_dir: Path,
    world: World,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    trust_net: bool = False,
    changed_net: bool = False,
) -> tuple[RunDir, bool]:
    """Queue a run to go on, or find the one that this launch had queued before a restart.

    Args:
        query: as of ``find``; ``last`` may be another run by the time of a restart.
        runs_dir: where it lies.
        world: says how many processes train.
        data: as of ``resubmit``.
        data_dir: as of ``resubmit``.
        trust_net: as of ``resubmit``.
        changed_net: as of ``resubmit``.

    Returns:
        The run, and whether it had been queued before.

    Raises:
        RunError: there is none, or it cannot go on.
        ConfigError: its ``config.toml`` is not one.
        DataError: as of ``resubmit``.
    """
    run = _begun(runs_dir, world, lambda run: query == "last" or query in run.id)
    if run is not None:
        _go_on(run, world)
        return run, True
    run = find(runs_dir, query)
    resubmit(
        run,
        processes=world.size,
        data=data,
        data_dir=data_dir,
        trust_net=trust_net,
        changed_net=changed_net,
    )
    # behind the log's entry: who dies in between leaves a run that is queued once more
    _sign(run, world)
    return run, False


def _begun(runs_dir: Path, world: World, fits: Callable[[RunDir], bool]) -> RunDir | None:
    """The run of an earlier attempt of this agent.

    An agent may start its ranks anew without counting that, when nodes come or go. One that has
    counted nothing and finds an end is asked to train once more.
    """
    for run in scan(runs_dir)[:LOOKED_AT]:
        mine = _signed(run) == (world.launch, world.agent)
        if mine and fits(run) and (world.restarts or ended(run) is None):
            return run
    return None


def _left_behind(runs_dir: Path, world: World, fits: Callable[[RunDir], bool]) -> RunDir | None:
    """The run without an end that the agent of another node has begun.

    Of several nodes not every agent counts the restarts, and of those that are left there may be
    one. A launch whose name is its address has one node with rank 0 for good.
    """
    if ":" in world.launch or not (world.restarts or world.size > world.local_size):
        return None
    for run in scan(runs_dir)[:LOOKED_AT]:
        named = _signed(run)[0] == world.launch
        if named and fits(run) and ended(run) is None and not run.is_locked():
            return run
    return None


def _go_on(run: RunDir, world: World) -> None:
    """Let this agent have the run; one of fewer or more nodes trains it in other processes."""
    config = read_config(run)
    if (shared := _shared_by(world, config)) != config and ended(run) is None:
        queue_again(run, shared)
    _sign(run, world)


def _shared_by(world: World, config: RunConfig) -> RunConfig:
    train = msgspec.structs.replace(config.train, processes=world.size)
    return msgspec.structs.replace(config, train=train)


def _sign(run: RunDir, world: World) -> None:
    try:
        run.launch.write_text(f"{world.launch}\n{world.agent}\n", "utf-8")
    except OSError as error:
        raise RunError(f"cannot write {run.launch}: {error.strerror}") from None


def _signed(run: RunDir) -> tuple[str, str]:
    """The launch and the agent that had the run begun; empty where none had."""
    with suppress(OSError, UnicodeDecodeError), open_regular(run.launch) as file:
        launch, _, agent = file.read(8192).decode().partition("\n")
        return launch, agent.removesuffix("\n")
    return "", ""

"""Which run a launch of torchrun trains: a new one, or the one that its earlier attempt began."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from trainer.config import RunConfig
from trainer.distributed.lead import ended
from trainer.distributed.world import World
from trainer.errors import RunError, UserError
from trainer.rundir import RunDir, scan
from trainer.runlog import open_regular
from trainer.submit import read_config, submit

LOOKED_AT = 100
"""Newest runs among which the earlier attempt's is looked for."""


def submit_once(config: RunConfig, runs_dir: Path, world: World) -> tuple[RunDir, bool]:
    """Submit a run, or find the one that this launch of torchrun had submitted before a restart.

    Of several nodes not every agent counts the restarts: there a run of a launch that was given a
    name (``--rdzv-id``), and that did not come to its end, is found in any case.

    Returns:
        The run, and whether it was there before.

    Raises:
        RunError: the runs directory cannot be written.
    """
    uncounted = world.size > world.local_size and ":" not in world.launch
    if world.restarts or uncounted:
        for run in scan(runs_dir)[:LOOKED_AT]:
            if not (_launched_by(run, world) and _config(run) == config):
                continue
            if world.restarts or (ended(run) is None and not run.is_locked()):
                return run, True
    run = submit(config, runs_dir)
    try:
        run.launch.write_text(world.launch, "utf-8")
    except OSError as error:
        run.discard()
        raise RunError(f"cannot write {run.launch}: {error.strerror}") from None
    return run, False


def _launched_by(run: RunDir, world: World) -> bool:
    with suppress(OSError, UnicodeDecodeError), open_regular(run.launch) as file:
        return file.read(1024).decode() == world.launch
    return False


def _config(run: RunDir) -> RunConfig | None:
    with suppress(UserError):
        return read_config(run)
    return None

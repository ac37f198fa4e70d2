"""What torchrun tells a process through its environment: which rank of how many. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from trainer.errors import ConfigError


@dataclass(frozen=True)
class World:
    """This process among those that train one run together."""

    rank: int
    size: int
    local_rank: int
    """Among the processes of this machine: the number of its GPU."""
    local_size: int
    restarts: int = 0
    """How often the elastic agent has started all ranks anew."""
    max_restarts: int = 0
    launch: str = ""
    """The name that torchrun was given, or its address: another launch may have the same."""
    agent: str = ""
    """The same for all attempts that one process of torchrun starts, and for no others."""
    parent: int = field(default_factory=os.getppid, compare=False)
    """The process of torchrun, which has started this one."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes the log and the files."""
        return self.rank == 0

    @property
    def orphaned(self) -> str:
        """One line when torchrun is gone; empty while it lives."""
        gone = os.getppid() != self.parent
        return "torchrun, which started the ranks, is gone" if gone else ""

    @property
    def restarts_left(self) -> int:
        """How often the agent will still start all ranks anew."""
        return 0 if self.orphaned else max(0, self.max_restarts - self.restarts)


def from_environment(environment: Mapping[str, str] | None = None) -> World | None:
    """The world that torchrun has put this process in; ``None`` when it was started otherwise.

    Raises:
        ConfigError: the variables make no sense.
    """
    given = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" not in given:
        return None
    launch = given["TORCHELASTIC_RUN_ID"]
    if launch in ("", "none"):  # a static rendezvous has no name but its address
        launch = f"{given.get('MASTER_ADDR', '')}:{given.get('MASTER_PORT', '')}"
    try:
        world = World(
            rank=int(given["RANK"]),
            size=int(given["WORLD_SIZE"]),
            local_rank=int(given["LOCAL_RANK"]),
            local_size=int(given["LOCAL_WORLD_SIZE"]),
            restarts=int(given.get("TORCHELASTIC_RESTART_COUNT", "0")),
            max_restarts=int(given.get("TORCHELASTIC_MAX_RESTARTS", "0")),
            launch=launch,
            agent=_agent(given),
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"torchrun's environment is incomplete ({error}): start with torchrun, or without "
            "the TORCHELASTIC_ variables"
        ) from None
    if not (0 <= world.rank < world.size and 0 <= world.local_rank < world.local_size):
        raise ConfigError(
            f"torchrun's environment says rank {world.rank} of {world.size}, local rank "
            f"{world.local_rank} of {world.local_size}: start with torchrun"
        )
    return world


def _agent(given: Mapping[str, str]) -> str:
    if file := given.get("TORCHELASTIC_ERROR_FILE"):
        # in a folder that each torchrun makes anew: FOLDER/attempt_0/RANK/error.json
        return str(Path(file).parent.parent.parent)
    import psutil

    with suppress(psutil.Error):  # it keeps no files
        return f"{os.getppid()} {psutil.Process(os.getppid()).create_time()}"
    return ""


def share(count: int, rank: int, size: int) -> slice:
    """The part of ``count`` things that a rank has: all of them once, sizes at most one apart."""
    each, more = divmod(count, size)
    start = rank * each + min(rank, more)
    return slice(start, start + each + (rank < more))

"""The processes of a run and what they tell each other: PyTorch's own distributed package."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import msgspec
import psutil
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore

from trainer.distributed.meeting import meet
from trainer.distributed.world import World, share
from trainer.errors import first_line
from trainer.processes import lives

TIMEOUT = "CIFAR_TUI_DISTRIBUTED_TIMEOUT"
SECONDS = 600
"""After so long without an answer another rank counts as lost; ``TIMEOUT`` says otherwise."""


class RankLost(Exception):  # noqa: N818  # it has ended, perhaps without an error
    """Another process of the run does not answer any more."""


class Member(msgspec.Struct, frozen=True):
    """A rank as it introduces itself."""

    host: str
    pid: int
    device: str = ""
    precision: str = ""
    place: str = ""
    """Where its pid means a process: one boot of one machine, one container of it."""


class Group:
    """This process's connection to all others; collective calls are made by all, in one order.

    Host tensors go through Gloo, tensors on a GPU through NCCL.

    Raises:
        RankLost: not all ranks have come within the timeout.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.rank, self.size, self.first = world.rank, world.size, world.first
        self.members: tuple[Member, ...] = ()
        self._beside: dict[int, psutil.Process | None] = {}
        """Other ranks whose processes can be seen from here; none where one had ended already."""
        limit = timedelta(seconds=_timeout())
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available() and world.local_rank < torch.cuda.device_count():
            torch.cuda.set_device(world.local_rank)
        try:
            store = meet(self.rank, limit)
            self._store = PrefixStore("cifar-tui", store)
            dist.init_process_group(
                backend, store=store, rank=self.rank, world_size=self.size, timeout=limit
            )
        except (RuntimeError, ValueError, StopIteration) as error:
            raise RankLost(
                f"rank {self.rank} of {self.size} cannot reach the others: {_line(error)}"
            ) from None
        self.norms = _new_group()
        """Batch norm's statistics: apart, as gradients are exchanged at the same time."""
        self.signals = _new_group("gloo")
        """Host tensors that are exchanged behind the training's back."""

    def part(self, count: int) -> slice:
        """This rank's part of so many things."""
        return share(count, self.rank, self.size)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place; every rank has the same bits."""
        dist.all_reduce(values)
        return values

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """All rows [count, …] from each rank's ``part``, on every rank."""
        longest = -(-count // self.size)
        padded = rows.new_zeros((longest, *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        slices = [share(count, rank, self.size) for rank in range(self.size)]
        return torch.cat([p[: s.stop - s.start] for p, s in zip(parts, slices, strict=True)])

    def tell(self, data: bytes = b"") -> bytes:
        """Rank 0's bytes, on every rank."""
        length = torch.tensor([len(data)], dtype=torch.int64)
        dist.broadcast(length, 0)
        whole = torch.empty(int(length), dtype=torch.uint8)
        if self.first and data:
            whole.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        if len(whole):
            dist.broadcast(whole, 0)
        return whole.numpy().tobytes()

    def introduce(self, device: str, precision: str) -> None:
        """Let every rank know who the others are."""
        me = Member(platform.node(), os.getpid(), device, precision, _place())
        self._store.set(f"member/{self.rank}", msgspec.json.encode(me).decode())
        names = [f"member/{rank}" for rank in range(self.size)]
        # a barrier before: get waits for a key, but not for a rank that has died
        self.sum(torch.zeros(1))
        found = [msgspec.json.decode(self._store.get(name), type=Member) for name in names]
        self.members = tuple(found)
        self._beside = {
            rank: _process(member.pid)
            for rank, member in enumerate(found)
            if rank != self.rank and member.place == me.place
        }

    def report_failure(self, reason: str) -> None:
        """Leave word of why this rank ends, for rank 0's log."""
        with suppress(RuntimeError):
            self._store.set(f"failed/{self.rank}", reason[:300])

    def lost(self) -> str:
        """One line on a rank that has failed or is gone; empty when none is known to be."""
        for rank in range(self.size):
            if rank == self.rank:
                continue
            with suppress(RuntimeError):
                if self._store.check([f"failed/{rank}"]):
                    said = self._store.get(f"failed/{rank}").decode()
                    return f"rank {rank} of {self.size} failed: {said}"
        return self.lost_process()

    def lost_process(self) -> str:
        """As ``lost``, of processes of this machine that have ended; asks nobody."""
        if self.world.orphaned:
            return self.world.orphaned
        for rank, process in self._beside.items():
            if process is None or not lives(process):
                pid = self.members[rank].pid
                return f"rank {rank} of {self.size} (process {pid}) was killed or has ended"
        return ""

    def why_lost(self, error: BaseException, seconds: float = 2.0) -> str:
        """One line on why a collective call has failed; waits a little for the news of it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := self.lost():
                return found
            time.sleep(0.05)
        hosts = sorted({m.host for m in self.members} - {platform.node()})
        where = f" (on {', '.join(hosts)}?)" if hosts else ""
        return f"another rank of {self.size} does not answer{where}: {_line(error)}"

    def part_ways(self) -> None:
        """Wait until all ranks are done: who leaves early looks like one that was killed."""
        with suppress(RuntimeError):
            self.sum(torch.zeros(1))

    def close(self) -> None:
        """Leave; safe when others are lost."""
        with suppress(RuntimeError, ValueError):
            dist.destroy_process_group()


def _new_group(backend: str | None = None) -> dist.ProcessGroup:
    group = dist.new_group(backend=backend)
    assert isinstance(group, dist.ProcessGroup)
    return group


def is_loss(error: BaseException) -> bool:
    """Whether an exception is the distributed package's: somebody else's end, not our own."""
    kinds: Sequence[type[BaseException]] = (dist.DistBackendError, dist.DistNetworkError)
    if isinstance(error, (RankLost, *kinds)):
        return True
    text = str(error).lower()
    signs = ("gloo", "connection closed by peer", "connection reset", "process group", "nccl")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def _place() -> str:
    """The same for processes that see each other; a host's name may be that of two containers."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    return platform.node()


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _timeout() -> float:
    with suppress(ValueError):
        return max(1.0, float(os.environ.get(TIMEOUT, "")))
    return SECONDS


def _line(error: BaseException) -> str:
    return first_line(error)[:200]

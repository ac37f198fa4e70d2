"""Runs trained by two processes that are forked from one that has loaded torch."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

from tests.training_helpers import TINY_NET
from trainer import config as settings
from trainer import events
from trainer.distributed.world import World
from trainer.lifecycle.submit import submit
from trainer.presets import catalog
from trainer.runs import control
from trainer.runs.control import Control
from trainer.runs.rundir import RunDir

NO_DROPOUT = TINY_NET.replace("nn.Dropout(0.1)", "nn.Identity()")
GROUP_NORM = NO_DROPOUT.replace("nn.BatchNorm2d(8)", "nn.GroupNorm(2, 8)")


@dataclass(frozen=True)
class Task:
    """What the ranks do with a run."""

    run: Path
    resume: bool = False
    command: control.Command | None = None
    at_step: int = 0
    """When rank 0 has reported this step, the command is asked for."""
    dies: int | None = None
    """The rank that is killed there instead."""
    deleted: bool = False
    """Whether the run's folder is."""


def a_run(folder: Path, data: Path, net: str = NO_DROPOUT, *overrides: str) -> RunDir:
    """Two epochs of six steps; 15 images a step, so that two ranks have unlike parts."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "net.py"
    file.write_text(net)
    config = catalog.load(
        "quick",
        [
            f"model.name='{file}:Tiny'",
            f"data='{data}'",
            "train.epochs=2",
            "train.batch_size=15",
            "train.device=cpu",
            "train.precision=fp32",
            "optimizer.lr=0.05",
            *overrides,
        ],
    )
    settings.check(config)
    return submit(config, folder / "runs")


def forks() -> ForkServerContext:
    """Forks processes that have loaded what training needs: they begin in an instant."""
    context = multiprocessing.get_context("forkserver")
    loaded = (
        "trainer.loop.engine",
        "trainer.lifecycle.session",
        "trainer.worker.worker",
        "model.summary",
    )
    context.set_forkserver_preload([*loaded, "torch._dynamo"])
    return context


def train_together(*tasks: Task, size: int = 2) -> list[int | None]:
    """Train runs one after another in ``size`` processes; gives their exit codes."""
    context = forks()
    # rank 0 of every task listens on a port of its own
    ports = [_free_port() for _ in tasks]
    processes = [
        context.Process(target=_rank, args=(rank, size, tasks, ports)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _rank(rank: int, size: int, tasks: tuple[Task, ...], ports: list[int]) -> None:
    import torch

    from trainer.distributed import agreement, watch
    from trainer.distributed import rank as ranks
    from trainer.files import disk
    from trainer.lifecycle.session import train_run
    from trainer.loop import reports

    torch.set_num_threads(1)
    disk.PATIENCE = 60.0  # what is done at an event is done before the next one
    reports.PROGRESS_SECONDS = agreement.SECONDS = 0.0
    watch.PATIENCE = 1.0
    for task, port in zip(tasks, ports, strict=True):
        os.environ.update(
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size)
        )
        world = World(rank, size, rank, size)
        if task.dies == rank:
            _die_at(task.at_step)
        if rank:
            code = ranks._follow(world)
        else:
            run = RunDir(task.run)
            asked = Control(run)

            def listen(
                envelope: events.Envelope, task: Task = task, asked: Control = asked
            ) -> None:
                event = envelope.event
                if isinstance(event, events.Progress) and event.step >= task.at_step:
                    if task.command is not None:
                        asked.request(task.command)
                    if task.deleted:
                        shutil.rmtree(task.run, ignore_errors=True)

            ended = train_run(run, asked, listener=listen, resume=task.resume, world=world)
            code = int(ended.state == "failed")
        if code:
            ranks.leave(code)


def _die_at(step: int) -> None:
    from trainer.loop.engine import Training

    whole = Training._step

    def deadly(self: Training, *arguments: object) -> None:
        if self.at.step >= step:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(self, *arguments)  # type: ignore[arg-type]

    Training._step = deadly  # type: ignore[method-assign,assignment]

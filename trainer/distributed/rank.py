"""A process that torchrun has started: ``python -m trainer.distributed.rank JOB``.

JOB is a line of ``trainer.protocol``, of a run whose lock torchrun holds for whoever launched it.
``follow`` is also what the ranks other than 0 do under ``torchrun -m trainer train …``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trainer import config as settings
from trainer import events
from trainer.distributed import lead
from trainer.distributed.silent_log import SilentLog
from trainer.distributed.world import World, from_environment
from trainer.errors import ConfigError, UserError
from trainer.exit_codes import BAD_INPUT, COMPLETED, FAILED, for_torchrun
from trainer.lifecycle import aftermath
from trainer.loop import heap
from trainer.protocol import Job
from trainer.runs.control import Control
from trainer.runs.rundir import RunDir
from trainer.spoiled import keep_if_spoiled, leave

if TYPE_CHECKING:
    from trainer.distributed.group import Group

PARENT_SECONDS = 0.1
LINGER_SECONDS = 20.0
"""A follower that was told to end does so with rank 0, or after this."""


def main() -> int:
    """Train the job of the command line; the exit code tells torchrun whether to start anew."""
    world = from_environment()
    if world is None:
        raise ConfigError("trainer.distributed.rank is started by torchrun")
    heap.share_one_arena()
    if not world.first:
        return follow(world)
    end_with_parent(world)
    job = msgspec.json.decode(sys.argv[1], type=Job)
    run, control = RunDir(Path(job.run)), Control(RunDir(Path(job.run)))
    if not run.is_locked():  # torchrun was gone before the first look at it
        return FAILED
    # torchrun tells its ranks to end when it is told so itself, or has lost one of them
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: control.request("stop"))
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(_lead(world, run, control, job)))
    thread.daemon = True
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # signals are heard in between
    leave(codes[0] if codes else FAILED)
    return FAILED


def _lead(world: World, run: RunDir, control: Control, job: Job) -> int:
    from trainer.lifecycle.session import train_locked

    data_dir = Path(job.data_dir) if job.data_dir else None
    resume = job.resume or world.restarts > 0
    if world.restarts and (ended := aftermath.ended(run)) is not None:
        return dismiss(world, run, ended)
    try:
        ended = train_locked(
            run, control, data_dir=data_dir, resume=resume, on_end=job.on_end, world=world
        )
    except UserError:
        return BAD_INPUT  # it is in the log
    return for_torchrun(ended)


def dismiss(world: World, run: RunDir, ended: events.RunEnded) -> int:
    """The run had ended before torchrun started the ranks anew: they end too."""
    from trainer.distributed.group import Group

    print(
        f"cifar-tui: run {run.id} had ended ({ended.state}) before torchrun started the ranks "
        "anew: they train nothing",
        file=sys.stderr,
        flush=True,
    )
    group = Group(world)
    group.tell(b"")
    group.close()
    return for_torchrun(ended)


def follow(world: World) -> int:
    """Train what rank 0 says, until it ends; nothing is written."""
    end_with_parent(world)
    codes: list[int] = []
    asked: list[float] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # rank 0 hears it too, and all end at the same step
        signal.signal(number, lambda *_: asked.append(time.monotonic()))
    thread = threading.Thread(target=lambda: codes.append(_follow(world)), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        if asked and time.monotonic() - asked[0] > LINGER_SECONDS:
            leave(FAILED)
    leave(codes[0] if codes else FAILED)
    return FAILED


def end_with_parent(world: World) -> None:
    """Leave at once when torchrun is gone, wherever this rank waits: the run's lock went with it,
    and a rank that waits for others would do so for the whole timeout.
    """

    def look() -> None:
        while not world.orphaned:
            time.sleep(PARENT_SECONDS)
        os._exit(FAILED)

    threading.Thread(target=look, name="parent", daemon=True).start()


def _follow(world: World) -> int:
    from trainer.distributed.group import Group, RankLost, is_loss

    try:
        group = Group(world)
        told = group.tell()
    except (RankLost, RuntimeError):
        return FAILED
    if not told:
        return COMPLETED
    try:
        return _train(group, msgspec.json.decode(told, type=lead.Start))
    except (Exception, SystemExit) as error:  # a net may call exit()
        keep_if_spoiled(error)
        if not is_loss(error):
            if os.environ.get("CIFAR_TUI_DEBUG"):
                raise
            from model.user_file import reason

            group.report_failure(str(error) if isinstance(error, UserError) else reason(error))
        return FAILED


def _train(group: Group, start: lead.Start) -> int:
    from trainer.distributed.watch import Watch
    from trainer.lifecycle.prepare import prepare
    from trainer.loop.engine import StopTraining
    from trainer.loop.reports import TrainingFailed

    watch = Watch(group.world, lambda lost: leave(FAILED))
    watch.group = group
    run = RunDir(Path(start.run))
    data_dir = Path(start.data_dir) if start.data_dir else None
    config = settings.from_toml(start.config)
    code = COMPLETED
    training = None
    try:
        training = prepare(
            run, config, SilentLog(run), Control(), data_dir, resume=start.resume, group=group
        )
        training.fit()
    except StopTraining:
        if training is not None:
            training.save_checkpoint("last")
    except TrainingFailed as failure:
        keep_if_spoiled(failure, training)
        code = FAILED
    watch.close()
    group.part_ways()
    group.close()
    return code


if __name__ == "__main__":
    sys.exit(main())

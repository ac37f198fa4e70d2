"""A session that trains nothing but emits a run's events: ``python -m tests.fake_session ARGS``
is the command line with it. ``FAKE_SESSION``: how it goes on (see ``train_run``)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tests import sample_log
from trainer import events
from trainer.distributed.world import World
from trainer.errors import DeviceError
from trainer.runs.control import Control
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import Listener, RunLog


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
    """``complete``, ``fail``, ``refuse``, ``crash``; ``wait`` for a stop; ``hang`` for ever."""
    how = os.environ.get("FAKE_SESSION", "complete")
    with run.locked():
        log = RunLog(run, listener)
        log.begin_attempt()
        ended = events.RunEnded(
            state="completed", best_accuracy=4 / 6, best_epoch=2, final_accuracy=4 / 6, seconds=9.0
        )
        if how == "refuse":
            log.emit(events.RunEnded(state="failed", error="no GPU"))
            log.close()
            raise DeviceError("no CUDA device: use --device cpu")
        for event in [
            sample_log.started(),
            sample_log.described(),
            *sample_log.epoch_events(1, 0.5),
            events.Notice(level="warning", code="x", message="[red]odd[/]\x1b[31m"),
            *sample_log.epoch_events(2, 4 / 6),
            sample_log.eval_ended(2, 5 / 6, "tta"),
        ]:
            log.emit(event)
        if how == "crash":
            raise ValueError("a bug")
        if how == "fail":
            run.traceback.write_text("Traceback")
            ended = events.RunEnded(state="failed", error="out of memory: lower the batch size")
        while how == "hang" or (how == "wait" and not control.stopping()):
            time.sleep(0.01)
        if control.stopping():
            ended = events.RunEnded(state="stopped", best_accuracy=0.5, best_epoch=1, seconds=1.0)
        log.emit(ended)
        log.close()
    return ended


def main() -> int:
    from trainer.cli import train
    from trainer.cli.main import run
    from trainer.lifecycle import session

    session.train_run = train_run
    train.admitted = lambda config, data_directory: config
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

"""Putting a run on disk before anything trains it. Torch-free."""

from __future__ import annotations

from pathlib import Path

from trainer import config as settings
from trainer.config import RunConfig
from trainer.errors import RunError
from trainer.events import RunQueued
from trainer.rundir import RunDir, create
from trainer.runlog import RunLog


def submit(config: RunConfig, runs_dir: Path) -> RunDir:
    """Make the run's folder with its configuration and the first event of its log.

    Raises:
        RunError: the runs directory cannot be written.
    """
    run = create(runs_dir, config.preset or config.model.name.rpartition(":")[2])
    text = settings.to_toml(config)
    try:
        run.config.write_text(text, "utf-8")
    except OSError as error:
        raise RunError(f"cannot write {run.config}: {error.strerror}; free some space") from None
    log = RunLog(run)
    log.emit(
        RunQueued(
            name=config.name or config.preset or run.id,
            preset=config.preset,
            model=config.model.name,
            data=config.data,
            epochs=config.train.epochs,
            config=text,
        )
    )
    log.close()
    return run

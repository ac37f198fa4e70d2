"""One run from its folder to its end: lock, log, training, and the reason it ended.

Torch-free at import; torch is loaded when training begins.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING

from trainer import events
from trainer.config import RunConfig
from trainer.distributed.world import World
from trainer.errors import UserError, first_line
from trainer.lifecycle.aftermath import tell_end
from trainer.lifecycle.on_end import call
from trainer.lifecycle.prepare import prepare
from trainer.lifecycle.submit import no_checkpoint, read_config
from trainer.loop import cores
from trainer.protocol import Job
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import Listener, RunLog
from trainer.runs.runstate import RunState
from trainer.spoiled import keep_if_spoiled, spoiled

if TYPE_CHECKING:
    from trainer.distributed.lead import Lead
    from trainer.loop.engine import Training


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
            ended without; a run that never had one begins.
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
    gone = resume and not run.has_checkpoint("last")
    resume = resume and not gone  # for all ranks: they are told
    log = RunLog(run, listener)
    control.watch(log)
    began = time.monotonic()
    training: Training | None = None
    ended: events.RunEnded | None = None
    state: RunState | None = None
    lead: Lead | None = None

    def failed(error: BaseException) -> None:
        keep_if_spoiled(error, training)
        on_failure(error)

    try:
        control.poll(now=True)
        if control.stopping() and world is None:
            ended, state = _end(log, None, began, "stopped")
            return ended
        run.sweep()
        log.begin_attempt()
        log.emit(
            events.Notice(level="info", code=events.PREPARING, message="loading data and model")
        )
        from trainer.loop.engine import StopTraining
        from trainer.loop.reports import TrainingFailed

        try:
            if gone and _had_checkpoint(run):
                raise no_checkpoint(run)
            config = read_config(run)
            if world is not None:
                lead = _gather(world, run, log, on_end)
                if control.stopping():
                    lead.dismiss()
                    ended, state = _end(log, None, began, "stopped")
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
            ended, state = _end(log, training, began, "completed", lead=lead)
        except StopTraining:
            if training is not None:
                training.save_checkpoint("last")
            ended, state = _end(log, training, began, "stopped", lead=lead)
        except TrainingFailed as failure:
            ended, state = _end(log, training, began, "failed", str(failure), lead=lead)
            failed(failure)
        if lead is not None:
            lead.end()
    except UserError as error:
        ended, state = _end(log, training, began, None, str(error), lead=lead)
        failed(error)
        raise
    except BaseException as error:  # a net may call exit(), and Rust's panics are no Exception
        # Ctrl-C interrupts the main thread alone; elsewhere the net has raised it
        if isinstance(error, KeyboardInterrupt) and current_thread() is main_thread():
            raise
        failed(error)
        _keep_traceback(run)
        reason = (lead.reason(error) if lead is not None else "") or _reason(error)
        if world is not None and world.restarts_left:
            from trainer.distributed.lead import tell_loss

            tell_loss(log, world, reason)
            if training is not None:
                training.settle()
            return events.RunEnded(state="failed", error=reason)
        ended, state = _end(log, training, began, "failed", reason, lead=lead)
    finally:
        if (raised := sys.exception()) is not None:  # also where the end could not be told
            keep_if_spoiled(raised, training)
        if ended is not None:
            epochs = None if training is None else training.epochs_done
            call(on_end, run, log, ended, state, epochs=epochs)
        log.close()
        if ended is not None:
            Follower(run).keep_growing()
        training = None
        cores.leave()
        # a rank leaves at once, and a lost one may have left work on the GPU that never ends
        if world is None and not spoiled():
            _give_memory_back()
    return ended


def _give_memory_back() -> None:
    """What the run needed of a GPU: whoever trains the next one in this process has it all."""
    if "torch" in sys.modules:  # else it ended before it began
        from trainer import device

        with suppress(RuntimeError):  # of a GPU on which nothing works any more
            device.give_memory_back()


def _had_checkpoint(run: RunDir) -> bool:
    """Whether the log tells of a checkpoint ``last``: to begin anew would drop its results."""
    state = Follower(run).catch_up()
    before = state.queued is not None and state.queued.before is not None
    return before or "last" in state.checkpoints


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


def _end(
    log: RunLog,
    training: Training | None,
    began: float,
    how: events.EndState | None,
    error: str | None = None,
    *,
    lead: Lead | None = None,
) -> tuple[events.RunEnded, RunState | None]:
    """Write the last event, ``how`` ``None`` for bad input; where that needs what the log came to
    before, gives it as well.
    """
    if lead is not None:
        lead.settled()
    if training is None:
        return tell_end(log, how, error, seconds=time.monotonic() - began)
    try:
        training.settle()
    except Exception:
        if how in ("completed", "stopped"):
            raise
        # what ended it was there before, and is the reason: a GPU that fails fails every thread
    at = training.at
    evaluated = at.best_epoch > 0
    event = events.RunEnded(
        state=how or "failed",
        best_accuracy=at.best_accuracy if evaluated else None,
        best_epoch=at.best_epoch if evaluated else None,
        final_accuracy=at.final_accuracy if at.final_accuracy >= 0 else None,
        seconds=time.monotonic() - began - training.clock.paused_total,
        error=error,
    )
    log.emit(event)
    return event, None


def _reason(error: BaseException) -> str:
    """One line for the user."""
    text = first_line(error)[:300]
    name = type(error).__name__
    if name == "RankLost":
        return text
    # torch.OutOfMemoryError is known by name: torch itself may be what failed to load
    known = name == "OutOfMemoryError" or "allocate memory" in text or "out of memory" in text
    if isinstance(error, MemoryError) or known:
        return f"out of memory: lower the batch size or choose a smaller model ({text})"
    from model.user_file import reason

    return reason(error)


def _keep_traceback(run: RunDir) -> None:
    with suppress(OSError):
        run.traceback.write_text(traceback.format_exc(), "utf-8")

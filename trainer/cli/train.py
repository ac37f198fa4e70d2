"""``train``: one run without the app."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import tomli_w
import typer

from trainer import events
from trainer.cli.options import (
    DataDirOption,
    DataOption,
    JsonOption,
    RunsDirOption,
    data_dir,
    runs_dir,
)
from trainer.cli.output import clean, duration, out, percent, warn
from trainer.cli.progress import JsonView, PlainView, TerminalView, View
from trainer.config import RunConfig
from trainer.control import Control
from trainer.errors import ConfigError, DataError
from trainer.events import Envelope
from trainer.presets import catalog
from trainer.rundir import RunDir
from trainer.runlog import Tail
from trainer.submit import submit

EXIT_CODES = {"completed": 0, "failed": 1, "stopped": 130}
POLL_SECONDS = 0.1
TRAIN_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "synthetic": 10_000}
"""What is known without reading a data set."""
STOPS_UNTIL_ABORT = 3


def train(
    preset: Annotated[str, typer.Argument(metavar="PRESET|FILE.toml", help="What to train.")],
    data: DataOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs", metavar="N")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", metavar="N")] = None,
    lr: Annotated[float | None, typer.Option("--lr", metavar="X", help="Peak.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N")] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="auto|cpu|cuda|cuda:N|mps")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar="auto|fp32|bf16|fp16")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The run's name.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting: optimizer.momentum=0.8"),
    ] = None,
    json: JsonOption = False,
    directory: RunsDirOption = None,
    data_directory: DataDirOption = None,
) -> None:
    """Train a preset, or a TOML file of your own. Ctrl-C stops it and keeps a checkpoint."""
    asked = {
        "data": data,
        "name": name,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.seed": seed,
        "train.device": device,
        "train.precision": precision,
        "optimizer.lr": lr,
    }
    given = [f"{key}={_toml(value)}" for key, value in asked.items() if value is not None]
    config = catalog.load(preset, [*given, *(settings or [])])
    check(config, data_dir(data_directory))
    run = submit(config, runs_dir(directory))
    out.required = False  # from here on the run is what counts
    view: View = JsonView() if json else TerminalView() if _is_live() else PlainView()
    ended = follow(run, Control(run), view, data_dir(data_directory))
    if not json:
        _conclude(run, ended, config.data)
    raise typer.Exit(EXIT_CODES[ended.state])


def check(config: RunConfig, data_directory: Path | None) -> None:
    """Refuse what is known to be impossible before a run's folder is made and torch is loaded.

    Raises:
        UserError: no such model, the data is missing, a batch larger than the training split.
    """
    from model import registry
    from trainer.data import sources

    if not registry.is_file(config.model.name):
        try:
            registry.describe(config.model.name)
        except registry.ModelError as error:
            raise ConfigError(str(error)) from None
    found = sources.available(config.data, data_dir=data_directory)
    if not found.ready:
        raise DataError(found.message)
    images = TRAIN_IMAGES.get(found.kind)
    if config.train_limit:
        images = min(images or config.train_limit, config.train_limit)
    if images is not None and config.train.batch_size > images:
        raise ConfigError(
            f"batch size {config.train.batch_size} is above the data set's "
            f"{images} training images: lower --batch-size"
        )


def follow(
    run: RunDir, control: Control, view: View, data_directory: Path | None = None
) -> events.RunEnded:
    """Train a run on a thread of its own and show it until it ends.

    Raises:
        UserError: bad input that was found while it was prepared.
    """
    worker = Worker(run, control, data_directory)
    try:
        view.show(Tail(run.log).read())
        with _signals(worker.heard):
            worker.start()
            while not worker.finished:
                view.show(worker.news(POLL_SECONDS))
                for number in worker.taken_signals():
                    _stop(control, view, number)
            view.show(worker.news(0))
    finally:
        view.close()
    return worker.result()


class Worker:
    """The training thread, its events, and the signals that came meanwhile."""

    def __init__(self, run: RunDir, control: Control, data_directory: Path | None) -> None:
        self._run, self._control, self._data_directory = run, control, data_directory
        self._queue: queue.SimpleQueue[Envelope | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._train, name="training", daemon=True)
        self._outcome: events.RunEnded | BaseException | None = None
        self._signals = 0
        self._stops = 0
        self.finished = False

    def start(self) -> None:
        """Begin to train."""
        self._thread.start()

    def heard(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: only counts and wakes the main thread."""
        self._signals += 1
        self._queue.put(None)

    def taken_signals(self) -> Iterator[int]:
        """The numbers, from 1, of signals since the last call."""
        while self._stops < self._signals:
            self._stops += 1
            yield self._stops

    def news(self, seconds: float) -> list[Envelope]:
        """Everything that has come; waits so long for the first."""
        found: list[Envelope] = []
        with suppress(queue.Empty):
            one = self._queue.get(timeout=seconds) if seconds else self._queue.get_nowait()
            while True:
                if one is not None:
                    found.append(one)
                one = self._queue.get_nowait()
        return found

    def result(self) -> events.RunEnded:
        """The run's last event; what the thread raised is raised here."""
        self._thread.join()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def _train(self) -> None:
        from trainer.session import train_run

        try:
            self._outcome = train_run(
                self._run,
                self._control,
                listener=self._queue.put,
                data_dir=self._data_directory,
            )
        except BaseException as error:
            self._outcome = error
        finally:
            self.finished = True
            self._queue.put(None)


def _stop(control: Control, view: View, number: int) -> None:
    if number >= STOPS_UNTIL_ABORT:
        view.close()
        warn("aborted: the last checkpoint stays")
        sys.stdout.flush()
        os._exit(130)
    control.request("stop")
    view.message(
        "stopping at the next step, saving a checkpoint"
        if number == 1
        else "still stopping; once more aborts without a checkpoint"
    )


@contextmanager
def _signals(handler: Any) -> Iterator[None]:
    """Ctrl-C, a polite kill and a lost terminal all stop the run cleanly."""
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    # what is ignored stays so: nohup, a background job of a plain shell
    wanted = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _conclude(run: RunDir, ended: events.RunEnded, data: str) -> None:
    best = ""
    if ended.best_accuracy is not None:
        best = f": best test accuracy {percent(ended.best_accuracy)} in epoch {ended.best_epoch}"
    kind = data if data in ("cifar10", "cifar100", "synthetic") else clean(data)
    out.lines(f"{ended.state}{best} on {kind}, {duration(ended.seconds)}", f"run {run.path}")
    if ended.state == "failed":
        warn(f"the run failed: {ended.error or 'for an unknown reason'}")


def _is_live() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def _toml(value: object) -> str:
    """A value as TOML, as ``--set`` wants it."""
    return tomli_w.dumps({"v": value}).removeprefix("v = ").strip()

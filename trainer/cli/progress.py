"""How a run that trains now is shown: on a terminal, as plain lines, or as JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from trainer import events
from trainer.cli.output import PLAIN, clean, count, duration, number, out, percent, visible, warn
from trainer.events import Envelope
from trainer.runs.eta import eta
from trainer.runs.runstate import EpochRow, RunState

ROW_TITLES = ("lr", "train loss", "train acc", "test loss", "test acc", "seconds")


FATAL = ("error", events.NOT_A_NUMBER)
"""Level and code of the notice just before training fails."""


class View(Protocol):
    """What is told of everything that happens in the run."""

    def show(self, envelopes: Iterable[Envelope]) -> None:
        """Show new envelopes, in order."""

    def fold(self, envelopes: Iterable[Envelope]) -> None:
        """Take note of what happened before."""

    def message(self, text: str) -> None:
        """Show a line that is no event."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class JsonView:
    """Every envelope as a line of JSON; messages go to standard error."""

    def show(self, envelopes: Iterable[Envelope]) -> None:
        """Write the lines of the log."""
        out.write(visible(b"".join(events.encode(envelope) for envelope in envelopes)))

    def fold(self, envelopes: Iterable[Envelope]) -> None:
        """Write them too: who reads the lines folds the whole log."""
        self.show(envelopes)

    def message(self, text: str) -> None:
        """Write to standard error."""
        warn(text)

    def close(self) -> None:
        """Nothing to leave."""


class PlainView:
    """One line an epoch, easy to grep."""

    def __init__(self) -> None:
        self.state = RunState()
        self._open: int | None = None

    def show(self, envelopes: Iterable[Envelope]) -> None:
        """Write a line for what is worth one."""
        for envelope in envelopes:
            self.state.apply(envelope)
            self.event(envelope.event)

    def fold(self, envelopes: Iterable[Envelope]) -> None:
        """Know it; an earlier attempt's lines are not written again."""
        for envelope in envelopes:
            self.state.apply(envelope)

    def event(self, event: events.AnyEvent) -> None:
        """Write an event's line, if it has one."""
        if isinstance(event, events.RunStarted):
            self.started(event)
        elif isinstance(event, events.ModelDescribed):
            self.line(f"{event.parameters:,} parameters, {count(event.macs)} MACs per image")
        elif isinstance(event, events.EpochEnded):
            self._open = event.epoch
        elif isinstance(event, (events.EpochStarted, events.RunEnded)):
            self._finish_epoch()
        elif isinstance(event, events.EvalEnded):
            if event.variant == "plain":
                self._open = event.epoch
                self._finish_epoch()
            else:
                self._finish_epoch()  # whose plain evaluation an earlier attempt has made
                self.line(
                    f"epoch {event.epoch}: test accuracy ({event.variant}) "
                    f"{percent(event.accuracy)} on {self.data}"
                )
        elif isinstance(event, events.Notice) and (event.level, event.code) == FATAL:
            pass  # it is the reason of the end, which is told once
        elif isinstance(event, events.Notice) and event.level != "info":
            self.message(f"{event.level}: {event.message}")
        elif isinstance(event, events.Paused):
            self.line(f"paused at step {event.step}")
        elif isinstance(event, events.Resumed):
            self.line(f"resumed after {duration(event.seconds)}")

    @property
    def data(self) -> str:
        """The kind of the images: synthetic results must not pass for CIFAR-10 ones."""
        started = self.state.started
        return clean(started.data_kind) if started is not None else "unknown data"

    def started(self, event: events.RunStarted) -> None:
        """Say what is trained on what."""
        queued = self.state.queued
        again = "" if event.resumed_step is None else f" goes on from step {event.resumed_step}"
        self.line(f"run {clean(self.state.run)}{again}")
        self.line(
            f"{clean(queued.model) if queued else 'model'} on {self.data}: "
            f"{event.train_images:,} train and {event.test_images:,} test images; "
            f"{clean(event.device)}, {clean(event.precision)}"
        )

    def _finish_epoch(self) -> None:
        rows = [row for row in self.state.epochs if row.epoch == self._open]
        self._open = None
        if rows:
            self.epoch(rows[0])

    def epoch(self, row: EpochRow) -> None:
        """Write an epoch's line: every number with its name."""
        epochs = self.state.queued.epochs if self.state.queued else "?"
        parts = [
            f"epoch {row.epoch}/{epochs}",
            f"lr {number(row.lr, '.4g')}",
            f"train loss {number(row.train_loss)}",
            f"train accuracy {percent(row.train_accuracy)}",
            *self._left_out(row),
        ]
        if row.test_accuracy is not None:
            parts += [
                f"test loss {number(row.test_loss)}",
                f"test accuracy {percent(row.test_accuracy)}",
            ]
        parts.append(f"{number(row.train_seconds, '.1f')} s")
        if row is self.state.best:
            parts.append("best")
        self.line("  ".join(parts))

    def _left_out(self, row: EpochRow) -> list[str]:
        """Of which images training loss and accuracy are, where it is not all of them."""
        some = self.state.left_easy_out(row)
        return [f"(train: the {row.train_images:,} hardest images)"] if some else []

    def line(self, text: str) -> None:
        """Write a line to standard output."""
        out.lines(text)

    def message(self, text: str) -> None:
        """Write to standard error."""
        warn(text)

    def close(self) -> None:
        """Nothing to leave."""


class TerminalView(PlainView):
    """Epoch lines above a bar of the whole run."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(file=sys.stdout, **PLAIN)
        self._bar = Progress(
            TextColumn("{task.fields[epoch]}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[share]:>5}", markup=False),
            TextColumn("{task.fields[now]}", markup=False),
            console=self._console,
            auto_refresh=False,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task(
            "", total=None, epoch="preparing", share=percent(0.0, 0), now=""
        )
        self._live = True
        self._titled = False
        self._guard(self._bar.start)

    def show(self, envelopes: Iterable[Envelope]) -> None:
        """Write the lines, move the bar."""
        revision = self.state.revision
        super().show(envelopes)
        if self.state.revision != revision:
            self._move()

    def epoch(self, row: EpochRow) -> None:
        """Write an epoch as a row, the first one under the titles."""
        if not self._titled:
            self.line(f"{'epoch':>9}" + "".join(f"{title:>12}" for title in ROW_TITLES))
            self._titled = True
        cells = (
            number(row.lr, ".4g"),
            number(row.train_loss),
            percent(row.train_accuracy),
            number(row.test_loss),
            percent(row.test_accuracy),
            number(row.train_seconds, ".1f"),
        )
        epochs = self.state.queued.epochs if self.state.queued else "?"
        text = f"{f'{row.epoch}/{epochs}':>9}" + "".join(f"{cell:>12}" for cell in cells)
        best = row is self.state.best
        more = (*(["*"] if best else []), *self._left_out(row))
        self.line("  ".join((text, *more)), "green" if best else "")

    def line(self, text: str, style: str = "") -> None:
        """Write a line above the bar."""
        self._guard(lambda: self._console.print(Text(text, style=style), soft_wrap=True))

    def message(self, text: str) -> None:
        """Write a message above the bar."""
        line = Text(clean(text, 1000), style="yellow")
        self._guard(lambda: self._console.print(line, soft_wrap=True))

    def close(self) -> None:
        """Take the bar away."""
        if self._live:
            self._bar.update(self._task, visible=False)
            self._guard(self._bar.stop)
        self._live = False

    def _move(self) -> None:
        folded, now = self.state, self.state.progress
        if folded.started is None or folded.queued is None or now is None:
            return
        total = folded.total_steps
        text = f"{now.phase} loss {number(now.loss, '.3f')} acc {percent(now.accuracy)}"
        if now.phase == "test":
            text = f"testing {now.done}/{now.total}"
        if now.images_per_second:
            text += f"  {now.images_per_second:,.0f} img/s"
        left = eta(folded)
        if left is not None:
            text += f"  ETA {duration(left)}"
        self._bar.update(
            self._task,
            total=total,
            completed=now.step,
            epoch=f"epoch {now.epoch}/{folded.queued.epochs}",
            share=percent(min(1.0, now.step / total) if total else 0.0, 0),
            now=text,
        )
        self._guard(self._bar.refresh)

    def _guard(self, draw: object) -> None:
        """Draw; a terminal that is gone ends the drawing, not the run."""
        if out.lost is not None or not callable(draw):
            return
        try:
            draw()
        except OSError as error:
            out.lost = error

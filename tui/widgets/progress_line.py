"""How far a run has come: the epoch's line and the whole run's, or one line where it is narrow."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual.strip import Strip

from trainer.runs.eta import eta
from trainer.runs.follower import Follower
from trainer.runs.runstate import RUNNING, RunState
from trainer.words import figure
from tui import formatting
from tui.run_words import time_of
from tui.widgets.lines import Lines, from_pieces

if TYPE_CHECKING:
    from tui.app import CifarApp

LEFT = 26
"""Cells of bars, at most."""
FIGURES_SECONDS = 0.2
Piece = tuple[str, str]
"""Words and their style."""


class ProgressLine(Lines):
    """Two lines; one below 100 columns and of a run that has ended. Never animated."""

    DEFAULT_CSS = "ProgressLine { height: auto; }"
    PLAIN = True

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._figures: list[str] = []
        self._of: object = None
        self._read_at = 0.0
        self._shown: tuple[Follower, dict[str, str], int] | None = None
        self._due = False

    def show(self, run: Follower, colours: dict[str, str], width: int) -> None:
        """Show a run's progress; the bars at every poll, the noisy figures less often."""
        self._shown = (run, colours, width)
        now = run.state.progress
        of = (id(run.state), run.status, now.phase if now is not None else "", width)
        pace = FIGURES_SECONDS * cast("CifarApp", self.app).terminal.figures
        wait = self._read_at + pace - time.monotonic()
        if of != self._of or wait <= 0:
            self._of, self._read_at = of, time.monotonic()
            self._figures = _figures(run)
        elif not self._due:
            self._due = True
            self.set_timer(wait, self._show_due)
        if run.state.queued is None:
            self.set_lines([Text("")])
        elif width < 100:
            self.set_lines([_narrow(run, colours, width, self._figures[:1])])
        elif run.state.ended is not None:
            self.set_lines([_run_line(run, colours, width)])
        else:
            first = _epoch_line(run, colours, width, self._figures)
            self.set_lines([first, _run_line(run, colours, width)])

    def _show_due(self) -> None:
        self._due = False
        if self._shown is not None:
            self.show(*self._shown)


def _figures(run: Follower) -> list[str]:
    """What is measured while the run trains, the most important first."""
    now = run.state.progress
    if now is None or run.state.ended is not None:
        return []
    if now.phase == "test":
        return ["evaluating on the test split"]
    speed = now.images_per_second
    found = [
        (f"{formatting.compact(speed):>5} images/s", speed),
        (f"train loss {formatting.decimal(now.loss, 2)}", now.loss),
        (f"train accuracy {formatting.percent(now.accuracy, 0):>5}", now.accuracy),
        (f"lr {formatting.rate(now.lr)}", now.lr),
        (f"memory {formatting.size(now.memory)}", now.memory),
    ]
    return [words for words, value in found if value is not None]


def _epoch_line(run: Follower, colours: dict[str, str], width: int, figures: list[str]) -> Strip:
    state = run.state
    planned = state.queued.epochs if state.queued is not None else 0
    epoch, share = where(state)
    line = _begin(f" epoch {epoch:>5}/{planned:<5}", share, min(LEFT, width // 5), colours)
    return _with(line, figures, width, colours)


def _run_line(run: Follower, colours: dict[str, str], width: int) -> Strip:
    state = run.state
    done = finished(state)
    epochs = f"{where(state)[0]}/{state.queued.epochs if state.queued is not None else 0}"
    share = f"{figure(done, 0)}%"
    name = f" run {epochs:>8}{share:>5}" if state.ended else f" run {share:>13}"
    line = _begin(name, done, min(LEFT, width // 5), colours)
    return _with(line, _times(run), width, colours)


def _narrow(run: Follower, colours: dict[str, str], width: int, figures: list[str]) -> Strip:
    state = run.state
    planned = state.queued.epochs if state.queued is not None else 0
    epoch, share = where(state)
    line = _begin(f" epoch {epoch}/{planned} ", share, 10, colours)
    line.append((f"{figure(finished(state), 0)}% of run", colours["foreground"]))
    line.append(("  ", colours["secondary"]))
    elapsed, *left = _times(run)
    return _with(line, [*left[:1], *figures, elapsed, *left[1:]], width, colours)


def _times(run: Follower) -> list[str]:
    state = run.state
    words = [f"elapsed {time_of(run)}"]
    left = eta(state) if run.status in RUNNING else None
    if left is not None:
        words.append(f"left {formatting.duration(left, tenths=False)}")
    if state.best is not None:
        best = formatting.percent(state.best.test_accuracy)
        words.append(f"best test accuracy {best} in epoch {state.best.epoch}")
    return words


def where(state: RunState) -> tuple[int, float]:
    """The epoch the run is in, and the share of it that is trained or evaluated."""
    now = state.progress
    if now is not None and state.ended is None:
        return now.epoch, min(1.0, now.done / max(1, now.total))
    rows = state.epochs
    return (rows[-1].epoch, 1.0) if rows else (0, 0.0)


def finished(state: RunState) -> float:
    """The share of all planned steps that is done; a run that stopped early has not done all."""
    total = state.total_steps
    if total is None or state.queued is None:
        return 0.0
    completed = state.ended is not None and state.ended.state == "completed"
    if completed and where(state)[0] >= state.queued.epochs:
        return 1.0
    steps = [row.step for row in state.epochs[-1:]]
    if state.progress is not None:
        steps.append(state.progress.step)
    return min(1.0, max(steps, default=0) / max(1, total))


def _begin(name: str, share: float, width: int, colours: dict[str, str]) -> list[Piece]:
    ink = colours["secondary"]
    drawn = (formatting.bar(share, width), f"{colours['accent']} on {colours['panel']}")
    return [(f"{name} ", ink), drawn, ("  ", ink)]


def _with(line: list[Piece], words: list[str], width: int, colours: dict[str, str]) -> Strip:
    """Add what fits, the most important first: nothing is cut within a word."""
    taken = sum(len(piece) for piece, _ in line)
    said = ""
    for word in words:
        more = f"   {word}" if said else word
        if taken + len(said) + len(more) > width:
            break
        said += more
    return from_pieces([*line, (said, colours["foreground"])] if said else line)

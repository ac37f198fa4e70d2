"""What the monitor costs, and how soon it shows what.

    python bench/monitor.py [--data FOLDER] [--rounds 5] [--epochs 3] [--quick] [--only PART ...]

Parts, each a few lines of output:

    paint      first paint: from the command to 200 visible characters
    finished   a finished run open: keys, bytes and processor time when nothing changes
    long       a run of a million events: from the command to its whole curve, keys, memory
    many       a directory of 1,000 runs: from the command to the list, scrolling
    live       a run that trains beside it: bytes, processor time, keys, age of what is shown
    beside     one run whose epochs are alone and watched in turns: what watching costs it
    slowdown   runs alone and watched in turns: the same, of whole runs

Everything is measured through a pseudo-terminal of 160x50. ``--quick`` does all of it in small.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command, long_log
from bench.command import NoFigureError, Trainer, training
from bench.terminal import COLUMNS, LINES, Terminal, processor_time
from trainer import config as settings
from trainer import events
from trainer.lifecycle.admission import admitted
from trainer.presets import catalog
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog, Tail

SCREENS = {"1": "Runs", "2": "Dashboard", "3": "Layers", "5": "Compare"}
"""Keys and the tabs that are then shown."""
TABS = SCREENS | {"4": "Mistakes"}
CURVE = r"[\u2801-\u28ff]"
"""Braille: a curve is drawn."""
FEW = 20
"""Of fewer values the 95th percentile is the worst one."""
LATE = 0.002
"""The share of an epoch that may have been trained before its turn."""
unseen: dict[str, int] = {}
"""How often the answer to a key did not come, by what was measured."""


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--rounds", type=command.positive, default=5)
    parser.add_argument("--epochs", type=command.positive, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    admitted(catalog.load(options.preset, [settings.setting("data", options.data)]))
    if options.quick:
        options.rounds = 1
    print(f"terminal {COLUMNS}x{LINES}")
    for part in options.only:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](Path(folder), options)
    if unseen:
        words = ", ".join(f"{name}: {count}" for name, count in unseen.items())
        raise NoFigureError(f"answers that did not come, so the slowest: {words}")


@contextmanager
def app(runs: Path, options: argparse.Namespace) -> Iterator[Terminal]:
    """The app on a runs directory, after its first paint; left at the end.

    Raises:
        NoFigureError: it paints nothing, or ends before it is left.
    """
    terminal = Terminal([*command.APP, "--runs-dir", str(runs), "--data", options.data])
    try:
        terminal.require(20, lambda: visible(terminal) >= 200, "the first paint")
        yield terminal
        terminal.check()
    finally:
        terminal.quit()


def figures(name: str, values: Sequence[float | None], unit: str, digits: int = 0) -> None:
    """Median, 95th percentile where there are many, and worst; None is what was never seen."""
    ordered = sorted(value for value in values if value is not None)
    missed = len(values) - len(ordered)
    if missed:
        unseen[name.strip()] = unseen.get(name.strip(), 0) + missed
    if not ordered:
        print(f"{name}: not measured{times_unseen(missed)}")
        return
    words = f"median {statistics.median(ordered):.{digits}f} {unit}"
    if len(ordered) >= FEW:
        words += f", 95 % {ordered[round(0.95 * (len(ordered) - 1))]:.{digits}f}"
    words += f", worst {ordered[-1]:.{digits}f} (n={len(ordered)})"
    print(f"{name}: {words}{times_unseen(missed)}")


def times_unseen(count: int) -> str:
    """What is added to figures without those that did not come."""
    return f", not seen {count} times" if count else ""


def go_to(terminal: Terminal, key: str) -> None:
    """Press a key and wait for its screen, which is measured next.

    Raises:
        NoFigureError: it did not come.
    """
    tab = TABS[key]
    if not terminal.is_bold(tab) and terminal.switch(key, tab, patience=20) is None:
        raise terminal.failed(f"{tab}, the screen of key {key}, was not seen in 20 s")


def quiet(terminal: Terminal, seconds: float) -> tuple[float, float]:
    """Bytes and percent of a core a second while nobody presses a key."""
    written, processor, began = terminal.written, terminal.processor(), time.perf_counter()
    terminal.swallow(seconds)
    took = time.perf_counter() - began
    return (
        (terminal.written - written) / took,
        100 * (terminal.processor() - processor) / took,
    )


def switches(terminal: Terminal, count: int) -> list[float | None]:
    """Milliseconds from a digit to its screen, after each was shown once; None: not seen."""
    for key in SCREENS:
        go_to(terminal, key)
        terminal.pump(1.0)
    waits = []
    for i in range(count):
        key = "1" if i % 2 else ("2", "3", "2", "5")[i // 2 % 4]
        waits.append(terminal.switch(key, SCREENS[key]))
        terminal.pump(random.uniform(0.1, 0.4))
    return waits


def paint(folder: Path, options: argparse.Namespace) -> None:
    """From the command to the first paint, and to the last of the first openings of a screen."""
    long_log.write_run(RunDir(folder / "20261123-120000-run-0000"), epochs=30, each=54)
    painted = []
    for number in range(4 if options.quick else 12):
        with app(folder, options) as terminal:
            if number:  # the first start may have to compile
                painted.append(1000 * terminal.age)
            terminal.pump(1.0)
    figures("first paint", painted, "ms")


def visible(terminal: Terminal) -> int:
    """Characters on the screen that are no blanks."""
    return sum(not character.isspace() for character in terminal.text())


def finished(folder: Path, options: argparse.Namespace) -> None:
    """A finished run open."""
    long_log.write_run(RunDir(folder / "20261123-120000-run-0000"), epochs=100, each=54)
    with app(folder, options) as terminal:
        terminal.pump(8)  # the trainer behind it has loaded torch and rests
        first = {key: terminal.switch(key, SCREENS[key]) for key in ("2", "3", "5")}
        missed = [key for key, took in first.items() if took is None]
        if missed:
            unseen["first opening of a screen"] = len(missed)
        words = (f"{k} {'not seen' if v is None else f'{v:.0f} ms'}" for k, v in first.items())
        print(f"first opening of a screen: {', '.join(words)}")
        figures("key to screen, idle", switches(terminal, 10 if options.quick else 80), "ms")
        go_to(terminal, "2")
        keys = ["e", "l", "m", "v", "M"] * (1 if options.quick else 6)
        waits = [answered(terminal, key) for key in keys]
        figures("key to changed chart, idle", waits, "ms")
        terminal.pump(2)
        rate, processor = quiet(terminal, 5 if options.quick else 30)
        print(f"finished run open: {rate:.0f} bytes/s, {processor:.2f} % of a core")


def answered(terminal: Terminal, key: str) -> float | None:
    """Milliseconds from a key to a changed cell, then a short rest."""
    took = terminal.answer(key)
    terminal.pump(0.3)
    return took


def long(folder: Path, options: argparse.Namespace) -> None:
    """A run of a million events, as its trainer leaves it, and its log alone."""
    wanted, epochs = (200_000, 1000) if options.quick else (1_000_000, 5000)
    run = long_log.write_long(folder, wanted=wanted, epochs=epochs)
    size = run.log.stat().st_size / 2**20
    print(f"{wanted:,} events ({size:.0f} MiB)")
    for kept in (True, False):
        print(f"  {'as its trainer leaves it, or at a second look' if kept else 'its log alone'}")
        opened = []
        for _ in range(1 if options.quick else 5):
            run.folded.unlink(missing_ok=True)
            if kept and not Follower(run).keep_growing():
                raise NoFigureError("the log was not folded")
            opened.append(_open_long(folder, options, epochs))
        if not run.folded.exists():
            print("    (nothing was kept for the next time)")
        figures("    whole curve after the command", [each[0] for each in opened], "s", 2)
        figures("    first paint", [each[1] for each in opened], "s", 2)
        figures("    scrolling its epochs", [wait for each in opened for wait in each[2]], "ms")
        print(f"    resident: {max(each[3] for each in opened):.0f} MiB, all processes")


def _open_long(
    folder: Path, options: argparse.Namespace, epochs: int
) -> tuple[float, float, list[float | None], float]:
    """Seconds until its whole curve and the first paint, waits for keys in ms, MiB."""
    with app(folder, options) as terminal:
        painted = terminal.age
        terminal.press("2")
        terminal.require(
            60,
            lambda: terminal.shows(rf"{epochs}/{epochs}\s+100 ?%") and terminal.shows(CURVE),
            "the whole curve",
        )
        opened = terminal.age
        terminal.pump(3)
        waits = [answered(terminal, key) for key in "gGkkkjj"]
        return opened, painted, waits, terminal.resident()


def many(folder: Path, options: argparse.Namespace) -> None:
    """A directory of a thousand runs."""
    count = 100 if options.quick else 1000
    long_log.write_many(folder, runs=count)
    with app(folder, options) as terminal:
        terminal.require(
            60,
            lambda: terminal.shows(r"30/30") and not terminal.shows("reading…"),
            "the list of all runs",
        )
        print(f"{count:,} runs: listed {terminal.age:.2f} s after the command")
        terminal.pump(6)
        keys = ["j"] * 30 + ["G", "k", "g"] + ["\x1b[6~"] * min(10, count // 60)
        waits = [answered(terminal, key) for key in keys]
        figures("  scrolling", waits, "ms")
        _, processor = quiet(terminal, 5)
        print(f"  resident: {terminal.resident():.0f} MiB, resting {processor:.2f} % of a core")


def live(folder: Path, options: argparse.Namespace) -> None:
    """Beside a run that trains: what it costs and how old what is shown is."""
    with app(folder, options) as terminal:
        terminal.pump(8)
        with training(folder, options.preset, options.data, 100) as trainer:
            end = time.monotonic() + 60
            while not terminal.pump(0.5, lambda: terminal.shows("training")):
                trainer.check()
                if time.monotonic() > end:
                    raise terminal.failed("the training was not seen in 60 s")
            go_to(terminal, "2")
            terminal.pump(3)
            waits = switches(terminal, 10 if options.quick else 60)
            trainer.check()
            figures("key to screen, training", waits, "ms")
            for key, tab in TABS.items():
                go_to(terminal, key)
                terminal.pump(4)
                rate, processor = quiet(terminal, 10 if options.quick else 60)
                trainer.check()
                print(f"training, {tab}: {rate:.0f} bytes/s, {processor:.1f} % of a core")
            for here in (False, True):
                staleness(folder / f"attached-{here}", options, trainer, here=here)


def staleness(folder: Path, options: argparse.Namespace, trainer: Trainer, *, here: bool) -> None:
    """Seconds from an event of another process to the screen, while a training goes on beside.

    ``here``: as a run on this machine's processor, whose log is looked at less often.
    """
    run = RunDir(folder / "20261123-120000-run-0000")
    run.path.mkdir(parents=True)
    with run.locked():
        log = RunLog(run)
        log.emit(long_log.queued("", 10, 0))
        log.begin_attempt()
        begun = long_log.started(1000)
        log.emit(msgspec.structs.replace(begun, host=platform.node()) if here else begun)
        with app(folder, options) as terminal:
            terminal.pump(5)
            go_to(terminal, "2")
            ages = list(_ages(log, terminal, 10 if options.quick else 60))
        log.close()
    trainer.check()
    where = "on this processor" if here else "of another host"
    figures(f"age of what is shown, attached, {where}", ages, "s", 2)


def _ages(log: RunLog, terminal: Terminal, count: int) -> Iterator[float | None]:
    """Each event is told by its loss; one that was overtaken is as old as what overtook it.

    None: it was not seen.
    """
    waiting: list[tuple[float, int]] = []

    def newest() -> int:
        found = re.search(r"train loss (\d+\.\d\d)", terminal.text())
        return round(100 * float(found[1])) if found is not None else 0

    for i in range(count):
        step, loss = i + 1, 1000 + i
        log.emit(
            events.Progress(
                phase="train", epoch=1, step=step, done=step, total=1000, loss=loss / 100
            )
        )
        waiting.append((time.perf_counter(), loss))
        last = i == count - 1
        end = time.perf_counter() + (3 if last else random.uniform(0.2, 0.45))
        while (left := end - time.perf_counter()) > 0 and (waiting or not last):
            if not terminal.pump(left, lambda: bool(waiting) and newest() >= waiting[0][1]):
                continue
            shown = newest()  # one paint may show two
            while waiting and waiting[0][1] <= shown:
                yield terminal.seen - waiting.pop(0)[0]
    yield from [None] * len(waiting)


def beside(folder: Path, options: argparse.Namespace) -> None:
    """One run, its epochs in turns alone and watched: between them the app is stopped and goes on.

    The same process, memory and data on both sides, so that little but the app differs. What is
    compared is training alone; the turns change during the evaluations, and an epoch that has begun
    before its turn is left out.
    """
    with app(folder, options) as terminal:
        terminal.swallow(10)
        epochs = 2 * options.rounds + 2
        with training(folder, options.preset, options.data, epochs) as trainer:
            all_turns = _turns(folder, terminal, trainer, epochs)
            trainer.trains()
        terminal.pump(1)
        go_to(terminal, "3")  # an app that does not answer was not watching
    turns = [turn for turn in all_turns if turn.late <= LATE * turn.seconds]
    alone = [turn for turn in turns if not turn.watched]
    watched = [turn for turn in turns if turn.watched]
    pairs = list(zip(alone, watched, strict=False))
    if not pairs:
        missing = f"{len(all_turns)} epochs were trained, {len(turns)} of them in one turn"
        raise NoFigureError(f"{missing}: there is no pair; try the train command alone")
    print(f"one run, {len(pairs)} pairs of epochs, of each the seconds of training")
    if left_out := len(all_turns) - len(turns):
        print(f"  {left_out} epochs left out: they had begun before their turn")
    ratios("  seconds", [(a.seconds, w.seconds) for a, w in pairs])
    ratios("  processor time of the trainer", [(a.processor, w.processor) for a, w in pairs])
    share = statistics.median(turn.app / turn.wall for turn in watched)
    print(f"  app meanwhile: {100 * share:.1f} % of a core, its going on included")


class Turn(NamedTuple):
    """An epoch."""

    watched: bool
    seconds: float
    """Of its training, as its own clock says."""
    wall: float
    """From its evaluation's beginning to the next one's: what follows is of all of that."""
    processor: float
    app: float
    late: float
    """Seconds that it had been trained for when its turn began."""


def _turns(folder: Path, terminal: Terminal, trainer: Trainer, epochs: int) -> list[Turn]:
    """The epochs after the first two, every other one watched."""
    try:
        return _each_turn(folder, terminal, trainer, epochs)
    finally:
        if terminal.alive():
            os.kill(terminal.pid, signal.SIGCONT)


def _each_turn(folder: Path, terminal: Terminal, trainer: Trainer, epochs: int) -> list[Turn]:
    found: list[Turn] = []
    heard = _Heard(folder)
    before: tuple[float, float, float] | None = None
    watched, opened, changed, late = True, False, 0.0, 0.0
    while trainer.trains() and len(found) < epochs - 2:
        terminal.swallow(0.02)  # the evaluation of a small net on a GPU takes some tenths
        if not opened and terminal.written and heard.run is not None:
            terminal.press("2")
            opened = True
        for envelope in heard.new():
            event = envelope.event
            if isinstance(event, events.EpochStarted):
                late = max(0.0, changed - envelope.time)
            if not isinstance(event, events.EpochEnded):
                continue
            number, seconds = event.epoch, event.seconds
            now = (
                time.perf_counter(),
                processor_time(trainer.process.pid),
                terminal.processor(),
            )
            if before is not None and number > 2:
                wall, processor, own = (b - a for a, b in zip(before, now, strict=True))
                found.append(Turn(watched, seconds, wall, processor, own, late))
                how = "watched" if watched else "alone"
                print(f"  epoch {number}, {how}: {seconds:.2f} s of training", flush=True)
            before = now
            # alone, watched, watched, alone, …: what drifts evens out
            was, watched = watched, (number - 1) % 4 in (2, 3) if number >= 2 else True
            if watched != was:
                os.kill(terminal.pid, signal.SIGCONT if watched else signal.SIGSTOP)
                changed = time.time()  # the clock of the log
    return found


class _Heard:
    """The log of the only run of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.run: Tail | None = None

    def new(self) -> list[events.Envelope]:
        """What has been told since the last call."""
        if self.run is None:
            log = next(self._folder.glob("*/events.jsonl"), None)
            if log is None:
                return []
            self.run = Tail(log)
        return self.run.read()


def ratios(name: str, pairs: list[tuple[float, float]]) -> None:
    """Watched over alone: median, quartiles and range of the pairs' ratios."""
    each = sorted(watched / alone for alone, watched in pairs)
    low, high = each[len(each) // 4], each[-1 - len(each) // 4]
    alone = statistics.median(pair[0] for pair in pairs)
    watched = statistics.median(pair[1] for pair in pairs)
    print(
        f"{name}: alone {alone:.2f} s, watched {watched:.2f} s, of pairs watched / alone "
        f"{statistics.median(each):.3f} (middle half {low:.3f} to {high:.3f}, "
        f"all {each[0]:.3f} to {each[-1]:.3f}, n={len(each)})"
    )


def slowdown(folder: Path, options: argparse.Namespace) -> None:
    """The same run alone and watched, in turns; the first epoch of each is a warm-up."""
    found: dict[bool, list[Whole]] = {False: [], True: []}
    for number in range(options.rounds):
        for watch in (False, True) if number % 2 == 0 else (True, False):
            # a directory for each run: in it the app shows the only one, the live one
            found[watch].append(trained(folder / f"{number}-{watch}", options, watch=watch))
    pairs = list(zip(found[False], found[True], strict=True))
    print(f"{len(pairs)} pairs of runs, of each the median epoch after the first")
    ratios("  seconds", [(a.epoch, w.epoch) for a, w in pairs])
    ratios("  processor time of the trainer", [(a.processor, w.processor) for a, w in pairs])
    rate = statistics.median(whole.rate for whole in found[True])
    print(f"  whole runs: {rate:.0f} bytes/s to the terminal")


class Whole(NamedTuple):
    """A run from its beginning to its end."""

    epoch: float
    """Seconds of its median epoch, the first not counted."""
    processor: float
    rate: float
    """Bytes a second when watched."""


def trained(runs: Path, options: argparse.Namespace, *, watch: bool) -> Whole:
    """Train once."""
    runs.mkdir()
    rate = 0.0
    if watch:
        with app(runs, options) as terminal:
            terminal.swallow(8)
            with training(runs, options.preset, options.data, options.epochs) as trainer:
                rate, processor = _watch(terminal, trainer)
    else:
        with training(runs, options.preset, options.data, options.epochs) as trainer:
            processor = _waited(trainer, lambda: time.sleep(0.5))
    log = max(runs.glob("*/events.jsonl"))
    found = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    seconds = [event["seconds"] for event in found if event["kind"] == "EpochEnded"]
    if found[-1].get("state") != "completed" or len(seconds) < 2:
        raise NoFigureError(
            "the run did not complete, or has one epoch: try the train command alone"
        )
    return Whole(statistics.median(seconds[1:]), processor, rate)


def _watch(terminal: Terminal, trainer: Trainer) -> tuple[float, float]:
    """Bytes a second until it ends, from the dashboard's first paint on, and its processor time."""
    terminal.swallow(6)
    terminal.press("2")
    terminal.swallow(2)
    before, began = terminal.written, time.monotonic()
    processor = _waited(trainer, lambda: terminal.swallow(0.5))
    return (terminal.written - before) / (time.monotonic() - began), processor


def _waited(trainer: Trainer, meanwhile: Callable[[], None]) -> float:
    """Processor seconds of a training, once it has ended."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    while trainer.trains():
        meanwhile()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # of all that have ended: of this one
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "paint": paint,
    "finished": finished,
    "long": long,
    "many": many,
    "live": live,
    "beside": beside,
    "slowdown": slowdown,
}


if __name__ == "__main__":
    command.run(main)

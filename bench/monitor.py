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
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import long_log
from bench.terminal import COLUMNS, LINES, Terminal
from trainer import events
from trainer.follower import Follower
from trainer.rundir import RunDir
from trainer.runlog import RunLog, Tail

SCREENS = {"1": "Runs", "2": "Dashboard", "3": "Layers", "5": "Compare"}
"""Keys and the tabs that are then shown."""
CURVE = r"[\u2801-\u28ff]"
"""Braille: a curve is drawn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    options.program = shutil.which("cifar-tui") or sys.exit("cifar-tui is not installed here")
    if options.quick:
        options.rounds = 1
    print(f"terminal {COLUMNS}x{LINES}")
    for part in options.only:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](Path(folder), options)


@contextmanager
def app(runs: Path, options: argparse.Namespace) -> Iterator[Terminal]:
    """The app on a runs directory; left at the end."""
    terminal = Terminal([options.program, "--runs-dir", str(runs), "--data", options.data])
    try:
        yield terminal
    finally:
        terminal.quit()


@contextmanager
def training(
    runs: Path, options: argparse.Namespace, epochs: int
) -> Iterator[subprocess.Popen[bytes]]:
    """A run trained by the command line."""
    command = [options.program, "train", options.preset, "--data", options.data, "--json"]
    command += ["--epochs", str(epochs), "--runs-dir", str(runs)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


def figures(name: str, values: list[float], unit: str, digits: int = 0) -> None:
    """Median, 95th percentile and worst."""
    if not values:
        print(f"{name}: not measured")
        return
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    print(
        f"{name}: median {statistics.median(ordered):.{digits}f} {unit}, 95 % {high:.{digits}f}, "
        f"worst {ordered[-1]:.{digits}f} (n={len(ordered)})"
    )


def quiet(terminal: Terminal, seconds: float) -> tuple[float, float]:
    """Bytes and percent of a core a second while nobody presses a key."""
    written, processor, began = terminal.written, terminal.processor(), time.perf_counter()
    terminal.swallow(seconds)
    took = time.perf_counter() - began
    return (
        (terminal.written - written) / took,
        100 * (terminal.processor() - processor) / took,
    )


def switches(terminal: Terminal, count: int) -> list[float]:
    """Milliseconds from a digit to its screen, after each was shown once."""
    for key, tab in SCREENS.items():
        terminal.switch(key, tab)
        terminal.pump(1.0)
    waits = []
    for i in range(count):
        key = "1" if i % 2 else ("2", "3", "2", "5")[i // 2 % 4]
        took = terminal.switch(key, SCREENS[key])
        if took is not None:
            waits.append(took)
        terminal.pump(random.uniform(0.1, 0.4))
    return waits


def paint(folder: Path, options: argparse.Namespace) -> None:
    """From the command to the first paint, and to the last of the first openings of a screen."""
    long_log.write_run(RunDir(folder / "20261123-120000-run-0000"), epochs=30, each=54)
    painted = []
    for number in range(4 if options.quick else 12):
        with app(folder, options) as terminal:
            terminal.pump(20, lambda t=terminal: visible(t) >= 200)  # type: ignore[misc]
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
        words = ", ".join(f"{k} {v:.0f} ms" for k, v in first.items() if v is not None)
        print(f"first opening of a screen: {words}")
        figures("key to screen, idle", switches(terminal, 10 if options.quick else 80), "ms")
        terminal.switch("2", SCREENS["2"])
        keys = ["e", "l", "m", "v", "M"] * (1 if options.quick else 6)
        waits = [took for key in keys if (took := answered(terminal, key)) is not None]
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
                sys.exit("the log was not folded")
            opened.append(_open_long(folder, options, epochs))
        if not run.folded.exists():
            print("    (nothing was kept for the next time)")
        figures("    whole curve after the command", [each[0] for each in opened], "s", 2)
        figures("    first paint", [each[1] for each in opened], "s", 2)
        figures("    scrolling its epochs", [wait for each in opened for wait in each[2]], "ms")
        print(f"    resident: {max(each[3] for each in opened):.0f} MiB, all processes")


def _open_long(
    folder: Path, options: argparse.Namespace, epochs: int
) -> tuple[float, float, list[float], float]:
    """Seconds until its whole curve and the first paint, waits for keys in ms, MiB."""
    with app(folder, options) as terminal:
        terminal.pump(20, lambda: visible(terminal) >= 200)
        painted = terminal.age
        terminal.press("2")
        if not terminal.pump(
            60,
            lambda: terminal.shows(rf"{epochs}/{epochs}\s+100 ?%") and terminal.shows(CURVE),
        ):
            sys.exit("the curve was not seen")
        opened = terminal.age
        terminal.pump(3)
        waits = [took for key in "ggGkkkj" if (took := answered(terminal, key)) is not None]
        return opened, painted, waits, terminal.resident()


def many(folder: Path, options: argparse.Namespace) -> None:
    """A directory of a thousand runs."""
    count = 100 if options.quick else 1000
    long_log.write_many(folder, runs=count)
    with app(folder, options) as terminal:
        listed = terminal.pump(
            60, lambda: terminal.shows(r"30/30") and not terminal.shows("reading…")
        )
        print(
            f"{count:,} runs: listed {terminal.age:.2f} s after the command"
            f"{'' if listed else ' NOT SEEN'}"
        )
        terminal.pump(6)
        keys = ["j"] * 30 + ["G", "k", "g"] + ["\x1b[6~"] * 10
        waits = [took for key in keys if (took := answered(terminal, key)) is not None]
        figures("  scrolling", waits, "ms")
        _, processor = quiet(terminal, 5)
        print(f"  resident: {terminal.resident():.0f} MiB, resting {processor:.2f} % of a core")


def live(folder: Path, options: argparse.Namespace) -> None:
    """Beside a run that trains: what it costs and how old what is shown is."""
    with app(folder, options) as terminal:
        terminal.pump(8)
        with training(folder, options, 100) as process:
            terminal.pump(60, lambda: terminal.shows("training"))
            terminal.switch("2", SCREENS["2"])
            terminal.pump(3)
            waits = switches(terminal, 10 if options.quick else 60)
            figures("key to screen, training", waits, "ms")
            for key, tab in (SCREENS | {"4": "Mistakes"}).items():
                terminal.switch(key, tab)
                terminal.pump(4)
                rate, processor = quiet(terminal, 10 if options.quick else 60)
                print(f"training, {tab}: {rate:.0f} bytes/s, {processor:.1f} % of a core")
            if process.poll() is not None:
                print("  (the run ended too early: these figures are none)")
            for here in (False, True):
                staleness(folder / f"attached-{here}", options, here=here)


def staleness(folder: Path, options: argparse.Namespace, *, here: bool) -> None:
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
            terminal.switch("2", SCREENS["2"])
            ages = list(_ages(log, terminal, 10 if options.quick else 60))
        log.close()
    where = "on this processor" if here else "of another host"
    figures(f"age of what is shown, attached, {where}", ages, "s", 2)


def _ages(log: RunLog, terminal: Terminal, count: int) -> Iterator[float]:
    """Each event is told by its loss; one that was overtaken is as old as what overtook it."""
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
        end = time.perf_counter() + random.uniform(0.2, 0.45)
        while (left := end - time.perf_counter()) > 0:
            if not terminal.pump(left, lambda: bool(waiting) and newest() >= waiting[0][1]):
                continue
            shown = newest()  # one paint may show two
            while waiting and waiting[0][1] <= shown:
                yield terminal.seen - waiting.pop(0)[0]


def beside(folder: Path, options: argparse.Namespace) -> None:
    """One run, its epochs in turns alone and watched: between them the app is stopped and goes on.

    The same process, memory and data on both sides, so that little but the app differs. What is
    compared is training alone; the turns change during the evaluations.
    """
    with app(folder, options) as terminal:
        terminal.swallow(10)
        epochs = 2 * options.rounds + 2
        with training(folder, options, epochs) as process:
            turns = _turns(folder, terminal, process, epochs)
    alone = [turn for turn in turns if not turn.watched]
    watched = [turn for turn in turns if turn.watched]
    pairs = list(zip(alone, watched, strict=False))
    if not pairs:
        sys.exit("the run did not get so far: try the train command alone")
    print(f"one run, {len(pairs)} pairs of epochs, of each the seconds of training")
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


def _turns(
    folder: Path, terminal: Terminal, process: subprocess.Popen[bytes], epochs: int
) -> list[Turn]:
    """The epochs after the first two, every other one watched."""
    found: list[Turn] = []
    heard = _Ends(folder)
    before: tuple[float, float, float] | None = None
    watched, opened = True, False
    while process.poll() is None and len(found) < epochs - 2:
        terminal.swallow(0.1)
        if not opened and terminal.written and heard.run is not None:
            terminal.press("2")
            opened = True
        for number, seconds in heard.new():
            now = (
                time.perf_counter(),
                processor_time(process.pid),
                terminal.processor(),
            )
            if before is not None and number > 2:
                wall, trainer, own = (b - a for a, b in zip(before, now, strict=True))
                found.append(Turn(watched, seconds, wall, trainer, own))
            before = now
            # alone, watched, watched, alone, …: what drifts evens out
            watched = (number - 1) % 4 in (2, 3) if number >= 2 else True
            os.kill(terminal.pid, signal.SIGCONT if watched else signal.SIGSTOP)
    os.kill(terminal.pid, signal.SIGCONT)
    return found


class _Ends:
    """The ends of epochs in the log of the only run of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.run: Tail | None = None

    def new(self) -> list[tuple[int, float]]:
        """Number and seconds of each epoch that has ended since the last call."""
        if self.run is None:
            log = next(self._folder.glob("*/events.jsonl"), None)
            if log is None:
                return []
            self.run = Tail(log)
        happened = [envelope.event for envelope in self.run.read()]
        return [(e.epoch, e.seconds) for e in happened if isinstance(e, events.EpochEnded)]


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
            with training(runs, options, options.epochs) as process:
                rate, processor = _watch(terminal, process)
    else:
        with training(runs, options, options.epochs) as process:
            processor = _waited(process, lambda: time.sleep(0.5))
    log = max(runs.glob("*/events.jsonl"))
    found = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    seconds = [event["seconds"] for event in found if event["kind"] == "EpochEnded"]
    if found[-1].get("state") != "completed" or len(seconds) < 2:
        sys.exit("the run did not complete, or has one epoch: try the train command alone")
    return Whole(statistics.median(seconds[1:]), processor, rate)


def _watch(terminal: Terminal, process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Bytes a second until it ends, from the dashboard's first paint on, and its processor time."""
    terminal.swallow(6)
    terminal.press("2")
    terminal.swallow(2)
    before, began = terminal.written, time.monotonic()
    processor = _waited(process, lambda: terminal.swallow(0.5))
    return (terminal.written - before) / (time.monotonic() - began), processor


def _waited(process: subprocess.Popen[bytes], meanwhile: Callable[[], None]) -> float:
    """Processor seconds of a command, once it has ended."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    while process.poll() is None:
        meanwhile()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # of all that have ended: of this one
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def processor_time(pid: int) -> float:
    """Seconds of processor time of a process until now; 0 when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    main()

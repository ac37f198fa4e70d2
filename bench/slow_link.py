"""The app on a slow link: a pseudo-terminal that is read at 960 bytes a second, as 9,600 baud are.

    python bench/slow_link.py [--rate 960] [--seconds 60] [--size 80x24] [--full] [--buffered]

A run on the synthetic set trains beside it. Prints the seconds until the first screen is whole,
until a key's screen is whole, and the bytes a second while the dashboard of the run is watched.
``--full`` leaves ``--low-bandwidth`` out: what the option is for. ``--buffered`` is a link that
takes all at once and delivers it at its pace, as SSH does; the terminal at its end says how far it
is when asked, and the app is told that it runs under SSH.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command
from bench.terminal import Terminal

SLICE = 0.05
QUESTION = b"\x1b[6n"
SCREENS = {"1": r"name +state", "2": r"epoch \d+/\d+", "3": r"rec\. field"}
"""Keys, and what is on the screen of each and on no other."""


class SlowTerminal(Terminal):
    """A program whose output is taken at so many bytes a second."""

    def __init__(
        self, command: Sequence[str], rate: float, columns: int, lines: int, *, buffered: bool
    ) -> None:
        self._per_slice = max(1, round(rate * SLICE))
        self.read = 0
        self._buffered = buffered
        self._on_its_way = b""
        self._tail = b""
        self.longest = 0.0
        """Seconds that the last byte in the buffer had to wait at most."""
        self._rate = rate
        ssh = {"SSH_CONNECTION": "127.0.0.1 50000 127.0.0.1 22"} if buffered else None
        super().__init__(command, columns, lines, ssh)

    def slice(self) -> int:
        """Take what the link carries in a slice of time; how many bytes that was."""
        end = time.perf_counter() + SLICE
        size = 1 << 20 if self._buffered else self._per_slice
        if select.select([self.fd], [], [], 0 if self._on_its_way else SLICE)[0]:
            try:
                self._on_its_way += os.read(self.fd, size)
            except OSError:  # the terminal was left
                self.check()
        data = self._on_its_way[: self._per_slice]
        self._on_its_way = self._on_its_way[self._per_slice :]
        self.longest = max(self.longest, len(self._on_its_way) / self._rate)
        self.read += len(data)
        # a question that is cut in two by the slice is answered with the second part
        self._tail = (self._tail + data)[-len(data) - len(QUESTION) + 1 :] if data else self._tail
        for _ in range(self._tail.count(QUESTION)):
            os.write(self.fd, b"\x1b[1;1R")
        if QUESTION in self._tail:
            self._tail = self._tail.rpartition(QUESTION)[2]
        self.feed(data)
        time.sleep(max(0.0, end - time.perf_counter()))
        return len(data)

    def until(self, pattern: str, limit: float = 120) -> float:
        """Seconds until the screen has become one that shows something, and the link is idle.

        Raises:
            NoFigureError: it has not, or the program has ended.
        """
        before, changed = self.text(), False
        began = done = time.perf_counter()
        idle = 0
        while idle < 3 or not changed or not self.shows(pattern):
            if time.perf_counter() - began > limit:
                raise self.failed(f"{pattern!r} was not seen in {limit:.0f} s")
            if self.slice():
                idle, done = 0, time.perf_counter()
                changed = changed or self.text() != before
            else:
                idle += 1
                self.check()
        return done - began


def size(text: str) -> tuple[int, int]:
    """Columns and lines."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"must be COLUMNSxLINES as in 80x24, not {text!r}")
    return int(found[1]), int(found[2])


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--rate", type=command.positive_number, default=960)
    parser.add_argument("--seconds", type=command.positive_number, default=60)
    parser.add_argument("--size", type=size, default=(80, 24))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--buffered", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        with command.training(runs, "quick", "synthetic", 200) as trainer:
            while not any('"Progress"' in log.read_text() for log in runs.glob("*/events.jsonl")):
                trainer.check()
                time.sleep(0.1)
            app = [*command.APP, "--runs-dir", str(runs), "--data", "synthetic"]
            terminal = SlowTerminal(
                app if options.full else [*app, "--low-bandwidth"],
                options.rate,
                *options.size,
                buffered=options.buffered,
            )
            try:
                measure(options, terminal, trainer)
            finally:
                terminal.quit()


def measure(options: argparse.Namespace, terminal: SlowTerminal, trainer: command.Trainer) -> None:
    first = terminal.until(SCREENS["1"])
    keys = []
    for key in "3131":
        terminal.press(key)
        keys.append(terminal.until(SCREENS[key]))
    terminal.longest = 0.0
    terminal.press("2")
    dashboard = terminal.until(SCREENS["2"], limit=300)
    before, began = terminal.read, time.perf_counter()
    busy = total = 0
    while time.perf_counter() - began < options.seconds:
        total += 1
        busy += terminal.slice() > 0
        terminal.check()
    rate = (terminal.read - before) / (time.perf_counter() - began)
    terminal.press("1")
    back = terminal.until(SCREENS["1"])
    terminal.check()
    trainer.check()
    print(f"first screen whole after   {first:6.1f} s")
    print(f"key to whole screen        {statistics.median(keys):6.1f} s (median of {len(keys)})")
    print(f"dashboard whole after      {dashboard:6.1f} s")
    print(f"live                       {rate:6.0f} bytes/s, link busy {100 * busy / total:.0f} %")
    print(f"key while live             {back:6.1f} s")
    if options.buffered:
        print(f"queued in the link         {terminal.longest:6.1f} s at most")


if __name__ == "__main__":
    command.run(main)

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
import fcntl
import os
import pty
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte
from terminal import _UNKNOWN

SLICE = 0.05
QUESTION = b"\x1b[6n"


class SlowTerminal:
    """A program whose output is taken at so many bytes a second."""

    def __init__(
        self, command: list[str], rate: float, columns: int, lines: int, *, buffered: bool
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._per_slice = max(1, round(rate * SLICE))
        self.read = 0
        self._buffered = buffered
        self._on_its_way = b""
        self._tail = b""
        self.longest = 0.0
        """Seconds that the last byte in the buffer had to wait at most."""
        self._rate = rate
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            if buffered:
                os.environ["SSH_CONNECTION"] = "127.0.0.1 50000 127.0.0.1 22"
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            os.execvp(command[0], command)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, key: str) -> None:
        os.write(self._fd, key.encode())

    def slice(self) -> int:
        """Take what the link carries in a slice of time; how many bytes that was."""
        end = time.perf_counter() + SLICE
        size = 1 << 20 if self._buffered else self._per_slice
        if select.select([self._fd], [], [], 0 if self._on_its_way else SLICE)[0]:
            self._on_its_way += os.read(self._fd, size)
        data = self._on_its_way[: self._per_slice]
        self._on_its_way = self._on_its_way[self._per_slice :]
        self.longest = max(self.longest, len(self._on_its_way) / self._rate)
        self.read += len(data)
        # a question that is cut in two by the slice is answered with the second part
        self._tail = (self._tail + data)[-len(data) - len(QUESTION) + 1 :] if data else self._tail
        for _ in range(self._tail.count(QUESTION)):
            os.write(self._fd, b"\x1b[1;1R")
        if QUESTION in self._tail:
            self._tail = self._tail.rpartition(QUESTION)[2]
        self._stream.feed(_UNKNOWN.sub(b"", data))
        time.sleep(max(0.0, end - time.perf_counter()))
        return len(data)

    def until(self, holds: Callable[[str], bool], limit: float = 120) -> float:
        """Seconds until the screen holds something and the link is idle for a moment."""
        began = done = time.perf_counter()
        idle = 0
        while idle < 3 or not holds("\n".join(self.screen.display)):
            if time.perf_counter() - began > limit:
                raise TimeoutError("\n".join(self.screen.display))
            if self.slice():
                idle, done = 0, time.perf_counter()
            else:
                idle += 1
        return done - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=960)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--size", default="80x24")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--buffered", action="store_true")
    options = parser.parse_args()
    columns, lines = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        train = [sys.executable, "-m", "trainer", "train", "quick", "--data", "synthetic"]
        train += ["--epochs", "200", "--runs-dir", str(runs)]
        training = subprocess.Popen(train, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        app = [sys.executable, "-m", "tui", "--runs-dir", str(runs), "--data", "synthetic"]
        terminal = SlowTerminal(
            app if options.full else [*app, "--low-bandwidth"],
            options.rate,
            columns,
            lines,
            buffered=options.buffered,
        )
        try:
            first = terminal.until(lambda text: "quick" in text)
            keys = []
            for key, shown in (("3", "conv"), ("1", "state"), ("3", "conv"), ("1", "state")):
                terminal.press(key)
                keys.append(terminal.until(lambda text, shown=shown: shown in text.lower()))
            terminal.longest = 0.0
            terminal.press("2")
            dashboard = terminal.until(lambda text: "epoch" in text, limit=300)
            before, began = terminal.read, time.perf_counter()
            busy = total = 0
            while time.perf_counter() - began < options.seconds:
                total += 1
                busy += terminal.slice() > 0
            rate = (terminal.read - before) / (time.perf_counter() - began)
            terminal.press("1")
            back = terminal.until(lambda text: "state" in text.lower())
        finally:
            training.terminate()
            training.wait()
            os.kill(terminal.pid, 15)
    print(f"first screen whole after   {first:6.1f} s")
    print(f"key to whole screen        {statistics.median(keys):6.1f} s (median of {len(keys)})")
    print(f"dashboard whole after      {dashboard:6.1f} s")
    print(f"live                       {rate:6.0f} bytes/s, link busy {100 * busy / total:.0f} %")
    print(f"key while live             {back:6.1f} s")
    if options.buffered:
        print(f"queued in the link         {terminal.longest:6.1f} s at most")


if __name__ == "__main__":
    main()

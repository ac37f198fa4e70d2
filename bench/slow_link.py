"""The app on a slow link: a pseudo-terminal that is read at 960 bytes a second, as 9,600 baud are.

    python bench/slow_link.py [--rate 960] [--seconds 60] [--size 80x24] [--full]

A run on the synthetic set trains beside it. Prints the seconds until the first screen is whole,
until a key's screen is whole, and the bytes a second while the dashboard of the run is watched.
``--full`` leaves ``--low-bandwidth`` out: what the option is for.
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


class SlowTerminal:
    """A program whose output is taken at so many bytes a second."""

    def __init__(self, command: list[str], rate: float, columns: int, lines: int) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._per_slice = max(1, round(rate * SLICE))
        self.read = 0
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            os.execvp(command[0], command)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, key: str) -> None:
        os.write(self._fd, key.encode())

    def slice(self) -> int:
        """Take what the link carries in a slice of time; how many bytes that was."""
        end = time.perf_counter() + SLICE
        data = b""
        if select.select([self._fd], [], [], SLICE)[0]:
            data = os.read(self._fd, self._per_slice)
            self.read += len(data)
            self._stream.feed(_UNKNOWN.sub(b"", data))
        time.sleep(max(0.0, end - time.perf_counter()))
        return len(data)

    def until(self, holds: Callable[[str], bool], limit: float = 120) -> float:
        """Seconds until the screen holds something and the link is idle for half a second."""
        began = done = time.perf_counter()
        idle = 0
        while idle < 10 or not holds("\n".join(self.screen.display)):
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
    options = parser.parse_args()
    columns, lines = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        train = [sys.executable, "-m", "trainer", "train", "quick", "--data", "synthetic"]
        train += ["--epochs", "200", "--runs-dir", str(runs)]
        training = subprocess.Popen(train, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        app = [sys.executable, "-m", "tui", "--runs-dir", str(runs), "--data", "synthetic"]
        terminal = SlowTerminal(
            app if options.full else [*app, "--low-bandwidth"], options.rate, columns, lines
        )
        try:
            first = terminal.until(lambda text: "quick" in text)
            keys = []
            for key, shown in (("3", "conv"), ("1", "state"), ("3", "conv"), ("1", "state")):
                terminal.press(key)
                keys.append(terminal.until(lambda text, shown=shown: shown in text.lower()))
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


if __name__ == "__main__":
    main()

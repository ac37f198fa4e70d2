"""What watching costs: the same run with and without the app's dashboard open beside it.

    python bench/monitor.py --data FOLDER [--rounds 3] [--epochs 3]

Alternates the two sides; the first epoch of each run is a warm-up and does not count. Prints the
medians of the training seconds, their ratio, and the bytes a second that reached the terminal.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import select
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

COLUMNS, LINES = 160, 50


class App:
    """The app in a pseudo-terminal, its output read and counted on a thread."""

    def __init__(self, command: list[str]) -> None:
        self.written = 0
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            os.execvp(command[0], command)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        while True:
            try:
                if select.select([self._fd], [], [], 1.0)[0]:
                    self.written += len(os.read(self._fd, 1 << 16))
            except OSError:
                return

    def press(self, key: str) -> None:
        os.write(self._fd, key.encode())

    def quit(self) -> None:
        self.press("q")
        for _ in range(50):
            if os.waitpid(self._pid, os.WNOHANG)[0]:
                return
            time.sleep(0.1)
        os.kill(self._pid, 9)
        os.waitpid(self._pid, 0)


def train(program: str, runs: Path, options: argparse.Namespace, *, watched: bool) -> list[float]:
    """Train once; seconds of the epochs after the first, and bytes a second when watched."""
    app = App([program, "--runs-dir", str(runs), "--data", options.data]) if watched else None
    if app is not None:
        time.sleep(6)  # its trainer has loaded torch and rests
    command = [program, "train", options.preset, "--data", options.data, "--json"]
    command += ["--epochs", str(options.epochs), "--runs-dir", str(runs)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rate = 0.0
    if app is not None:
        time.sleep(6)
        app.press("2")
        time.sleep(2)
        before, began = app.written, time.monotonic()
        process.wait()
        rate = (app.written - before) / (time.monotonic() - began)
        app.quit()
    if process.wait() != 0:
        sys.exit("the run did not complete: try the train command alone")
    log = max(runs.glob("*/events.jsonl"))
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    seconds = [event["seconds"] for event in events if event["kind"] == "EpochEnded"]
    return [sum(seconds[1:]), rate]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    program = shutil.which("cifar-tui") or sys.exit("cifar-tui is not installed here")
    alone, watched, rates = [], [], []
    for _ in range(options.rounds):
        # a directory for each run: in it the app shows the only one, the live one
        with tempfile.TemporaryDirectory() as folder:
            alone.append(train(program, Path(folder), options, watched=False)[0])
        with tempfile.TemporaryDirectory() as folder:
            seconds, rate = train(program, Path(folder), options, watched=True)
        watched.append(seconds)
        rates.append(rate)
    ratio = statistics.median(watched) / statistics.median(alone)
    print(f"alone    {statistics.median(alone):7.2f} s  ({', '.join(f'{s:.2f}' for s in alone)})")
    print(
        f"watched  {statistics.median(watched):7.2f} s  ({', '.join(f'{s:.2f}' for s in watched)})"
    )
    print(f"watched / alone: {ratio:.3f}")
    print(f"terminal: {statistics.median(rates):.0f} bytes/s at {COLUMNS}x{LINES}")


if __name__ == "__main__":
    main()

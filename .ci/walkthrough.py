"""Use the installed program as a person does, through a pseudo-terminal.

Opens the app, starts the preset ``quick`` on the synthetic set with a key, waits for two epochs,
stops it, quits, and checks the log on disk. Exits with 1 and the last screen when something is off.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte

COLUMNS, LINES = 120, 40
UNKNOWN_TO_PYTE = re.compile(
    rb"\x1b\[[<>=][0-9;]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p|\x1b[P_\]].*?(?:\x1b\\|\x07)"
)


class Terminal:
    """A program in a pseudo-terminal, and the screen it has painted."""

    def __init__(self, command: list[str]) -> None:
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        self._ended: int | None = None
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            os.execvp(command[0], command)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))

    def text(self) -> str:
        return "\n".join(self.screen.display)

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait(self, what: str, condition: Callable[[], object], seconds: float) -> None:
        """Feed the screen until the condition holds; give up with the screen after ``seconds``."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                sys.exit(f"{self.text()}\n\nwalkthrough: no {what} within {seconds:.0f} s")
            if select.select([self._fd], [], [], 0.1)[0]:
                try:
                    data = os.read(self._fd, 1 << 16)
                except OSError:
                    data = b""
                self._stream.feed(UNKNOWN_TO_PYTE.sub(b"", data))
        print(f"walkthrough: {what}")

    def status(self) -> int | None:
        """The exit status, once the program has ended."""
        if self._ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._ended = os.waitstatus_to_exitcode(status) if pid else None
        return self._ended


def events(runs: Path) -> list[dict[str, object]]:
    """The events of the only run."""
    logs = list(runs.glob("*/events.jsonl"))
    if len(logs) != 1:
        return []
    return [
        json.loads(line)["event"]
        for line in logs[0].read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]


def kinds(runs: Path) -> list[object]:
    return [event["kind"] for event in events(runs)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        app = Terminal(["cifar-tui", "--runs-dir", str(runs), "--data", "synthetic"])
        app.wait("first paint", lambda: "synthetic" in app.text(), 20)
        app.press("s")
        app.wait("a run on disk", lambda: "RunQueued" in kinds(runs), 30)
        app.wait("two epochs", lambda: kinds(runs).count("EpochEnded") >= 2, 300)
        app.press("x")
        time.sleep(1)
        app.press("x")
        app.wait("the run's end", lambda: "RunEnded" in kinds(runs), 60)
        app.wait("the state on the screen", lambda: "stopped" in app.text(), 10)
        app.press("q")
        app.wait("the program's end", lambda: app.status() is not None, 20)
        check(events(runs), runs, app.status())
    print("walkthrough: passed")


def check(log: list[dict[str, object]], runs: Path, status: int | None) -> None:
    """What a stopped run must have left behind."""
    found = [event["kind"] for event in log]
    started = next(event for event in log if event["kind"] == "RunStarted")
    evaluations = [event for event in log if event["kind"] == "EvalEnded"]
    run = next(runs.glob("*/events.jsonl")).parent
    problems = {
        "the program did not exit with 0": status != 0,
        "the run did not end as stopped": log[-1].get("state") != "stopped",
        "the data is not named synthetic": started["data_kind"] != "synthetic",
        "no evaluation on the test split": not evaluations
        or any(event["split"] != "test" for event in evaluations),
        "no layer table": "ModelDescribed" not in found,
        "no predictions": not list(run.glob("predictions/*.npz")),
        "no checkpoint": not (run / "checkpoints" / "last.pt").is_file(),
        "no better than guessing": max(float(str(e["accuracy"])) for e in evaluations) < 0.2,
    }
    wrong = [problem for problem, holds in problems.items() if holds]
    if wrong:
        sys.exit("walkthrough: " + "; ".join(wrong))


if __name__ == "__main__":
    main()

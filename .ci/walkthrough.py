"""Use the installed program as a person does, through a pseudo-terminal.

Opens the app, starts the preset ``quick`` on the synthetic set with a key, waits for two epochs,
stops it, quits, and checks the log on disk. Exits with 1 and the last screen when something is off.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.terminal import Terminal


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


def see(app: Terminal, what: str, condition: Callable[[], object], seconds: float) -> None:
    """Wait for something; end with the last screen where it does not come."""
    try:
        app.wait(what, condition, seconds)
    except AssertionError as error:
        sys.exit(f"walkthrough: {error}")
    print(f"walkthrough: {what}")


def kinds(runs: Path) -> list[object]:
    return [event["kind"] for event in events(runs)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        app = Terminal(["cifar-tui", "--runs-dir", str(runs), "--data", "synthetic"])
        see(app, "first paint", lambda: "synthetic" in app.text(), 20)
        app.press("s")
        see(app, "a run on disk", lambda: "RunQueued" in kinds(runs), 30)
        see(app, "two epochs", lambda: kinds(runs).count("EpochEnded") >= 2, 300)
        app.press("x")
        time.sleep(1)
        app.press("x")
        see(app, "the run's end", lambda: "RunEnded" in kinds(runs), 60)
        see(app, "the state on the screen", lambda: "stopped" in app.text(), 10)
        app.press("q")
        see(app, "the program's end", lambda: app.status() is not None, 20)
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

"""The command ``cifar-tui``: without a subcommand it opens the app, else the command line does.

The app's own options are read by hand: importing the command line's library would cost a third of
the time to the first paint.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from trainer.exit_codes import BAD_INPUT, COMPLETED, STOPPED

OPTIONS = {
    "--runs-dir": "runs_dir",
    "--data": "data",
    "--device": "device",
    "--alert": "alert",
    "--stall-steps": "stall_steps",
    "--on-end": "on_end",
    "--human": "human",
    "--review": "review",
}
FLAGS = {
    "--ascii": "ascii",
    "--low-bandwidth": "low_bandwidth",
    "--full-bandwidth": "full_bandwidth",
    "--graphics": "graphics",
}
DIGITS = 20
"""Python reads no number of more than some thousands."""
SWITCH_SECONDS = 0.001
"""Python's own 5 ms keep what is painted waiting for the writer's thread: a key took 2 ms more."""
FRAMES = "240"
"""A second: what a key changes in a second paint need not wait 17 ms for it."""
NO_TERMINAL = "use 'cifar-tui train PRESET' without the app ('cifar-tui --help' tells more)"


def main() -> None:
    """Entry point; how it exits, ``trainer/exit_codes.py`` tells."""
    try:
        code = _run(sys.argv[1:])
        from trainer.spoiled import end  # not for the first paint

        end(code)
    except KeyboardInterrupt:  # while modules were still being imported
        sys.exit(STOPPED)


def _run(arguments: list[str]) -> int:
    chosen = quick_options(arguments)
    if chosen is not None:
        return open_app(**chosen)
    from tui.command_line import run_with_app

    return run_with_app(open_app)


def quick_options(arguments: list[str]) -> dict[str, Any] | None:
    """The app's options, or ``None`` when there is anything else, help and mistakes included."""
    chosen: dict[str, Any] = {}
    left = list(arguments)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name in FLAGS and not equals:
            chosen[FLAGS[name]] = True
            continue
        if name not in OPTIONS or (not equals and not left):
            return None
        chosen[OPTIONS[name]] = value if equals else left.pop(0)
    return chosen


def open_app(
    runs_dir: str | None = None,
    data: str | None = None,
    device: str | None = None,
    alert: str | None = None,
    stall_steps: str | None = None,
    on_end: str | None = None,
    human: str | None = None,
    review: str | None = None,
    *,
    ascii: bool = False,
    low_bandwidth: bool = False,
    full_bandwidth: bool = False,
    graphics: bool = False,
) -> int:
    """Run the app until it is left; the exit status."""
    # None where it was closed
    if not all(file is not None and file.isatty() for file in (sys.stdin, sys.stdout)):
        return _refuse(f"the app needs a terminal: {NO_TERMINAL}")
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return _refuse(
            f"the app cannot draw on this terminal (TERM={os.environ.get('TERM', '')}): "
            f"{NO_TERMINAL}"
        )
    from tui import collector

    collector.begin()
    sys.setswitchinterval(SWITCH_SECONDS)
    from trainer.errors import ConfigError
    from trainer.files.paths import absolute, expanded, is_dir
    from trainer.lifecycle import alerts
    from trainer.lifecycle.admission import anchored_data
    from trainer.runs.rundir import default_runs_dir

    if device is not None:
        from trainer.config import DEVICE, DEVICES  # not for the first paint without it: 5 ms

        if not DEVICE.fullmatch(device):
            return _refuse(f"--device must be {DEVICES}, not {device!r}")
    for option, value in (("--runs-dir", runs_dir), ("--data", data)):
        if value == "":
            return _refuse(f"{option} is empty")
    human = human or os.environ.get("CIFAR_TUI_HUMAN")
    review = review or os.environ.get("CIFAR_TUI_REVIEW")
    try:
        # absolute: the working directory can be deleted under the app
        directory = absolute(runs_dir) if runs_dir else default_runs_dir()
        for said in filter(None, (human, review, os.environ.get("CIFAR_TUI_DATA"))):
            expanded(said)
        data = anchored_data(data) if data else None
        there, is_directory = os.path.lexists(directory), is_dir(directory)
    except ConfigError as error:
        return _refuse(str(error))
    if there and not is_directory:
        return _refuse(f"{directory} is no directory: choose one with --runs-dir")
    if there and not os.access(directory, os.R_OK | os.X_OK):
        return _refuse(f"{directory} cannot be read: choose another with --runs-dir")
    if stall_steps is not None and not stall_steps.isdecimal():
        return _refuse(f"--stall-steps must be a whole number, not {stall_steps!r}")
    if stall_steps is not None and len(stall_steps) > DIGITS:
        return _refuse(
            f"--stall-steps must be 2 to 1000000, not a number of {len(stall_steps)} digits"
        )
    try:
        chosen = alerts.load(alert, None if stall_steps is None else int(stall_steps), on_end)
    except ConfigError as error:
        return _refuse(str(error))

    from tui.terminal.settings import detect

    terminal = detect(
        os.environ, ascii=ascii, low_bandwidth=low_bandwidth, full_bandwidth=full_bandwidth
    )
    if terminal.low_bandwidth:
        # shorter sequences; Textual reads it when it is imported
        if not terminal.few_colours:  # else 38;5;7 would blink, and reverse
            os.environ.setdefault("TEXTUAL_COLOR_SYSTEM", "256")
    else:
        os.environ.setdefault("TEXTUAL_FPS", FRAMES)
    kind, why_not = None, ""
    if graphics:
        from tui.terminal.graphics import find

        kind, why_not = find(os.environ, terminal)
    _import_asyncio()
    from tui.app import CifarApp

    app = CifarApp(
        directory,
        data=data,
        device=device,
        alerts=chosen,
        terminal=terminal,
        human=human,
        review=review,
        graphics=kind,
        told=why_not,
    )
    if terminal.few_colours:
        from tui.terminal import few_colours

        few_colours.install(app)
    app.run()
    return app.return_code or COMPLETED


def _import_asyncio() -> None:
    """Import it without TLS, which nothing here uses: 5 ms of the first paint.

    Who needs ``ssl`` later, as the download of the data set does, imports it as ever.
    """
    if "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]  # not to be had, says Python's manual
    try:
        import_module("asyncio")
    finally:
        del sys.modules["ssl"]


def _refuse(line: str) -> int:
    print(f"cifar-tui: {line}", file=sys.stderr or sys.stdout)
    return BAD_INPUT


if __name__ == "__main__":
    main()

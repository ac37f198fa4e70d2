"""The exit codes of ``cifar-tui``, of all its commands and processes. Torch-free."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.events import RunEnded


def after_signal(number: int) -> int:
    """As a shell tells of a program that a signal has ended."""
    return 128 + number


COMPLETED = 0
FAILED = 1
BAD_INPUT = 2
STOPPED = after_signal(signal.SIGINT)

MEANINGS = {
    COMPLETED: "completed",
    FAILED: "failed",
    BAD_INPUT: "bad input or a stopped run that cannot go on",
    STOPPED: "stopped by the user",
    after_signal(signal.SIGHUP): "the app's terminal was lost",
    after_signal(signal.SIGTERM): "the app was told to end",
}
"""As the README has them."""


def of_run(ended: RunEnded) -> int:
    """How a run ended; one that nobody stopped, but that cannot go on, is bad input."""
    if ended.state == "stopped":
        return BAD_INPUT if ended.error else STOPPED
    return for_torchrun(ended)


def for_torchrun(ended: RunEnded) -> int:
    """The same for torchrun, which starts what fails anew: not a run that was stopped."""
    return FAILED if ended.state == "failed" else COMPLETED

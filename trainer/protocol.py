"""What the app and the worker process say to each other: JSON lines on its pipes. Torch-free."""

from __future__ import annotations

import msgspec


class Job(msgspec.Struct, frozen=True):
    """A line on the worker's stdin: a run to train."""

    run: str
    """Its folder."""
    data_dir: str | None = None
    resume: bool = False
    on_end: str = ""
    """A command to start when the run has ended."""


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line on the worker's stdout; unknown fields are ignored."""

    state: str
    """loading, ready, training, idle, failed or refused."""
    run: str = ""
    torch: str = ""
    device: str = ""
    devices: tuple[str, ...] = ()
    threads: int = 0
    error: str = ""

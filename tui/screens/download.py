"""Downloading CIFAR-10: a child process that tells how far it is, line by line."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Static

from trainer.processes import child_environment
from trainer.words import percent
from tui.datasource import without_advice
from tui.formatting import clean, size
from tui.screens.dialogs import Dialog

STEPS_SHOWN = 100


class Line(msgspec.Struct):
    """What the child writes."""

    downloaded: int | None = None
    total: int | None = None
    error: str | None = None


def default_command() -> tuple[str, ...]:
    """The command line of this program that downloads."""
    return (sys.executable, "-P", "-m", "trainer", "data", "--download", "--json")


class Download(Dialog):
    """Progress of the download; escape ends it. Dismissed with ``done`` when the data is there.

    After a failure it can be dismissed with ``synthetic`` or ``folder``.
    """

    BINDINGS = [
        Binding(
            "S",
            "instead('synthetic')",
            "Synthetic",
            id="download.synthetic",
            tooltip="Train on the synthetic set instead",
        ),
        Binding(
            "F",
            "instead('folder')",
            "Folder",
            id="download.folder",
            tooltip="Choose a folder instead",
        ),
    ]

    def __init__(self, command: Sequence[str] | None = None) -> None:
        super().__init__("Downloading CIFAR-10", "connecting…")
        self._command = tuple(command or default_command())
        self._process: asyncio.subprocess.Process | None = None
        self._part = -1
        self.problem = ""

    def content(self) -> ComposeResult:
        """The bar."""
        yield Static("", id="bar")
        yield Static("escape cancels", id="note", classes="note", markup=False)

    def on_mount(self) -> None:
        """Begin."""
        self.run_worker(self._download(), group="download", description="download CIFAR-10")

    async def _download(self) -> None:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=child_environment(),
                # ctrl+c belongs to the app
                start_new_session=True,
            )
        except OSError as error:
            self._fail(f"cannot start the download: {error.strerror}")
            return
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            with suppress(msgspec.DecodeError):
                self._heard(msgspec.json.decode(raw, type=Line))
        code = await self._process.wait()
        if code == 0 and not self.problem:
            self.dismiss("done")
        else:
            self._fail(self.problem or f"the download ended with status {code}")

    def _heard(self, line: Line) -> None:
        if line.error:
            self.problem = without_advice(line.error)
        if line.downloaded is None or not self.stands:
            return
        if not line.total:
            self.say(f"{size(line.downloaded)} so far")
            return
        share = min(1.0, line.downloaded / line.total)
        part = int(share * STEPS_SHOWN)
        # no more repaints than there are steps of the bar
        if part != self._part:
            self._part = part
            self.say(f"{size(line.downloaded)} of {size(line.total)}")
            self.query_one("#bar", Static).update(self._bar(share))

    def _bar(self, share: float) -> Text:
        width = max(10, self.query_one("#bar", Static).size.width - 7)
        full = round(share * width)
        colours = self.cifar.colours()
        return Text.assemble(
            ("━" * full, colours["primary"]),
            ("─" * (width - full), colours["secondary"]),
            f" {percent(share, 0):>5}",
        )

    def _fail(self, problem: str) -> None:
        self.problem = problem
        if self.stands:
            self.say(clean(problem, 300), error=True)
            self.query_one("#note", Static).update(
                "S trains on the synthetic set instead · F chooses a folder · escape closes"
            )

    def action_instead(self, answer: str) -> None:
        """Another way to some data, once the download has failed."""
        if self.problem:
            self.dismiss(answer)

    def on_unmount(self) -> None:
        """Closed before the end: the child ends too."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, 15)

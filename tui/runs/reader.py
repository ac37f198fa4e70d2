"""Reads the logs for the app: at once what is short, in slices what is long. Keys come first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tui.runs.store import Changes
from tui.terminal.driver import TerminalDriver

if TYPE_CHECKING:
    from trainer.runs.follower import Follower
    from tui.app import CifarApp

SLICE_SECONDS = 0.015
"""Long logs are read in slices: a key waits for one at most."""
BREATH_SECONDS = 0.001
ANSWER_SECONDS = 0.04
SHOWN_SECONDS = 1.0
"""While a log is read, so often what there is of it is shown."""


class Reader:
    """Polls the store of the app, on its thread alone.

    Args:
        app: whose runs these are.
        take: shows what was found.
    """

    def __init__(self, app: CifarApp, take: Callable[[Changes], None]) -> None:
        self._app, self._take = app, take
        self._read = Changes(news=False)
        """What was read since the last poll and is not shown yet."""
        self.reading = False
        """Whether a long log is being read."""
        self.shares_processor = False
        """Whether a run that trains on this machine's processor was the last that was heard of."""

    def poll_when_through(self) -> None:
        """Poll, but not while a slow link still carries what was drawn: keys come first."""
        app, driver = self._app, self._app._driver
        rests = self.reading
        if isinstance(driver, TerminalDriver):
            if driver.gone():
                app.leave(busy=bool(app.runs.ours()))
                return
            if app.traffic.busy:
                return
            driver.ask()
            rests = rests or (app.traffic.slow and app.traffic.waiting)
        if not rests:
            self.poll()

    def poll(self, *, now: bool = False) -> None:
        """Fold what is new and have it shown; ``now``: list the runs anew."""
        app, store = self._app, self._app.store
        changes, self._read = self._read, Changes(news=False)
        # what was read in slices is not all progress
        changes.news = bool(changes)
        changes.add(store.poll(budget=SLICE_SECONDS, now=now))
        if changes.runs:
            heard = (store.get(run) for run in changes.runs)
            self.shares_processor = any(run is not None and _shares_processor(run) for run in heard)
        self._take(changes)
        app.pace.looked(found=bool(changes) or store.unfinished)
        if store.unfinished and not self.reading:
            self.reading = True
            app.run_worker(self._read_on(), group="reading", description="read what is long")

    async def _read_on(self) -> None:
        """Read the rest of a long log in slices; what came is shown when it is all there.

        Or a second later: redrawing half a curve again and again takes longer than the reading.
        """
        store = self._app.store
        shown = time.monotonic()
        try:
            while store.unfinished:
                await self._breathe()
                if not self._app.screen_stack:  # the app is being left
                    return
                self._read.add(store.poll(budget=SLICE_SECONDS))
                # keys mean another run as soon as the chosen one has gone
                if self._read.gone or time.monotonic() - shown >= SHOWN_SECONDS:
                    self.poll()
                    shown = time.monotonic()
        finally:
            self.reading = False
        self.poll()

    async def _breathe(self) -> None:
        """Let the app paint; after a key until that is answered."""
        await asyncio.sleep(BREATH_SECONDS)
        driver = self._app._driver
        while isinstance(driver, TerminalDriver) and driver.typed_ago() < ANSWER_SECONDS:
            await asyncio.sleep(BREATH_SECONDS)


def _shares_processor(run: Follower) -> bool:
    """Whether it trains on the processor that the app runs on."""
    begun = run.state.started
    if begun is None or run.status != "training":
        return False
    return run.here and begun.device.startswith("cpu")

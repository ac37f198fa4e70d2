"""What the keys do to runs: start, queue, stop, pause, checkpoint, and quitting while one goes."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from trainer.errors import DataError, UserError
from trainer.lifecycle.admission import admitted, anchored_data
from trainer.runs.follower import Follower
from trainer.runs.runstate import ACTIVE
from tui import datasource, formatting
from tui.datasource import DataStatus
from tui.run_words import run_name
from tui.runs.store import Changes
from tui.screens.base import StoreScreen
from tui.screens.too_small import TooSmall

if TYPE_CHECKING:
    # imported where they are used: the first paint does not wait for them
    from trainer.config import RunConfig
    from trainer.runs.control import Command
    from trainer.runs.rundir import RunDir
    from tui.app import CifarApp
    from tui.screens.dialogs import Quit, Stop

DEFAULT_DATA = "cifar10"


class RunControl:
    """Belongs to the app and is used on its thread alone."""

    def __init__(self, app: CifarApp, *, data: str | None) -> None:
        self._app = app
        self._data = data or DEFAULT_DATA
        self._preset: str | None = None
        self._presets: list[tuple[str, str]] = []
        self._seen: dict[str, DataStatus] = {}
        self.stopping: set[str] = set()
        """Runs that were asked to stop and have not ended yet."""
        self._sent: dict[str, Command] = {}
        """The last pause or resume of a run that does not show in its log yet."""
        self._quitting: Quit | None = None
        self._asking: tuple[Stop, Follower] | None = None
        self._unstarted: tuple[str, dict[str, str], str] | None = None
        """Preset and fields of the form whose run was refused after it closed, and why."""

    # ---- data and preset --------------------------------------------------------------------

    @property
    def data(self) -> str:
        """Data of the next run."""
        return self._data

    @data.setter
    def data(self, source: str) -> None:
        self._data = anchored_data(source)
        self._app.repaint()
        self._app.run_worker(self.look_for_data(), group="data", description="look for the data")

    @property
    def data_status(self) -> DataStatus | None:
        """What is known of the chosen data; ``None`` before it was looked for."""
        return self._seen.get(self._data)

    async def look_for_data(self) -> None:
        """Look on a thread whether the chosen data is there."""
        source = self._data
        self._seen[source] = await asyncio.to_thread(datasource.look, source)
        self._app.repaint()

    @property
    def preset(self) -> str:
        """What ``s`` starts: the chosen preset, else the machine's default."""
        return self._preset or ("fast" if self._has_gpu() else "quick")

    @preset.setter
    def preset(self, name: str) -> None:
        self._preset = name
        self._app.repaint()

    def _has_gpu(self) -> bool:
        """What the trainer says; before it has said anything, whether a driver is loaded, or Apple
        made the processor."""
        wanted = self._app.device or "auto"
        if wanted != "auto":
            return wanted != "cpu"
        device = self._app.worker.info.device
        if device:
            return device[:4] in ("cuda", "mps")
        apple = (sys.platform, platform.machine()) == ("darwin", "arm64")
        return apple or os.path.exists("/dev/nvidia0")  # noqa: PTH110

    def presets(self) -> list[tuple[str, str]]:
        """Names and descriptions."""
        from trainer.presets import catalog

        if not self._presets:
            self._presets = [(n, catalog.load(n).description) for n in catalog.names()]
        return self._presets

    # ---- starting ---------------------------------------------------------------------------

    def overrides(self) -> list[str]:
        """What the app's own choices add to a preset."""
        from trainer.config import setting  # not for the first paint

        device = [setting("train.device", self._app.device)] if self._app.device else []
        return [setting("data", anchored_data(self._data)), *device]

    async def start(self) -> None:
        """Start the chosen preset on the chosen data, or say what is missing."""
        from trainer.presets import catalog

        self._app.worker.start()  # torch is loaded while data and preset are looked at
        if self.data_status is None or not self.data_status.ready:
            await self.look_for_data()
        status = self.data_status
        if status is not None and not status.ready:
            self._ask_for_data(status)
            return
        try:
            config = catalog.load(self.preset, self.overrides())
        except UserError as error:
            self._app.tell(str(error), severity="error")
            return
        await self.submit(config)

    async def submit(self, config: RunConfig, refused: Callable[[str], None] | None = None) -> bool:
        """Put a run on disk and give it to the trainer; whether that worked.

        ``refused``: is told why nothing was put there; by default the user is.
        """
        from trainer.lifecycle.submit import name_of, submit

        def admit() -> RunDir:
            return submit(admitted(config), app.store.runs_dir.absolute())

        app = self._app
        refused = refused or self._not_started
        lacking = app.worker.info.lacks_for(config.train.device, config.train.processes)
        if lacking:
            refused(lacking)
            return False
        try:
            run = await asyncio.to_thread(admit)
        except UserError as error:
            refused(str(error))
            return False
        before = self._not_ended()
        queued = app.worker.queue(run.path)
        if not app.is_running:  # it was left while the run was made
            return queued
        app.store.expect(run.id)  # not before: at the death of a trainer others are given up
        if not queued:
            app.store.give_up(app.worker.given)
        name = formatting.clean(name_of(config, run), 40)
        if before and queued:
            others = f"{len(before)} other{'s' * (len(before) > 1)}"
            app.tell(f"{name} is queued behind {others}", kind="queued")
        else:
            app.choose_begun(run.id)
        app.poll()
        app.refresh_bindings()
        return queued

    def _not_started(self, why: str) -> None:
        self._app.tell(why, severity="error", title="Not started")

    @property
    def chosen(self) -> Follower | None:
        """The run that keys mean; none where the list is visible and its filter fits no run."""
        screen = self._app.main_screen()
        return self._app.store.current if screen is None or screen.points_at_run else None

    def resumable(self) -> bool:
        """Whether the chosen run ended before it was done, and can go on."""
        current = self.chosen
        if current is None or current.status not in ("stopped", "failed", "crashed"):
            return False
        return not current.state.begun or current.run.has_checkpoint("last")

    async def resume(self) -> None:
        """Queue the chosen run once more, from its checkpoint if it ever began, or say why not."""
        from trainer.lifecycle.submit import resubmit

        app, run = self._app, self.chosen
        if run is None:
            return
        if run.status == "paused":
            self._send_pause(run, "resume")
            return
        if run.status in (*ACTIVE, "completed"):
            app.tell(f"{run_name(run)} is {run.status}: there is nothing to resume")
            return
        try:
            elsewhere = await asyncio.to_thread(self._elsewhere, run.run)
            await asyncio.to_thread(resubmit, run.run, data=elsewhere)
        except UserError as error:
            app.tell(str(error), severity="error", title="Not resumed")
            return
        before = len(self._not_ended())
        queued = app.worker.queue(run.run.path, resume=True)
        if not app.is_running:
            return
        app.store.expect(run.run.id)
        if queued:
            again = run.run.has_checkpoint("last")
            where = "goes on from its checkpoint" if again else "begins"
            if before:
                where = f"is queued behind {before} other{'s' * (before > 1)}: then it {where}"
            elif not again:
                where = "begins: it had not yet"
            app.tell(f"{run_name(run)} {where}", kind="queued")
        else:
            app.store.give_up(app.worker.given)
        app.poll()
        app.refresh_bindings()

    def _elsewhere(self, run: RunDir) -> str | None:
        """The chosen folder, where the run's own data are no longer where they were.

        Whether they are the same data is looked at by who takes them.

        Raises:
            UserError: its data are not there, and no folder is chosen.
        """
        from trainer.lifecycle.submit import read_config

        status = datasource.look(read_config(run).data)
        if status.ready:
            return None
        if self._data not in datasource.BUILT_IN and datasource.look(self._data).ready:
            return self._data
        missing = status.line.partition(": ")[0]  # without what to type on a command line
        raise DataError(f"{missing}: choose the folder its data lie in by now (F), then resume")

    def _ask_for_data(self, status: DataStatus) -> None:
        from tui.screens.dialogs import Choice

        choices = [
            ("S", "synthetic", "Train on the synthetic set: ten drawn classes, not CIFAR-10"),
            ("F", "folder", "Choose a folder"),
        ]
        if self._data == "cifar10":
            choices.insert(0, ("D", "download", "Download CIFAR-10 (170 MB)"))
        dialog = Choice("The data is not there", formatting.clean(status.line, 300), choices)
        self._app.push_screen(dialog, self._data_chosen)

    def _data_chosen(self, answer: str | None) -> None:
        if answer == "download":
            self.download()
        elif answer == "folder":
            self.choose_data()
        elif answer == "synthetic":
            self._app.run_worker(self._app.action_start_synthetic(), group="start")

    def download(self) -> None:
        """Download CIFAR-10 and stay with it."""
        from tui.screens.download import Download

        self._app.expect_run()

        def ended(answer: str | None) -> None:
            if answer == "done":
                self.data = DEFAULT_DATA
                self._app.tell("CIFAR-10 is there: s starts a run on it")
            else:
                self._data_chosen(answer)

        self._app.push_screen(Download(self._app.download_command), ended)

    def choose_data(self) -> None:
        """Ask for the data of the next runs."""
        from tui.screens.dialogs import DataSource

        self._app.expect_run()

        def check(source: str) -> str:
            found = datasource.look(source)
            return "" if found.ready else found.line

        def chosen(source: str | None) -> None:
            if source:
                self.data = source

        self._app.push_screen(DataSource(self._data, check), chosen)

    def choose_preset(self) -> None:
        """Ask which preset ``s`` starts."""
        from tui.screens.dialogs import Choice

        self._app.expect_run()

        def chosen(name: str | None) -> None:
            if name:
                self.preset = name

        choices = [("", name, f"{name:<12} {description}") for name, description in self.presets()]
        text = "enter chooses, then s starts it"
        self._app.push_screen(Choice("Preset", text, choices, chosen=self.preset), chosen)

    def open_form(self) -> None:
        """The form of a new run; after a refusal with what was typed."""
        from tui.screens.new_run import NewRun

        self._app.expect_run()
        preset, typed, why = self._unstarted or (self.preset, None, "")
        self._unstarted = None
        form = NewRun(preset, self._data, self._app.device, typed=typed, why=why)

        def refused(why: str) -> None:
            self._unstarted = form.preset, form.typed, why
            if isinstance(self._app.screen, StoreScreen):
                self.open_form()
            else:  # n opens it again
                self._not_started(why)

        def filled(config: RunConfig | None) -> None:
            if config is not None:
                self._app.stay()
                start = self.submit(config, refused)
                self._app.run_worker(start, group="start", description="start a run")

        self._app.push_screen(form, filled)

    # ---- control ----------------------------------------------------------------------------

    def target(self) -> Follower | None:
        """The run that stop, pause and checkpoint mean: the chosen one, else one that trains or is
        paused, else the first that waits.
        """
        current, active = self.chosen, self._app.store.active()
        if current in active:
            return current
        return min(active, key=lambda run: run.status == "queued", default=None)

    def send(self, run: Follower, command: Command) -> bool:
        """Write the command into the run's folder; its trainer looks there."""
        from trainer.runs import control

        try:
            control.send(run.run, command)
        except UserError as error:
            self._app.tell(str(error), severity="error")
            return False
        return True

    def ask_stop(self) -> None:
        """Ask once, then stop."""
        from tui.screens.dialogs import Stop

        run = self.target()
        if run is None:
            return
        if run.run.id in self.stopping:
            self._app.tell(f"{run_name(run)} is stopping: it ends at its next step")
            return

        def answered(answer: str | None) -> None:
            self._asking = None
            if answer == "stop":
                self.stop(run)

        words, kept = _before_stop(run)
        question = Stop(words, run.run.id, kept)
        self._asking = question, run
        self._app.push_screen(question, answered)

    def stop(self, run: Follower) -> None:
        """Stop at the next step; shown as stopping until it has ended."""
        if run not in self._app.store.active():  # while the question was on the screen
            self._app.tell(f"{run_name(run)} has ended already")
        elif self.send(run, "stop"):
            self.stopping.add(run.run.id)
            self._app.repaint()

    def asked(self, run: Follower) -> str:
        """What a run was asked for and has not done yet: ``stopping``, ``pausing`` or nothing."""
        if run.run.id in self.stopping and run.status in ACTIVE:
            return "stopping"
        pauses = run.status == "training" and self._sent.get(run.run.id) == "pause"
        return "pausing" if pauses else ""

    def pause(self) -> None:
        """Pause, or go on: the other of what was asked for last, though it may not be done yet."""
        run = self.target()
        if run is None:
            return
        if run.status == "queued":
            self._app.tell(f"{run_name(run)} waits in the queue: it can be paused when it trains")
            return
        done: Command = "pause" if run.status == "paused" else "resume"
        last = self._sent.get(run.run.id, done)
        self._send_pause(run, "pause" if last == "resume" else "resume")

    def _send_pause(self, run: Follower, command: Command) -> None:
        if self.send(run, command):
            self._sent[run.run.id] = command
            word = "goes on" if command == "resume" else "pauses at its next step"
            self._app.tell(f"{run_name(run)} {word}", kind=f"pause {run.run.id}")
            self._app.repaint()

    def checkpoint(self) -> None:
        """Save a checkpoint now."""
        run = self.target()
        if run is None:
            return
        if run.status == "queued":
            self._app.tell(f"{run_name(run)} waits in the queue: there is nothing new to save")
        elif self.send(run, "checkpoint"):
            self._app.tell(f"{run_name(run)} saves a checkpoint at its next step")

    # ---- quitting ---------------------------------------------------------------------------

    def ours(self) -> list[Follower]:
        """Runs that have not ended and are with this app's trainer."""
        given = self._app.worker.given
        return [run for run in self._app.store.active() if run.run.id in given]

    def unseen(self) -> str:
        """Id of the run that this app's trainer trains though its folder is not there any more, as
        it was moved, or deleted just now; empty: none.
        """
        run, store = self._app.worker.training, self._app.store
        return run if run and store.listed and store.get(run) is None else ""

    def _not_ended(self) -> list[str]:
        """What is with this app's trainer, in words."""
        unseen = self.unseen()
        gone = [f"{formatting.clean(unseen, 60)} (its folder has gone)"] if unseen else []
        return _listed(self.ours()) + gone

    def ask_quit(self) -> None:
        """Quit, or ask what becomes of the runs. A second request changes nothing."""
        from tui.screens.dialogs import Quit

        if self._quitting is not None:
            if isinstance(self._app.screen, TooSmall):  # it lies over the question
                self._app.screen.dismiss()
            return
        self._app.worker.hear_of_death()  # a new trainer may have those that waited
        runs = self._not_ended()
        if not runs:
            self._app.leave(busy=False)
            return

        def stop() -> None:
            # the queued ones first: else the next would start when the running one has ended
            for run in reversed(self.ours()):
                self.stop(run)
            if self.unseen():
                self._app.worker.stop()

        def answered(answer: str | None) -> None:
            self._quitting = None
            if answer == "leave":
                self._app.leave(busy=bool(self._not_ended()))
            else:
                self._app.call_later(self._app.check_room)

        self._quitting = Quit(runs, stop)
        self._app.push_screen(self._quitting, answered)

    def polled(self, changes: Changes) -> None:
        """Forget who has ended; leave when the last run that was waited for has."""
        if self.stopping:
            self.stopping &= {run.run.id for run in self._app.store.active()}
        for run, command in list(self._sent.items()):
            follower = self._app.store.get(run)
            status = "paused" if command == "pause" else "training"
            if follower is None or follower.status == status or follower.status not in ACTIVE:
                del self._sent[run]
        if self._asking is not None:
            question, asked = self._asking
            question.show_run(*_before_stop(asked))
        if self._quitting is None:
            return
        if self._quitting.stopping and not self._not_ended():
            self._app.leave(busy=False)
        else:
            self._quitting.show_runs(self._not_ended())


def _listed(runs: list[Follower]) -> list[str]:
    return [f"{run_name(run)} ({run.status})" for run in runs]


def _before_stop(run: Follower) -> tuple[str, str]:
    """Which run it is and what it does; what stopping does besides, empty when it has ended."""
    kept = "take it out of the queue" if run.status == "queued" else "keep the checkpoint"
    words = f"{run_name(run)} · {run.status} · epoch {_epoch(run)}"
    return words, kept if run.status in ACTIVE else ""


def _epoch(run: Follower) -> str:
    planned = run.state.queued.epochs if run.state.queued else 0
    now = run.state.progress.epoch if run.state.progress else run.state.epochs_trained
    return f"{now}/{planned}"

"""The app: screens, keys, and the one timer that polls the store."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from textual import events
from textual._context import active_app
from textual.app import App
from textual.css.query import NoMatches
from textual.filter import LineFilter
from textual.geometry import Size
from textual.message_pump import MessagePump
from textual.notifications import Notify
from textual.screen import Screen
from textual.signal import Signal
from textual.widget import Widget
from textual.widgets import Input

from trainer.exit_codes import COMPLETED, after_signal
from trainer.lifecycle.alerts import AlertSettings
from tui import collector, formatting, themes, toasts
from tui.caller import Caller
from tui.commands import CifarCommands, entries
from tui.images.opinions import Opinions
from tui.keys import BINDINGS
from tui.run_control import RunControl
from tui.run_words import run_name
from tui.runs import directory_watch
from tui.runs.launcher import Launcher, WorkerInfo
from tui.runs.pace import Pace
from tui.runs.reader import Reader
from tui.runs.store import Changes, Store
from tui.screens.base import StoreScreen
from tui.screens.modal import Modal
from tui.screens.too_small import MIN_HEIGHT, MIN_WIDTH, TooSmall
from tui.terminal.driver import TerminalDriver, driver_class
from tui.terminal.graphics import Kind
from tui.terminal.quick_filter import QuickFilters
from tui.terminal.settings import TerminalSettings
from tui.terminal.traffic import Traffic, describe
from tui.widgets.header import HeaderLine
from tui.widgets.run_table import RunTable

LEFT = 1
"""The mouse's button that presses what it is over."""
GOODBYE_SECONDS = 5.0
"""How long the app has to leave the terminal as it was when it is told to end."""
WORKER_DELAY = 0.15
"""The trainer's start must not make the first paint's, or a dialog's, first keys wait."""
PRELOAD_DELAY = 0.4
WIDTHS = [(0, "-narrow"), (100, "-normal"), (120, "-wide"), (150, "-huge")]
HEIGHTS = [(0, "-short"), (32, "-tall")]
UP_SECONDS = 1.0
"""A key waits for those before it so long at most: what would tell of them may have been closed."""
PREPARE_SECONDS = 0.1
"""Between two screens that are made in advance."""

Typed = events.Key | events.Paste
"""What goes to the widget that has the focus when it is read. A paste is a key of many letters."""


def _screen(module: str, name: str) -> Any:
    """A screen's class, imported when it is first shown: the first paint must not wait for it."""

    def make() -> Screen[None]:
        screen: Screen[None] = getattr(import_module(f"tui.screens.{module}"), name)()
        # known beforehand: added after the first layout they would have all styles made twice
        screen.add_class(*_size_classes(active_app.get().size))
        return screen

    return make


def _size_classes(size: Size) -> list[str]:
    """The classes that Textual gives a screen of this size."""
    found = []
    for length, breakpoints in ((size.width, WIDTHS), (size.height, HEIGHTS)):
        fits = [name for least, name in sorted(breakpoints) if length >= least]
        found += fits[-1:]
    return found


class CifarApp(App[None]):
    """Train CIFAR-10 classifiers and watch them."""

    TITLE = "cifar-tui"
    # the first screen's with it: to add one later means to parse all again
    CSS_PATH = ["app.tcss", "screens/runs.tcss"]
    ENABLE_COMMAND_PALETTE = True
    COMMANDS = {CifarCommands}
    HORIZONTAL_BREAKPOINTS = WIDTHS
    VERTICAL_BREAKPOINTS = HEIGHTS
    SCREENS = {
        "runs": _screen("runs", "RunsScreen"),
        "dashboard": _screen("dashboard", "DashboardScreen"),
        "layers": _screen("layers", "LayersScreen"),
        "mistakes": _screen("mistakes", "MistakesScreen"),
        "compare": _screen("compare", "CompareScreen"),
    }
    BINDINGS = BINDINGS

    def __init__(
        self,
        runs_dir: Path,
        *,
        data: str | None = None,
        device: str | None = None,
        worker_command: Sequence[str] | None = None,
        worker_log: Path | None = None,
        download_command: Sequence[str] | None = None,
        alerts: AlertSettings | None = None,
        terminal: TerminalSettings | None = None,
        human: str | None = None,
        review: str | None = None,
        graphics: Kind | None = None,
        told: str = "",
    ) -> None:
        """``human`` and ``review``: files of what people say, see ``tui/images/opinions.py``.

        ``graphics``: the terminal's own images; ``told``: a line to begin with.
        """
        self.terminal = terminal or TerminalSettings()
        self.traffic = Traffic(self.terminal.rate)
        self._quick_filters = QuickFilters()
        super().__init__(driver_class=driver_class(self.terminal, self.traffic))
        self.animation_level = "none"
        alerts = alerts or AlertSettings()
        self.store = Store(runs_dir, stall_steps=alerts.stall_steps)
        self.caller = Caller(self, alerts)
        self._active: list[str] = []
        """Runs that keys can stop, as they were when the key line was last made."""
        self._resumable = False
        """Whether the chosen run could be resumed then."""
        self._reader = Reader(self, self._take)
        self.pace = Pace(self, self._reader.poll_when_through)
        self._unmade: list[str] = []
        self._given: weakref.WeakKeyDictionary[Typed, Widget | None] = weakref.WeakKeyDictionary()
        """Which widget got a key that is still on its way."""
        self._last_key: Typed | None = None
        self._last_given: Widget | None = None
        """Which one got the last key; none if that has come up already."""
        self._held: list[Typed] = []
        """Keys that wait until those before them, which another widget got, have come up."""
        self._goes_home = False
        """Whether the chosen run has gone, and a dialog or a typed line keeps its screen."""
        self.leaving = False
        """Whether it closes: keys that come now are for nobody."""
        self.opinions = Opinions(human, review)
        self.graphics = graphics
        self._told = told
        self.device = device
        self.download_command = download_command
        self.runs = RunControl(self, data=data)
        self.worker = Launcher(
            self._worker_told, command=worker_command, log=worker_log, on_end=alerts.on_end
        )
        self.trainer_told: Signal[WorkerInfo] = Signal(self, "trainer told")
        for theme in themes.THEMES:
            self.register_theme(theme)
        self.theme = themes.DARK.name

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's filters, in less time."""
        return self._quick_filters.of(super().get_line_filters())

    @property
    def goes_on(self) -> bool:
        """Whether any run trains, waits or is paused, as of the last poll."""
        return bool(self._active)

    @property
    def shares_processor(self) -> bool:
        """Whether a run that trains on this machine's processor was the last that was heard of."""
        return self._reader.shares_processor

    # ---- what screens ask -------------------------------------------------------------------

    @property
    def data(self) -> str:
        """The data that the next run is trained on: a name or a folder."""
        return self.runs.data

    @property
    def worker_failed(self) -> bool:
        """Whether the header has bad news."""
        return self.worker.info.failed

    def worker_line(self) -> str:
        """The trainer's state in a few words."""
        return self.worker.info.line()

    def colours(self) -> dict[str, str]:
        """The theme's colours by name, for Rich text in tables."""
        return self.theme_variables

    def run_colour(self, run: str) -> str:
        """The colour of a run's curves: its own while it is marked, else the theme's primary."""
        return themes.colour_in(self.current_theme, self.store.slot(run))

    def presets(self) -> list[tuple[str, str]]:
        """Names and descriptions of the built-in presets."""
        return self.runs.presets()

    # ---- the loop ---------------------------------------------------------------------------

    def on_mount(self) -> None:
        """Show the runs at once; reading them and starting the trainer follow the first paint."""
        if not self.is_headless:
            self._hear_signals()
        self.push_screen("runs")
        self.check_room()
        self.call_after_refresh(self._after_first_paint)

    def _after_first_paint(self) -> None:
        collector.settle()
        self.poll()
        if self._told:
            self.notify(self._told, severity="warning", markup=False)
        self.pace.begin()
        if self.device or not len(self.store):
            self.expect_run()
        self.set_timer(PRELOAD_DELAY, self._preload)
        self.run_worker(
            self.runs.look_for_data(), group="data", description="look for the data set"
        )

    def expect_run(self) -> None:
        """A run will probably be started: load torch, once what is asked for now is painted.

        Who only looks at runs does without: it is half a gigabyte, more than a second of a core
        that may be training, and on a GPU a context of hundreds of megabytes.
        """
        self.set_timer(WORKER_DELAY, self.worker.start)

    def _preload(self) -> None:
        """Import on a thread what the other screens need, so that their first key need not wait."""
        if self._reader.reading:  # what is read is looked at
            self.set_timer(PRELOAD_DELAY, self._preload)
            return

        def load() -> None:
            import textual_plotext.plot

            for name in self.SCREENS:
                import_module(f"tui.screens.{name}")
            textual_plotext.plot.Plot()
            directory_watch.prepare()
            with suppress(RuntimeError):  # the app was left meanwhile
                self.call_from_thread(self._prepare)

        self.run_worker(load, thread=True, group="preload", description="load the charts")

    def _prepare(self) -> None:
        """Read the style sheets of the other screens at once, then make the screens one by one."""
        new = False
        for name in self._installed():
            for path in self.get_screen(name).css_path:
                if not self.stylesheet.has_source(str(path), ""):
                    self.stylesheet.read(path)
                    new = True
        if new:
            self.stylesheet.reparse()
        self._unmade = self._installed()
        self._make_next()

    def _make_next(self) -> None:
        """Mount a screen that was not shown yet: its first key then costs what every key costs."""
        while self._unmade:
            name = self._unmade.pop(0)
            if name in self._installed() and not self.get_screen(name).is_running:
                self._get_screen(name)
                self.set_timer(PREPARE_SECONDS, self._make_next)
                return
        collector.settle()

    def _installed(self) -> list[str]:
        """The main screens; none while the app closes."""
        return [name for name in self.SCREENS if self.is_screen_installed(name)]

    def poll(self, *, now: bool = False) -> None:
        """Fold what is new and let the visible screen repaint it; ``now``: list the runs anew."""
        self._reader.poll(now=now)

    def _take(self, changes: Changes) -> None:
        """Show what a poll has found; the timer still runs while the screens are closed."""
        if not self.is_running:
            return
        active = [run.run.id for run in self.store.active()]
        resumable = self.runs.resumable()
        if changes.transitions or (active, resumable) != (self._active, self._resumable):
            self._active, self._resumable = active, resumable
            self.refresh_bindings()
        self.runs.polled(changes)
        self.caller.polled(changes)
        if changes.gone:
            self._leave_gone(changes)
        if changes:
            self._show(changes)

    def _leave_gone(self, changes: Changes) -> None:
        """Tell dialogs about runs that have gone; no screen shows another run than the chosen one
        without a word, nor do keys mean another.
        """
        for screen in reversed(self.screen_stack):
            if isinstance(screen, Modal) and screen.about in changes.gone:
                screen.run_gone()
        if changes.lost is None:
            return
        gone = changes.lost.run.id
        # as the list was sorted and filtered: it is filled again after this
        beside = self.get_screen("runs").query_one(RunTable).beside(gone, self.store.followers)
        if beside is not None:
            self.store.selected = beside
        folder = formatting.clean(gone, 60)
        line = f"{run_name(changes.lost)}: its folder {folder} was moved or deleted"
        self.tell(line, severity="warning")
        screen = self.main_screen()
        if screen is not None and screen.shows(gone):
            self._goes_home = True
            self.go_home()

    def go_home(self) -> None:
        """To the list of runs if the chosen one has gone, once no dialog lies above.

        Nor while a line is typed: the rest of it would be run as commands.
        """
        if not self._goes_home or not isinstance(self.screen, StoreScreen):
            return
        if not isinstance(self.focused, Input):
            self.action_show("runs")

    def stay(self) -> None:
        """The user has chosen what to look at since the chosen run has gone."""
        self._goes_home = False

    def main_screen(self) -> StoreScreen | None:
        """The main screen that is visible, also behind a dialog."""
        stack = reversed(self.screen_stack)
        return next((screen for screen in stack if isinstance(screen, StoreScreen)), None)

    def _show(self, changes: Changes) -> None:
        """Tell the main screen that is visible."""
        screen = self.main_screen()
        if screen is not None:
            # while the app closes a screen stands longer than what is on it
            with suppress(NoMatches):
                screen.show(changes)

    def repaint(self) -> None:
        """The data source, the preset or the trainer changed: repaint all of the screen."""
        self._show(Changes(listing=True, runs=set(self.store.followers)))
        self.refresh_header()

    def refresh_header(self) -> None:
        """Show the trainer's state in the header."""
        if not self.screen_stack:  # the app is being left
            return
        for screen in self.screen_stack:  # it is seen behind a dialog as well
            for header in screen.query(HeaderLine):
                header.refresh_state()

    def _worker_told(self, info: WorkerInfo, problem: str) -> None:
        """The launcher heard something; on this thread."""
        if not self.is_running:
            return
        if problem:
            self.store.give_up(self.worker.given)
            self.tell(problem, severity="error", title="Trainer")
        self.repaint()
        self.trainer_told.publish(info)

    def tell(
        self,
        message: str,
        *,
        severity: Any = "information",
        title: str = "",
        kind: str = "",
    ) -> None:
        """Show a message in the corner; names in it are never read as markup.

        ``kind``: the next message of the same kind takes its place.
        """
        timeout = toasts.ERROR_SECONDS if severity == "error" else toasts.SECONDS
        told = toasts.Message(message, title, severity, timeout, kind=kind)
        self.post_message(Notify(told))

    def on_notify(self, event: Notify) -> None:
        """Before Textual shows the message."""
        toasts.make_room(self, event.notification)
        toasts.wait(self, event.notification)

    def write_to_terminal(self, sequence: str) -> None:
        """Write what moves no cursor and draws nothing, between two paints."""
        if sequence and self._driver is not None and not self.is_headless:
            self._driver.write(sequence)

    async def on_event(self, event: events.Event) -> None:
        """A key, or the mouse: what it asks for may be on disk."""
        typed = isinstance(event, Typed)
        if typed or isinstance(event, events.InputEvent):
            if self.leaving or not self.is_running:
                return
            self.pace.stir()
        if isinstance(event, (events.MouseDown, events.MouseUp)) and event.button != LEFT:
            return  # it would press what is there, as the left one does
        new = typed and not event.is_forwarded
        if isinstance(event, Typed):
            if new and self._waits(event):
                return
            if self._goes_to_field(event):
                return
        await super().on_event(event)
        if event is self._last_key and not (new and event.is_forwarded):
            self._last_given = None  # it has come up, or went nowhere

    def _waits(self, event: Typed) -> bool:
        """Whether a key waits as the last one was given to a widget that has lost the focus since.

        That one may still be on its way up, to be given to a field: this one would overtake it.
        """
        to, last = self.focused or self.screen, self._last_given
        if not self._held and last in (None, to):
            self._last_key, self._last_given = event, to
            return False
        self._held.append(event)
        if len(self._held) == 1:
            self._follow_up(last, event)
            self.set_timer(UP_SECONDS, lambda: self._came_up(event))
        return True

    def _follow_up(self, node: MessagePump | None, first: Typed) -> None:
        """Go up behind the keys that a widget was given, in each queue on their way."""
        while node is not None and node is not self:
            above = node._parent
            if node.call_later(self._follow_up, above, first):
                return
            node = above
        self.call_later(self._came_up, first)

    async def _came_up(self, first: Typed) -> None:
        """The keys before this one are where they belong: those that waited follow."""
        if first not in self._held:
            return
        held, self._held, self._last_given = self._held, [], None
        for key in held:
            await self.on_event(key)

    def _goes_to_field(self, event: Typed) -> bool:
        """Whether a key was given to a field that was opened by a key of the same read.

        Such a key was sent to the widget that had the focus then, and would be run as a command.
        """
        to = self.focused
        if event.is_forwarded and isinstance(to, Input) and self._given.get(event) is not to:
            again: Typed  # the one that has come up has stopped
            if isinstance(event, events.Key):
                again = events.Key(event.key, event.character)
            else:
                again = events.Paste(event.text)
            self._given[again] = to
            to._forward_event(again)
            return True
        if not event.is_forwarded:
            self._given[event] = to
        return False

    def on_resize(self, event: events.Resize) -> None:
        """One clear line instead of a broken layout."""
        if isinstance(self._driver, TerminalDriver):
            self._driver.output.resized()
        self.check_room(event.size)

    def check_room(self, size: Size | None = None) -> None:
        """Say that the terminal is too small, if it is; ``size``: the one that it gets now."""
        size, stack = size or self.size, self.screen_stack
        if not any(isinstance(screen, StoreScreen) for screen in stack):
            return
        small = size.width < MIN_WIDTH or size.height < MIN_HEIGHT
        if small and not any(isinstance(screen, TooSmall) for screen in stack):
            self.push_screen(TooSmall())

    # ---- actions ----------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that can do nothing now are neither shown nor run."""
        if self.leaving:
            return False
        if self.screen_stack and isinstance(self.screen, TooSmall):
            return action == "quit"
        if action in ("stop", "pause", "checkpoint"):
            return self.runs.target() is not None
        if action == "resume":
            return self.runs.chosen is not None
        return True

    def offers(self, binding: str) -> bool:
        """Whether the key line shows a key that works: resume only where there is something to."""
        return binding != "run.resume" or self.runs.resumable()

    def action_show(self, name: str) -> None:
        """Switch to a main screen."""
        self.stay()
        if isinstance(self.screen, StoreScreen) and name != self.screen.TAB:
            if self.store.current is not None and self.store.current.partial:
                self.poll()  # its curves, if they are soon read
            self.switch_screen(name)

    def open_run(self, run: str) -> None:
        """Choose a run and show its dashboard."""
        if self.store.get(run) is None:
            return
        self.store.selected = run
        self.stay()
        if isinstance(self.screen, StoreScreen) and self.screen.TAB == "dashboard":
            self.poll()
            self.repaint()
        else:
            self.action_show("dashboard")

    def choose_begun(self, run: str) -> None:
        """A run was started: it is the chosen one, and the list shows it."""
        from tui.screens.runs import RunsScreen

        self.store.selected = run
        self.stay()
        runs = self.get_screen("runs")
        if isinstance(runs, RunsScreen):
            runs.reveal(run)

    def set_theme(self, name: str) -> None:
        """Change the colours."""
        self.theme = name
        self.call_after_refresh(self.repaint)

    async def start_preset(self, name: str) -> None:
        """Choose a preset and start it."""
        self.runs.preset = name
        await self.runs.start()

    async def action_start(self) -> None:
        """Start the chosen preset, or queue it behind the running one."""
        await self.runs.start()

    async def action_start_synthetic(self) -> None:
        """Start on the synthetic set, which is always there."""
        self.runs.data = "synthetic"
        await self.runs.start()

    def action_stop(self) -> None:
        """Ask once, then stop the run at its next step."""
        self.runs.ask_stop()

    def action_pause(self) -> None:
        """Pause, or go on."""
        self.runs.pause()

    async def action_resume(self) -> None:
        """Go on with the chosen run from its checkpoint."""
        await self.runs.resume()

    def action_checkpoint(self) -> None:
        """Save a checkpoint now."""
        self.runs.checkpoint()

    def action_new_run(self) -> None:
        """The form."""
        self.runs.open_form()

    def action_choose_preset(self) -> None:
        """Choose what ``s`` starts."""
        self.runs.choose_preset()

    def action_download(self) -> None:
        """Download CIFAR-10."""
        self.runs.download()

    def action_choose_folder(self) -> None:
        """Choose the data."""
        self.runs.choose_data()

    def action_command_palette(self) -> None:
        """Everything by name."""
        from tui.screens.palette import Palette

        if self.use_command_palette and not isinstance(self.screen, Palette):
            self.push_screen(Palette(id="--command-palette"))

    def action_help(self) -> None:
        """All keys of this screen."""
        from tui.screens.dialogs import Help

        self.push_screen(Help(entries(self.screen), note=describe(self.traffic, self.terminal)))

    async def action_quit(self) -> None:
        """Quit; with a run of ours going ask what becomes of it."""
        self.runs.ask_quit()

    def leave(self, *, busy: bool, code: int = COMPLETED) -> None:
        """Close the app; a busy trainer goes on without it."""
        self.leaving = True
        self.worker.close(busy=busy)
        self.exit(return_code=code)

    def _hear_signals(self) -> None:
        """A polite kill and a lost terminal: leave the terminal as it was, and runs alone."""
        loop = asyncio.get_running_loop()

        def told_to_end(number: int, _frame: object) -> None:
            code = after_signal(number)
            # a terminal that takes nothing holds the loop, and would hold the goodbye for ever
            last = threading.Timer(GOODBYE_SECONDS, os._exit, (code,))
            last.daemon = True
            last.start()
            loop.call_soon_threadsafe(lambda: self.leave(busy=bool(self.runs.ours()), code=code))

        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, told_to_end)

    def action_suspend_process(self) -> None:
        """Stop the app as a shell's job; where there is no shell nobody could bring it back."""
        parent = os.getppid()
        if os.getsid(parent) == os.getsid(0) and os.getpgid(parent) != os.getpgrp():
            super().action_suspend_process()
        else:
            self.tell("there is no shell to go back to: q quits")

    def on_unmount(self) -> None:
        """However the app ends: the trainer is told, its runs are not killed."""
        self.pace.end()
        self.worker.close(busy=bool(self.runs.ours()))

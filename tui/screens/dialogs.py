"""Questions, the help, the data source: most of what opens over a screen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from rich.table import Table
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from tui.commands import Entry
from tui.formatting import clean
from tui.screens.modal import Modal

CANCEL = Binding("escape", "cancel", "Cancel", id="dialog.cancel", tooltip="Close, change nothing")
QUIT_GOING = "Quit while a run is going?"


class Dialog(Modal[str | None]):
    """A box in the middle; escape closes it without an answer."""

    BINDINGS = [CANCEL]

    def __init__(self, title: str, text: str = "") -> None:
        super().__init__()
        self._title = title
        self._text = text

    def content(self) -> ComposeResult:
        """What stands below the title and the text."""
        yield from ()

    def compose(self) -> ComposeResult:
        """The box."""
        with Vertical(classes="dialog"):
            yield Static(clean(self._title, 200), classes="title", markup=False)
            yield Static(self._text, id="text", markup=False)
            yield from self.content()

    def say(self, text: str, *, error: bool = False) -> None:
        """Replace the text below the title, as long as there is one."""
        if not self.stands:
            return
        line = self.query_one("#text", Static)
        line.update(text)
        line.set_class(error, "error")

    def action_cancel(self) -> None:
        """Close without an answer."""
        self.dismiss(None)


class Choice(Dialog):
    """A question with a few answers, each with a key of its own."""

    def __init__(
        self,
        title: str,
        text: str,
        choices: Sequence[tuple[str, str, str]],
        *,
        chosen: str | None = None,
        about: str = "",
    ) -> None:
        """``choices``: key (may be empty), answer, what it says; ``about``: as in ``Modal``."""
        super().__init__(title, text)
        self.about = about
        self._choices = tuple(choices)
        self._chosen = chosen
        self._gone = False

    def content(self) -> ComposeResult:
        """The answers."""
        yield OptionList(*self._options(), id="choices", compact=True)

    def _options(self) -> list[Option]:
        options = []
        for key, answer, words in self._choices:
            line = Text(no_wrap=True, overflow="ellipsis")
            if key:
                line.append(f"{key}  ", style="bold")
            line.append(words)
            options.append(Option(line, id=answer))
        return options

    def on_mount(self) -> None:
        """The first answer is under the cursor, unless another is chosen."""
        self._highlight(self._chosen)
        self.query_one(OptionList).focus()

    def _highlight(self, chosen: str | None) -> None:
        answers = [answer for _, answer, _ in self._choices]
        listed = self.query_one(OptionList)
        listed.highlighted = answers.index(chosen) if chosen in answers else 0

    def offer(self, choices: Sequence[tuple[str, str, str]]) -> None:
        """Other answers; the cursor stays on its own, if that is among them."""
        listed = self.query_one(OptionList)
        under = listed.highlighted_option
        self._choices = tuple(choices)
        listed.set_options(self._options())
        self._highlight(under.id if under is not None else None)

    def on_key(self, event: events.Key) -> None:
        """An answer's own key."""
        for key, answer, _ in self._choices:
            if key and event.character == key:
                event.stop()
                self.answered(answer)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter or a click."""
        if event.option.id is not None:
            self.answered(event.option.id)

    def answered(self, answer: str) -> None:
        """Close with the answer."""
        self.dismiss(None if self._gone else answer)

    def run_gone(self) -> None:
        """Stays open: the key that would have answered means another run on the screen below."""
        if not self.is_mounted or not self.stands:
            return
        self._gone = True
        self.query_one(".title", Static).update("The run has gone")
        self.offer((("c", "cancel", "Close"),))


class Stop(Choice):
    """Whether to stop a run. Stays open when it ends meanwhile: ``x`` would mean another one."""

    def __init__(self, run: str, about: str, kept: str) -> None:
        """``run``: which, and what it does; ``kept``: what stopping does besides."""
        super().__init__("Stop this run?", run, _stopping(kept), about=about)
        self._run = run

    def show_run(self, run: str, kept: str) -> None:
        """What has become of it; ``kept`` is empty when it has ended."""
        if not self.is_mounted or not self.stands or self._gone or run == self._run:
            return
        self._run = run
        self.say(run)
        if (choices := _stopping(kept)) != self._choices:
            self.query_one(".title", Static).update(self._title if kept else "The run has ended")
            self.offer(choices)


def _stopping(kept: str) -> tuple[tuple[str, str, str], ...]:
    if not kept:
        return (("c", "cancel", "Close"),)
    return (("x", "stop", f"Stop and {kept}"), ("c", "cancel", "Cancel"))


class Quit(Choice):
    """A run is going: what becomes of it. Stays open while it stops, and when it ends meanwhile.

    It does not close by itself then: ``s`` would start a run.
    """

    GOING = (
        ("s", "stop", "Stop and quit (the checkpoint is kept)"),
        ("l", "leave", "Leave training, quit the app alone"),
        ("c", "cancel", "Cancel"),
    )
    ENDED = (("q", "leave", "Quit"), ("c", "cancel", "Cancel"))

    def __init__(self, runs: Sequence[str], stop: Callable[[], None]) -> None:
        super().__init__(QUIT_GOING, _not_ended(runs), self.GOING)
        self._runs = tuple(runs)
        self._stop = stop
        self.stopping = False

    def show_runs(self, runs: Sequence[str]) -> None:
        """Another has ended, or goes on, behind the question."""
        if not self.is_mounted or not self.stands or self.stopping or tuple(runs) == self._runs:
            return
        if bool(runs) != bool(self._runs):
            self.query_one(".title", Static).update(QUIT_GOING if runs else "Quit?")
            self.offer(self.GOING if runs else self.ENDED)
        self._runs = tuple(runs)
        self.say(_not_ended(runs))

    def answered(self, answer: str) -> None:
        """Stopping takes until the next step: say so and wait, the other two close."""
        if answer == "cancel":
            self.dismiss(None)
        elif answer == "leave":
            self.dismiss("leave")
        elif not self.stopping:
            self.stopping = True
            self.say("stopping… the app closes when the checkpoint is saved")
            self._stop()


def _not_ended(runs: Sequence[str]) -> str:
    if not runs:
        return "all runs have ended meanwhile"
    return f"Not ended: {', '.join(runs[:3])}" + (
        f" and {len(runs) - 3} more" if len(runs) > 3 else ""
    )


class Help(Modal[None]):
    """All keys that work on the screen below."""

    BINDINGS = [
        Binding(
            "escape,question_mark,q", "dismiss", "Close", id="help.close", tooltip="Close the help"
        )
    ]

    def __init__(self, shown: Iterable[Entry], note: str = "") -> None:
        """``note`` is one more line below the keys."""
        super().__init__()
        self._entries = sorted(shown, key=_group)
        self._note = note

    def compose(self) -> ComposeResult:
        """Key, name, what it does; a blank line between groups."""
        keys = Table.grid(padding=(0, 1), expand=True)
        keys.add_column(justify="right", no_wrap=True, min_width=8)
        keys.add_column(no_wrap=True, min_width=12)
        keys.add_column(ratio=1, overflow="fold")
        before = ""
        for entry in self._entries:
            group = _group(entry)[1]
            if before and group != before:
                keys.add_row()
            before = group
            keys.add_row(
                Text(entry.key, style="bold" if entry.enabled else "dim"),
                Text(entry.title, style="" if entry.enabled else "dim"),
                Text(entry.tooltip, style="dim"),
            )
        with VerticalScroll(classes="dialog help"):
            yield Static("Keys", classes="title")
            yield Static(keys)
            if self._note:
                yield Static(Text(self._note), classes="note")
            yield Static("escape closes", classes="note")


def _group(entry: Entry) -> tuple[int, str]:
    """The screen's own keys first, then those of runs, data, screens and app."""
    group = (entry.binding.id or "").partition(".")[0]
    order = ("run", "data", "screen", "app")
    return (order.index(group) + 1 if group in order else 0, group)


class DataSource(Dialog):
    """Choose the data of the next runs: a name, or a folder that is looked at."""

    def __init__(self, current: str, check: Callable[[str], str]) -> None:
        """``check`` is called on a thread: why a source cannot be used, or nothing."""
        super().__init__(
            "Data of the next runs",
            "cifar10, cifar100, synthetic, or a folder: CIFAR-10's binary or python layout,\n"
            "or images in train/<class>/ and test/<class>/",
        )
        self._current = current
        self._check = check

    def content(self) -> ComposeResult:
        """The line to type in."""
        field = Input(self._current, id="source", compact=True, select_on_focus=True)
        field.cursor_blink = False
        yield field
        yield Static("enter takes it, escape cancels", classes="note")

    def on_mount(self) -> None:
        """Type at once."""
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Look at the source, then take it or say what is wrong."""
        event.stop()
        self.run_worker(self._take(event.value.strip()), exclusive=True, group="data")

    async def _take(self, source: str) -> None:
        if not source:
            self.say("type a name or a folder", error=True)
            return
        self.say("looking…")
        problem = await asyncio.to_thread(self._check, source)
        if problem:
            self.say(clean(problem, 300), error=True)
        else:
            self.dismiss(source)

"""The form of a new run: what is typed is checked at once, beside its field."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.suggester import SuggestFromList
from textual.widgets import Button, Input, Select, Static

from model import registry
from trainer.config import DEVICES, RunConfig, check_limits
from trainer.errors import UserError
from trainer.lifecycle.admission import admitted, most_images
from tui import datasource, form
from tui.datasource import BUILT_IN
from tui.form import BY_KEY, FIELDS, Field
from tui.formatting import clean
from tui.screens.modal import Modal
from tui.widgets.run_details import summary

SUMMARY_LINES = 4
"""As in the style sheet."""


class FieldSelect(Select[str], inherit_bindings=False):
    """Opens its list with enter or space; up and down go to the other fields, as from a text."""

    BINDINGS = [Binding("enter,space", "show_overlay", show=False)]


class Fields(VerticalScroll, can_focus=False, inherit_bindings=False):
    """Scrolls to the field that has the keys; up and down would scroll it first."""


class NewRun(Modal[RunConfig | None]):
    """Dismissed with the configuration to start, or nothing."""

    CSS_PATH = "new_run.tcss"
    BINDINGS = [
        Binding("escape", "cancel", "Cancel", id="form.cancel", tooltip="Close, start nothing"),
        Binding("ctrl+s", "start", "Start", id="form.start", tooltip="Start the run"),
        Binding("down", "app.focus_next", show=False),
        Binding("up", "app.focus_previous", show=False),
    ]

    def __init__(
        self,
        preset: str,
        data: str,
        device: str | None,
        *,
        typed: Mapping[str, str] | None = None,
        why: str = "",
    ) -> None:
        """``typed`` and ``why``: the fields of a run that was refused, and the reason."""
        super().__init__()
        self.preset = preset
        self._data = data
        self._device = device
        self._defaults = form.defaults(preset, data, device)
        self._config: RunConfig | None = None
        self._wrong: dict[str, str] = {}
        """What is wrong, by field; of the whole under the empty key."""
        self._refused: tuple[str, dict[str, str], str, str] | None = None
        """Preset and fields of what could not be started, the field at fault, and why."""
        self.typed = dict(typed or self._defaults)
        """What the fields say when it opens, and when it has been filled in."""
        if why:
            self._refused = preset, self.typed, "", why

    def compose(self) -> ComposeResult:
        """A line for each field: label, control, hint or what is wrong."""
        presets = [(name, name) for name, _ in self.cifar.presets()]
        with Vertical(classes="dialog form"):
            yield Static("New run", classes="title")
            with Fields():
                with Horizontal(classes="field"):
                    yield Static("preset", classes="label")
                    yield FieldSelect(
                        presets, value=self.preset, allow_blank=False, compact=True, id="preset"
                    )
                    yield Static("", id="preset-hint", classes="hint", markup=False)
                for field in FIELDS:
                    with Horizontal(classes="field"):
                        yield Static(field.label, classes="label")
                        yield self._control(field)
                        yield Static("", id=f"{field.key}-hint", classes="hint", markup=False)
            yield Static("", id="summary", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Start", variant="primary", id="start", compact=True)
                yield Button("Cancel", id="cancel", compact=True)
                yield Static("", id="keys", classes="note", markup=False)

    def _control(self, field: Field) -> Input | Select[str]:
        text = self.typed[field.key]
        if field.kind == "choice":
            options = [(choice, choice) for choice in field.choices]
            return FieldSelect(options, value=text, allow_blank=False, compact=True, id=field.key)
        known: tuple[str, ...] = {
            "model": registry.names(),
            "data": BUILT_IN,
            "device": ("auto", "cpu", "cuda", "cuda:0", "mps"),
        }.get(field.key, ())
        control = Input(
            text,
            id=field.key,
            compact=True,
            suggester=SuggestFromList(known) if known else None,
            select_on_focus=True,
        )
        control.cursor_blink = False
        return control

    def on_mount(self) -> None:
        """The preset first: most of the rest follows from it."""
        self.query_one("#preset", Select).focus()
        self._check()
        # torch is loaded while the form is filled in: then the devices are known
        self.cifar.trainer_told.subscribe(self, lambda _: self._check())

    # ---- what is typed ----------------------------------------------------------------------

    def texts(self) -> dict[str, str]:
        """What the fields say."""
        found = {}
        for field in FIELDS:
            control = self.query_one(f"#{field.key}")
            found[field.key] = str(cast("Input | Select[str]", control).value)
        return found

    def on_input_changed(self, event: Input.Changed) -> None:
        """Check while it is typed."""
        self._check()

    def on_select_changed(self, event: Select.Changed) -> None:
        """Another preset: its values, except where something else was typed."""
        if event.select.id == "preset" and event.value != self.preset:
            before, self.preset = self._defaults, str(event.value)
            self._defaults = form.defaults(self.preset, self._data, self._device)
            for key, text in self.texts().items():
                if text == before[key]:
                    control = self.query_one(f"#{key}")
                    cast("Input | Select[str]", control).value = self._defaults[key]
        self._check()

    def _check(self) -> None:
        if not self.stands:
            return
        texts = self.texts()
        self._config, wrong = form.build(self.preset, texts)
        self._wrong = wrong
        lacking = self.cifar.worker.info.lacks(texts["device"].strip())
        if lacking and "device" not in wrong:
            self._config, wrong["device"] = None, lacking
        elif self._config is not None:
            train = self._config.train
            crowded = self.cifar.worker.info.lacks_for(train.device, train.processes)
            if crowded:
                self._config, wrong["processes"] = None, crowded
        if self._refused is not None and self._refused[:2] == (self.preset, texts):
            key, why = self._refused[2:]
            wrong.setdefault(key, why)
        self._say("preset", dict(self.cifar.presets()).get(self.preset, ""))
        for field in FIELDS:
            self._say(
                field.key,
                wrong.get(field.key) or self._hint(field, texts),
                error=field.key in wrong,
            )
        self._show_below()
        self.query_one("#start", Button).disabled = self._config is None

    def on_descendant_focus(self) -> None:
        """Another field: what is wrong with it, and what its keys do."""
        self._show_below()

    def on_resize(self) -> None:
        """There may be room for more words."""
        self.call_after_refresh(self._show_below)

    def _show_below(self) -> None:
        if not self.stands:
            return
        line = self.query_one("#summary", Static)
        line.set_class(bool(self._wrong), "error")
        if self._wrong:
            # lines end at spaces: not all cells of them are filled
            room = SUMMARY_LINES * (line.size.width or 50) * 7 // 8
            line.update(clean(self._what_is_wrong(), room))
        elif self._config is not None:
            line.update(f"{self.preset}: {summary(self._config)}")
        self.query_one("#keys", Static).update(self._keys())

    def _first_wrong(self) -> str:
        """The field to tell of: the one with the cursor, else the first one."""
        at = self.focused.id if self.focused is not None else None
        return at if at in self._wrong else next(iter(self._wrong), "")

    def _what_is_wrong(self) -> str:
        """Beside its field an error is cut: all of the one that matters, the names of others."""
        first = self._first_wrong()
        others = [BY_KEY[key].label for key in self._wrong if key not in ("", first)]
        words = f"{BY_KEY[first].label}: {self._wrong[first]}" if first else self._wrong[first]
        return f"{words} · look at {', '.join(others)} as well" if others else words

    def _keys(self) -> str:
        """What enter and escape do where the cursor is."""
        at = self.focused
        if at is not None and isinstance(at.parent, FieldSelect):  # its list
            return "enter takes it · escape closes"
        if isinstance(at, FieldSelect):
            return "enter opens it · ctrl+s starts"
        if isinstance(at, Button) and at.id == "cancel":
            return "enter cancels"
        if self._config is not None:
            return "enter starts · escape cancels"
        first = self._first_wrong()
        if first and (at is None or first != at.id):
            return f"enter goes to {BY_KEY[first].label}"
        return "escape cancels"

    def _hint(self, field: Field, texts: dict[str, str]) -> str:
        if field.key == "model":
            name = texts["model"].strip()
            return registry.describe(name) if name in registry.names() else "your own file"
        if field.key == "lr" and self._config is not None:
            return f"{self._config.optimizer.name}, {self._config.schedule.name} schedule"
        if field.key == "device":
            known = self.cifar.worker.info.devices
            return "here: " + ", ".join(known) if known else DEVICES
        return field.hint

    def _say(self, key: str, text: str, *, error: bool = False) -> None:
        hint = self.query_one(f"#{key}-hint", Static)
        hint.set_class(error, "error")
        hint.update(clean(text, 160))

    # ---- ending -----------------------------------------------------------------------------

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter starts."""
        self.action_start()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The buttons."""
        if event.button.id == "start":
            self.action_start()
        else:
            self.action_cancel()

    def action_cancel(self) -> None:
        """Start nothing."""
        self.dismiss(None)

    def action_start(self) -> None:
        """Look whether the data is there, then start; with something wrong go to that field."""
        self._check()  # a file may have been put right since
        if self._config is None:
            if key := self._first_wrong():
                self.query_one(f"#{key}").focus()
            return
        self.run_worker(self._start(self._config), exclusive=True, group="form")

    async def _start(self, config: RunConfig) -> None:
        status = await asyncio.to_thread(datasource.look, config.data)
        if not self.stands:
            return
        if not status.ready:
            self._refuse("data", status.line)
            return
        images = most_images(config, status.train_images)
        if images is not None and config.train.batch_size > images:
            self._refuse("batch", f"above the {images:,} training images")
            return
        try:
            await asyncio.to_thread(_admit, config)
        except UserError as error:
            if self.stands:  # what the other fields can have wrong is found while it is typed
                self._refuse("settings", str(error))
            return
        if self.stands:
            self.typed = self.texts()
            self.dismiss(config)

    def _refuse(self, key: str, why: str) -> None:
        """Nothing that is typed wrong, but it cannot be started so."""
        self._refused = self.preset, self.texts(), key, why
        self._check()
        self.query_one(f"#{key}").focus()


def _admit(config: RunConfig) -> None:
    """What is asked before a run is put on disk, while what was typed is still there."""
    check_limits(admitted(config).limits)

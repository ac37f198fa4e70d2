"""The form of a new run: what is typed is checked at once, beside its field."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.suggester import SuggestFromList
from textual.widgets import Button, Input, Select, Static

from model import registry
from trainer.admission import most_images
from trainer.config import RunConfig
from tui import datasource, form
from tui.datasource import BUILT_IN
from tui.form import BY_KEY, FIELDS, Field
from tui.formatting import clean
from tui.screens.modal import Modal
from tui.widgets.run_details import summary

if TYPE_CHECKING:
    from tui.app import CifarApp


class NewRun(Modal[RunConfig | None]):
    """Dismissed with the configuration to start, or nothing."""

    CSS_PATH = "new_run.tcss"
    BINDINGS = [
        Binding("escape", "cancel", "Cancel", id="form.cancel", tooltip="Close, start nothing"),
        Binding("ctrl+s", "start", "Start", id="form.start", tooltip="Start the run"),
        Binding("down", "app.focus_next", show=False),
        Binding("up", "app.focus_previous", show=False),
    ]

    def __init__(self, preset: str, data: str, device: str | None) -> None:
        super().__init__()
        self.preset = preset
        self._data = data
        self._device = device
        self._defaults = form.defaults(preset, data, device)
        self._config: RunConfig | None = None

    @property
    def cifar(self) -> CifarApp:
        """The app, typed."""
        return cast("CifarApp", self.app)

    def compose(self) -> ComposeResult:
        """A line for each field: label, control, hint or what is wrong."""
        presets = [(name, name) for name, _ in self.cifar.presets()]
        with VerticalScroll(classes="dialog form", can_focus=False):
            yield Static("New run", classes="title")
            with Horizontal(classes="field"):
                yield Static("preset", classes="label")
                yield Select(
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
                yield Static("enter starts · escape cancels", classes="note")

    def _control(self, field: Field) -> Input | Select[str]:
        text = self._defaults[field.key]
        if field.kind == "choice":
            options = [(choice, choice) for choice in field.choices]
            return Select(options, value=text, allow_blank=False, compact=True, id=field.key)
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
        lacking = self.cifar.worker.info.lacks(texts["device"].strip())
        if lacking and "device" not in wrong:
            self._config, wrong["device"] = None, lacking
        elif self._config is not None:
            train = self._config.train
            crowded = self.cifar.worker.info.lacks_for(train.device, train.processes)
            if crowded:
                self._config, wrong["processes"] = None, crowded
        self._say("preset", dict(self.cifar.presets()).get(self.preset, ""))
        for field in FIELDS:
            self._say(
                field.key,
                wrong.get(field.key) or self._hint(field, texts),
                error=field.key in wrong,
            )
        line = self.query_one("#summary", Static)
        line.set_class(self._config is None, "error")
        if self._config is not None:
            line.update(f"{self.preset}: {summary(self._config)}")
        else:
            labels = ", ".join(BY_KEY[key].label for key in wrong if key)
            line.update(clean(wrong.get("", f"not yet: look at {labels}"), 200))
        self.query_one("#start", Button).disabled = self._config is None

    def _hint(self, field: Field, texts: dict[str, str]) -> str:
        if field.key == "model":
            name = texts["model"].strip()
            return registry.describe(name) if name in registry.names() else "your own file"
        if field.key == "lr" and self._config is not None:
            return f"{self._config.optimizer.name}, {self._config.schedule.name} schedule"
        if field.key == "device":
            known = self.cifar.worker.info.devices
            return "here: " + ", ".join(known) if known else "auto, cpu, cuda, cuda:N or mps"
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
        if self._config is None:
            for field in FIELDS:
                if self.query_one(f"#{field.key}-hint", Static).has_class("error"):
                    self.query_one(f"#{field.key}").focus()
                    return
            return
        self.run_worker(self._start(self._config), exclusive=True, group="form")

    async def _start(self, config: RunConfig) -> None:
        status = await asyncio.to_thread(datasource.look, config.data)
        if not self.stands:
            return
        if not status.ready:
            self._say("data", status.line, error=True)
            self.query_one("#data", Input).focus()
            return
        images = most_images(config, status.train_images)
        if images is not None and config.train.batch_size > images:
            self._say("batch", f"above the {images:,} training images", error=True)
            self.query_one("#batch", Input).focus()
            return
        self.dismiss(config)

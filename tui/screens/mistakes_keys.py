"""Keys of the mistakes screen that take its list elsewhere, or go to an image by its index."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Input, Static

from trainer.analysis.mistakes import Sort
from trainer.errors import UserError
from tui.formatting import clean
from tui.images import evaluations
from tui.images.evaluation_loader import EvaluationLoader
from tui.images.mistake_export import Listed, as_csv, as_png
from tui.screens.base import StoreScreen
from tui.screens.dialogs import Dialog
from tui.widgets.mistake_grid import MistakeGrid

MANY = 100
"""Images that take so long to draw that it is said."""


class MistakesKeys(StoreScreen):
    """Export as CSV and as PNG, jump to an index."""

    BINDINGS = [
        Binding(
            "e",
            "save_csv",
            "CSV",
            id="mistakes.csv",
            show=False,
            tooltip="Write the shown list as CSV, with each image's path",
        ),
        Binding(
            "E",
            "save_png",
            "PNG",
            id="mistakes.png",
            show=False,
            tooltip="Write the shown images as one PNG, at most 1,000",
        ),
        Binding(
            "j,number_sign",
            "jump",
            "Jump",
            id="mistakes.jump",
            show=False,
            tooltip="Go to an image by its test index",
        ),
    ]
    loader: EvaluationLoader
    sort: Sort

    def action_save_csv(self) -> None:
        """The shown list as CSV."""
        self._save(as_csv, "write the list as CSV")

    def action_save_png(self) -> None:
        """The shown images as one picture."""
        if self.loader.pictures is not None and self.query_one(MistakeGrid).count > MANY:
            self.cifar.tell("drawing the images…")
        self._save(as_png, "draw the images")

    def _save(self, write: Callable[[Listed], str], description: str) -> None:
        found, run = self.loader.evaluation, self.store.current
        if found is None or run is None or run.run.id != found.run:
            return
        listed = Listed(
            evaluation=found,
            chosen=self.query_one(MistakeGrid).indices,
            pictures=self.loader.pictures,
            place=self.loader.place if self.loader.pictures is not None else "",
            sort=self.sort,
            places=evaluations.candidates(run.state, self.cifar.data),
            runs_dir=self.store.runs_dir,
        )
        self.run_worker(self._write(write, listed), group="export", description=description)

    async def _write(self, write: Callable[[Listed], str], listed: Listed) -> None:
        try:
            line = await asyncio.to_thread(write, listed)
        except UserError as error:
            self.cifar.tell(clean(str(error), 300), severity="error")
        else:
            self.cifar.tell(clean(line, 400))

    def action_jump(self) -> None:
        """Ask for a test index and go there."""
        found = self.loader.evaluation
        if found is not None:
            dialog = Jump(self._jump)
            dialog.about = found.run
            self.app.push_screen(dialog)

    def _jump(self, words: str) -> str:
        """Go to the image of this index; why not, where that cannot be."""
        found, grid = self.loader.evaluation, self.query_one(MistakeGrid)
        if found is None:
            return "the images are gone"
        if not words.isdecimal() or len(words) > 9 or int(words) >= len(found.images):
            return f"type a test index, 0 to {len(found.images) - 1:,}"
        if not grid.go_to(int(words)):
            right = not found.images.wrong[int(words)]
            return f"{words} is not shown: " + (
                "the model is right about it (t shows all)"
                if right
                else "the filter leaves it out (escape clears it)"
            )
        self.face(matrix=False)
        grid.focus()
        return ""

    def face(self, *, matrix: bool) -> None:
        """Matrix or images where there is no room for both; with room nothing is styled anew."""
        beside = self.has_class("-wide") or self.has_class("-huge")
        self.set_class(matrix, "-matrix", update=not beside)


class Jump(Dialog):
    """Type a test index."""

    def __init__(self, go: Callable[[str], str]) -> None:
        """``go`` says why it cannot go there, or nothing."""
        super().__init__("Go to a test image", "its index, as under the images")
        self._go = go

    def content(self) -> ComposeResult:
        """The line to type in."""
        field = Input(id="index", compact=True, restrict=r"#?\d{0,9}")
        field.cursor_blink = False
        yield field
        yield Static("enter goes there, escape cancels", classes="note")

    def on_mount(self) -> None:
        """Type at once."""
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go, or say why not."""
        event.stop()
        problem = self._go(event.value.removeprefix("#"))
        if problem:
            self.say(problem, error=True)
        else:
            self.dismiss(None)

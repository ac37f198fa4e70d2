"""The command palette, closed once."""

from __future__ import annotations

from textual import on
from textual.command import CommandPalette
from textual.message import Message
from textual.widgets import Button, Input, OptionList

from tui.screens.modal import Modal


class Palette(CommandPalette, Modal[None]):
    """Textual's, but a second ``enter`` or click that comes before it is gone does nothing.

    Textual's would run the command again and close the screen below.
    """

    @on(Input.Submitted)
    @on(Button.Pressed)
    @on(OptionList.OptionSelected)
    def one_answer(self, event: Message) -> None:
        """Keep what comes too late from Textual's own handlers."""
        if self._answer is not None:
            event.stop()
            event.prevent_default()

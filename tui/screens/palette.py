"""The command palette, closed once."""

from __future__ import annotations

from textual import on
from textual.command import CommandList, CommandPalette
from textual.message import Message
from textual.widgets import Button, Input, OptionList

from tui.screens.modal import Modal


class Palette(CommandPalette, Modal[None]):
    """Textual's, but a second ``enter`` or click that comes before it is gone does nothing.

    Textual's would run the command again and close the screen below. And a page up or down before
    the list has its place on the screen would end the app: nobody knows yet how long a page is.
    """

    @on(Input.Submitted)
    @on(Button.Pressed)
    @on(OptionList.OptionSelected)
    def one_answer(self, event: Message) -> None:
        """Keep what comes too late from Textual's own handlers."""
        if self._answer is not None:
            event.stop()
            event.prevent_default()

    def _action_command_list(self, action: str) -> None:
        laid_out = bool(self.query_one(CommandList).scrollable_content_region)
        if laid_out or not action.startswith("page_"):
            super()._action_command_list(action)

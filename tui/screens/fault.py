"""Whose fault the mistakes are: the model's, or the labels'. Over the mistakes screen."""

from __future__ import annotations

from typing import cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from trainer.characters import in_words
from tui.formatting import clean
from tui.images.evaluation_loader import EvaluationLoader
from tui.images.evaluations import Evaluation
from tui.images.fault import Fault, Group, fault, group_line
from tui.keys import HELP
from tui.run_words import evaluation
from tui.screens.modal import Modal


class FaultGroups(OptionList):
    """Model wrong and people sure, and so on."""

    BINDINGS = [
        Binding(
            "enter",
            "select",
            "Show",
            key_display="↵",
            id="fault.show",
            tooltip="Show exactly these images",
        )
    ]


class FaultScreen(Modal[Group | None]):
    """Gives back the set of images to show, or nothing."""

    CSS_PATH = "fault.tcss"
    FILLS = True
    BINDINGS = [
        Binding("escape,q,w", "close", "Close", id="fault.close", tooltip="Back to the images"),
        HELP,
    ]

    def __init__(self, loader: EvaluationLoader) -> None:
        super().__init__()
        self._loader = loader
        self._shown: Evaluation | None = None
        self._fault = Fault((), ())

    def compose(self) -> ComposeResult:
        """Title, bad files, sets of images, sentences."""
        with VerticalScroll(id="box", can_focus=False):
            yield Static("", id="what", markup=False)
            yield Static("", id="notices", markup=False)
            yield FaultGroups(id="groups", compact=True)
            yield Static("", id="said", markup=False)
            key = in_words("↵", ascii=self.cifar.terminal.ascii)
            keys = f"{key} shows exactly these images   escape closes"
            yield Static(keys, id="note", markup=False)

    def on_mount(self) -> None:
        """Show what is there."""
        self.query_one(FaultGroups).focus()
        self._say("#what", Text("Whose fault  reading…"))
        self._fill()

    def follow(self) -> None:
        """Another evaluation is shown below: show that one."""
        if self.is_mounted and self.stands:
            self._fill()

    def _fill(self) -> None:
        found = self._loader.evaluation
        if found is None and self._loader.problem:
            self._say("#what", Text(f"Whose fault  {clean(self._loader.problem, 300)}"))
        if found is None or found is self._shown:
            return
        self._shown, self._fault = found, fault(found.images)
        colours = self.app.theme_variables
        title = Text.assemble(("Whose fault", "bold"), no_wrap=True)
        self._say("#what", title.append_text(evaluation(found, colours)))
        self._say("#notices", Text("\n".join(clean(line, 400) for line in found.notices)))
        self.query_one("#notices").display = bool(found.notices)
        self._say("#said", Text("\n".join(self._fault.lines)))
        groups = self.query_one(FaultGroups)
        at = groups.highlighted or 0
        groups.clear_options()
        groups.add_options(
            Option(group_line(group, colours), id=group.name) for group in self._fault.groups
        )
        groups.highlighted = min(at, len(self._fault.groups) - 1)

    def _say(self, where: str, text: Text) -> None:
        cast(Static, self.query_one(where)).update(text)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Exactly these images."""
        event.stop()
        name = event.option.id
        self.dismiss(next((g for g in self._fault.groups if g.name == name), None))

    def action_close(self) -> None:
        """Back to the images as they are."""
        self.dismiss(None)

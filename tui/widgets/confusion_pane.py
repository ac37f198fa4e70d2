"""The confusion matrix with the most confused pairs and the figures of each class."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from trainer.analysis import confusion as confusions
from trainer.analysis.confusion import ClassFigures, Pair
from trainer.words import figure, percent
from tui.formatting import DASH, clean
from tui.images.evaluations import Evaluation
from tui.widgets.confusion_table import ConfusionTable
from tui.widgets.tile import cut, fit

PAIRS = 20
NAME = 11
SLIM = 74
"""Below so many columns a pair has no line of its own beside the matrix."""


class ConfusionPane(Vertical):
    """Everything about classes; what is chosen in it comes as ``ConfusionTable.Chosen``."""

    DEFAULT_CSS = """
    ConfusionPane ConfusionTable { max-height: 55%; scrollbar-size: 1 1; }
    ConfusionPane #confused { height: auto; }
    ConfusionPane #cell, ConfusionPane #pairs-title {
        height: 1; color: $secondary; text-wrap: nowrap; text-overflow: ellipsis;
    }
    ConfusionPane #pairs {
        height: auto; max-height: 10; border: none; padding: 0; background: $background;
        scrollbar-size: 1 1;
    }
    ConfusionPane #figures { height: 1fr; margin-top: 1; scrollbar-size: 1 1; }
    ConfusionPane #figures:focus { background: $surface; }
    """

    def __init__(self) -> None:
        super().__init__(id="pane")
        self._shown: tuple[object, ...] = ()
        self._evaluation: Evaluation | None = None

    def compose(self) -> ComposeResult:
        """The cell in words, matrix, pairs, classes."""
        yield Static("", id="cell", markup=False)
        yield ConfusionTable()
        with Vertical(id="confused"):
            yield Static("most confused", id="pairs-title", markup=False)
            yield OptionList(id="pairs", compact=True)
        with VerticalScroll(id="figures"):
            yield Static("", id="classes", markup=False)

    def fill(self, found: Evaluation) -> None:
        """Show an evaluation's classes; nothing is painted when it is the same one."""
        self._evaluation = found
        width = self.query_one("#confused").size.width - 1
        key = (found, self.app.theme, width)
        if key == self._shown:
            return
        self._shown = key
        self.query_one(ConfusionTable).fill(found.matrix, found.classes)
        self._show_cell()
        pairs = self.query_one("#pairs", OptionList)
        pairs.clear_options()
        pairs.add_options(
            Option(_pair_line(pair, found.classes, width), id=f"{pair.actual} {pair.predicted}")
            for pair in confusions.most_confused(found.matrix, PAIRS)
        )
        figures = confusions.per_class(found.matrix)
        lines = _class_lines(figures, found.classes, self.app.theme_variables)
        self.query_one("#classes", Static).update(lines)

    def _show_cell(self) -> None:
        words = self.query_one(ConfusionTable).about_cell()
        self.query_one("#cell", Static).update(Text(words), layout=False)

    def on_resize(self) -> None:
        """The lines of pairs may be longer, or have no room beside the matrix."""
        self.set_class(self.size.width < SLIM, "-slim")
        if self._evaluation is not None:
            self.fill(self._evaluation)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """The list of pairs shows a cursor once it has the keys."""
        pairs = self.query_one("#pairs", OptionList)
        if event.widget is pairs and pairs.highlighted is None and pairs.option_count:
            pairs.highlighted = 0

    def on_confusion_table_moved(self) -> None:
        """The cell in words."""
        self._show_cell()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """A pair of the list is a cell of the matrix."""
        event.stop()
        actual, predicted = (event.option.id or "0 0").split()
        self.post_message(ConfusionTable.Chosen(int(actual), int(predicted)))


def _pair_line(pair: Pair, classes: Sequence[str], width: int) -> Text:
    """A confusion in a list: ``cat → dog  121  12.1 %``."""
    figures = f" {pair.count:>4} {percent(pair.share, 1):>7}"
    names = f"{clean(classes[pair.actual])} → {clean(classes[pair.predicted])}"
    room = max(7, width - len(figures))
    if cell_len(names) > room:
        half = (room - 3) // 2
        names = f"{cut(clean(classes[pair.actual]), half)} → " + cut(
            clean(classes[pair.predicted]), room - 3 - half
        )
    return Text(fit(names, room) + figures, no_wrap=True)


def _class_lines(
    figures: Sequence[ClassFigures], classes: Sequence[str], colours: dict[str, str]
) -> Text:
    """Precision, recall and F1 of each class, in per cent; a dash for 0/0."""
    text = Text(no_wrap=True)
    text.append(f"{'class':<{NAME}} precision recall    F1 images\n", style=colours["secondary"])
    known = [one.f1 for one in figures if one.f1 is not None]
    worst = min(known, default=None)
    for name, one in zip(classes, figures, strict=True):
        style = colours["warning"] if one.f1 is not None and one.f1 == worst else ""
        numbers = [
            DASH if value is None else figure(value, 1)
            for value in (one.precision, one.recall, one.f1)
        ]
        text.append(fit(clean(name), NAME), style=style)
        text.append(f" {numbers[0]:>9} {numbers[1]:>6} {numbers[2]:>5} {one.images:>6}\n")
    return text

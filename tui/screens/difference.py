"""Two models on the same test images: two runs, or two evaluations of one."""

from __future__ import annotations

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container, Horizontal, Vertical
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from trainer.characters import in_words
from trainer.runs.follower import Follower
from tui.formatting import clean
from tui.images import difference
from tui.images.difference import GROUPS, Difference, Side
from tui.images.evaluation_loader import EvaluationLoader
from tui.runs.store import Changes
from tui.screens.base import StoreScreen
from tui.screens.pair_image import PairImageScreen
from tui.widgets.difference_table import DifferenceTable
from tui.widgets.lines import say
from tui.widgets.mistake_grid import MistakeGrid
from tui.widgets.pair_images import Choose, PairImages
from tui.widgets.reliability import ReliabilityChart

PANES = ("counts", "matrix", "calibration")
TOGETHER = (120, 40)
"""Columns and lines from which all panes are seen at once."""
LEGEND = "+ more in the second, - fewer; ↵ shows what came or went"


class Groups(OptionList):
    """Fixed, broken, both wrong, both right."""

    BINDINGS = [
        Binding(
            "enter",
            "select",
            "Show",
            key_display="↵",
            id="difference.show",
            tooltip="Show exactly these images",
        )
    ]


class DifferenceScreen(StoreScreen):
    """In the place of the screen it was opened from; escape goes back there."""

    TAB = "difference"
    CSS_PATH = "difference.tcss"
    BINDINGS = [
        Binding("escape", "back", "Back", id="difference.back", tooltip="Back, one step"),
        Binding("k", "pane", "Pane", id="difference.pane", tooltip="Counts, matrix, calibration"),
        Binding("w", "swap", "Swap", id="difference.swap", tooltip="Swap first and second"),
        Binding(
            "left_square_bracket",
            "evaluation(1,-1)",
            "Epoch 2",
            key_display="[",
            id="difference.second",
            tooltip="The second's evaluation before, or after",
        ),
        Binding(
            "right_square_bracket",
            "evaluation(1,1)",
            "Epoch 2",
            key_display="]",
            id="difference.second",
            tooltip="The second's evaluation before, or after",
        ),
        Binding(
            "left_curly_bracket",
            "evaluation(0,-1)",
            "Epoch 1",
            key_display="{",
            id="difference.first",
            tooltip="The first's evaluation before, or after",
        ),
        Binding(
            "right_curly_bracket",
            "evaluation(0,1)",
            "Epoch 1",
            key_display="}",
            id="difference.first",
            tooltip="The first's evaluation before, or after",
        ),
        Binding("z", "density", "Size", id="difference.size", tooltip="Size of the images"),
        Binding("y", "copy", "Copy index", show=False, id="difference.copy", tooltip="Copy index"),
    ]

    def __init__(self, first: Side, second: Side, *, back: str) -> None:
        """``back``: the screen it was opened from."""
        super().__init__()
        self.sides = [first, second]
        self.loaders = [
            EvaluationLoader(self, self._loaded, name="-first", with_pictures=False),
            EvaluationLoader(self, self._loaded, name="-second"),
        ]
        self.difference = Difference()
        self._back = back
        self._pane = PANES[0]
        self._filled: tuple[object, ...] = ()

    def body(self) -> ComposeResult:
        """Both sides, what is wrong, counts, matrix, calibration; images in their place."""
        yield Static("", id="side-1", markup=False)
        yield Static("", id="side-2", markup=False)
        yield Static("", id="problem", markup=False)
        yield Static("", id="panes", markup=False)
        with Container(id="body"):
            with Vertical(id="counts"):
                yield Groups(id="groups", compact=True)
                yield Static("", id="verdict", markup=False)
                yield Static("", id="changed", markup=False)
            with Vertical(id="matrix"):
                yield Static("", id="cell", markup=False)
                yield DifferenceTable()
            with Horizontal(id="calibration"):
                yield ReliabilityChart(1)
                yield ReliabilityChart(2)
            yield PairImages()

    def ready(self) -> None:
        """The counts have the keys."""
        self._lay_out()
        self.query_one(Groups).focus()

    def on_resize(self) -> None:
        """All at once, or in turns."""
        if self.stands:
            self._lay_out()

    def _lay_out(self) -> None:
        size = self.app.size
        together = size.width >= TOGETHER[0] and size.height >= TOGETHER[1]
        self.set_class(together, "-together")
        for name in PANES:
            self.set_class(name == self._pane, f"-on-{name}")
        self._show_panes()

    # ---- painting ---------------------------------------------------------------------------

    def followers(self) -> list[Follower | None]:
        """The runs of both sides."""
        return [self.store.get(side.run) for side in self.sides]

    def shows(self, run: str) -> bool:
        """Whether it is one of the sides."""
        return any(side.run == run for side in self.sides)

    def show(self, changes: Changes) -> None:
        """Read what is new of the sides; what was chosen stays, the newest is followed."""
        shown = {side.run for side in self.sides}
        if not (self.stands and self.is_active):  # nothing changes behind a dialog
            return
        if not (changes.listing or shown & changes.runs):
            return
        for side, loader, run in zip(self.sides, self.loaders, self.followers(), strict=True):
            saved = None if run is None else side.wanted(run.state)
            if run is None or saved is None:
                loader.forget()
            else:
                loader.want(run, saved, self.cifar.data)
        self._loaded()

    def _loaded(self) -> None:
        """A loader has something new."""
        if not self.stands:
            return
        first, second = (loader.evaluation for loader in self.loaders)
        if (first, second) != self.difference.sides:
            self.difference = difference.between(first, second)
        self._show_titles()
        self._show_problem()
        self._fill()
        self._show_images()

    def _show_titles(self) -> None:
        runs, colours = self.followers(), self.cifar.colours()
        two = self.sides[0].run != self.sides[1].run
        for i, side in enumerate(self.sides):
            line = difference.title(
                i + 1,
                runs[i],
                side,
                self.loaders[i].evaluation,
                self.loaders[i].problem,
                colours,
                with_id=two and self.app.size.width >= TOGETHER[0],
            )
            self._say(f"#side-{i + 1}", line)

    def _show_problem(self) -> None:
        problem = self.difference.problem
        if not problem and self.has_class("-images"):
            problem = self.loaders[1].pictures_problem
        self._say("#problem", Text(clean(problem, 400)))
        self.query_one("#problem").display = bool(problem)

    def _fill(self) -> None:
        """Counts, matrix and diagrams; nothing is painted when they are the same."""
        shown, colours = self.difference, self.cifar.colours()
        waiting = any(loader.waiting for loader in self.loaders)
        key = (shown, self.app.theme, waiting)
        if key == self._filled:
            return
        self._filled = key
        groups = self.query_one(Groups)
        at = groups.highlighted or 0
        groups.clear_options()
        classes = shown.sides[1].classes if shown.sides[1] is not None else ()
        if shown.found is not None:
            groups.add_options(
                Option(difference.group_line(i, shown, colours), id=name)
                for i, (name, _, _) in enumerate(GROUPS)
            )
            groups.highlighted = at
            self.query_one(DifferenceTable).fill(shown.found.confusion, classes)
            most = difference.changed_most(shown.found, classes, 6)
            self._say("#verdict", Text(difference.verdict(shown.found)))
            self._say("#changed", Text(f"changed most: {', '.join(most)}" if most else ""))
        else:
            self.query_one(DifferenceTable).fill(np.zeros((0, 0), np.int64), ())
            words = "reading…" if waiting else "There are not two models to put side by side."
            self._say("#verdict", Text(words))
            self._say("#changed", Text(""))
        self._show_cell()
        for number, (known, found) in enumerate(
            zip(shown.calibrations, shown.sides, strict=True), 1
        ):
            name = "nothing to see" if found is None else f"epoch {found.saved.epoch}"
            self.query_one(f"#reliability-{number}", ReliabilityChart).fill(known, name)

    def _show_cell(self) -> None:
        about = self.query_one(DifferenceTable).about_cell()
        wide = self.query_one(DifferenceTable).has_focus
        legend = in_words(LEGEND, ascii=self.cifar.terminal.ascii)
        self._say("#cell", Text(about if wide or not about else legend))

    def _show_panes(self) -> None:
        colours = self.cifar.colours()
        text = Text(" ", no_wrap=True)
        for name in PANES:
            chosen = f"bold {colours['background']} on {colours['primary']}"
            text.append(f" {name} ", style=chosen if name == self._pane else colours["secondary"])
        text.append("  k goes on", style=colours["secondary"])
        self._say("#panes", text)

    def _say(self, where: str, text: Text) -> None:
        say(
            self.query_one(where, Static),
            text,
            layout=where in ("#problem", "#verdict", "#changed"),
        )

    # ---- images -----------------------------------------------------------------------------

    def _open(self, words: str, choose: Choose) -> None:
        images = self.query_one(PairImages)
        images.choose(words, choose)
        self.add_class("-images")
        self.refresh_bindings()
        self._show_images()
        self._show_problem()
        images.grid.focus()

    def _show_images(self) -> None:
        if self.has_class("-images"):
            self.query_one(PairImages).fill(self.difference, self.loaders[1].pictures)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Exactly the images of a count."""
        event.stop()
        name = event.option.id or ""
        words = next(f"{w}: {m}" if m else w for n, w, m in GROUPS if n == name).lstrip("· ")
        self._open(words, lambda shown: shown.group(name))

    def on_confusion_table_chosen(self, event: DifferenceTable.Chosen) -> None:
        """Exactly the images that are in a cell of one model's matrix alone."""
        classes = self.difference.sides[1].classes if self.difference.sides[1] else ()
        actual, predicted = clean(classes[event.actual], 20), clean(classes[event.predicted], 20)
        words = f"{actual} taken for {predicted} by one alone"
        if event.actual == event.predicted:
            words = f"{actual} right in one alone"
        self._open(words, lambda shown: shown.cell(event.actual, event.predicted))

    def on_confusion_table_moved(self) -> None:
        """The cell in words."""
        self._show_cell()

    def on_descendant_focus(self) -> None:
        """The matrix explains its cell, or itself."""
        self._show_cell()

    def on_mistake_grid_enlarge(self, event: MistakeGrid.Enlarge) -> None:
        """One image large."""
        first, second = self.followers()
        if first is None or second is None:
            return
        # both models see the same images
        self.loaders[0].pictures = self.loaders[1].pictures
        models = (first, self.loaders[0]), (second, self.loaders[1])
        self.app.push_screen(PairImageScreen(*models, self.query_one(PairImages).grid))

    # ---- keys -------------------------------------------------------------------------------

    def _focus_pane(self) -> None:
        if self._pane == "calibration":
            self.set_focus(None)
        else:
            self.query_one(Groups if self._pane == "counts" else DifferenceTable).focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys of the images work there, those of the panes elsewhere."""
        images = self.has_class("-images")
        if action == "pane":
            return not images
        if action in ("density", "copy"):
            return images
        return True

    def action_back(self) -> None:
        """From the images to the counts, from there to where it was opened."""
        if not self.has_class("-images"):
            self.cifar.action_show(self._back)
            return
        self.remove_class("-images")
        self.refresh_bindings()
        self._show_problem()
        self._focus_pane()

    def action_pane(self) -> None:
        """The next pane has the keys, and is seen where there is room for one alone."""
        self._pane = PANES[(PANES.index(self._pane) + 1) % len(PANES)]
        self._lay_out()
        self._focus_pane()

    def action_swap(self) -> None:
        """First and second change places."""
        self.sides.reverse()
        self.show(Changes(listing=True))

    def action_evaluation(self, side: int, step: int) -> None:
        """Another evaluation of a side."""
        run = self.followers()[side]
        if run is not None:
            self.sides[side].step(run.state, step)
            self.show(Changes(listing=True))

    def action_density(self) -> None:
        """Large images, small ones, one line each."""
        self.query_one(PairImages).next_density()

    def action_copy(self) -> None:
        """Copy the image's index to the terminal's clipboard."""
        index = self.query_one(PairImages).grid.chosen
        if index is not None:
            self.app.copy_to_clipboard(str(index))
            self.cifar.tell(f"copied {index}", kind="copied")

"""The test images that a run gets wrong: grid, filter, confusion matrix, any of its evaluations."""

from __future__ import annotations

from dataclasses import replace

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.events import ScreenResume
from textual.timer import Timer
from textual.widgets import Input, Static

from trainer.analysis import mistakes
from trainer.analysis.mistakes import Sort
from trainer.analysis.mistakes_filter import EVERYTHING, SYNTAX, Filter, parse_filter, select
from trainer.errors import UserError
from trainer.events import PredictionsSaved
from trainer.runs.follower import Follower
from tui.formatting import clean
from tui.images.evaluation_choice import EvaluationChoice
from tui.images.evaluation_loader import EvaluationLoader
from tui.images.fault import Group, about_label
from tui.runs.store import Changes
from tui.screens import mistakes_lines as mistake_lines
from tui.screens.base import StoreScreen
from tui.screens.fault import FaultScreen
from tui.screens.mistakes_keys import MistakesKeys
from tui.widgets.confusion_pane import ConfusionPane
from tui.widgets.confusion_table import ConfusionTable
from tui.widgets.lines import say
from tui.widgets.mistake_grid import DENSITIES, MistakeGrid

ON_IMAGES = (
    *("filter", "sort", "reverse", "matrix", "all", "density", "actual", "predicted", "percent"),
    *("copy", "jump", "save_csv", "save_png", "fault"),
)
"""Actions that do something to the images."""


class MistakesScreen(MistakesKeys):
    """Images to the left, the confusion matrix to the right or behind ``k``."""

    TAB = "mistakes"
    CSS_PATH = "mistakes.tcss"
    AUTO_FOCUS = "MistakeGrid, ConfusionTable"
    BINDINGS = [
        Binding("slash", "filter", "Filter", id="mistakes.filter", tooltip=f"Show only: {SYNTAX}"),
        Binding("o", "sort", "Sort", id="mistakes.sort", tooltip="Sort by the next quantity"),
        Binding(
            "O",
            "reverse",
            "Reverse",
            id="mistakes.reverse",
            show=False,
            tooltip="Reverse the order",
        ),
        Binding(
            "k", "matrix", "Matrix", id="mistakes.matrix", tooltip="Confusion matrix, or the images"
        ),
        Binding(
            "left_square_bracket",
            "evaluation(-1)",
            "Epoch",
            key_display="[",
            id="mistakes.epoch",
            tooltip="The evaluation before, or after",
        ),
        Binding(
            "right_square_bracket",
            "evaluation(1)",
            "Epoch",
            key_display="]",
            id="mistakes.epoch",
            tooltip="The evaluation before, or after",
        ),
        Binding(
            "t", "all", "All", id="mistakes.all", show=False, tooltip="All images, or mistakes only"
        ),
        Binding(
            "z", "density", "Size", id="mistakes.size", tooltip="Large images, small ones, a list"
        ),
        Binding(
            "a", "actual", "Actual", id="mistakes.actual", show=False, tooltip="Choose the class"
        ),
        Binding(
            "A",
            "predicted",
            "Predicted",
            id="mistakes.predicted",
            show=False,
            tooltip="Choose the class they were taken for",
        ),
        Binding(
            "percent_sign",
            "percent",
            "Percent",
            key_display="%",
            id="mistakes.percent",
            show=False,
            tooltip="Matrix: counts, or percentages of its rows",
        ),
        Binding(
            "y",
            "copy",
            "Copy index",
            id="mistakes.copy",
            show=False,
            tooltip="Copy the image's test index to the clipboard",
        ),
        Binding(
            "d",
            "difference",
            "Difference",
            id="mistakes.difference",
            show=False,
            tooltip="This evaluation beside another one: what it fixes and breaks",
        ),
        Binding(
            "w",
            "fault",
            "Whose fault",
            id="mistakes.fault",
            tooltip="Whose fault: the model's, or a label that people doubt",
        ),
        Binding("escape", "clear", "Clear", id="mistakes.clear", show=False, tooltip="No filter"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.sort: Sort = "confidence"
        self.reversed = False
        self.wrong_only = True
        self.where: Filter = EVERYTHING
        self.loader = EvaluationLoader(self, self._loaded)
        self.choice = EvaluationChoice()
        self._turn: Timer | None = None
        """Turns to the newest evaluation."""
        self._left = True
        """Whether another screen was opened, not a dialog over this one."""
        self._where_of: tuple[str, ...] = ()
        """What the filter's numbers mean."""
        self._fault = ""

    def body(self) -> ComposeResult:
        """Title, what is wrong, filter, grid and matrix."""
        yield Static("", id="title", markup=False)
        yield Static("", id="shown", markup=False)
        yield Static("", id="problem", markup=False)
        field = Input(placeholder=SYNTAX, id="filter", compact=True, select_on_focus=False)
        field.cursor_blink = False
        yield field
        yield Static("", id="nothing", markup=False)
        with Horizontal(id="body"):
            yield MistakeGrid()
            yield ConfusionPane()

    def ready(self) -> None:
        """The images have the keys."""
        self.query_one(MistakeGrid).focus()

    # ---- painting ---------------------------------------------------------------------------

    def show(self, changes: Changes) -> None:
        """Read a new evaluation when there is one; repaint what the run's state touches.

        Nothing changes behind a dialog, which may be about an image of this page.
        """
        if not (self.stands and self.is_active):
            return
        if not (changes.listing or self.store.selected in changes.runs):
            return
        run = self.store.current
        saved = self._wanted(run)
        if run is None or saved is None:
            self.loader.forget()
        else:
            self.loader.want(run, saved, self.cifar.data)
        if self.loader.evaluation is None:
            self.query_one(MistakeGrid).fill(None, mistakes.NONE, None)
        self._show_state()

    def _wanted(self, run: Follower | None) -> PredictionsSaved | None:
        return None if run is None else self.choice.wanted(run.state)

    def _loaded(self) -> None:
        """The loader has something new."""
        if self.stands:
            self._apply()
            self._show_state()
            if isinstance(self.app.screen, FaultScreen):
                self.app.screen.follow()

    def _apply(self) -> None:
        """Choose and order the images again."""
        found = self.loader.evaluation
        grid = self.query_one(MistakeGrid)
        self._fault = ""
        if found is not None and self.sort not in found.images.sorts:
            self.sort = "confidence"
        if found is None:
            grid.fill(None, mistakes.NONE, None)
            return
        try:
            line = self.query_one("#filter", Input).value
            where = parse_filter(line, found.classes)
            where.check(found.images)
            self.where, self._where_of = where, found.classes
        except UserError as error:
            self._fault = str(error)
            if self._where_of != found.classes or not self.where.known(found.images):
                self.where = EVERYTHING
        chosen = select(
            found.images,
            sort=self.sort,
            where=self.where,
            wrong_only=self.wrong_only,
            reverse=self.reversed,
        )
        grid.fill(found, chosen, self.loader.pictures)
        self.choice.shown(found.saved, grid.cells)
        self.query_one(ConfusionPane).fill(found)

    def _show_state(self) -> None:
        """The lines around the images, and whether there is anything to show."""
        run, found = self.store.current, self.loader.evaluation
        why = mistake_lines.why_nothing(run, self.loader.problem)
        if self.has_class("-nothing") != bool(why):
            self.set_class(bool(why), "-nothing")
            self.call_after_refresh(self.keep_focus)
            self.refresh_bindings()
        self._say("#nothing", Text(why))
        left = 0.0 if run is None else self.choice.seconds_left(run.state)
        if left and self._turn is None:
            self._turn = self.set_timer(left, self._show_newest)
        title = mistake_lines.title(
            run, found, self.cifar.colours(), self.loader.problem, stays=left > 0
        )
        self._say("#title", title)
        self._show_page()
        problem = ""
        if found is not None:
            known = filter(None, (self.loader.pictures_problem, *found.notices))
            problem = "\n".join(clean(line, 400) for line in known)
        self._say("#problem", Text(problem))
        self.query_one("#problem").display = bool(problem)

    def _show_page(self) -> None:
        found, colours = self.loader.evaluation, self.cifar.colours()
        if found is None:
            line = Text("")
        elif self._fault:
            line = Text(f" {self._fault}", style=colours["error"])
        else:
            grid = self.query_one(MistakeGrid)
            index = grid.chosen
            line = mistake_lines.page(
                grid,
                colours,
                sort=self.sort,
                turned=self.reversed,
                wrong_only=self.wrong_only,
                where=self.where.text(found.classes),
                about="" if index is None else about_label(found.images, index, found.classes),
            )
        self._say("#shown", line)

    def _say(self, where: str, text: Text) -> None:
        say(self.query_one(where, Static), text, layout=where in ("#problem", "#nothing"))

    def _show_newest(self) -> None:
        self._turn = None
        self.show(Changes(listing=True))

    # ---- messages ---------------------------------------------------------------------------

    def on_screen_suspend(self) -> None:
        """Another screen, or only a dialog over this one."""
        top = self.app.screen
        self._left = isinstance(top, StoreScreen) and top is not self

    def on_screen_resume(self, event: ScreenResume) -> None:
        """The newest evaluation, unless only a dialog was closed. Textual calls the method of the
        class above as well, after it.
        """
        if self._left:
            self.choice.opened()
        else:
            self.choice.read()

    def on_mistake_grid_moved(self, event: MistakeGrid.Moved) -> None:
        """Another image, another page."""
        if event.by_hand:
            self.choice.read()
        self._show_page()

    def on_mistake_grid_enlarge(self, event: MistakeGrid.Enlarge) -> None:
        """One image large."""
        self.choice.read()
        run, found = self.store.current, self.loader.evaluation
        if run is not None and found is not None:
            from tui.screens.image import ImageScreen

            self.app.push_screen(ImageScreen(run, self.loader, self.query_one(MistakeGrid)))

    def on_confusion_table_chosen(self, event: ConfusionTable.Chosen) -> None:
        """Exactly the images of a cell."""
        self._only(event.actual, event.predicted)

    def _only(self, actual: int, predicted: int) -> None:
        # the diagonal holds right images only
        self.wrong_only = actual != predicted
        self._show_only(Filter((((actual,), (predicted,)),)))
        self._show_images()

    def _show_only(self, where: Filter) -> None:
        found = self.loader.evaluation
        if found is not None:
            self._set_line(where.text(found.classes))

    def _set_line(self, line: str) -> None:
        field = self.query_one("#filter", Input)
        if field.value == line:
            self._loaded()
        field.value = line

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        event.stop()
        self.choice.read()
        self._loaded()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Back to the images."""
        event.stop()
        event.input.display = False
        self._show_images()

    # ---- keys -------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Where there are no images, keys that do something to them are not offered."""
        if action == "evaluation":
            run = self.store.current
            return run is not None and bool(run.state.predictions)
        return not (action in ON_IMAGES and self.has_class("-nothing"))

    def _show_images(self) -> None:
        self.face(matrix=False)
        self.query_one(MistakeGrid).focus()

    def action_filter(self) -> None:
        """Type what to show."""
        field = self.query_one("#filter", Input)
        field.display = True
        self.set_focus(field)  # at once: what is typed in the same read is for it

    def action_clear(self) -> None:
        """Show all mistakes again."""
        self.wrong_only = True
        self._set_line("")
        self.query_one("#filter").display = False
        self._show_images()

    def action_sort(self) -> None:
        """Sort by the next quantity."""
        found = self.loader.evaluation
        if found is None:
            return
        sorts = found.images.sorts
        self.sort = sorts[(sorts.index(self.sort) + 1) % len(sorts)]
        self._loaded()

    def action_reverse(self) -> None:
        """Turn the order round."""
        self.reversed = not self.reversed
        self._loaded()

    def action_all(self) -> None:
        """All images, or mistakes only."""
        self.wrong_only = not self.wrong_only
        self._loaded()

    def action_density(self) -> None:
        """Large images, small ones, one line each."""
        grid = self.query_one(MistakeGrid)
        grid.set_density(DENSITIES[(DENSITIES.index(grid.density) + 1) % len(DENSITIES)])

    def action_percent(self) -> None:
        """Counts, or percentages."""
        table = self.query_one(ConfusionTable)
        table.set_percent(not table.percent)

    def action_matrix(self) -> None:
        """To the matrix, or back; below 120 columns they take turns."""
        table = self.query_one(ConfusionTable)
        if table.has_focus:
            self._show_images()
            return
        self.face(matrix=True)
        table.focus()

    def action_evaluation(self, step: int) -> None:
        """The evaluation before, or after; after the last one the newest is followed."""
        run = self.store.current
        if run is None or not run.state.predictions:
            return
        self.choice.step(run.state, step)
        self.show(Changes(listing=True))

    def action_actual(self) -> None:
        """Choose the actual class."""
        self._choose("Actual class", 0)

    def action_predicted(self) -> None:
        """Choose the predicted class."""
        self._choose("Predicted class", 1)

    def _choose(self, title: str, side: int) -> None:
        found = self.loader.evaluation
        if found is None:
            return
        from tui.screens.dialogs import Choice

        def answered(answer: str | None) -> None:
            if answer is not None:
                now = self.where.confusions[0] if len(self.where.confusions) == 1 else ((), ())
                chosen = (int(answer),) if answer != "any" else ()
                pair = (chosen, now[1]) if side == 0 else (now[0], chosen)
                self._show_only(replace(self.where, confusions=(pair,) if any(pair) else ()))

        wrong = found.matrix.sum(1 - side) - found.matrix.diagonal()
        choices = [("", "any", "any class")]
        choices += [
            ("", str(i), f"{clean(name, 40)}  {int(wrong[i]):,} mistakes")
            for i, name in enumerate(found.classes)
        ]
        self.app.push_screen(Choice(title, "", choices, about=found.run), answered)

    def action_difference(self) -> None:
        """This evaluation beside another one of the run."""
        from tui.screens.difference_open import evaluations_of

        evaluations_of(self.cifar, self.store.current, self._wanted(self.store.current))

    def action_fault(self) -> None:
        """Whose fault the mistakes are; the chosen ones are shown."""
        run = self.store.current
        why = mistake_lines.why_nothing(run, self.loader.problem)
        if run is None or why:
            self.cifar.tell(why, severity="warning")
            return
        dialog = FaultScreen(self.loader)
        dialog.about = run.run.id
        self.app.push_screen(dialog, self._show_group)

    def _show_group(self, group: Group | None) -> None:
        if group is not None:
            self.wrong_only, self.reversed, self.sort = False, False, group.sort
            # from the first one on
            found, pictures = self.loader.evaluation, self.loader.pictures
            self.query_one(MistakeGrid).fill(found, mistakes.NONE, pictures)
            self._set_line(group.where)
            self._show_images()

    def action_copy(self) -> None:
        """Copy the image's index to the terminal's clipboard."""
        index = self.query_one(MistakeGrid).chosen
        if index is not None:
            self.app.copy_to_clipboard(str(index))
            self.cifar.tell(f"copied {index}", kind="copied")

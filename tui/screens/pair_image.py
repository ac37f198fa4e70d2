"""One image of a comparison, enlarged: what one model sees in it, and at a key the other."""

from __future__ import annotations

from rich.text import Text
from textual.binding import Binding

from trainer.runs.follower import Follower
from tui.formatting import clean
from tui.images import difference
from tui.images.evaluation_loader import EvaluationLoader
from tui.screens.image import ImageScreen
from tui.widgets.mistake_grid import MistakeGrid

Model = tuple[Follower, EvaluationLoader]


class PairImageScreen(ImageScreen):
    """The second model's view first."""

    BINDINGS = [
        Binding(
            "b", "other", "Other model", id="image.other", tooltip="The image in the other model"
        )
    ]
    CSS_PATH = "image.tcss"

    def __init__(self, first: Model, second: Model, grid: MistakeGrid) -> None:
        super().__init__(*second, grid)
        self._models = first, second
        self._number = 2

    def action_other(self) -> None:
        """Everything of the other model: bars, history, Grad-CAM."""
        self._number = 3 - self._number
        before = self._run
        self._run, self._loader = self._models[self._number - 1]
        if self._run is not before:
            # another net: its own code, if it has any, was not trusted yet; other layers
            self._inside.trusted, self._inside.layer, self._inside.layers = False, "", ()
            self._inside.bare = False
        self._history = None
        self._paint()
        found = self._loader.evaluation
        if found is not None:
            self.run_worker(
                self._read_history(found.saved.variant),
                group="history",
                description="read all evaluations",
                exclusive=True,
            )

    def _what(self, index: int) -> Text:
        """Which model is shown, then as of one alone."""
        return self._badge(self._number).append(" ").append_text(super()._what(index))

    def _beside(self, index: int) -> Text:
        """What the other model says, and the key that shows it."""
        number, text = 3 - self._number, Text("  ")
        found = self._models[number - 1][1].evaluation
        if found is None or index >= len(found.images):
            return text
        predicted = int(found.images.predicted[index])
        right = predicted == int(found.images.actual[index])
        words = f" {clean(found.classes[predicted], 20)}{' ✓' if right else ''} "
        colours = self.app.theme_variables
        text.append_text(self._badge(number))
        text.append(words, style=colours["success" if right else "error"])
        return text.append("(b)", style=colours["secondary"])

    def _badge(self, number: int) -> Text:
        colours = self.app.theme_variables
        colour = difference.side_colour(number, colours)
        text = Text(no_wrap=True)
        return text.append(f" {number} ", style=f"bold {colours['background']} on {colour}")

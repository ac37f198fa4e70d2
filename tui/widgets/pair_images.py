"""A chosen set of images of a comparison: how many and which in a line, the grid below it."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from trainer.analysis.mistakes import NONE, Indices
from tui.images.difference import Difference
from tui.images.evaluations import Pictures
from tui.widgets.lines import say
from tui.widgets.mistake_grid import DENSITIES
from tui.widgets.pair_grid import PairGrid

Choose = Callable[[Difference], Indices]


class PairImages(Vertical):
    """What was chosen is chosen again when a side has a new evaluation."""

    DEFAULT_CSS = """
    PairImages #shown { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self) -> None:
        super().__init__(id="images")
        self._words = ""
        self._choose: Choose | None = None
        self._filled: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        """Line and grid."""
        yield Static("", id="shown", markup=False)
        yield PairGrid()

    @property
    def grid(self) -> PairGrid:
        """The images."""
        return self.query_one(PairGrid)

    def choose(self, words: str, choose: Choose | None) -> None:
        """What to show of a comparison from now on, and what that is called."""
        self._words, self._choose = words, choose

    def fill(self, shown: Difference, pictures: Pictures | None) -> None:
        """Show the chosen images of a comparison; nothing is painted when they are the same."""
        key = (shown, pictures is None, self._words, self._choose)
        if key == self._filled:
            return
        self._filled = key
        chosen = NONE if self._choose is None else self._choose(shown)
        self.grid.show_pair(shown, chosen, pictures)
        self.show_page()

    def show_page(self) -> None:
        """Number of images, what they are, page."""
        grid, colours = self.grid, self.app.theme_variables
        at, pages = grid.pages
        text = Text(no_wrap=True)
        text.append(f" {grid.count:,} image{'s' * (grid.count != 1)}", style="bold")
        text.append(f"  {self._words}")
        text.append(f"  page {at:,} of {pages:,}", style=colours["secondary"])
        text.append("  most changed p(actual) first", style=colours["secondary"])
        say(self.query_one("#shown", Static), text, layout=False)

    def on_mistake_grid_moved(self) -> None:
        """Another page."""
        self.show_page()

    def next_density(self) -> None:
        """Large images, small ones, one line each."""
        grid = self.grid
        grid.set_density(DENSITIES[(DENSITIES.index(grid.density) + 1) % len(DENSITIES)])

"""One image of the grid, enlarged: what the net saw in it, now and over the epochs."""

from __future__ import annotations

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from trainer.analysis.mistakes import History
from trainer.runstate import Follower
from tui.evaluation_loader import EvaluationLoader
from tui.formatting import clean
from tui.widgets import image_view
from tui.widgets.image_view import SIDE, ImageView
from tui.widgets.mistake_grid import MistakeGrid


class ImageScreen(ModalScreen[None]):
    """Over the grid; left and right go through its images."""

    BINDINGS = [
        Binding("escape,enter,q", "dismiss", "Close", id="image.close", tooltip="Back to the grid"),
        Binding("left,up", "step(-1)", "Before", id="image.before", tooltip="The image before"),
        Binding("right,down,space", "step(1)", "Next", id="image.next", tooltip="The next image"),
        Binding("y", "copy", "Copy index", id="image.copy", tooltip="Copy the test index"),
    ]
    CSS_PATH = "image.tcss"

    def __init__(self, run: Follower, loader: EvaluationLoader, grid: MistakeGrid) -> None:
        super().__init__(classes="image")
        self._run = run
        self._loader = loader
        self._grid = grid
        self._history: History | None = None

    def compose(self) -> ComposeResult:
        """What it is, image and bars, history."""
        with Vertical(id="box"):
            yield Static("", id="what", markup=False)
            with Horizontal(id="middle"):
                yield ImageView()
                with Vertical(id="right"):
                    yield Static("", id="bars", markup=False)
                    yield Static("", id="history", markup=False)
            yield Static("← → other images   y copies the index   escape closes", id="note")

    def on_mount(self) -> None:
        """Read the run's evaluations behind the picture."""
        found = self._loader.evaluation
        if found is not None:
            self.run_worker(
                self._read_history(found.saved.variant),
                group="history",
                description="read all evaluations",
            )

    async def _read_history(self, variant: str) -> None:
        self._history = await self._loader.history(self._run, variant)
        self._paint()

    def on_resize(self) -> None:
        """The image is as large as there is room, in whole pixels."""
        self.call_after_refresh(self._paint)

    def action_step(self, step: int) -> None:
        """Another image of the grid."""
        self._grid.action_move(step)
        self._paint()

    def action_copy(self) -> None:
        """Copy the index."""
        if self._grid.chosen is not None:
            self.app.copy_to_clipboard(str(self._grid.chosen))
            self.notify(f"copied {self._grid.chosen}", markup=False)

    def _paint(self) -> None:
        found, index = self._loader.evaluation, self._grid.chosen
        if found is None or index is None or index >= len(found.images):
            return
        width, height = self.size.width, self.size.height
        scale = max(1, min((width - 50) // SIDE, (height - 3) * 2 // SIDE))
        view, line = self.query_one(ImageView), self.query_one("#history", Static)
        if view.size != (SIDE * scale, SIDE * scale // 2):
            view.styles.width, view.styles.height = SIDE * scale, SIDE * scale // 2
        pictures = self._loader.pictures
        view.show_picture(None if pictures is None else pictures[index])
        images, colours = found.images, self.app.theme_variables
        actual, predicted = int(images.actual[index]), int(images.predicted[index])
        room = width - SIDE * scale - 5
        self.query_one("#what", Static).update(self._what(actual, predicted, index), layout=False)
        bars = self.query_one("#bars", Static)
        text = image_view.bars(
            images.source.probabilities[index].astype(np.float64),
            found.classes,
            actual=actual,
            predicted=predicted,
            colours=colours,
            width=room,
            limit=max(2, min(24, height - 8)),
        )
        # all images have as many lines: only the first one is laid out
        bars.update(text, layout=len(text.plain.splitlines()) != bars.size.height)
        if self._history is None:
            reading = Text("reading the other evaluations…", style=colours["secondary"])
            line.update(reading, layout=False)
        else:
            moments = self._history.of(index)
            line.update(image_view.history(moments, colours, room), layout=False)

    def _what(self, actual: int, predicted: int, index: int) -> Text:
        found, colours = self._loader.evaluation, self.app.theme_variables
        assert found is not None
        images, names = found.images, [clean(name, 40) for name in found.classes]
        text = Text(no_wrap=True)
        text.append(f"test image #{index}  ", style="bold")
        text.append(names[actual], style=colours["success"])
        if predicted == actual:
            text.append(" ✓ right", style=colours["success"])
        else:
            text.append(" → ").append(names[predicted], style=colours["error"])
        text.append(
            f"  epoch {found.saved.epoch} {found.saved.variant}  loss {images.loss[index]:.3f}  "
            f"margin {images.margin[index]:+.3f}  entropy {images.entropy[index]:.3f} nats",
            style=colours["secondary"],
        )
        return text

"""One image of the grid, enlarged: what the net saw in it, now and over the epochs."""

from __future__ import annotations

from contextlib import suppress
from typing import cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.css.query import NoMatches
from textual.widgets import Static

from trainer.analysis import mistake_words
from trainer.analysis.mistakes import History
from trainer.characters import in_words
from trainer.protocol import Inspect
from trainer.runs.follower import Follower
from tui.formatting import clean
from tui.images import overlay
from tui.images.evaluation_loader import EvaluationLoader
from tui.images.evaluations import Evaluation
from tui.images.fault import about_label
from tui.images.inside import Inside, convolution_at
from tui.keys import HELP
from tui.screens.modal import Modal
from tui.widgets import image_view
from tui.widgets.graphics_view import GraphicsView
from tui.widgets.image_view import SIDE, ImageView
from tui.widgets.layer_table import LayerTable
from tui.widgets.lines import say
from tui.widgets.mistake_grid import MistakeGrid
from tui.widgets.neighbours import LINES, Neighbours

NEIGHBOUR_LINES = LINES + 1


class ImageScreen(Modal[None]):
    """Over the grid; left and right go through its images."""

    BINDINGS = [
        Binding("escape,enter,q", "dismiss", "Close", id="image.close", tooltip="Back to the grid"),
        Binding("left,up", "step(-1)", "Before", id="image.before", tooltip="The image before"),
        Binding("right,down,space", "step(1)", "Next", id="image.next", tooltip="The next image"),
        Binding("y", "copy", "Copy index", id="image.copy", tooltip="Copy the test index"),
        Binding("g", "view('cam')", "Grad-CAM", id="image.cam", tooltip="Grad-CAM over the image"),
        Binding(
            "e",
            "view('effective')",
            "Effective field",
            id="image.effective",
            tooltip="The gradient of the layer's centre over the image",
        ),
        Binding("f", "boxes", "Fields", id="image.fields", tooltip="Receptive fields as frames"),
        Binding(
            "left_square_bracket",
            "layer(-1)",
            "Layer before",
            id="image.layer-before",
            tooltip="The convolution before",
        ),
        Binding(
            "right_square_bracket",
            "layer(1)",
            "Layer after",
            id="image.layer-after",
            tooltip="The convolution after",
        ),
        Binding(
            "n",
            "neighbours",
            "Neighbours",
            id="image.neighbours",
            tooltip="Nearest training images, where there is no room for all at once",
        ),
        Binding(
            "t", "trust", "Run its code", id="image.trust", tooltip="Run a net of your own file"
        ),
        HELP,
    ]
    CSS_PATH = "image.tcss"
    FILLS = True

    def __init__(self, run: Follower, loader: EvaluationLoader, grid: MistakeGrid) -> None:
        super().__init__(classes="image")
        self._run = run
        self.about = run.run.id
        self._loader = loader
        self._grid = grid
        self._history: History | None = None
        self._view = ""
        self._boxes = False
        self._inside = Inside(self._ask, self._paint)

    def compose(self) -> ComposeResult:
        """What it is, image and bars, history."""
        with Vertical(id="box"):
            yield Static("", id="what", markup=False)
            with Horizontal(id="middle"):
                kind = self.cifar.graphics
                yield ImageView() if kind is None else GraphicsView(kind)
                with Vertical(id="right"):
                    yield Static("", id="bars", markup=False)
                    yield Static("", id="history", markup=False)
                    yield Static("", id="inside", markup=False)
            yield Neighbours()
            yield Static("", id="note", markup=False)

    def on_mount(self) -> None:
        """Read the run's evaluations behind the picture."""
        self.cifar.worker.on_inspected = self._inside.told
        self._inside.layer = self._chosen_layer()
        found = self._loader.evaluation
        if found is not None:
            self.run_worker(
                self._read_history(found.saved.variant),
                group="history",
                description="read all evaluations",
            )

    def on_unmount(self) -> None:
        """What is still computed is of no use."""
        self.cifar.worker.on_inspected = None
        self._inside.close()

    def _ask(self, asked: Inspect) -> None:
        self.cifar.worker.inspect(asked)

    def _chosen_layer(self) -> str:
        """The convolution that is chosen in the layers screen."""
        net = self._run.state.described
        if net is None:
            return ""
        with suppress(KeyError, NoMatches):
            table = self.app.get_screen("layers").query_one(LayerTable)
            if table.chosen is not None and table.moved:
                return convolution_at(net.layers, table.chosen.last.path)
        return ""

    async def _read_history(self, variant: str) -> None:
        self._history = await self._loader.history(self._run, variant)
        self._paint()

    def on_resize(self) -> None:
        """The image is as large as there is room, in whole pixels."""
        self.call_after_refresh(self._paint)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a convolution there is neither a map nor a field."""
        return not (action in ("view", "boxes", "layer") and self._inside.bare)

    def action_step(self, step: int) -> None:
        """Another image of the grid."""
        self._grid.action_move(step)
        self._paint()

    def action_copy(self) -> None:
        """Copy the index."""
        if self._grid.chosen is not None:
            self.app.copy_to_clipboard(str(self._grid.chosen))
            self.cifar.tell(f"copied {self._grid.chosen}", kind="copied")

    def action_view(self, view: str) -> None:
        """A map over the image, or the image as it is."""
        self._view = "" if self._view == view else view
        self._paint()

    def action_boxes(self) -> None:
        """Receptive fields as frames."""
        self._boxes = not self._boxes
        self._paint()

    def action_layer(self, step: int) -> None:
        """Another convolution."""
        self._inside.step(step)
        self._paint()

    def action_neighbours(self) -> None:
        """Nearest training images in the place of the bars, or the bars again."""
        self.toggle_class("-near")
        self.call_after_refresh(self._paint)

    def action_trust(self) -> None:
        """The user has been told that it is code, and wants it run."""
        answer = self._inside.answer
        if answer is not None and answer.needs_trust:
            self._inside.trusted = True
            self._paint()

    def _paint(self) -> None:
        found, index = self._loader.evaluation, self._grid.chosen
        if not (self.is_mounted and self.stands):
            return
        if found is None or index is None or index >= len(found.images):
            return
        self._inside.want(self._run, found, index, self.cifar.data)
        scale = self._scale()
        self._paint_image(index, scale)
        room = self.size.width - SIDE * scale - 5
        self._say("#what", self._what(index))
        self._paint_numbers(found, index, room)
        colours = self.app.theme_variables
        self._say("#inside", self._inside.lines(found, colours, self._view, self._boxes))
        answer = self._inside.answer
        self.query_one(Neighbours).show_near(
            (answer.neighbours or ()) if answer is not None else (),
            found.classes,
            int(found.images.actual[index]),
            self._inside.neighbours_line(self.size.width),
        )
        keys = _note(self.size.width, wide=self.has_class("-room"), bare=self._inside.bare)
        self._say("#note", Text(in_words(keys, ascii=self.cifar.terminal.ascii)))

    def _scale(self) -> int:
        """Cells for each pixel of the image; also whether the neighbours have a place below."""
        width, height = self.size.width, self.size.height
        scale = max(1, min((width - 50) // SIDE, (height - 3) * 2 // SIDE))
        below = height - 3 - SIDE * scale // 2
        self.set_class(below >= NEIGHBOUR_LINES, "-room")
        return scale

    def _paint_image(self, index: int, scale: int) -> None:
        view = cast("ImageView | GraphicsView", self.query_one("#image"))
        if view.size != (SIDE * scale, SIDE * scale // 2):
            view.styles.width, view.styles.height = SIDE * scale, SIDE * scale // 2
        pictures, answer = self._loader.pictures, self._inside.answer
        weights, boxes = b"", []
        if answer is not None and not answer.error:
            weights = {"cam": answer.cam, "effective": answer.effective}.get(self._view, b"")
            if self._boxes:
                boxes = [
                    (answer.field_box, overlay.THEORY),
                    (answer.effective_box, overlay.EFFECTIVE),
                ]
        picture = None if pictures is None else pictures[index]
        view.show_picture(picture, weights, tuple(boxes))

    def _paint_numbers(self, found: Evaluation, index: int, room: int) -> None:
        images, colours, height = found.images, self.app.theme_variables, self.size.height
        bars = self.query_one("#bars", Static)
        people = None if images.people is None else images.people.shares[index]
        text = image_view.bars(
            images.source.probabilities[index],
            found.classes,
            actual=int(images.actual[index]),
            predicted=int(images.predicted[index]),
            colours=colours,
            width=room,
            limit=max(2, min(24, height - 14)),
            people=people,
            written=images.probabilities(index),
            exact=images.exact,
        )
        # all images have as many lines: only the first one is laid out
        say(bars, text, layout=len(text.plain.splitlines()) != bars.size.height)
        if self._history is None:
            reading = Text("reading the other evaluations…", style=colours["secondary"])
            self._say("#history", reading)
            return
        rows = 4 if height >= 40 else 1
        line = self.query_one("#history", Static)
        if line.size.height != rows + 2:
            line.styles.height = rows + 2
        moments = self._history.of(index)
        self._say("#history", image_view.history(moments, colours, room, rows))

    def _say(self, where: str, text: Text) -> None:
        say(self.query_one(where, Static), text, layout=where == "#inside")

    def _beside(self, index: int) -> Text:
        """What another model says of the image; nothing where one alone is looked at."""
        return Text()

    def _what(self, index: int) -> Text:
        found, colours = self._loader.evaluation, self.app.theme_variables
        assert found is not None
        actual, predicted = int(found.images.actual[index]), int(found.images.predicted[index])
        images, names = found.images, [clean(name, 40) for name in found.classes]
        text = Text(no_wrap=True)
        text.append(f"test image #{index}  ", style="bold")
        text.append(names[actual], style=colours["success"])
        if predicted == actual:
            text.append(" ✓ right", style=colours["success"])
        else:
            text.append(" → ").append(names[predicted], style=colours["error"])
        text.append_text(self._beside(index))
        if about := about_label(images, index, found.classes):
            text.append(f"  {about}", style=colours["warning"])
        text.append(
            f"  epoch {found.saved.epoch} {found.saved.variant}  "
            f"loss {mistake_words.loss(float(images.loss[index]), exact=images.exact)}  "
            f"margin {mistake_words.margin(float(images.margin[index]), right=actual == predicted)}"
            "  "
            f"entropy {mistake_words.entropy(float(images.entropy[index]), exact=images.exact)} "
            "nats",
            style=colours["secondary"],
        )
        return text


def _note(width: int, *, wide: bool, bare: bool) -> str:
    """The keys; ``wide``: the neighbours have a place; ``bare``: the net has no convolution."""
    near = [] if wide else ["n neighbours"]
    if width < 110:
        inside = [] if bare else ["g Grad-CAM", "f fields", "e effective", "[ ] layer"]
        return "  ".join(["← → others", *inside, *near, "esc"])
    inside = [] if bare else ["g Grad-CAM", "f fields", "e effective field", "[ ] layer"]
    return "   ".join(["← → other images", *inside, *near, "y copies the index", "escape closes"])

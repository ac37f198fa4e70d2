"""Misclassified images with what they were taken for; only the visible ones are drawn."""

from __future__ import annotations

from typing import Literal

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from trainer.analysis import mistake_words, terminal_image
from trainer.analysis.mistakes import Column, Indices
from tui.formatting import clean
from tui.images.evaluations import Evaluation, Pictures
from tui.widgets import image_view
from tui.widgets.tile import TILE, Line, Look, Words, below, beside, fit, under_cursor

Density = Literal["large", "small", "list"]
DENSITIES: tuple[Density, ...] = ("large", "small", "list")
GAP = 1
HEADING = 1
"""Lines above a list."""
HEIGHTS: dict[Density, int] = {"large": 18, "small": 8, "list": 1}
"""Lines of a tile: image and captions."""
SPARE = 6
"""Drawn images kept beside this page and the next one. Each is thousands of small objects: many
more would make the garbage collector's pauses longer than a key may take."""
AHEAD_SECONDS = 0.02
"""Between two images that are drawn ahead, a few milliseconds each: keys come first."""


class MistakeGrid(Widget, can_focus=True):
    """Tiles in pages; the cursor is on one of them."""

    BINDINGS = [
        Binding(
            "enter",
            "enlarge",
            "Enlarge",
            key_display="↵",
            id="mistakes.enlarge",
            tooltip="One image large: all class probabilities, its history over the epochs",
        ),
        Binding("left", "move(-1)", show=False),
        Binding("right", "move(1)", show=False),
        Binding("up", "row(-1)", show=False),
        Binding("down", "row(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding(
            "space",
            "page(1)",
            "Next page",
            id="mistakes.page",
            show=False,
            tooltip="The next page of images",
        ),
        Binding("home,g", "edge(0)", show=False),
        Binding("end,G", "edge(-1)", show=False),
    ]
    DEFAULT_CSS = "MistakeGrid { width: 1fr; height: 1fr; }"

    class Moved(Message):
        """The cursor is on another image, or the page has changed."""

        def __init__(self, *, by_hand: bool = False) -> None:
            super().__init__()
            self.by_hand = by_hand

    class Enlarge(Message):
        """Enter on an image."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self) -> None:
        super().__init__(id="grid")
        self.density: Density = "large"
        self.cursor = 0
        self._evaluation: Evaluation | None = None
        self._chosen: Indices = np.empty(0, np.int64)
        self._pictures: Pictures | None = None
        self._drawn: dict[tuple[int, float], list[Line]] = {}
        self._page: list[Strip] = []
        self._page_key: tuple[object, ...] = ()
        self._ahead: list[tuple[int, float]] = []

    # ---- what the screen asks ---------------------------------------------------------------

    def fill(
        self, evaluation: Evaluation | None, chosen: Indices, pictures: Pictures | None
    ) -> None:
        """Show these images, in this order.

        The cursor stays on its image while that is there; on the first one it stays on the first,
        so that who has not moved sees the first page.
        """
        before = self.chosen if self.cursor else None
        was_empty = self.chosen is None
        if pictures is not self._pictures:
            self._drawn.clear()
            self._ahead.clear()
        self._evaluation, self._chosen, self._pictures = evaluation, chosen, pictures
        found = np.flatnonzero(chosen == (-1 if before is None else before))
        self.cursor = int(found[0]) if len(found) else 0
        if was_empty != (self.chosen is None):
            self.refresh_bindings()
        self._repaint()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without an image under the cursor there is none to enlarge, and no other page."""
        return self.chosen is not None or action not in ("enlarge", "page")

    def set_density(self, density: Density) -> None:
        """Large or small images, or one line each."""
        self.density = density
        self._repaint()

    @property
    def shown_density(self) -> Density:
        """As asked for; without images, or in too little room, one line each."""
        if self._pictures is None or self.size.width < TILE:
            return "list"
        if self.density == "large" and self.size.height < HEIGHTS["large"]:
            return "small"
        return self.density

    @property
    def chosen(self) -> int | None:
        """Index of the image under the cursor."""
        return int(self._chosen[self.cursor]) if 0 <= self.cursor < len(self._chosen) else None

    @property
    def indices(self) -> Indices:
        """Of all images on all pages, in the order shown."""
        return self._chosen

    @property
    def count(self) -> int:
        """How many images there are on all pages."""
        return len(self._chosen)

    @property
    def across(self) -> int:
        """Tiles side by side."""
        if self.shown_density == "list":
            return 1
        return max(1, (self.size.width + GAP) // (TILE + GAP))

    @property
    def per_page(self) -> int:
        """Tiles of a page."""
        height = HEIGHTS[self.shown_density]
        if self.shown_density == "list":
            return max(1, self.size.height - HEADING)
        return self.across * max(1, (self.size.height + GAP) // (height + GAP))

    @property
    def pages(self) -> tuple[int, int]:
        """The page, from 1, and how many there are."""
        per = self.per_page
        return self.cursor // per + 1, max(1, -(-len(self._chosen) // per))

    @property
    def cells(self) -> int:
        """Of the terminal, that hold pixels of this page's images."""
        size = {"large": TILE * TILE // 2, "small": TILE * TILE // 8, "list": 0}
        first = self.cursor // self.per_page * self.per_page
        return min(self.per_page, len(self._chosen) - first) * size[self.shown_density]

    def go_to(self, index: int) -> bool:
        """The cursor to the image of a test index; whether it is on one of the pages."""
        found = np.flatnonzero(self._chosen == index)
        if len(found):
            self._go(int(found[0]))
        return bool(len(found))

    # ---- painting ---------------------------------------------------------------------------

    def _repaint(self) -> None:
        self._page_key = ()
        self.refresh()
        self.post_message(self.Moved())

    def on_resize(self) -> None:
        """Another number of tiles fits."""
        self._repaint()

    def on_focus(self) -> None:
        """The cursor is bright."""
        self._page_key = ()

    def on_blur(self) -> None:
        """The cursor is dim."""
        self._page_key = ()

    def render_line(self, y: int) -> Strip:
        """A line of the page."""
        key = (
            self.cursor,
            self.size,
            self.app.theme,
            self.has_focus,
            image_view.color_mode(self.app),
        )
        if key != self._page_key:
            self._page_key = key
            self._page = self._paint()
            self._look_ahead()
        if y < len(self._page):
            return self._page[y]
        return Strip.blank(self.size.width, self.rich_style)

    def _paint(self) -> list[Strip]:
        if self._evaluation is None:
            return []
        look, width = self._look(), self.size.width
        first = self.cursor // self.per_page * self.per_page
        shown = range(first, min(first + self.per_page, len(self._chosen)))
        if self.shown_density == "list":
            lines = [self._heading(look), *(self._list_line(at, look) for at in shown)]
            return [Strip(line).adjust_cell_length(width, look.plain) for line in lines]
        strips: list[Strip] = []
        for start in range(first, shown.stop, self.across):
            tiles = [self._tile(at, look) for at in shown if start <= at < start + self.across]
            for parts in zip(*tiles, strict=True):
                line: Line = []
                for part in parts:
                    line += [*part, Segment(" " * GAP, look.plain)]
                strips.append(Strip(line).adjust_cell_length(width, look.plain))
            strips.append(Strip.blank(width, look.plain))
        return strips

    def _look(self) -> Look:
        colours = self.app.theme_variables
        plain = self.rich_style
        cursor = "block-cursor-background" if self.has_focus else "block-cursor-blurred-background"
        return Look(
            plain=plain,
            dim=plain + Style(color=colours["secondary"]),
            actual=plain + Style(color=colours["success"]),
            doubtful=plain + Style(color=colours["warning"]),
            predicted=plain + Style(color=colours["error"]),
            cursor=Style(
                bgcolor=colours[cursor],
                color=colours["block-cursor-foreground"] if self.has_focus else None,
                bold=True,
            ),
        )

    def _picture(self, index: int, scale: float) -> list[Line]:
        """The image as lines; kept, as it is drawn again with every move of the cursor."""
        key = (index, scale)
        if key not in self._drawn:
            while len(self._drawn) >= 2 * self.per_page + SPARE:
                del self._drawn[next(iter(self._drawn))]
            assert self._pictures is not None
            lines = terminal_image.to_segments(
                self._pictures[index], color=image_view.color_mode(self.app), scale=scale
            )
            plain = self.rich_style  # without colours the image is text on the background
            self._drawn[key] = [[Segment(s.text, s.style or plain) for s in x] for x in lines]
        return self._drawn[key]

    def _look_ahead(self) -> None:
        """Draw the next page's images before it is asked for: a page of new ones takes 20 ms."""
        if self.shown_density == "list":
            return
        scale = 1 if self.shown_density == "large" else 0.5
        start = (self.cursor // self.per_page + 1) * self.per_page
        coming = [(int(i), scale) for i in self._chosen[start : start + self.per_page]]
        idle = not self._ahead
        self._ahead = [key for key in coming if key not in self._drawn]
        if idle and self._ahead:
            self.set_timer(AHEAD_SECONDS, self._draw_ahead)

    def _draw_ahead(self) -> None:
        if self._ahead and self._pictures is not None:
            index, scale = self._ahead.pop(0)
            if index < len(self._pictures):
                self._picture(index, scale)
        if self._ahead:
            self.set_timer(AHEAD_SECONDS, self._draw_ahead)

    def _tile(self, at: int, look: Look) -> list[Line]:
        index = int(self._chosen[at])
        words = self._words(index)
        here = at == self.cursor
        if self.shown_density == "large":
            return [*self._picture(index, 1), *below(words, look, here=here)]
        texts = beside(words, look, here=here)
        picture = self._picture(index, 0.5)
        return [[*left, *right] for left, right in zip(picture, texts, strict=True)]

    @property
    def _name_width(self) -> int:
        return max(8, min(20, (self.size.width - 43) // 2))

    def _heading(self, look: Look) -> Line:
        room = self._name_width
        names = f" {'index':<7}{'actual':<{room}}   {'predicted':<{room}}"
        return [Segment(f"{names} {'p(predicted)':>12} {'p(actual)':>9} {'loss':>7} ", look.dim)]

    def _list_line(self, at: int, look: Look) -> Line:
        index = int(self._chosen[at])
        w, room = self._words(index), self._name_width
        assert self._evaluation is not None
        images = self._evaluation.images
        loss = mistake_words.loss(float(images.loss[index]), exact=images.exact)
        line = [
            Segment(f" #{index:<6}", look.dim),
            Segment(fit(w.label, room), look.doubtful if w.doubtful else look.actual),
            Segment(" → " if not w.right else " ✓ ", look.dim),
            Segment(fit(w.predicted, room), look.plain if w.right else look.predicted),
            Segment(f" {w.p_predicted:>12} {w.p_actual:>9} {loss:>7} ", look.plain),
        ]
        return under_cursor(line, look) if at == self.cursor else line

    def _words(self, index: int) -> Words:
        evaluation = self._evaluation
        assert evaluation is not None
        images, classes = evaluation.images, evaluation.classes

        def said(p: Column) -> str:
            return mistake_words.probability(float(p[index]), exact=images.exact)

        return Words(
            index=index,
            actual=clean(classes[int(images.actual[index])]),
            predicted=clean(classes[int(images.predicted[index])]),
            p_actual=said(images.p_actual),
            p_predicted=said(images.confidence),
            right=bool(images.actual[index] == images.predicted[index]),
            doubtful=images.review is not None and bool(images.review.doubtful[index]),
        )

    # ---- keys -------------------------------------------------------------------------------

    def _go(self, to: int) -> None:
        to = max(0, min(to, len(self._chosen) - 1))
        if to == self.cursor or not len(self._chosen):
            return
        before, self.cursor = self.cursor, to
        if before // self.per_page == to // self.per_page:
            # the images stay: only two tiles' captions are written to the terminal
            self.refresh(self._caption(before), self._caption(to))
        else:
            self.refresh()
        self.post_message(self.Moved(by_hand=True))

    def _caption(self, at: int) -> Region:
        row, column = divmod(at % self.per_page, self.across)
        if self.shown_density == "list":
            return Region(0, row + HEADING, self.size.width, 1)
        top, left = row * (HEIGHTS[self.shown_density] + GAP), column * (TILE + GAP)
        if self.shown_density == "large":
            return Region(left, top + TILE // 2, TILE, 2)
        return Region(left + TILE // 2, top, TILE // 2, TILE // 4)

    def action_move(self, step: int) -> None:
        """To a neighbour."""
        self._go(self.cursor + step)

    def action_row(self, step: int) -> None:
        """To the tile above or below."""
        to = self.cursor + step * self.across
        if 0 <= to < len(self._chosen):
            self._go(to)
        elif step > 0 and self.cursor // self.across < (len(self._chosen) - 1) // self.across:
            self._go(len(self._chosen) - 1)

    def action_page(self, step: int) -> None:
        """To the next page, at the same place."""
        self._go(self.cursor + step * self.per_page)

    def action_edge(self, end: int) -> None:
        """To the first or the last image."""
        self._go(len(self._chosen) - 1 if end else 0)

    def action_enlarge(self) -> None:
        """One image large."""
        if self.chosen is not None:
            self.post_message(self.Enlarge(self.chosen))

    def on_click(self, event: events.Click) -> None:
        """A click chooses an image, a second one enlarges it."""
        density = self.shown_density
        listed = density == "list"
        row = event.y - HEADING if listed else event.y // (HEIGHTS[density] + GAP)
        column = 0 if listed else event.x // (TILE + GAP)
        place = row * self.across + column
        at = self.cursor // self.per_page * self.per_page + place
        inside = row >= 0 and column < self.across and place < self.per_page
        if inside and at < len(self._chosen):
            if at == self.cursor and event.chain > 1:
                self.action_enlarge()
            self._go(at)

    def on_mouse_scroll_down(self) -> None:
        """The next page."""
        self.action_page(1)

    def on_mouse_scroll_up(self) -> None:
        """The page before."""
        self.action_page(-1)

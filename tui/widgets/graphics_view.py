"""One image in the terminal's own graphics: the same picture as ``ImageView``, in finer pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from textual.app import ComposeResult
from textual.widget import Widget

from tui.images import overlay
from tui.terminal.graphics import Kind
from tui.widgets.image_view import Frame

if TYPE_CHECKING:
    from tui.images.evaluations import Pictures

SCALE = 8
"""Pixels for each of the image's: frames become fine lines."""


class GraphicsView(Widget):
    """One image, as large as the widget."""

    DEFAULT_CSS = """
    GraphicsView { width: 32; height: 16; margin-right: 2; }
    GraphicsView > * { width: 100%; height: 100%; }
    """

    def __init__(self, kind: Kind) -> None:
        super().__init__(id="image")
        self._drawn = kind()
        self._key: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        """The terminal's image."""
        yield self._drawn

    def show_picture(
        self, picture: Pictures | None, weights: bytes = b"", boxes: tuple[Frame, ...] = ()
    ) -> None:
        """As ``ImageView.show_picture``: uint8 [3, 32, 32], weights [32, 32], frames."""
        key = (None if picture is None else picture.tobytes(), weights, boxes)
        if key == self._key:
            return
        self._key = key
        if picture is None:
            self._drawn.image = None
            return
        from PIL import Image  # not loaded where the terminal has no graphics

        drawn = overlay.lit(picture, weights) if weights else picture
        large = overlay.framed(drawn, SCALE, boxes)
        self._drawn.image = Image.fromarray(np.ascontiguousarray(large.transpose(1, 2, 0)))

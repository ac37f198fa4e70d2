"""Partial updates of the terminal that begin where a change begins.

Textual sends a changed line of a widget from the widget's left edge on; a curve grows at its right
end. Here the part before the change is left out, which is most of a chart's bytes. What Textual
does is kept but for that. These are its internals: where they are not as they are known here,
``install`` leaves its own update in place, which only sends more.
"""

from __future__ import annotations

import inspect

from rich.console import Console
from rich.control import Control
from textual._compositor import ChopsUpdate, Compositor
from textual.screen import Screen


class ExactUpdate(ChopsUpdate):
    """Writes the changed spans alone."""

    def render_segments(self, console: Console) -> str:
        """The escape sequences of the update."""
        written: list[str] = []
        for y, x1, x2 in self.spans:
            for end, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                if strip is None or x >= x2 or end <= x1:
                    continue
                first, last = max(x, x1), min(end, x2)
                written.append(Control.move_to(first, y).segment.text)
                part = strip if (first, last) == (x, end) else strip.crop(first - x, last - x)
                written.append(part.render(console))
        return "".join(written)


class ExactCompositor(Compositor):
    """A compositor with exact partial updates."""

    def render_partial_update(self) -> ChopsUpdate | None:
        """The changed spans, or ``None`` when nothing has changed."""
        update = super().render_partial_update()
        if update is None:
            return None
        return ExactUpdate(update.chops, update.spans, update.chop_ends)


def install(screen: Screen[None]) -> bool:
    """Let a screen send exact updates, before it is first shown; whether that was possible."""
    known = list(inspect.signature(ChopsUpdate.__init__).parameters) == [
        "self",
        "chops",
        "spans",
        "chop_ends",
    ]
    if not known or type(getattr(screen, "_compositor", None)) is not Compositor:
        return False
    screen._compositor = ExactCompositor()
    return True

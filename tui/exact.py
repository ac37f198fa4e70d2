"""Partial updates of the terminal that begin where a change begins, made of what changed alone.

Textual sends a changed line of a widget from the widget's left edge on; a curve grows at its right
end. Here the part before the change is left out, which is most of a chart's bytes. And Textual
renders all widgets of the screen for each update, whatever has changed; here those lines alone that
have. What it does is kept but for that. These are its internals: where they are not as they are
known here, ``install`` leaves its own update in place, which only takes longer and sends more.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.control import Control
from textual._compositor import ChopsUpdate, Compositor
from textual.geometry import Region
from textual.screen import Screen
from textual.strip import Strip


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

    _changed: tuple[Region, ...] | None = None
    """While a partial update is made: what of the screen has changed."""

    def render_partial_update(self) -> ChopsUpdate | None:
        """The changed spans, or ``None`` when nothing has changed."""
        self._changed = tuple(self._dirty_regions)
        try:
            update = super().render_partial_update()
        finally:
            self._changed = None
        if update is None:
            return None
        return ExactUpdate(update.chops, update.spans, update.chop_ends)

    def _get_renders(
        self, crop: Region | None = None
    ) -> Iterable[tuple[Region, Region, list[Strip]]]:
        """Regions and lines of widgets, from the front; in a partial update the changed ones."""
        if self._changed is None:
            yield from super()._get_renders(crop)
            return
        for widget, (region, clip) in self.visible_widgets.items():
            seen = region.intersection(clip)
            changed = [part for dirty in self._changed if (part := seen.intersection(dirty))]
            if not changed:
                continue
            top, bottom = min(part.y for part in changed), max(part.bottom for part in changed)
            lines = Region(seen.x, top, seen.width, bottom - top)
            yield lines, lines, widget.render_lines(lines.translate((-region.x, -region.y)))


def install(screen: Screen[None]) -> bool:
    """Let a screen send exact updates, before it is first shown; whether that was possible."""
    compositor = getattr(screen, "_compositor", None)
    known = (
        type(compositor) is Compositor
        and _parameters(ChopsUpdate.__init__) == ["self", "chops", "spans", "chop_ends"]
        and _parameters(getattr(compositor, "_get_renders", None)) == ["crop"]
        and isinstance(getattr(compositor, "_dirty_regions", None), set)
        and isinstance(getattr(Compositor, "visible_widgets", None), property)
    )
    if known:
        screen._compositor = ExactCompositor()
    return known


def _parameters(function: Callable[..., object] | None) -> list[str]:
    return list(inspect.signature(function).parameters) if function is not None else []

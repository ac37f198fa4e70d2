"""Partial updates of the terminal that begin where a change begins, made of what changed alone.

Textual sends a changed line of a widget from the widget's left edge on; a curve grows at its right
end. Here the part before the change is left out, which is most of a chart's bytes. And Textual
renders all widgets of the screen for each update, whatever has changed; here those lines alone that
have. And a change of a few cells waits for two messages and a timer, each a turn of the loop; here
it is on the screen when the turn is over. What Textual does is kept but for that. These are its
internals: where they are not as they are known here, ``install`` leaves its own update in place,
which only takes longer and sends more.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.control import Control
from textual import constants
from textual._compositor import ChopsUpdate, Compositor, CompositorUpdate
from textual.dom import NoScreen
from textual.geometry import Region
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget

FRAME_SECONDS = 1 / constants.MAX_FPS
"""Between two updates, as Textual has it: a mouse that moves must not fill the link."""


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


class SpanUpdate(CompositorUpdate):
    """Writes pieces of lines, each of one widget that nothing covers."""

    def __init__(self, pieces: Sequence[tuple[int, int, Strip]]) -> None:
        """``pieces``: column, line, what is there."""
        self.pieces = pieces

    def render_segments(self, console: Console) -> str:
        """The escape sequences of the update."""
        return "".join(
            Control.move_to(x, y).segment.text + strip.render(console)
            for x, y, strip in self.pieces
        )


class ExactCompositor(Compositor):
    """A compositor with exact partial updates."""

    _changed: tuple[Region, ...] | None = None
    """While a partial update is made: what of the screen has changed."""
    _painted_at = 0.0
    _due = False
    """Whether the screen is painted at the end of this turn."""

    def render_partial_update(self) -> CompositorUpdate | None:  # type: ignore[override]
        """The changed spans, or ``None`` when nothing has changed."""
        changed = tuple(self._dirty_regions)
        pieces = self._pieces(changed)
        if pieces is not None:
            self._dirty_regions.clear()
            return SpanUpdate(pieces) if pieces else None
        self._changed = changed
        try:
            update = super().render_partial_update()
        finally:
            self._changed = None
        if update is None:
            return None
        return ExactUpdate(update.chops, update.spans, update.chop_ends)

    def _pieces(self, changed: Sequence[Region]) -> list[tuple[int, int, Strip]] | None:
        """What is now where something has changed, where each change is within one widget that is
        in front there: nearly always. Else ``None``."""
        screen = self.size.region
        inside = [part for region in changed if (part := region.intersection(screen))]
        of: dict[Widget, list[tuple[int, int, int]]] = {}
        for y, x1, x2 in self._regions_to_spans(inside):
            span = Region(x1, y, x2 - x1, 1)
            for widget, (region, clip) in self.visible_widgets.items():
                seen = region.intersection(clip)
                if seen.contains_region(span):
                    of.setdefault(widget, []).append((y, x1, x2))
                    break
                if seen.overlaps(span):
                    return None
        pieces = []
        for widget, spans in of.items():
            region, _ = self.visible_widgets[widget]
            top, left, right = spans[0][0], min(s[1] for s in spans), max(s[2] for s in spans)
            lines = Region(left, top, right - left, spans[-1][0] + 1 - top)
            strips = widget.render_lines(lines.translate((-region.x, -region.y)))
            for y, x1, x2 in spans:
                pieces.append((x1, y, strips[y - top].crop(x1 - left, x2 - left)))
        return pieces

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

    def paint(self, screen: Screen[Any]) -> None:
        """Paint a screen's dirty widgets when this turn of the loop is over, or one frame later."""
        if self._due:
            return
        if time.monotonic() - self._painted_at < FRAME_SECONDS:
            screen.check_idle()  # Textual's timer
            return
        self._due = True
        asyncio.get_running_loop().call_soon(self._paint, screen)

    def _paint(self, screen: Screen[Any]) -> None:
        self._due = False
        self._painted_at = time.monotonic()
        if screen.is_running:
            screen._on_timer_update()


def repaint(widget: Widget, *regions: Region) -> None:
    """Repaint parts of a widget whose size stays: as ``refresh`` does, in fewer steps."""
    compositor = None
    with suppress(NoScreen):  # it is not there yet, or no more
        compositor = widget.screen._compositor
    if not isinstance(compositor, ExactCompositor) or widget not in compositor.visible_widgets:
        widget.refresh(*regions)
        return
    widget._set_dirty(*regions)
    widget.screen._dirty_widgets.add(widget)
    compositor.paint(widget.screen)


def install(screen: Screen[None]) -> bool:
    """Let a screen send exact updates, before it is first shown; whether that was possible."""
    compositor = getattr(screen, "_compositor", None)
    known = (
        type(compositor) is Compositor
        and _parameters(ChopsUpdate.__init__) == ["self", "chops", "spans", "chop_ends"]
        and _parameters(getattr(compositor, "_get_renders", None)) == ["crop"]
        and isinstance(getattr(compositor, "_dirty_regions", None), set)
        and isinstance(getattr(screen, "_dirty_widgets", None), set)
        and _parameters(getattr(screen, "_on_timer_update", None)) == []
        and _parameters(getattr(screen, "_set_dirty", None)) == ["regions"]
        and isinstance(getattr(Compositor, "visible_widgets", None), property)
        and _parameters(getattr(Compositor, "_regions_to_spans", None)) == ["regions"]
    )
    if known:
        screen._compositor = ExactCompositor()
    return known


def _parameters(function: Callable[..., object] | None) -> list[str]:
    return list(inspect.signature(function).parameters) if function is not None else []

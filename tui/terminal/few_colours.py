"""Reverse video for what is chosen, on terminals of sixteen colours and of none.

Elsewhere a cursor is a background of its own. The Linux console has eight of them, and the dark
ones are one and the same there; a monochrome terminal has none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.color import Color as RichColor
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style
from textual.app import App
from textual.color import Color
from textual.filter import LineFilter
from textual.theme import Theme

from tui import themes

CLASS = "-few-colours"
"""The app's: for what style sheets alone can tell apart."""
_BLURRED = {themes.DARK.name: "#00aaaa", themes.LIGHT.name: "#0000aa"}
"""A cursor without the focus: no other background, so that it can be told by it."""


def install(app: App[Any]) -> None:
    """Have an app show in reverse what is chosen, before it runs."""
    looks: dict[ColorTriplet, Style] = {}
    tabs = set()
    for theme in themes.THEMES:
        blurred = _BLURRED[theme.name]
        looks[_triplet(theme.variables["block-cursor-background"])] = _look(theme)
        looks[_triplet(theme.primary)] = _look(theme)
        looks[_triplet(blurred)] = _look(theme, blurred)
        tabs.add((_triplet(theme.primary), _triplet(str(theme.background))))
        marks = {
            "block-cursor-blurred-background": blurred,
            "input-cursor-background": theme.variables["block-cursor-background"],
        }
        app.register_theme(replace(theme, variables={**theme.variables, **marks}))
    # the first: others change the colours that it looks for
    app._filters.insert(0, Reversed(looks, tabs))
    app.add_class(CLASS)


class Reversed(LineFilter):
    """Reverses what stands on a cursor's background, and the tab that is shown."""

    def __init__(
        self, looks: dict[ColorTriplet, Style], tabs: set[tuple[ColorTriplet, ColorTriplet]]
    ) -> None:
        """``looks``: by background; ``tabs``: background and letters of a tab."""
        super().__init__()
        self._looks = looks
        self._tabs = tabs
        self._primary = {background for background, _ in tabs}

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The line with what is chosen in reverse."""
        return [
            Segment(segment.text, segment.style + look, segment.control)
            if segment.style is not None and (look := self._chosen(segment.style)) is not None
            else segment
            for segment in segments
        ]

    def _chosen(self, style: Style) -> Style | None:
        ground = _known(style.bgcolor)
        if ground is None:
            return None
        letters = _known(style.color)
        # a button has the primary colour as well: in reverse it has the focus
        if ground in self._primary and (ground, letters) not in self._tabs:
            return None
        return self._looks.get(ground)


def _known(colour: RichColor | None) -> ColorTriplet | None:
    return None if colour is None else colour.triplet


def _triplet(colour: str) -> ColorTriplet:
    return Color.parse(colour).rich_color.get_truecolor()


def _look(theme: Theme, colour: str | None = None) -> Style:
    """Letters and background change places; neither is bright nor bold, which the Linux console
    leaves to the letters: dark gray on gray."""
    gray, black = "#aaaaaa", "#000000"
    if theme.dark:
        return Style(color=colour or gray, bgcolor=black, bold=False, reverse=True)
    return Style(color=colour or black, bgcolor=gray, bold=False, reverse=True)

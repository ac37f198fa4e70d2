"""The two themes, and the colours of runs. All from the 256-colour cube: they look alike there."""

from __future__ import annotations

from rich.style import Style
from rich.text import Text
from textual.theme import Theme

from trainer.runs.runstate import Status
from tui.formatting import STATES, brief, duration

DARK = Theme(
    name="cifar-dark",
    primary="#5fafff",
    secondary="#9e9e9e",
    accent="#5fd7d7",
    warning="#ffaf5f",
    error="#ff5f5f",
    success="#87d787",
    foreground="#dadada",
    background="#121212",
    surface="#1c1c1c",
    panel="#303030",
    dark=True,
    variables={
        "block-cursor-background": "#005f87",
        "block-cursor-foreground": "#ffffff",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#303030",
        "input-selection-background": "#005f87",
    },
)
LIGHT = Theme(
    name="cifar-light",
    primary="#005faf",
    secondary="#6c6c6c",
    accent="#00878f",
    warning="#af5f00",
    error="#af0000",
    success="#008700",
    foreground="#262626",
    background="#ffffff",
    surface="#eeeeee",
    panel="#d0d0d0",
    dark=False,
    variables={
        "block-cursor-background": "#afd7ff",
        "block-cursor-foreground": "#000000",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#dadada",
        "input-selection-background": "#afd7ff",
    },
)
THEMES = (DARK, LIGHT)

# none is the theme's primary: that is the chosen run's while it is not marked
_ON_DARK = (
    "#ffaf00",
    "#5fd75f",
    "#ff5faf",
    "#af87ff",
    "#5fffff",
    "#ffff5f",
    "#d7875f",
    "#eeeeee",
)
_ON_LIGHT = (
    "#d75f00",
    "#008700",
    "#d7005f",
    "#8700d7",
    "#008787",
    "#878700",
    "#875f00",
    "#444444",
)
_GLYPHS = "●▲■◆▼★◉✚"
"""The mark's shape tells runs apart where there is no colour."""


def run_colour(slot: int, *, dark: bool = True) -> str:
    """The colour of a marked run as ``#rrggbb``; after eight they come again."""
    colours = _ON_DARK if dark else _ON_LIGHT
    return colours[slot % len(colours)]


def colour_in(theme: Theme, slot: int | None) -> str:
    """The colour of a run's curves: its own while it is marked, else the theme's primary."""
    return theme.primary if slot is None else run_colour(slot, dark=theme.dark)


def run_glyph(slot: int) -> str:
    """The mark of a marked run: another shape for each slot, another pairing after eight."""
    return _GLYPHS[(slot + slot // len(_GLYPHS)) % len(_GLYPHS)]


def state_text(
    status: Status,
    colours: dict[str, str],
    *,
    asked: str = "",
    stalled: int | None = None,
    narrow: bool = False,
) -> Text:
    """A run's state: glyph and word, and a colour out of the theme's variables.

    ``asked``: what it was asked for and has not done yet, in the state's place; ``stalled``:
    seconds without a step, where that is too long; ``narrow``: in 11 cells.
    """
    glyph, colour = STATES[status]
    word = asked or status
    if stalled is not None and not asked:
        style = Style(color=colours.get("warning"))
        if narrow:
            return Text(f"stalled {brief(stalled)}", style=style, no_wrap=True, end="")
        return Text(f"{glyph} stalled {duration(stalled, tenths=False)}", style=style, end="")
    return Text(f"{glyph} {word}", style=Style(color=colours.get(colour)), no_wrap=True, end="")

"""Fewer bytes for the same picture: only what changes from one style to the next is sent.

Rich begins each piece of text with its whole style and ends it with a reset; most pieces differ
from the one before in one colour or in nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from rich.color import Color, ColorSystem
from rich.color_triplet import ColorTriplet

_COLOUR = r"8;2;[0-9]+;[0-9]+;[0-9]+"
_ESCAPE = re.compile(
    rf"\x1b\[(3{_COLOUR});(4{_COLOUR})m([^\x1b\r\n]+)\x1b\[0m"
    r"|\x1b\[([0-9;]*)m|(\x1b\[[0-9;]*H)|(\x1b(?:\[\?1049[hl])?)"
)


class Look(NamedTuple):
    """A style as SGR parameters, counted from a reset."""

    attributes: frozenset[str] = frozenset()
    foreground: str = ""
    background: str = ""


PLAIN = Look()
_ENDS = {"1": "22", "2": "22", "3": "23", "4": "24", "5": "25", "7": "27", "9": "29"}
"""What ends an attribute; bold and dim end together."""


class Thin:
    """Filters what goes to one terminal; remembers the style that the terminal is in."""

    def __init__(self) -> None:
        self._shown: Look | None = None
        self._wanted = PLAIN

    def __call__(self, text: str) -> str:
        """The same text with fewer escape sequences."""
        out: list[str] = []
        at = 0
        for match in _ESCAPE.finditer(text):
            if match.start() > at:
                self._put(text[at : match.start()], out)
            at = match.end()
            kind = match.lastindex
            if kind == 3:
                self._pixels(match[1], match[2], match[3], out)
            elif kind == 4:
                self._wanted = restyled(self._wanted, match[4])
            elif kind == 5:
                out.append(match[5])
            else:  # it may erase or leave the screen: the style must be as it would have been
                out.append(self._change())
                out.append(match[6])
                if len(match[6]) > 1:  # another screen, where the style may be another
                    self._shown = None
        self._put(text[at:], out)
        return "".join(out)

    def _pixels(self, foreground: str, background: str, text: str, out: list[str]) -> None:
        """Two colours and a reset: what images are made of, thousands of times in a picture."""
        before, wanted = self._shown, self._wanted
        after = Look(wanted.attributes, foreground, background)
        self._wanted = PLAIN
        if before is None or before.attributes or wanted.attributes:
            out.append("" if before == after else transition(before, after))
        elif foreground == before.foreground:
            if background != before.background:
                out.append(f"\x1b[{background}m")
        elif background == before.background:
            out.append(f"\x1b[{foreground}m")
        else:
            out.append(f"\x1b[{foreground};{background}m")
        self._shown = after
        out.append(text)

    def _put(self, text: str, out: list[str]) -> None:
        if text.strip("\r\n"):
            out.append(self._change())
        out.append(text)

    def _change(self) -> str:
        if self._shown == self._wanted:
            return ""
        change = transition(self._shown, self._wanted)
        self._shown = self._wanted
        return change


@lru_cache(maxsize=4096)
def transition(before: Look | None, after: Look) -> str:
    """The sequence that takes the terminal from one style to another."""
    if before is None:
        return _sgr(["0", *_all(after)])
    if after == PLAIN:
        return _sgr([])
    lost = before.attributes - after.attributes
    if not lost <= _ENDS.keys():
        return _sgr(["0", *_all(after)])
    ends = {_ENDS[code] for code in lost}
    kept = {code for code in before.attributes & after.attributes if _ENDS.get(code) not in ends}
    parts = [*sorted(ends), *sorted(after.attributes - kept)]
    if after.foreground != before.foreground:
        parts.append(after.foreground or "39")
    if after.background != before.background:
        parts.append(after.background or "49")
    whole = ["0", *_all(after)]
    return _sgr(min(parts, whole, key=lambda codes: len(";".join(codes))))


def _all(look: Look) -> list[str]:
    return [*sorted(look.attributes), *filter(None, (look.foreground, look.background))]


def _sgr(parts: list[str]) -> str:
    return f"\x1b[{';'.join(parts)}m"


@lru_cache(maxsize=4096)
def restyled(look: Look, parameters: str, palette: bool = False) -> Look:
    """The style after an SGR sequence; ``palette``: colours as numbers of the 256."""
    attributes, foreground, background = set(look.attributes), look.foreground, look.background
    left = parameters.split(";")
    while left:
        code = left.pop(0)
        if code in ("", "0"):
            attributes, foreground, background = set(), "", ""
        elif code in ("38", "48") and left:
            count = 4 if left[0] == "2" else 2
            colour = _colour(code, tuple(left[:count]), palette)
            del left[:count]
            if code == "38":
                foreground = colour
            else:
                background = colour
        elif code == "39" or _between(code, 30, 37) or _between(code, 90, 97):
            foreground = "" if code == "39" else code
        elif code == "49" or _between(code, 40, 47) or _between(code, 100, 107):
            background = "" if code == "49" else code
        else:  # bold, dim, …; what ends one of them, 22 and so on, is kept as one more
            attributes.add(code)
    return Look(frozenset(attributes), foreground, background)


def _between(code: str, first: int, last: int) -> bool:
    return code.isdecimal() and first <= int(code) <= last


@lru_cache(maxsize=4096)
def _colour(code: str, rest: tuple[str, ...], palette: bool) -> str:
    if palette and rest[0] == "2" and len(rest) == 4:
        triplet = ColorTriplet(*(min(255, int(value or 0)) for value in rest[1:]))
        number = Color.from_triplet(triplet).downgrade(ColorSystem.EIGHT_BIT).number
        return f"{code};5;{number}"
    return ";".join((code, *rest))

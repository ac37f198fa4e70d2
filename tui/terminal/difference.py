"""What a slow link is sent: the cells that differ from what the terminal shows already.

All that is drawn goes into a picture of the terminal first. What was drawn several times before
the link took any of it is sent once, as it is at last.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rich.cells import get_character_cell_size

from tui.terminal.thin import PLAIN, Look, restyled, transition

_TOKEN = re.compile(
    r"\x1b\[(?P<sgr>[0-9;]*)m|\x1b\[(?P<at>[0-9;]*)H|(?P<sync>\x1b\[\?2026[hl])"
    r"|(?P<other>\x1b\[[<=>?]?[0-9;]*[ -/]*[@-~]|\x1b[\]P_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b."
    r"|[\x00-\x1f\x7f])"
    r"|(?P<text>[^\x00-\x1f\x7f]+)",
    re.DOTALL,
)
_SEEN_ON_BLANKS = frozenset("479")
"""Underlined, reversed, struck: what shows where there is no character."""
_GAP = 4
"""So many unchanged cells cost less than to move over them."""
_LEAST_ERASED = 9
"""So many blanks cost more than to erase them and to move over them."""


class Cell(NamedTuple):
    """A character, or nothing in the second cell of a wide one."""

    text: str
    look: Look


class Difference:
    """Takes what is drawn on one terminal; ``take`` gives what has to be sent for it.

    Args:
        palette: send colours as numbers of the 256-colour palette.
        erase: the terminal erases with the background colour.
    """

    def __init__(self, *, palette: bool, erase: bool) -> None:
        self._palette = palette
        self._erase = erase
        self._size = (80, 24)
        self._wanted: dict[int, dict[int, Cell]] = {}
        self._shown: dict[int, dict[int, Cell]] = {}
        self._touched: set[int] = set()
        self._look = PLAIN
        self._sent: Look | None = None
        self._x = self._y = 0
        self._out: list[str] = []

    def resize(self, columns: int, lines: int, *, lost: bool = False) -> None:
        """The terminal's size in cells. After a change, or where it was ``lost``, what it shows is
        not known.
        """
        if lost or (columns, lines) != self._size:
            self._size = (columns, lines)
            self._forget()

    def draw(self, text: str) -> None:
        """Take what an app writes."""
        for token in _TOKEN.finditer(text):
            kind, part = token.lastgroup, token[0]
            if kind == "text":
                self._put(part)
            elif kind == "sgr":
                self._look = restyled(self._look, token["sgr"], self._palette)
            elif kind == "at":
                row, _, column = token["at"].partition(";")
                self._y, self._x = int(row or 1) - 1, int(column or 1) - 1
            elif part == "\r":
                self._x = 0
            elif part == "\n":  # the terminal's driver adds the carriage return
                self._x, self._y = 0, self._y + 1
            elif kind == "other":
                self._pass(part)

    def take(self) -> str:
        """What has to be sent now."""
        for y in sorted(self._touched):
            if y < self._size[1]:
                self._line(y)
        self._touched.clear()
        sent = "".join(self._out)
        self._out.clear()
        return sent

    def _pass(self, sequence: str) -> None:
        """Modes, questions and bells go through; what may erase makes all unknown."""
        if sequence.endswith(("J", "K")) or "1049" in sequence:
            self._out.append(self.take() + transition(None, self._look))
            self._out.append(f"\x1b[{self._y + 1};{self._x + 1}H{sequence}")
            self._forget()
        elif sequence.endswith("n"):  # a question: how far is the terminal
            self._out.append(self.take() + sequence)
        else:
            self._out.append(sequence)

    def _forget(self) -> None:
        for known in (self._wanted, self._shown):
            known.clear()
        self._touched.clear()
        self._sent = None

    def _put(self, text: str) -> None:
        self._touched.add(self._y)
        line = self._wanted.setdefault(self._y, {})
        blank = Cell(" ", _blank(self._look))
        for character in text:
            width = 1 if character < "\x7f" else get_character_cell_size(character)
            if not width:
                if before := line.get(self._x - 1):
                    line[self._x - 1] = before._replace(text=before.text + character)
                continue
            self._x = min(self._x, self._size[0] - width)  # as where lines are not wrapped
            line[self._x] = blank if character == " " else Cell(character, self._look)
            if width == 2:
                line[self._x + 1] = Cell("", self._look)
            self._x += width

    def _line(self, y: int) -> None:
        """Send the changed stretches of a line."""
        wanted, shown = self._wanted.get(y, {}), self._shown.setdefault(y, {})
        changed = sorted(x for x, cell in wanted.items() if shown.get(x) != cell)
        at = None
        for first, last in _stretches(changed, wanted):
            if at is None:
                self._out.append(f"\x1b[{y + 1};{first + 1}H" if first else f"\x1b[{y + 1}H")
            else:
                self._out.append(f"\x1b[{first - at}C")
            at = self._stretch(wanted, first, last)
        shown.update(wanted)

    def _stretch(self, line: dict[int, Cell], first: int, last: int) -> int:
        """Send the cells from first to last; where the cursor is then."""
        x = first
        while x <= last:
            if not _fits(self._sent, line[x]):
                self._out.append(transition(self._sent, line[x].look))
                self._sent = line[x].look
            end = x + 1
            while end <= last and _fits(self._sent, line[end]):
                end += 1
            text = "".join(line[at].text for at in range(x, end))
            assert self._sent is not None
            if self._erase and not self._sent.attributes & _SEEN_ON_BLANKS:
                kept = text.rstrip(" ")
                rest = end == self._size[0] and len(text) - len(kept) > len("\x1b[K")
                text = _BLANKS.sub(_erased, kept if rest else text) + ("\x1b[K" if rest else "")
            self._out.append(text)
            x = end
        return x


_BLANKS = re.compile(f" {{{_LEAST_ERASED},}}")


def _erased(match: re.Match[str]) -> str:
    count = match.end() - match.start()
    return f"\x1b[{count}X\x1b[{count}C"


def _blank(look: Look) -> Look:
    """What can be seen of a style where there is no character."""
    if attributes := look.attributes & _SEEN_ON_BLANKS:
        return look._replace(attributes=attributes)
    return Look(background=look.background)


def _fits(sent: Look | None, cell: Cell) -> bool:
    """Whether a cell looks right in the style that the terminal is in."""
    if sent is None or cell.text != " ":
        return sent == cell.look
    return sent == cell.look or _blank(sent) == cell.look


def _stretches(changed: list[int], line: dict[int, Cell]) -> list[tuple[int, int]]:
    """First and last cell of each stretch; short gaps whose cells are known are filled."""
    found: list[tuple[int, int]] = []
    for x in changed:
        start = x - 1 if line[x].text == "" and x - 1 in line else x
        if found and start - found[-1][1] <= _GAP + 1:
            gap = range(found[-1][1] + 1, start)
            if all(at in line for at in gap):
                found[-1] = (found[-1][0], max(x, found[-1][1]))
                continue
        found.append((start, x))
    return [(first, last + _tail(line, last)) for first, last in found]


def _tail(line: dict[int, Cell], last: int) -> int:
    following = line.get(last + 1)
    return int(following is not None and following.text == "" and line[last].text != "")

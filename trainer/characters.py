"""ASCII for everything that is written: as many characters as cells, so that nothing moves."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len

_NAMED = {
    "…": "~",
    "·": ".",
    "•": "*",
    "–": "-",  # noqa: RUF001
    "—": "-",
    "−": "-",  # noqa: RUF001
    "×": "x",  # noqa: RUF001
    "°": "o",
    "±": "+",
    "✓": "+",
    "✔": "+",
    "✗": "x",
    "✘": "x",
    "→": ">",
    "←": "<",
    "↵": "<",
    "↑": "^",
    "↓": "v",
    "▲": "^",
    "▼": "v",
    "▶": ">",
    "◀": "<",
    "▸": ">",
    "▾": "v",
    "●": "o",
    "◆": "&",
    "★": "*",
    "◉": "@",
    "✚": "+",
    "‖": "=",
    "Δ": "d",
    "○": ".",
    "◐": "o",
    "■": "#",
    "□": "o",
    "⏸": "=",
    "≥": ">",
    "≤": "<",
    "≈": "~",
    "²": "2",
    "³": "3",
    "“": '"',
    "”": '"',
    "‘": "'",  # noqa: RUF001
    "’": "'",  # noqa: RUF001
    "█": "#",
    "▓": "#",
    "▒": "+",
    "░": ".",
    "▌": "|",
    "▐": "|",
    "▀": '"',
    "▄": "_",
    "━": "=",
    "═": "=",
    "║": "|",
    "┃": "|",
}
_WORDS = {"← →": "arrows", "↵": "enter", "≥": ">=", "≤": "<="}
"""Keys and comparisons that one character would make others."""
_UPPER_DOTS = 0b00011011
"""Dots 1, 2, 4 and 5 of a Braille cell: its upper half."""


def in_words(text: str, *, ascii: bool) -> str:
    """Running text, as wide as it may be: in ASCII it names the keys that there are, and compares
    as it does elsewhere.
    """
    if ascii:
        for character, word in _WORDS.items():
            text = text.replace(character, word)
    return text


def to_ascii(character: str) -> str:
    """As many ASCII characters as the character has cells."""
    if character < "\x80":
        return character
    code = ord(character)
    if character in _NAMED:
        return _NAMED[character]
    if 0x2800 <= code <= 0x28FF:
        return _braille(code - 0x2800)
    if 0x2500 <= code <= 0x257F:
        return _box(unicodedata.name(character, ""))
    if 0x2580 <= code <= 0x259F:
        return _block(code)
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    width = cell_len(character)
    return plain if plain and len(plain) == width else "?" * width


def _braille(dots: int) -> str:
    """A curve's point: low, high, both, or many."""
    if not dots:
        return " "
    upper, lower = dots & _UPPER_DOTS, dots & ~_UPPER_DOTS
    if dots.bit_count() > 5:
        return "#"
    if upper and lower:
        return ":"
    return "'" if upper else "."


def _box(name: str) -> str:
    words = name.removeprefix("BOX DRAWINGS ")
    sides = {word for word in words.replace("-", " ").split() if word in _SIDES}
    if "DIAGONAL" in words:
        return "/" if "UPPER RIGHT TO LOWER LEFT" in words else "\\"
    across, down = bool(sides & _ACROSS), bool(sides & _DOWN)
    if across and not down:
        return "-"
    return "|" if down and not across else "+"


_ACROSS = {"HORIZONTAL", "LEFT", "RIGHT"}
_DOWN = {"VERTICAL", "UP", "DOWN"}
_SIDES = _ACROSS | _DOWN


def _block(code: int) -> str:
    if 0x2581 <= code <= 0x2587:  # an eighth to seven eighths high
        return "_.-=+*#"[code - 0x2581]
    if 0x2589 <= code <= 0x258F:  # seven eighths to an eighth wide
        return "#####||"[code - 0x2589]
    return "#"


class _Table(dict[int, str]):
    """Made as it is used, for ``str.translate``."""

    def __missing__(self, code: int) -> str:
        found = to_ascii(chr(code))
        self[code] = found
        return found


TABLE = _Table({code: chr(code) for code in range(128)})

"""Text from logs, files and names of others, made safe to show. Torch-free.

What comes out has nothing that a terminal could take for a command, and no direction marks or other
format characters, which could reorder what stands beside it. It may still be markup: that is for
those who show it.
"""

from __future__ import annotations

from collections.abc import Iterable

NAME_LIMIT = 60


def printable(text: str) -> str:
    """The text with a replacement character for each that is not printable: as long as before."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_line(text: str) -> str:
    """One line without what is not printable: white space of any kind becomes spaces."""
    if not text.isprintable():  # a control or format character, or a separator but the space
        kept = (" " if c.isspace() else c for c in text if c.isspace() or c.isprintable())
        text = "".join(kept)
    return text.strip()


def shortened(text: str, limit: int) -> str:
    """The text, cut with an ellipsis where it has more characters than the limit."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def short_name(name: str) -> str:
    """A name of a class or a file: printable, at most ``NAME_LIMIT`` characters, never empty."""
    return shortened(printable(name.strip()), NAME_LIMIT) or "(no name)"


def short_names(names: Iterable[str]) -> tuple[str, ...]:
    """Each as ``short_name``, and no two alike: where several are ``x``, ``x``, ``x (2)``, ….

    Names that it gave it gives back as they are.
    """
    short = [short_name(name) for name in names]
    numbers = dict.fromkeys(short, 1)
    found: dict[str, None] = {}
    for name in short:
        one = name
        while one in found or (one != name and one in numbers):
            numbers[name] += 1
            number = f" ({numbers[name]})"
            one = shortened(name, NAME_LIMIT - len(number)) + number
        found[one] = None
    return tuple(found)

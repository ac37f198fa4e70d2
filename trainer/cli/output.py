"""What the commands print: plain lines, tables that fit, JSON, and one-line messages.

Names in logs, files and data sets are foreign text: nothing of them reaches the terminal as a
control character or as markup. A closed standard output ends the output, never the work.
"""

from __future__ import annotations

import codecs
import errno
import math
import os
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from typing import IO, Any, TextIO, cast

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from trainer import foreign, words
from trainer.characters import TABLE

DASH = "–"  # noqa: RUF001
GAP = "  "
PLAIN: Any = {"highlight": False, "markup": False, "emoji": False}
"""Rich must not read names as markup."""
NARROWEST = 8
STATE_STYLES = {
    "training": "cyan",
    "paused": "yellow",
    "completed": "green",
    "failed": "red",
    "crashed": "red",
}


def clean(value: object, limit: int = 200) -> str:
    """One line of plain text from anything, at most ``limit`` characters long."""
    # a hostile name may be huge: only what can be shown is looked at
    return foreign.shortened(foreign.one_line(str(value)[: limit * 4]), limit)


REPLACED = "cifar-tui.ascii"
"""For ``encode`` and streams: ASCII for what the output's encoding has not, as in the app."""


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return error.object[error.start : error.end].translate(TABLE), error.end


codecs.register_error(REPLACED, _replaced)

_UNSEEN = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)


def escaped(text: str) -> str:
    """JSON or TOML with escapes for the characters that both allow and terminals obey."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def visible(json: bytes) -> bytes:
    """The same of JSON in bytes."""
    if json.isascii() and b"\x7f" not in json:
        return json
    return escaped(json.decode()).encode()


class Output:
    """Standard output: whole pieces, flushed; goes quiet when nobody reads any more."""

    def __init__(self) -> None:
        self.lost: OSError | None = None
        """Why nothing more is written."""
        self.required = True
        """Whether it is a failure when the output cannot be written."""
        self._own: IO[str] | None = None
        self._before: tuple[TextIO, TextIO] | None = None

    def lend(self) -> None:
        """Before a net runs: what it prints and cannot be written is lost, and is no error."""
        if self._before is None:
            self._before, self._own = (sys.stdout, sys.stderr), sys.stdout
            sys.stdout, sys.stderr = _lossy(sys.stdout), _lossy(sys.stderr)

    def alone(self) -> None:
        """As ``lend``, and what it prints goes to standard error: the output is this program's."""
        own = sys.stdout
        self.lend()
        with suppress(OSError, ValueError):  # in memory, or standard error is closed
            if own.fileno() == 1:
                errors = sys.stderr.fileno()
                self._own = os.fdopen(os.dup(1), "w", encoding=_encoding(own), errors="replace")
                os.dup2(errors, 1)
        sys.stdout = sys.stderr

    def take_back(self) -> None:
        """Undo ``lend`` and ``alone``."""
        if self._before is None or self._own is None:
            return
        if self._own is not self._before[0]:
            os.dup2(self._own.fileno(), 1)
        (sys.stdout, sys.stderr), self._before, self._own = self._before, None, None

    def lines(self, *lines: str | Text, grays: bool = False) -> None:
        """Write lines; styles only where the terminal has them.

        ``grays``: they are images in gray where no colours are wanted (``NO_COLOR``), so they stay.
        """
        written = StringIO()
        console = _console(written)
        console.no_color = console.no_color and not grays
        for line in lines:
            console.print(line, soft_wrap=True)
        self.write(written.getvalue().encode(_encoding(sys.stdout), REPLACED))

    def colours(self) -> tuple[str | None, bool]:
        """Rich's name of the colours that the terminal has, and whether none are wanted."""
        console = _console(StringIO())
        return console.color_system, console.no_color

    def json(self, value: Any) -> None:
        """Write a value as one line of JSON; numbers that are not finite become null."""
        self.write(visible(msgspec.json.encode(value)) + b"\n")

    def write(self, data: bytes) -> None:
        """Write bytes and flush."""
        if data:
            self._put(data)

    def check(self) -> None:
        """Find out, and tell, whether what others wrote to standard output is lost."""
        self._put(b"")

    def _put(self, data: bytes) -> None:
        if self.lost is not None:
            return
        to = self._own or sys.stdout
        try:
            stream = getattr(to, "buffer", None)
            if stream is None:
                to.write(data.decode())
            else:
                stream.write(data)
            to.flush()
        except OSError as error:
            self.lost = error
            _discard(to)
            if error.errno != errno.EPIPE:
                warn(f"the output cannot be written: {error.strerror}")


class _Lossy:
    """A stream whose reader may be gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or lose it."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if possible."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's own."""
        return getattr(self._stream, name)


def _lossy(stream: TextIO) -> TextIO:
    return cast("TextIO", _Lossy(stream))


def _console(written: StringIO) -> Console:
    """Rich's view of the terminal, written elsewhere: rich itself writes without our care."""
    return Console(file=written, force_terminal=sys.stdout.isatty() or None, **PLAIN)


def _discard(stream: IO[str]) -> None:
    """Let what is still in the buffer go nowhere: the interpreter flushes it when it ends."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _encoding(stream: IO[str]) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


out = Output()


def warn(message: object) -> None:
    """One line on standard error."""
    with suppress(OSError, ValueError):
        line = f"cifar-tui: {clean(message, 1000)}\n"
        sys.stderr.write(
            line.encode(_encoding(sys.stderr), "replace").decode(_encoding(sys.stderr))
        )
        sys.stderr.flush()


# tables


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    right: bool = False
    keep: int = 9
    """What goes first when the terminal is narrow: the lowest; 9 stays."""
    flexible: bool = False
    """May be cut with an ellipsis when nothing more can go."""
    tail: bool = False
    """Keeps its end when it is cut: ids begin alike."""


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str | Text]],
    *,
    width: int | None = None,
    footer: Sequence[str] | None = None,
) -> list[Text]:
    """The lines of a table, header first.

    Args:
        columns: the columns; those of low ``keep`` are left out until the rest fits.
        rows: cells, as many as columns; plain strings are cleaned here.
        width: cells to fit; default the terminal's width, no limit when there is no terminal.
        footer: a last row, totals for example.
    """
    cells = [[c if isinstance(c, Text) else Text(clean(c)) for c in row] for row in rows]
    ends = [] if footer is None else [[Text(clean(c), style="bold") for c in footer]]
    head = [Text(column.title, style="bold") for column in columns]
    everything = [head, *cells, *ends]
    widths = [max(cell_len(row[i].plain) for row in everything) for i in range(len(columns))]
    shown = _fit(columns, widths, width if width is not None else _terminal_width())
    return [_row(row, shown, columns, widths) for row in everything]


def _fit(columns: Sequence[Column], widths: list[int], width: int | None) -> list[int]:
    """Indices of the columns that are shown; flexible ones are narrowed in ``widths``."""
    shown = list(range(len(columns)))

    def total() -> int:
        return sum(widths[i] for i in shown) + len(GAP) * (len(shown) - 1)

    if width is None:
        return shown
    while total() > width:
        # of equal ones the last goes first
        first = min(reversed(shown), key=lambda i: columns[i].keep)
        if columns[first].keep >= 9:
            break
        shown.remove(first)
    for i in shown:
        if columns[i].flexible and total() > width:
            widths[i] = max(NARROWEST, widths[i] - (total() - width))
    return shown


def _row(row: list[Text], shown: list[int], columns: Sequence[Column], widths: list[int]) -> Text:
    parts = []
    for i in shown:
        cell, space = row[i].copy(), widths[i] - cell_len(row[i].plain)
        if space < 0:
            cell, space = Text(_cut(cell.plain, widths[i], columns[i].tail), style=cell.style), 0
        padding = Text(" " * space)
        parts.append(padding + cell if columns[i].right else cell + padding)
    line = Text(GAP).join(parts)
    line.rstrip()
    return line


def _cut(text: str, width: int, tail: bool) -> str:
    if tail:
        return "…" + set_cell_size(text[::-1], width - 1)[::-1]
    return set_cell_size(text, width - 1) + "…"


def _terminal_width() -> int | None:
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return shutil.get_terminal_size().columns
    return None


# numbers


def percent(value: float | None, digits: int = 2) -> str:
    """A share of 1 as per cent, a dash for none."""
    return DASH if value is None or not math.isfinite(value) else words.percent(value, digits)


def number(value: float | None, form: str = ".4f") -> str:
    """A number in a format, a dash for none."""
    return DASH if value is None or not math.isfinite(value) else format(value, form)


def count(value: int | None) -> str:
    """A whole number with thousands separators."""
    return DASH if value is None else f"{value:,}"


def duration(seconds: float | None) -> str:
    """``41 s``, ``3:07``, ``1:02:09``."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{whole} s"


def size(value: float) -> str:
    """Bytes: ``170.5 MB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f} B"


def state(status: str, stalled: int | None = None) -> Text:
    """A run's state in its colour; seconds without a step where that is too long."""
    if stalled is not None:
        return Text(f"stalled {duration(stalled)}", style="yellow")
    return Text(status, style=STATE_STYLES.get(status, ""))

"""How numbers, times and foreign text are written, the same in every widget.

Nothing here reads the clock: a time of this day is told from the moment that is given.
"""

from __future__ import annotations

import math
import time

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from trainer import foreign, words

DASH = "–"  # noqa: RUF001
NAME_CHARACTERS = 80
YEAR_SECONDS = 365 * 86_400

STATES: dict[str, tuple[str, str]] = {
    "training": ("▶", "accent"),
    "paused": ("‖", "warning"),
    "queued": ("…", "secondary"),
    "completed": ("✓", "success"),
    "stopped": ("■", "secondary"),
    "failed": ("✗", "error"),
    "crashed": ("✗", "error"),
}
"""Status of a run: its glyph, and the name of its colour in the theme."""


def clean(value: object, limit: int = NAME_CHARACTERS) -> str:
    """One line of plain text from anything, at most ``limit`` cells long."""
    # a hostile name may be huge: only what can be shown is looked at
    return shorten(foreign.one_line(str(value)[: limit * 4]), limit)


def shorten(text: str, limit: int) -> str:
    """The text, cut with an ellipsis when it takes more cells than the limit."""
    if limit <= 0:
        return ""
    if text.isascii():
        return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
    return text if cell_len(text) <= limit else set_cell_size(text, limit - 1).rstrip() + "…"


def safe(value: object, limit: int = NAME_CHARACTERS, style: str = "") -> Text:
    """Foreign text for a table cell or a ``Static``: never read as markup."""
    return Text(clean(value, limit), style=style, no_wrap=True, end="")


def escape(value: object, limit: int = NAME_CHARACTERS) -> str:
    """Foreign text for the few places of Textual that read markup and cannot be told not to."""
    return clean(value, limit).replace("[", r"\[")


def count(value: int | None) -> str:
    """A whole number with thousands separators: ``98,442``."""
    return DASH if value is None else f"{value:,}"


def compact(value: float | None) -> str:
    """A number in at most five characters or so: ``98.4k``, ``11.2M``, ``0.41G``."""
    if value is None or not math.isfinite(value):
        return DASH
    if abs(value) >= 1e15:  # out of a damaged log
        return f"{value:.0e}"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if abs(scaled) >= 99.95 else f"{scaled:.1f}{unit}"
    return f"{value:.0f}"


def percent(value: float | None, digits: int = 2) -> str:
    """A share of 1 as per cent: ``87.31 %``; a dash for none."""
    return DASH if value is None or not math.isfinite(value) else words.percent(value, digits)


def decimal(value: float | None, digits: int = 4) -> str:
    """A loss: fixed digits, or scientific where they would not show anything."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value and (abs(value) >= 1e6 or abs(value) < 10**-digits):
        return f"{value:.2e}"
    return f"{value:.{digits}f}"


def rate(value: float | None) -> str:
    """A learning rate with three significant digits."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.3g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.2e}"


def duration(seconds: float | None, *, tenths: bool = True) -> str:
    """A span of time: ``0.4 s``, ``12 s``, ``3:05``, ``1:02:03``, ``2 d 4 h``.

    Without ``tenths`` it changes once a second at most, for a span that is still growing.
    """
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return DASH
    if tenths and seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds) if tenths else int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    if whole < 86_400:
        return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def clock(seconds: float) -> str:
    """A place on an axis of time: a duration, but to the minute beyond a day: ``1 d 2:05``."""
    if not 86_400 <= seconds < math.inf:
        return duration(seconds, tenths=False)
    minutes = int(seconds) // 60
    return f"{minutes // 1440} d {minutes % 1440 // 60}:{minutes % 60:02d}"


def brief(seconds: int) -> str:
    """A span of time in three cells: ``45s``, ``12m``, ``7h``, ``3d``."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{min(99, seconds // size)}{unit}"
    return f"{seconds}s"


def is_moment(then: float) -> bool:
    """Whether it is a time, in seconds since 1970: not never, nor out of a damaged log."""
    return 0 < then < 1e11


def moment(then: float, now: float) -> str:
    """When, in local time and eleven cells: ``21:14`` of this day, ``11-26 21:14``; far from now
    the date alone."""
    if not is_moment(then):
        return DASH
    at = time.localtime(then)
    if at[:3] == time.localtime(now)[:3]:
        return time.strftime("%H:%M", at)
    return time.strftime("%m-%d %H:%M" if abs(now - then) < YEAR_SECONDS / 2 else "%Y-%m-%d", at)


def size(value: float | None) -> str:
    """Bytes in powers of 1024: ``312 MiB``."""
    if value is None or not math.isfinite(value):
        return DASH
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def data_label(kind: str) -> str:
    """What the images are, so that drawn ones are never taken for CIFAR-10."""
    known = {
        "cifar10": "CIFAR-10",
        "cifar100": "CIFAR-100",
        "synthetic": "synthetic",
        "folder": "folder",
    }
    return known.get(kind, "folder")


def data_sentence(spec: str) -> str:
    """The chosen data source in a few words."""
    if spec == "synthetic":
        return "synthetic (ten drawn classes, not CIFAR-10)"
    label = data_label(spec)
    return f"folder {clean(spec, 60)}" if label == "folder" else label


def bar(share: float, width: int) -> str:
    """A share of 1 as a bar of eighths of a cell, padded to its width; something above 0 is never
    nothing."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    if share > 0 and width > 0:
        eighths = max(1, eighths)
    full, rest = divmod(eighths, 8)
    drawn = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return drawn.ljust(width)

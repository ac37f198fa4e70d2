"""Figures as the command line and the screens both write them. Torch-free."""

from __future__ import annotations

UNKNOWN = "unknown"


def axes(value: tuple[int, int] | None, *, square: bool = False) -> str:
    """(height, width) as height x width; as one number when both are equal, unless ``square``."""
    if value is None:
        return ""
    if value[0] == value[1] and not square:
        return f"{value[0]:,}"
    return f"{value[0]:,}×{value[1]:,}"  # noqa: RUF001


def percent(share: float, digits: int = 2) -> str:
    """A share of 1 as per cent: ``87.31 %``. One mistake in 50,000 images is not none, and what is
    more than nothing is not nothing: ``>99.99 %``, ``<0.01 %``, no wider than all of it.
    """
    return f"{_part(share, 100, digits)} %"


def share(value: float, digits: int = 2) -> str:
    """A share of 1 as it is, by the rule of ``percent``: ``0.87``, ``>0.99``, ``<0.01``."""
    return _part(value, 1, digits)


def _part(share: float, whole: int, digits: int) -> str:
    words, last = f"{whole * share:.{digits}f}", 10.0**-digits
    if share < 1 and float(words) >= whole:
        return f">{whole - last:.{digits}f}"
    if share > 0 and not float(words):
        return f"<{last:.{digits}f}"
    return words


def yes(value: bool | None) -> str:
    """An answer, where there is one."""
    return UNKNOWN if value is None else "yes" if value else "no"

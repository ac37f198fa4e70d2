"""Figures as the command line and the screens both write them. Torch-free."""

from __future__ import annotations

UNKNOWN = "unknown"
NO_CONVOLUTION = "the net has no convolution over images: no Grad-CAM, no receptive field"


def axes(value: tuple[int, int] | None, *, square: bool = False) -> str:
    """(height, width) as height x width; as one number when both are equal, unless ``square``."""
    if value is None:
        return ""
    if value[0] == value[1] and not square:
        return f"{value[0]:,}"
    return f"{value[0]:,}×{value[1]:,}"  # noqa: RUF001


def percent(share: float, digits: int = 2) -> str:
    """A share of 1 as per cent: ``87.31 %``."""
    return f"{figure(share, digits)} %"


def figure(share: float, digits: int = 2) -> str:
    """A share of 1 in per cent, where the sign stands elsewhere: ``87.31``. One mistake in 50,000
    images is not none, and what is more than nothing is not nothing: ``>99.99``, ``<0.01``, no
    wider than all of it.
    """
    return _rounded(share, 100, digits)


def probability(value: float, digits: int = 2) -> str:
    """A probability or another share of 1: ``0.87``; neither 1 nor 0 unless it is: ``>.99``,
    ``<.01``, as wide as the others.
    """
    return _rounded(value, 1, digits).replace(">0", ">").replace("<0", "<")


def _rounded(share: float, whole: int, digits: int) -> str:
    words, last = f"{whole * share:.{digits}f}", 10.0**-digits
    if share < 1 and float(words) >= whole:
        return f">{whole - last:.{digits}f}"
    if share > 0 and not float(words):
        return f"<{last:.{digits}f}"
    return words


def trained(figure: str, *, hardest: bool) -> str:
    """A training figure, marked where it is of the hardest images only."""
    return f"hard {figure}" if hardest else figure


def yes(value: bool | None) -> str:
    """An answer, where there is one."""
    return UNKNOWN if value is None else "yes" if value else "no"

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
    """A share of 1 as per cent: ``87.31 %``. One mistake in 50,000 images is not none, and what is
    more than nothing is not nothing: ``>99.99 %``, ``<0.01 %``, no wider than all of it.
    """
    words, last = f"{100 * share:.{digits}f}", 10.0**-digits
    if share < 1 and float(words) >= 100:
        return f">{100 - last:.{digits}f} %"
    if share > 0 and not float(words):
        return f"<{last:.{digits}f} %"
    return f"{words} %"


def yes(value: bool | None) -> str:
    """An answer, where there is one."""
    return UNKNOWN if value is None else "yes" if value else "no"

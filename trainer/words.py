"""Figures of nets as the command line and the screens both write them. Torch-free."""

from __future__ import annotations

UNKNOWN = "unknown"


def axes(value: tuple[int, int] | None, *, square: bool = False) -> str:
    """(height, width) as height x width; as one number when both are equal, unless ``square``."""
    if value is None:
        return ""
    if value[0] == value[1] and not square:
        return f"{value[0]:,}"
    return f"{value[0]:,}×{value[1]:,}"  # noqa: RUF001


def yes(value: bool | None) -> str:
    """An answer, where there is one."""
    return UNKNOWN if value is None else "yes" if value else "no"

"""What goes wrong with a net. Torch-free."""

from __future__ import annotations


class ModelError(ValueError):
    """A net cannot be built, run or followed; the message is one line for the user."""


def message(error: BaseException) -> str:
    """What an exception says, whoever wrote its class: nothing where that fails."""
    try:
        return str(error).strip()
    except Exception:
        return ""


def clean(text: object) -> str:
    """What others have written, for a message: printable, and not endless."""
    shown = "".join(c if c.isprintable() else " " for c in str(text))
    return shown if len(shown) <= 200 else f"{shown[:199]}…"

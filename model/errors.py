"""What goes wrong with a net. Torch-free."""

from __future__ import annotations


class ModelError(ValueError):
    """A net cannot be built, run or followed; the message is one line for the user."""

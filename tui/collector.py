"""The garbage collector of the app's process: never while a key waits, if that can be had.

Starting makes a few hundred thousand objects that stay; looking through them again and again costs
milliseconds at the start and a visible hitch later. Only the program does this, not who imports it.
"""

from __future__ import annotations

import gc

YOUNG = 20_000
"""Objects made since the last look before the youngest are looked at; Python's own is 700."""
_begun = False


def begin() -> None:
    """Before the imports: collect nothing until the first paint."""
    global _begun
    _begun = True
    gc.disable()


def settle() -> None:
    """What stays was made: leave it out of every look from now on. Quick, may come often."""
    if _begun:
        gc.freeze()
        gc.set_threshold(YOUNG, 10, 10)
        gc.enable()

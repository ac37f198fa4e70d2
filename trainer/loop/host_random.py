"""The random numbers of Python and numpy, which a user's net may draw: seeded, saved, restored."""

from __future__ import annotations

import random
from typing import Any

import numpy as np


def seed(value: int) -> None:
    """Seed both generators; ``value`` from 0 to 2^32 - 1."""
    random.seed(value)
    np.random.seed(value)


def state() -> dict[str, Any]:
    """Both generators as plain numbers and lists, for a checkpoint."""
    version, numbers, gauss = random.getstate()
    _, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [np.asarray(keys).tolist(), *rest],
    }


def restore(saved: dict[str, Any]) -> None:
    """As they were when ``state`` was called; a checkpoint of an earlier version has nothing."""
    if not saved:
        return
    version, numbers, gauss = saved["python"]
    random.setstate((version, tuple(numbers), gauss))
    keys, *rest = saved["numpy"]
    np.random.set_state(("MT19937", np.array(keys, np.uint32), *rest))

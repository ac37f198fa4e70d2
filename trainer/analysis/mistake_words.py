"""An image's figures in words: nothing is rounded to all or none of it. Torch-free.

``exact``: whether they come from the logits. Else from float16 probabilities, which are 0 below
2**-25 and 1 above 1 - 2**-12: what they say is a bound then, and is written as one.
"""

from __future__ import annotations

import math

from trainer import words
from trainer.analysis.mistakes import LARGEST_LOSS, SMALLEST

SURE = 1 - 2.0**-12
"""The smallest probability that is 1 in float16."""
UNSURE = 0.01
"""More than the entropy of probabilities that float16 makes 1 and 0, of 1,000 classes too."""


def probability(p: float, digits: int = 2, *, exact: bool) -> str:
    """A probability: ``0.97``, ``>.99``, ``<.01``."""
    if p >= 1 and not exact:
        return _at_least(SURE, digits).replace("0.", ".")
    return words.probability(_above(p), digits)


def percent(p: float, digits: int = 2, *, exact: bool) -> str:
    """A probability as per cent: ``97.31 %``, ``>99.99 %``, ``<0.01 %``."""
    if p >= 1 and not exact:
        return f"{_at_least(100 * SURE, digits)} %"
    return words.percent(_above(p), digits)


def loss(nats: float, *, exact: bool) -> str:
    """A loss in at most seven cells: ``0.125``, ``1234.5``, ``≥16.23``."""
    if nats >= LARGEST_LOSS and not exact:
        return _at_least(nats, 2)
    return f"{nats:.3f}" if nats < 1000 else f"{nats:.1f}" if nats < 1e5 else f"{nats:.1e}"


def entropy(nats: float, *, exact: bool) -> str:
    """An entropy: ``0.125``."""
    return f"<{UNSURE}" if not nats and not exact else f"{nats:.3f}"


def _above(p: float) -> float:
    """Softmax is never 0: what is stored so is too small for its type."""
    return max(p, SMALLEST) if p <= 0 else p


def _at_least(value: float, digits: int) -> str:
    return f"≥{math.floor(value * 10**digits) / 10**digits:.{digits}f}"

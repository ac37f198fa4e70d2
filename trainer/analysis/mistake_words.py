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
LOSS_CELLS = 7
"""At most, for columns of losses."""


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
    """A loss in at most seven cells: ``0.125``, ``1234.5``, ``<0.001``, ``≥16.23``."""
    if nats >= LARGEST_LOSS and not exact:
        return _at_least(nats, 2)
    shown = (_not_none(nats), f"{nats:.1f}")
    return next((words for words in shown if len(words) <= LOSS_CELLS), f"{nats:.1e}")


def entropy(nats: float, *, exact: bool) -> str:
    """An entropy: ``0.125``, ``<0.001``."""
    words = _not_none(nats)
    return f"<{UNSURE}" if words.startswith("<") and not exact else words


def margin(value: float, *, right: bool) -> str:
    """A margin: ``+0.125``, ``<-0.999``, ``>-0.001``; ``right``: whether it is of a right image,
    which one too small for its type does not say."""
    above = value > 0 or (right and not value)
    sign, nearer, further = ("+", "<", ">") if above else ("-", ">", "<")
    words = f"{abs(value):.3f}"
    if float(words) >= 1:
        return f"{further}{sign}0.999"
    return f"{sign}{words}" if float(words) else f"{nearer}{sign}0.001"


def _not_none(nats: float) -> str:
    """Three decimals; what they make nothing may be above 0, or too small for its type."""
    words = f"{nats:.3f}"
    return words if float(words) else "<0.001"


def _above(p: float) -> float:
    """Softmax is never 0: what is stored so is too small for its type."""
    return max(p, SMALLEST) if p <= 0 else p


def _at_least(value: float, digits: int) -> str:
    return f"≥{math.floor(value * 10**digits) / 10**digits:.{digits}f}"

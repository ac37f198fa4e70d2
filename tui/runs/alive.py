"""What the layers did lately, for the table: the newest measurement and how it came there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trainer.events import LayerStats

TREND = 8
"""Cells of the sparkline."""
_EIGHTHS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Call:
    """A row of the forward pass: the call of its module with this ``number``, from 0, ``of`` so
    many that have a row."""

    path: str
    number: int = 0
    of: int = 1


@dataclass(frozen=True)
class Figures:
    """Of one layer or of a folded block; None where it was not measured or is no number."""

    weight: float | None = None
    gradient: float | None = None
    update: float | None = None
    """log10 of the update's norm over the weights'."""
    dead: float | None = None
    """Share of dead channels, 0 to 1."""


class Alive:
    """The kept measurements of a run, by layer.

    Args:
        kept: oldest first; the newest one is what is shown.
    """

    def __init__(self, kept: Sequence[LayerStats]) -> None:
        self._kept = list(kept)
        self._newest = _by_layer(self._kept[-1]) if self._kept else {}
        self._dead = _by_call(self._kept[-1]) if self._kept else {}
        self.step = self._kept[-1].step if self._kept else -1
        self.epoch = self._kept[-1].epoch if self._kept else 0

    def __bool__(self) -> bool:
        return bool(self._kept)

    def figures(self, calls: Sequence[Call]) -> Figures:
        """Of one row, or of several together: norms over all their weights, mean dead share."""
        shares = [share for call in calls if (share := self._dead_share(call)) is not None]
        dead = sum(shares) / len(shares) if shares else None
        # a module that is called twice has two rows and one measurement of its weights
        paths = dict.fromkeys(call.path for call in calls)
        found = [self._newest[path] for path in paths if path in self._newest]
        if len(found) == 1:
            return replace(found[0], dead=dead)
        weights = [f for f in found if f.weight is not None]
        # the ratio's own numerator back again: the norm of a block's update is over all of it
        updates = [10**f.update * f.weight for f in weights if f.update is not None and f.weight]
        weight, update = _norm([f.weight for f in weights]), _norm(updates)
        return Figures(
            weight=weight,
            gradient=_norm([f.gradient for f in found]),
            update=math.log10(update / weight) if update and weight else None,
            dead=dead,
        )

    def mean_dead(self, call: Call) -> float | None:
        """Mean dead share over a module's calls, where it is not known which row is which."""
        found = self._dead.get(call.path, ())
        known = [share for share in found if share is not None]
        return sum(known) / len(known) if known and len(found) != call.of else None

    def _dead_share(self, call: Call) -> float | None:
        found = self._dead.get(call.path, ())
        if len(found) == call.of:
            return found[call.number]
        # more calls than rows: what is computed again for the backward pass, to save memory
        return self.mean_dead(call) if call.of == 1 else None

    def trend(self, path: str) -> str:
        """The update ratio from the oldest kept measurement to the newest, least to greatest."""
        values = [_update(stats, path) for stats in self._kept]
        known = [value for value in values if value is not None]
        if len(known) < 2:
            return ""
        cells = min(TREND, len(known))
        means = []
        for cell in range(cells):
            some = known[cell * len(known) // cells : (cell + 1) * len(known) // cells]
            means.append(sum(some) / len(some))
        least, greatest = min(means), max(means)
        if greatest - least < 1e-9:
            return _EIGHTHS[3] * cells
        return "".join(_EIGHTHS[round((v - least) / (greatest - least) * 7)] for v in means)


def _by_layer(stats: LayerStats) -> dict[str, Figures]:
    return {
        path: Figures(weight=weight, gradient=gradient, update=update)
        for path, weight, gradient, update in zip(
            stats.layers, stats.weight_norm, stats.gradient_norm, stats.update_ratio, strict=False
        )
    }


def _by_call(stats: LayerStats) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {}
    for path, dead in zip(stats.activations, stats.dead, strict=False):
        found.setdefault(path, []).append(dead)
    return found


def _update(stats: LayerStats, path: str) -> float | None:
    if path not in stats.layers:
        return None
    at = stats.layers.index(path)
    return stats.update_ratio[at] if at < len(stats.update_ratio) else None


def _norm(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.hypot(*known) if known else None

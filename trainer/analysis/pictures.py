"""The test images that predictions were made on: their pixels and where they lie. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.data import sources
from trainer.data.dataset import TestData
from trainer.errors import DataError, UserError
from trainer.runs.runstate import RunState

NAMED = ("cifar10", "cifar100")


def candidates(state: RunState, current: str = "") -> tuple[str, ...]:
    """Where a run's images may be: its own source, the set of that name, the one in use."""
    asked = state.queued.data if state.queued else ""
    kind = state.started.data_kind if state.started else ""
    if "synthetic" in (asked, kind):
        return ("synthetic",)
    named = kind if kind in NAMED else ""
    return tuple(dict.fromkeys(source for source in (asked, named, current) if source))


def load(
    candidates: Sequence[str], fingerprint: str, *, data_dir: Path | None = None
) -> tuple[str, TestData]:
    """The first source that has these test images, by checksum, and what it has.

    Args:
        candidates: sources, the likeliest first.
        fingerprint: SHA-256 of the images, as the predictions have it.
        data_dir: where downloaded sets lie.

    Raises:
        DataError: none has; the reason is the first source's.
    """
    reasons = []
    for source in candidates:
        try:
            data = sources.load_test(source, data_dir=data_dir)
        except UserError as error:
            line = str(error)
            # advice on what to train with instead does not help here
            reasons.append(line.partition(": ")[0] if source in NAMED else line)
            continue
        if data.fingerprint == fingerprint:
            return source, data
        reasons.append(
            f"{data.source} has other test images "
            f"(fingerprint {data.fingerprint[:8]}, the run's is {fingerprint[:8]})"
        )
    reason = reasons[0] if reasons else "it does not say which data it used"
    raise DataError(f"the images of this run are not here: {reason}")

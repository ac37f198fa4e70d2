"""Whether the chosen data is on this machine. Torch-free; called on a thread."""

from __future__ import annotations

import msgspec

from trainer.lifecycle.admission import TRAIN_IMAGES

BUILT_IN = tuple(TRAIN_IMAGES)


class DataStatus(msgspec.Struct, frozen=True):
    """What was found."""

    ready: bool
    line: str
    """One line: what is there, or what is missing and what to do."""
    train_images: int | None = None
    """Size of the training split; unknown for folders."""


def look(source: str) -> DataStatus:
    """Look for a data source; never raises."""
    from trainer.data import sources
    from trainer.errors import UserError

    try:
        found = sources.available(source)
    except (UserError, OSError) as error:
        return DataStatus(ready=False, line=str(error))
    return DataStatus(
        ready=found.ready,
        line=without_advice(found.message),
        train_images=TRAIN_IMAGES.get(found.kind),
    )


def without_advice(line: str) -> str:
    """The line without what to type on a command line: the app has keys for it."""
    # the last: reasons of others, as of TLS, have some of their own
    head, _, advice = line.rpartition(": ")
    return head if "--data" in advice else line

"""The list of the mistakes screen as CSV and as PNG. Blocks: to be called on threads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.analysis import export as tables
from trainer.analysis.mistakes import Indices, Sort
from trainer.errors import ConfigError, UserError
from tui.charts.export import Export
from tui.images.evaluations import Evaluation, Pictures


@dataclass(frozen=True, eq=False)
class Listed:
    """What is shown, and where it goes."""

    evaluation: Evaluation
    chosen: Indices
    """int64 [K], in the order shown."""
    pictures: Pictures | None
    sort: Sort
    place: str
    """The source that the pictures came from; empty without them."""
    places: tuple[str, ...]
    """Where the data set may be, the likeliest first."""
    runs_dir: Path

    def name(self, ending: str) -> str:
        """Of the file; nothing of it comes from a run's texts."""
        return f"mistakes-epoch-{self.evaluation.saved.epoch}.{ending}"


def as_csv(listed: Listed) -> str:
    """Write the list with each image's path where the data set is here; the line that says so.

    Raises:
        RunError: it cannot be written.
    """
    found, paths, why = listed.evaluation, None, ""
    try:
        paths = _paths(listed)
    except UserError as error:
        why = f"; no paths: {error}"
    rows = tables.rows(found.images, listed.chosen, found.classes, paths)
    path = Export({listed.name("csv"): tables.to_csv(rows)}).write(listed.runs_dir) / listed.name(
        "csv"
    )
    return f"{len(rows):,} images written to {path}{why}"


def _paths(listed: Listed) -> list[str]:
    from trainer.analysis import pictures
    from trainer.data import sources

    place = listed.place
    # read and compared once is enough, it takes longer than the rest; unless it is gone since
    if not place or not sources.available(place).ready:
        place, _ = pictures.load(listed.places, listed.evaluation.fingerprint)
    return sources.image_paths(place, len(listed.evaluation.images))


def as_png(listed: Listed) -> str:
    """Draw the first images of the list into one picture; the line that says so.

    Raises:
        UserError: there are none, their pixels are not here, or it cannot be written.
    """
    from trainer.analysis import grid_png

    found, count = listed.evaluation, len(listed.chosen)
    if listed.pictures is None:
        raise ConfigError("no picture: the images of this run are not here")
    shown = listed.chosen[: grid_png.MOST]
    title = (
        f"{found.run}, epoch {found.saved.epoch}: {len(shown):,} of {count:,} test images "
        f"by {listed.sort}"
    )
    image = grid_png.draw(found.images, shown, listed.pictures, found.classes, title=title)
    path = Export({listed.name("png"): grid_png.encoded(image)}).write(listed.runs_dir)
    of = "" if len(shown) == count else f"the first {len(shown):,} of "
    return f"{of}{count:,} images drawn in {path / listed.name('png')}"

"""``diff``: two runs, or two epochs of one, image by image."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from trainer.cli.evaluation import Evaluation, open_evaluation
from trainer.cli.options import JsonOption, RunsDirOption, runs_dir
from trainer.cli.output import Column, clean, count, out, percent, table
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.analysis.model_diff import ModelDiff

RUN_COLUMNS = (
    Column(""),
    Column("run", flexible=True, tail=True),
    Column("epoch", right=True),
    Column("test accuracy", right=True),
    Column("mean confidence", right=True, keep=6),
    Column("calibration error", right=True, keep=7),
)
COUNT_COLUMNS = (
    Column(""),
    Column("second right", right=True),
    Column("second wrong", right=True),
)
CELL_COLUMNS = (
    Column("actual", flexible=True),
    Column("predicted", flexible=True),
    Column("second minus first", right=True),
)
IMAGE_COLUMNS = (
    Column("image", right=True),
    Column("actual", flexible=True),
    Column("first says", flexible=True),
    Column("", right=True, keep=7),
    Column("second says", flexible=True),
    Column(" ", right=True, keep=7),
)
CELLS = 8
"""Cells of the confusion matrix that are shown, those that changed most."""


class Kind(StrEnum):
    """Which images are listed."""

    FIXED = "fixed"
    BROKEN = "broken"
    BOTH_WRONG = "both-wrong"
    BOTH_RIGHT = "both-right"


def diff(
    run: Annotated[str, typer.Argument(help="The first: an id, a part of one, or 'last'.")],
    other: Annotated[
        str | None,
        typer.Argument(help="The second; default: the same run.", show_default=False),
    ] = None,
    epoch: Annotated[
        int | None, typer.Option("--epoch", metavar="N", min=1, help="Default: the newest.")
    ] = None,
    other_epoch: Annotated[
        int | None,
        typer.Option("--other-epoch", metavar="N", min=1, help="Of the second; as --epoch."),
    ] = None,
    listed: Annotated[
        Kind | None, typer.Option("--list", help="List these images.", show_default=False)
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", metavar="N", min=1, help="List only so many.")
    ] = None,
    json: JsonOption = False,
    directory: RunsDirOption = None,
) -> None:
    """Put two models side by side on the same test images: what the second fixes and breaks.

    In JSON mcnemar_exact_p is null where it is below 1e-300, and mcnemar_exact_log10_p is its
    logarithm in any case.
    """
    if top is not None and listed is None:
        raise ConfigError("--top says how many --list lists: give both, or neither")
    if json and listed is not None:
        raise ConfigError("--json lists the images of every kind: leave out --list")
    place = runs_dir(directory)
    first = open_evaluation(place, run, epoch)
    second = open_evaluation(place, other or run, other_epoch)
    if (first.run, first.found.epoch) == (second.run, second.found.epoch):
        raise ConfigError(
            f"both are epoch {first.found.epoch} of run {first.run}: name another run, or another "
            "epoch with --epoch or --other-epoch"
        )
    from trainer.analysis.model_diff import compare

    found = compare(first.found, second.found)
    if json:
        out.json(_report(first, second, found))
        return
    out.lines(*_summary(first, second, found))
    if listed is not None:
        out.lines("", *_images(first, second, found, listed, top))


def _report(first: Evaluation, second: Evaluation, found: ModelDiff) -> dict[str, Any]:
    from trainer.analysis.model_diff import SMALLEST_P

    return {
        "first": _brief(first),
        "second": _brief(second),
        "split": first.found.split,
        "images": len(first.images),
        "classes": first.classes,
        "counts": found.counts,
        "mcnemar_exact_p": found.p_value if found.p_value >= SMALLEST_P else None,
        "mcnemar_exact_log10_p": found.log_p / math.log(10),
        "same_mistake": found.same_mistake.tolist(),
        "confusion_difference": found.confusion.tolist(),
        **{name: getattr(found, name).tolist() for name in found.counts},
    }


def _brief(one: Evaluation) -> dict[str, Any]:
    from trainer.analysis.calibration import calibration

    return {
        "run": one.run,
        "epoch": one.found.epoch,
        "accuracy": one.accuracy,
        "calibration": calibration(one.images.confidence, ~one.images.wrong),
    }


def _summary(first: Evaluation, second: Evaluation, found: ModelDiff) -> list[str | Text]:
    rows = []
    for name, one in (("first", first), ("second", second)):
        brief = _brief(one)
        figures = brief["calibration"]
        rows.append(
            (
                name,
                one.run,
                count(one.found.epoch),
                percent(one.accuracy),
                percent(figures.confidence),
                percent(figures.error),
            )
        )
    n = found.counts
    counts = (
        ("first right", count(n["both_right"]), count(n["broken"])),
        ("first wrong", count(n["fixed"]), count(n["both_wrong"])),
    )
    lines: list[str | Text] = [
        *table(RUN_COLUMNS, rows),
        "",
        *table(COUNT_COLUMNS, counts),
        "",
        f"the second fixes {n['fixed']:,} and breaks {n['broken']:,} of {len(first.images):,} "
        f"{clean(first.found.split)} images: McNemar's exact {found.p_words}; "
        f"of {n['both_wrong']:,} wrong in both, {len(found.same_mistake):,} are the same mistake",
    ]
    cells = _cells(found, first.classes)
    return [*lines, "", *table(CELL_COLUMNS, cells)] if cells else lines


def _cells(found: ModelDiff, classes: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """The confusions that changed most."""
    import numpy as np

    change = found.confusion.copy()
    np.fill_diagonal(change, 0)
    order = np.argsort(-np.abs(change), axis=None, kind="stable")[:CELLS].tolist()
    places = [divmod(flat, len(change)) for flat in order]
    return [(classes[a], classes[p], f"{change[a, p]:+,}") for a, p in places if change[a, p]]


def _images(
    first: Evaluation, second: Evaluation, found: ModelDiff, listed: Kind, top: int | None
) -> list[str | Text]:
    chosen = getattr(found, listed.name.lower())[:top].tolist()
    if not chosen:
        return [f"no image is {listed.value}"]
    rows = [
        (
            count(i),
            first.classes[first.images.actual[i]],
            first.classes[first.images.predicted[i]],
            _sure(first, i),
            second.classes[second.images.predicted[i]],
            _sure(second, i),
        )
        for i in chosen
    ]
    return [*table(IMAGE_COLUMNS, rows)]


def _sure(one: Evaluation, index: int) -> str:
    from trainer.analysis import mistake_words

    images = one.images
    return mistake_words.percent(float(images.confidence[index]), exact=images.exact)

"""``mistakes``: the misclassified test images of a run, from its saved predictions."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainer.cli.options import JsonOption, RunsDirOption, runs_dir
from trainer.cli.output import Column, clean, count, number, out, percent, table
from trainer.cli.runs import data_kind
from trainer.errors import ConfigError, RunError
from trainer.rundir import find
from trainer.runstate import Follower, RunState

if TYPE_CHECKING:
    from trainer.events import PredictionsSaved
    from trainer.predictions import Predictions

COLUMNS = (
    Column("image", right=True),
    Column("actual", flexible=True),
    Column("predicted", flexible=True),
    Column("p(predicted)", right=True),
    Column("p(actual)", right=True, keep=7),
    Column("loss", right=True, keep=6),
)


class Order(StrEnum):
    """How mistakes are sorted."""

    CONFIDENCE = "confidence"
    LOSS = "loss"
    MARGIN = "margin"
    ENTROPY = "entropy"
    INDEX = "index"


def mistakes(
    run: Annotated[str, typer.Argument(help="An id, a part of one, or 'last'.")],
    json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output.")] = False,
    sort: Annotated[
        Order, typer.Option("--sort", help="Most confident, largest loss, … first.")
    ] = Order.CONFIDENCE,
    top: Annotated[
        int | None, typer.Option("--top", metavar="N", min=1, help="Only the first so many.")
    ] = None,
    pair: Annotated[
        str | None, typer.Option("--pair", metavar="ACTUAL,PREDICTED", help="Only this confusion.")
    ] = None,
    epoch: Annotated[
        int | None, typer.Option("--epoch", metavar="N", min=1, help="Default: the newest.")
    ] = None,
    directory: RunsDirOption = None,
) -> None:
    """List the misclassified test images of a run."""
    if json and as_csv:
        raise ConfigError("give either --json or --csv")
    follower = Follower(find(runs_dir(directory), run))
    folded = follower.catch_up()
    saved = _choose(folded, follower.run.id, epoch)
    from trainer import predictions
    from trainer.analysis import export
    from trainer.analysis import mistakes as tables
    from trainer.analysis.mistakes_filter import Filter

    found = predictions.load(follower.run.inside(saved.path))
    images = tables.table(found)
    names = folded.started.classes if folded.started is not None else ()
    classes = tables.class_names(names, images.classes)
    where = Filter(confusions=_confusions(pair, classes))
    chosen = tables.select(images, sort=sort.value, where=where)
    shown = export.rows(images, chosen[:top], classes)
    if as_csv:
        out.write(export.to_csv(shown).encode())
    elif json:
        out.json(_report(folded, found, classes, shown))
    else:
        out.lines(_heading(folded, found) + (f"; {len(chosen):,} of {clean(pair)}" if pair else ""))
        if shown:
            out.lines(*table(COLUMNS, [_line(one) for one in shown]))


def _heading(folded: RunState, found: Predictions) -> str:
    wrong, images = len(found.wrong), len(found.labels)
    return (
        f"{wrong:,} of {images:,} {clean(found.split)} images misclassified: "
        f"{percent((images - wrong) / max(1, images))} {clean(found.split)} accuracy, "
        f"epoch {found.epoch}, data {clean(data_kind(folded))}"
    )


def _choose(folded: RunState, run: str, epoch: int | None) -> PredictionsSaved:
    plain = [p for p in folded.predictions if p.variant == "plain"]
    if not plain:
        raise RunError(f"run {run} has no predictions yet: its first evaluation saves them")
    fits = [p for p in plain if epoch is None or p.epoch == epoch]
    if not fits:
        have = ", ".join(str(p.epoch) for p in plain[-10:])
        raise RunError(f"run {run} has no predictions of epoch {epoch}, but of {have}")
    return fits[-1]


def _confusions(
    text: str | None, classes: tuple[str, ...]
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    if text is None:
        return ()
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(name in classes for name in names):
        known = ", ".join(classes[:20])
        raise ConfigError(f"--pair needs two classes, ACTUAL,PREDICTED, out of {known}")
    return (((classes.index(names[0]),), (classes.index(names[1]),)),)


def _line(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        count(one["index"]),
        one["actual"],
        one["predicted"],
        percent(one["p_predicted"]),
        percent(one["p_actual"]),
        number(one["loss"], ".3f"),
    )


def _report(
    folded: RunState,
    found: Predictions,
    classes: tuple[str, ...],
    shown: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "run": folded.run,
        "data": data_kind(folded),
        "split": found.split,
        "epoch": found.epoch,
        "images": len(found.labels),
        "misclassified": len(found.wrong),
        "classes": classes,
        "mistakes": shown,
    }

"""``mistakes``: the misclassified test images of a run, from its saved predictions."""

from __future__ import annotations

import csv
from enum import StrEnum
from io import StringIO
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
SMALLEST = 2.0**-24
"""The smallest float16 above 0: what a stored probability of 0 may have been."""


class Order(StrEnum):
    """How mistakes are sorted."""

    CONFIDENCE = "confidence"
    LOSS = "loss"
    INDEX = "index"


def mistakes(
    run: Annotated[str, typer.Argument(help="An id, a part of one, or 'last'.")],
    json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output.")] = False,
    sort: Annotated[
        Order, typer.Option("--sort", help="Highest confidence or loss first, or by index.")
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

    found = predictions.load(follower.run.inside(saved.path))
    classes = _classes(folded, found)
    wrong = ranked(found, classes, sort, _pair(pair, classes))
    shown = wrong[:top]
    if as_csv:
        out.write(_csv(shown))
    elif json:
        out.json(_report(folded, found, classes, shown))
    else:
        right = len(found.labels) - len(found.wrong)
        out.lines(
            f"{len(found.wrong):,} of {len(found.labels):,} test images misclassified: "
            f"{percent(right / max(1, len(found.labels)))} test accuracy, epoch {found.epoch}, "
            f"data {clean(data_kind(folded))}"
            + (f"; {len(wrong):,} of {clean(pair)}" if pair else "")
        )
        if shown:
            out.lines(*table(COLUMNS, [_line(one) for one in shown]))


def ranked(
    found: Predictions, classes: tuple[str, ...], sort: Order, pair: tuple[int, int] | None = None
) -> list[dict[str, Any]]:
    """The misclassified images in order, all of them or those of one confusion.

    ``confidence`` is the probability of the predicted class, ``loss`` the cross-entropy: minus
    the logarithm of the actual class's probability.
    """
    import numpy as np

    index = found.wrong
    if pair is not None:
        hit = (found.labels[index] == pair[0]) & (found.predicted[index] == pair[1])
        index = index[hit]
    probabilities = found.probabilities.astype(np.float64)
    confidence = probabilities[index, found.predicted[index]]
    actual = probabilities[index, found.labels[index]]
    loss = -np.log(np.maximum(actual, SMALLEST))
    keys = {Order.CONFIDENCE: -confidence, Order.LOSS: -loss, Order.INDEX: index}
    return [
        {
            "index": int(index[i]),
            "actual": classes[int(found.labels[index[i]])],
            "predicted": classes[int(found.predicted[index[i]])],
            "confidence": float(confidence[i]),
            "actual_probability": float(actual[i]),
            "loss": float(loss[i]),
        }
        for i in np.argsort(keys[sort], kind="stable")
    ]


def _choose(folded: RunState, run: str, epoch: int | None) -> PredictionsSaved:
    plain = [p for p in folded.predictions if p.variant == "plain"]
    if not plain:
        raise RunError(f"run {run} has no predictions yet: its first evaluation saves them")
    fits = [p for p in plain if epoch is None or p.epoch == epoch]
    if not fits:
        have = ", ".join(str(p.epoch) for p in plain[-10:])
        raise RunError(f"run {run} has no predictions of epoch {epoch}, but of {have}")
    return fits[-1]


def _classes(folded: RunState, found: Predictions) -> tuple[str, ...]:
    names = folded.started.classes if folded.started is not None else ()
    width = found.probabilities.shape[1]
    return tuple(names[i] if i < len(names) else f"class {i}" for i in range(width))


def _pair(text: str | None, classes: tuple[str, ...]) -> tuple[int, int] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(name in classes for name in names):
        known = ", ".join(classes[:20])
        raise ConfigError(f"--pair needs two classes, ACTUAL,PREDICTED, out of {known}")
    return classes.index(names[0]), classes.index(names[1])


def _line(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        count(one["index"]),
        one["actual"],
        one["predicted"],
        percent(one["confidence"]),
        percent(one["actual_probability"]),
        number(one["loss"], ".3f"),
    )


def _csv(shown: list[dict[str, Any]]) -> bytes:
    text = StringIO()
    fields = ["index", "actual", "predicted", "confidence", "actual_probability", "loss"]
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for one in shown:
        names = {"actual": clean(one["actual"]), "predicted": clean(one["predicted"])}
        writer.writerow({**one, **names})
    return text.getvalue().encode()


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

"""``mistakes``: the misclassified test images of a run, from its saved predictions."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainer.cli.evaluation import Evaluation, HumanOption, ReviewOption, open_evaluation
from trainer.cli.options import (
    DataDirOption,
    DataOption,
    JsonOption,
    RunsDirOption,
    data_dir,
    runs_dir,
)
from trainer.cli.output import Column, clean, count, out, percent, table, warn
from trainer.errors import ConfigError
from trainer.files.paths import expanded

if TYPE_CHECKING:
    from trainer.analysis.mistakes import Indices
    from trainer.analysis.mistakes_filter import Filter

COLUMNS = (
    Column("image", right=True),
    Column("actual", flexible=True),
    Column("predicted", flexible=True),
    Column("p(predicted)", right=True),
    Column("p(actual)", right=True, keep=7),
    Column("loss", right=True, keep=6),
)
HUMAN_COLUMN = Column("people agree", right=True, keep=8)
REVIEW_COLUMN = Column("people would say", keep=8, flexible=True)
PICTURES = 100
"""Images in a picture when it is not said how many."""


class Order(StrEnum):
    """How mistakes are sorted."""

    CONFIDENCE = "confidence"
    LOSS = "loss"
    MARGIN = "margin"
    ENTROPY = "entropy"
    DOUBT = "doubt"
    HUMAN = "human"
    INDEX = "index"


def mistakes(
    run: Annotated[str, typer.Argument(help="An id, a part of one, or 'last'.")],
    json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output.")] = False,
    png: Annotated[
        Path | None,
        typer.Option(
            "--png",
            metavar="FILE",
            help=f"The images as one picture; {PICTURES} of them unless --top says.",
            show_default=False,
        ),
    ] = None,
    sort: Annotated[
        Order,
        typer.Option(
            "--sort",
            help="Most confident, largest loss, most doubted label (doubt: a guess from the run's "
            "own predictions; human: by people), … first.",
        ),
    ] = Order.CONFIDENCE,
    top: Annotated[
        int | None, typer.Option("--top", metavar="N", min=1, help="Only the first so many.")
    ] = None,
    pair: Annotated[
        str | None, typer.Option("--pair", metavar="ACTUAL,PREDICTED", help="Only this confusion.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="FILTER",
            help="For example 'cat>dog conf>0.9', 'loss=1-2 human<0.5', '#1,5,10-20', "
            "'\"ice bear\">dog'. Bounds: "
            "conf, actual, loss, margin, entropy, doubt, human. Flags, ! before one for not: "
            "sure, unsure (people), suspect (a guess), doubtful (a review), wrong, right (with "
            "--all).",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="The right ones as well as the mistakes.")
    ] = False,
    epoch: Annotated[
        int | None, typer.Option("--epoch", metavar="N", min=1, help="Default: the newest.")
    ] = None,
    human: HumanOption = None,
    review: ReviewOption = None,
    data: DataOption = None,
    data_directory: DataDirOption = None,
    directory: RunsDirOption = None,
) -> None:
    """List the misclassified test images of a run, and whose fault they are."""
    if json + as_csv + (png is not None) > 1:
        raise ConfigError("give either --json, --csv or --png")
    opened = open_evaluation(runs_dir(directory), run, epoch, human, review)
    from trainer.analysis import export
    from trainer.analysis.mistakes import LARGEST_LOSS
    from trainer.analysis.mistakes_filter import select

    where = (where or "").strip()
    filtered = _filter(pair, where, opened.classes)
    chosen = select(opened.images, sort=sort.value, where=filtered, wrong_only=not everything)
    if filtered.bounds and not opened.images.exact and (opened.images.loss >= LARGEST_LOSS).any():
        warn(
            f"the predictions of epoch {opened.found.epoch} were saved as float16 alone: a loss of "
            f"{LARGEST_LOSS:.2f} means at least that, a probability of 1 at least 0.9997"
        )
    if png is not None:
        images = opened.pictures(data, data_dir(data_directory))[1].test.images
        _draw(opened, chosen, images, expanded(png), sort, top)
    elif as_csv or json:
        paths = opened.paths(data, data_dir(data_directory))
        listed = export.rows(opened.images, chosen[:top], opened.classes, paths)
        if as_csv:
            out.write(export.to_csv(listed).encode())
            return
        from trainer.cli.evaluation_report import report

        out.json({**report(opened), "sort": sort.value, "fits": len(chosen), "mistakes": listed})
    else:
        _print(opened, chosen, top, " ".join(filter(None, (pair, where))))


def _filter(pair: str | None, where: str | None, classes: tuple[str, ...]) -> Filter:
    from trainer.analysis.mistakes_filter import EVERYTHING, parse_filter

    chosen = parse_filter(where, classes) if where else EVERYTHING
    if pair is None:
        return chosen
    if chosen.confusions:
        raise ConfigError("give confusions either with --pair or with --where")
    names = [name.strip() for name in pair.split(",")]
    if len(names) != 2 or not all(name in classes for name in names):
        raise ConfigError(_bad_pair(names, classes))
    return replace(chosen, confusions=(((classes.index(names[0]),), (classes.index(names[1]),)),))


def _bad_pair(names: list[str], classes: tuple[str, ...]) -> str:
    """Why they are not two classes, and what to write instead."""
    unknown = [name for name in names if name not in classes]
    near = [one for name in unknown for one in get_close_matches(name, classes, cutoff=0.5)]
    if len(names) == 2 and near:
        hint = f": did you mean {' or '.join(dict.fromkeys(near))}?"
    else:
        hint = f", out of {', '.join(classes[:12])}" + (", …" if len(classes) > 12 else "")
    if any("," in name for name in classes):
        hint += "; names with a comma: --where '\"a,b\">cat'"
    return f"--pair needs two classes, ACTUAL,PREDICTED{hint}"


def _print(opened: Evaluation, chosen: Indices, top: int | None, asked: str) -> None:
    from trainer.analysis import export
    from trainer.cli.evaluation_report import lines

    out.lines(opened.heading + (f"; {len(chosen):,} of {clean(asked)}" if asked else ""))
    out.lines(*lines(opened))
    shown = export.rows(opened.images, chosen[:top], opened.classes)
    if not shown:
        return
    columns = [*COLUMNS]
    cells = [_line(one) for one in shown]
    if opened.images.people is not None:
        columns.append(HUMAN_COLUMN)
        cells = [(*line, percent(one["human"])) for line, one in zip(cells, shown, strict=True)]
    if opened.images.review is not None:
        columns.append(REVIEW_COLUMN)
        reviews = [opened.images.review.by_index.get(one["index"]) for one in shown]
        cells = [
            (*line, "" if r is None else r.says(opened.classes))
            for line, r in zip(cells, reviews, strict=True)
        ]
    out.lines(*table(columns, cells))


def _line(one: dict[str, Any]) -> tuple[str, ...]:
    from trainer.analysis import mistake_words

    exact = one["exact"]
    return (
        count(one["index"]),
        one["actual"],
        one["predicted"],
        mistake_words.percent(one["p_predicted"], exact=exact),
        mistake_words.percent(one["p_actual"], exact=exact),
        mistake_words.loss(one["loss"], exact=exact),
    )


def _draw(
    opened: Evaluation, chosen: Indices, images: Any, path: Path, sort: Order, top: int | None
) -> None:
    from trainer.analysis import grid_png

    shown = chosen[: PICTURES if top is None else top]
    title = (
        f"{opened.run}, epoch {opened.found.epoch}: "
        f"{len(shown):,} of {len(chosen):,} {opened.found.split} images by {sort.value}"
    )
    picture = grid_png.draw(opened.images, shown, images, opened.classes, title=title)
    grid_png.save(picture, path)
    out.lines(f"{len(shown):,} of {len(chosen):,} images drawn: {clean(path)}")

"""``runs`` and ``show``: what was trained, folded from the logs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer
from msgspec.structs import replace
from rich.text import Text

from trainer.cli.options import JsonOption, RunsDirOption, runs_dir
from trainer.cli.output import (
    DASH,
    Column,
    clean,
    count,
    duration,
    number,
    out,
    percent,
    state,
    table,
    warn,
)
from trainer.events import EvalEnded
from trainer.runs.follower import Follower
from trainer.runs.rundir import find, option, scan
from trainer.runs.runlog import Tail
from trainer.runs.runstate import EpochRow, RunState
from trainer.words import axes, trained

RUN_COLUMNS = (
    Column("run", flexible=True, tail=True),
    Column("state"),
    Column("name", keep=1),
    Column("preset", keep=4),
    Column("model", keep=3),
    Column("data"),
    Column("best test acc", right=True),
    Column("epoch", right=True, keep=5),
    Column("parameters", right=True, keep=6),
    Column("epochs", right=True, keep=7),
    Column("time", right=True, keep=8),
)
EPOCH_COLUMNS = (
    Column("epoch", right=True),
    Column("lr", right=True, keep=4),
    Column("train loss", right=True, keep=6),
    Column("train acc", right=True, keep=7),
    Column("test loss", right=True, keep=5),
    Column("test acc", right=True),
    Column("", keep=8),
    Column("seconds", right=True, keep=3),
    Column("images/s", right=True, keep=2),
)


class Order(StrEnum):
    """How runs are sorted."""

    newest = "newest"
    best = "best"
    time = "time"


def summary(follower: Follower) -> dict[str, Any]:
    """A run in a few fields, for a line of the table and for scripts."""
    folded, queued = follower.state, follower.state.queued
    best = folded.best
    return {
        "run": follower.run.id,
        "state": follower.status,
        "stalled_seconds": follower.stalled,
        "name": follower.name,
        "preset": queued.preset if queued else "",
        "model": queued.model if queued else "",
        "data": folded.data_kind,
        "best_test_accuracy": best.test_accuracy if best else None,
        "best_epoch": best.epoch if best else None,
        "parameters": folded.described.parameters if folded.described else None,
        "epochs_done": folded.epochs_trained,
        "epochs": queued.epochs if queued else None,
        "seconds": folded.elapsed,
        "queued_at": folded.queued_at or None,
        "error": folded.ended.error if folded.ended else None,
        "problem": follower.problem or None,
        "missing_events": folded.missing,
    }


SORTS: dict[Order, Callable[[dict[str, Any]], Any]] = {
    Order.newest: lambda run: run["run"],
    Order.best: lambda run: (run["best_test_accuracy"] or -1.0, run["run"]),
    Order.time: lambda run: (run["seconds"], run["run"]),
}


def runs(
    json: JsonOption = False,
    sort: Annotated[
        Order, typer.Option("--sort", help="newest; best test accuracy; or time, longest first.")
    ] = Order.newest,
    directory: RunsDirOption = None,
) -> None:
    """List the runs, with state and best test accuracy."""
    place = runs_dir(directory)
    found = []
    for run in scan(place):
        follower = Follower(run)
        follower.catch_up()
        found.append(summary(follower))
    found.sort(key=SORTS[sort], reverse=True)
    if json:
        out.json(found)
    elif not found:
        warn(f"no runs in {place}: 'cifar-tui train quick{option(place)}' starts one")
    else:
        out.lines(*table(RUN_COLUMNS, [_line(run) for run in found]))


def _line(run: dict[str, Any]) -> tuple[str | Text, ...]:
    return (
        run["run"],
        _damaged() if run["problem"] else state(run["state"], run["stalled_seconds"]),
        Text(clean(run["problem"], 60), style="red") if run["problem"] else clean(run["name"], 24),
        clean(run["preset"], 16),
        clean(run["model"], 24),
        run["data"],
        percent(run["best_test_accuracy"]),
        count(run["best_epoch"]),
        count(run["parameters"]),
        f"{run['epochs_done']}/{run['epochs'] if run['epochs'] is not None else '?'}",
        duration(run["seconds"]),
    )


def _damaged() -> Text:
    return Text("damaged", style="red")


def show(
    run: Annotated[str, typer.Argument(help="An id, a part of one, or 'last'.")],
    json: JsonOption = False,
    directory: RunsDirOption = None,
) -> None:
    """Show a run's settings, epochs and notices."""
    follower = Follower(find(runs_dir(directory), run))
    follower.catch_up()
    if json:
        out.json(_details(follower))
        return
    out.lines(*_header(follower), "", *_settings(follower.state))
    if follower.state.epochs:
        out.lines("", *epoch_table(follower.state))
    out.lines(*_rest(follower))


def _details(follower: Follower) -> dict[str, Any]:
    folded = follower.state
    return {
        **summary(follower),
        "folder": str(follower.run.path),
        "config": folded.queued.config if folded.queued else None,
        "started": folded.started,
        "model_summary": folded.described,
        "epoch_table": folded.epochs,
        "evaluations": _evaluations(follower),
        "predictions": folded.predictions,
        "checkpoints": [
            replace(one, epoch=folded.epochs_done(one.step)) for one in folded.checkpoints.values()
        ],
        "notices": [{"time": at, "notice": notice} for at, notice in folded.notices],
        "ended": folded.ended,
        "damaged_lines": follower.damaged,
    }


def _evaluations(follower: Follower) -> list[EvalEnded]:
    """With all confusion matrices, which only the log has."""
    evals = follower.state.evals
    if all(one.confusion for one in evals):
        return evals
    tail, whole = Tail(follower.run.log), dict[tuple[object, ...], EvalEnded]()
    while tail.behind():
        for envelope in tail.read():
            if isinstance(event := envelope.event, EvalEnded):
                whole[event.epoch, event.step, event.variant] = event
    return [whole.get((one.epoch, one.step, one.variant), one) for one in evals]


def _header(follower: Follower) -> list[str | Text]:
    folded, brief = follower.state, summary(follower)
    started, described = folded.started, folded.described
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(folded.queued_at))
    lines: list[str | Text] = [
        Text(clean(brief["run"]), style="bold"),
        f"name        {clean(brief['name'])}",
        Text("state       ") + state(follower.status, follower.stalled),
        f"queued      {when if folded.queued_at else DASH}",
        f"preset      {clean(brief['preset']) or DASH}",
        f"model       {clean(brief['model'])}",
        f"data        {clean(brief['data'])}",
    ]
    if started is not None:
        lines[-1] = (
            f"data        {clean(started.data_kind)} from {clean(started.data_source)}: "
            f"{started.train_images:,} train and {started.test_images:,} test images, "
            f"{len(started.classes)} classes"
        )
        lines.append(f"device      {clean(started.device)}, {clean(started.precision)}")
    if described is not None:
        field = described.receptive_field
        lines.append(
            f"parameters  {described.parameters:,}, MACs {count(described.macs)}, "
            f"receptive field {'unknown' if field is None else axes(field)}"
        )
    lines.append(
        f"best        {percent(brief['best_test_accuracy'])} test accuracy"
        + (f" in epoch {brief['best_epoch']}" if brief["best_epoch"] else "")
    )
    lines.append(f"time        {duration(folded.elapsed)}, attempt {max(1, folded.attempt)}")
    if brief["problem"]:
        lines.append(Text(f"problem     {clean(brief['problem'], 400)}", style="red"))
    if brief["error"]:
        lines.append(Text(f"error       {clean(brief['error'], 400)}{follower.more}", style="red"))
    return lines


def _settings(folded: RunState) -> list[str | Text]:
    text = folded.queued.config if folded.queued else ""
    lines = [clean(line) for line in text[:20_000].splitlines()]
    return [Text("settings", style="bold"), *(f"  {line}" if line else "" for line in lines)]


def epoch_table(folded: RunState) -> list[Text]:
    """The epochs of a run as the lines of a table."""
    hard = [folded.left_easy_out(row) for row in folded.epochs]
    told = zip(folded.epochs, hard, strict=True)
    lines = table(EPOCH_COLUMNS, [_epoch(row, row is folded.best, some) for row, some in told])
    if any(hard):
        images = folded.epochs[hard.index(True)].train_images
        lines.append(Text(f"hard: of the {images:,} hardest images only"))
    return lines


def _epoch(row: EpochRow, best: bool, hard: bool) -> tuple[str, ...]:
    return (
        str(row.epoch),
        number(row.lr, ".4g"),
        number(row.train_loss),
        trained(percent(row.train_accuracy), hardest=hard),
        number(row.test_loss),
        percent(row.test_accuracy),
        "best" if best else "",
        number(row.train_seconds, ".1f"),
        number(row.images_per_second, ",.0f"),
    )


def _rest(follower: Follower) -> list[str | Text]:
    folded = follower.state
    lines: list[str | Text] = []
    others = [e for e in folded.evals if e.variant != "plain"]
    if others:
        lines += ["", Text("other evaluations", style="bold")]
        lines += [
            f"  epoch {e.epoch}: {percent(e.accuracy)} test accuracy ({e.variant}), "
            f"loss {number(math.nan if e.loss is None else e.loss)}"
            for e in others
        ]
    if folded.checkpoints:
        lines += ["", Text("checkpoints", style="bold")]
        lines += [
            f"  {c.role}: epoch {folded.epochs_done(c.step)}, step {c.step}, {clean(c.path)}"
            + ("" if follower.run.has_checkpoint(c.role) else " (missing)")
            for c in folded.checkpoints.values()
        ]
    if folded.notices:
        lines += ["", Text("notices", style="bold")]
        lines += [
            f"  {time.strftime('%H:%M:%S', time.localtime(at))} {n.level} {clean(n.code, 40)}: "
            f"{clean(n.message, 400)}"
            for at, n in folded.notices
        ]
    if follower.damaged or folded.missing:
        lines += ["", f"the log has {follower.damaged} damaged lines, {folded.missing} events miss"]
    return lines

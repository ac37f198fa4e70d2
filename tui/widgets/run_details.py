"""The chosen run in a few lines, and a configuration in one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from trainer import events
from trainer.runs.follower import Follower
from tui import formatting
from tui.run_words import data_of, model_of, name_of, norm_of

if TYPE_CHECKING:
    from trainer.config import RunConfig


def details(run: Follower, colours: dict[str, str]) -> Text:
    """A few lines on the chosen run: its settings, and the last thing it had to say."""
    state = run.state
    text = Text(overflow="ellipsis", no_wrap=True)
    text.append(name_of(run), style="bold")
    text.append(f"  {run.run.id}\n", style=colours["secondary"])
    text.append(_summary(run) + "\n")
    if state.started is not None:
        begun = state.started
        host = f" · {begun.host}" if begun.host else ""
        text.append(
            formatting.clean(
                f"{begun.device} · {begun.precision} · {begun.train_images:,} train and "
                f"{begun.test_images:,} test images of {begun.data_source}{host}",
                200,
            )
            + "\n"
        )
    if state.ended is not None and state.ended.error:
        text.append(formatting.clean(state.ended.error, 300) + run.more, style=colours["error"])
    elif run.lost:
        text.append(run.lost, style=colours["error"])
    elif run.status == "crashed":
        text.append("its trainer ended without a word", style=colours["error"])
    elif notice := _last_notice(run):
        style = {"error": "error", "warning": "warning"}.get(notice.level, "secondary")
        text.append(formatting.clean(notice.message, 300), style=colours[style])
    if run.damaged:
        text.append(f"  {run.damaged} damaged lines in the log", style=colours["warning"])
    return text


def _summary(run: Follower) -> str:
    if run.state.queued is None:
        return "no log yet" if run.state.seq < 0 else "the beginning of its log is missing"
    from trainer import config as settings

    config = settings.of_log(run.state.queued.config)
    if config is None:
        return formatting.clean(f"{model_of(run)} on {data_of(run)}", 120)
    return summary(config)


def _last_notice(run: Follower) -> events.Notice | None:
    """The last thing the run had to say; that it is being prepared only until it has begun."""
    said = [notice for _, notice in run.state.notices]
    if run.state.started is not None:
        said = [notice for notice in said if notice.code != events.PREPARING]
    return said[-1] if said else None


def summary(config: RunConfig) -> str:
    """A configuration in one line."""
    train, optimizer = config.train, config.optimizer
    norm = norm_of(config.model.name, config.model.norm)
    parts = [
        formatting.clean(config.model.name, 40) + (f" ({norm} norm)" if norm else ""),
        f"data {formatting.clean(config.data, 40)}",
        f"{train.epochs} epochs × batch {train.batch_size}",  # noqa: RUF001
        f"{optimizer.name} lr {formatting.rate(optimizer.lr)}, {config.schedule.name}",
        *([f"L2 {formatting.rate(optimizer.weight_decay)}"] if optimizer.weight_decay else []),
        *([f"L1 {formatting.rate(optimizer.l1)}"] if optimizer.l1 else []),
        f"seed {train.seed}",
    ]
    return " · ".join(parts)

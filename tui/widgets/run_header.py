"""Who a run is and how far it has come: the lines above the dashboard's table and charts."""

from __future__ import annotations

from rich.text import Text

from trainer.runstate import Follower, RunState
from tui import formatting, themes
from tui.widgets.run_table import data_of, model_of, name_of

BLOCKS = " ▏▎▍▌▋▊▉█"


def title(run: Follower, colours: dict[str, str], colour: str, *, stopping: bool) -> Text:
    """Name, state, model, data, device."""
    state = run.state
    text = Text(" ", no_wrap=True, end="")
    text.append("━ ", style=colour)
    text.append(name_of(run), style="bold")
    text.append("  ")
    text.append_text(themes.state_text(run.status, colours, stopping=stopping))
    text.append(f"  {model_of(run)} on ", style=colours["secondary"])
    official = state.started is not None and state.started.data_kind == "cifar10"
    text.append(data_of(run), style=colours["foreground"] if official else colours["warning"])
    if state.started is not None:
        device = formatting.clean(state.started.device, 40)
        text.append(f"  {device} · {state.started.precision}", style=colours["secondary"])
    if state.described is not None:
        parameters = formatting.count(state.described.parameters)
        text.append(f"  {parameters} parameters", style=colours["secondary"])
    if state.attempt > 1:
        text.append(f"  attempt {state.attempt}", style=colours["secondary"])
    return text


def news(run: Follower, colours: dict[str, str]) -> Text:
    """Why it failed, or the last warning; empty when all is well."""
    state = run.state
    text = Text(" ", no_wrap=True, end="")
    if state.ended is not None and state.ended.error:
        text.append(formatting.clean(state.ended.error, 300), style=colours["error"])
        return text
    if run.status == "crashed":
        checkpoint = state.checkpoints.get("last")
        kept = f"; its last checkpoint is of step {checkpoint.step:,}" if checkpoint else ""
        text.append(f"its trainer ended without a word{kept}", style=colours["error"])
        return text
    for _, notice in reversed(state.notices):
        if notice.level != "info":
            text.append(formatting.clean(notice.message, 300), style=colours[notice.level])
            return text
    if state.ended is None and state.notices and state.started is None:
        text.append(formatting.clean(state.notices[-1][1].message, 300), style=colours["secondary"])
    return text


def progress(run: Follower, colours: dict[str, str], width: int) -> list[Text]:
    """The epoch's line and the run's line: bars, counts, rate, time left."""
    state = run.state
    if state.queued is None:
        return [Text(""), Text("")]
    room = max(10, min(40, width - 84))
    epoch, share = len(state.epochs), 0.0
    if state.progress is not None and state.ended is None:
        epoch = state.progress.epoch
        share = state.progress.done / max(1, state.progress.total)
    elif state.ended is not None:
        share = float(epoch >= state.queued.epochs)
    name = f" epoch {epoch:>4}/{state.queued.epochs:<4}"
    words = width - len(name) - room - 2
    done = _done(run)
    return [
        _bar(name, share, room, _fit(_epoch_words(state), words), colours),
        _bar(f"{' run':<{len(name)}}", done, room, _fit(_run_words(run, done), words), colours),
    ]


def _epoch_words(state: RunState) -> list[str]:
    now = state.progress
    if now is None or state.ended is not None:
        return []
    what = "training" if now.phase == "train" else "evaluating on the test split"
    words = [f"{now.done:>{len(str(now.total))}}/{now.total} {what}"]
    if now.images_per_second:
        words.append(f"{formatting.compact(now.images_per_second)} images/s")
    if now.loss is not None and now.phase == "train":
        words.append(f"train loss {formatting.decimal(now.loss)}")
        words.append(f"train accuracy {formatting.percent(now.accuracy, 1)}")
    return words


def _run_words(run: Follower, done: float) -> list[str]:
    state = run.state
    words = [f"{100 * done:.0f} %", f"elapsed {formatting.duration(state.elapsed, tenths=False)}"]
    left = state.eta() if run.status in ("training", "paused") else None
    if left is not None:
        words.append(f"left {formatting.duration(left, tenths=False)}")
    if state.best is not None:
        best = formatting.percent(state.best.test_accuracy)
        words.append(f"best test accuracy {best} in epoch {state.best.epoch}")
    return words


def _fit(words: list[str], room: int) -> str:
    """As many as fit, in order of importance; none is cut."""
    line = ""
    for word in words:
        longer = f"{line}  {word}" if line else word
        if len(longer) <= room:
            line = longer
    return line


def _done(run: Follower) -> float:
    state = run.state
    if state.queued is None or state.started is None:
        return 0.0
    total = state.queued.epochs * state.started.steps_per_epoch
    steps = [row.step for row in state.epochs[-1:]]
    if state.progress is not None:
        steps.append(state.progress.step)
    return min(1.0, max(steps, default=0) / max(1, total))


def _bar(name: str, share: float, room: int, words: str, colours: dict[str, str]) -> Text:
    eighths = round(share * room * 8)
    full, rest = divmod(eighths, 8)
    bar = "█" * full + (BLOCKS[rest] if rest else "")
    text = Text(name, style=colours["secondary"], no_wrap=True, end="")
    text.append(f"{bar:<{room}}", style=f"{colours['accent']} on {colours['panel']}")
    text.append(f"  {words}", style=colours["foreground"])
    return text

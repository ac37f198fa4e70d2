"""Who a run is and what it has to say: the lines above the dashboard's table and charts."""

from __future__ import annotations

from rich.text import Text

from trainer import events
from trainer.runs.follower import Follower
from tui import formatting
from tui.run_words import damaged, data_of, model_of, name_of, state_of
from tui.widgets.lines import Lines


class RunHeader(Lines):
    """The title line, and below it the failure or the last warning when there is one."""

    DEFAULT_CSS = "RunHeader { height: auto; }"

    _key: tuple[object, ...] = ()

    def show(
        self, run: Follower, colours: dict[str, str], colour: str, mark: str, *, asked: str
    ) -> None:
        """Show a run; nothing happens when nothing of it has changed."""
        width = self.size.width or self.app.size.width
        state = run.state
        known = (id(state), state.attempt, id(state.queued), id(state.started), id(state.described))
        last = id(state.checkpoints.get("last"))
        waits = state.progress is None
        # the last notice itself, not how many: only the newest are kept
        troubles = (run.problem, run.lost, run.damaged)
        told = (tuple(state.notices[-1:]), id(state.ended), *troubles, last, waits)
        look = (run.status, run.stalled, run.reading, asked, colour, mark, width, self.app.theme)
        if (key := (run.run.id, *known, *told, *look)) == self._key:
            return
        self._key = key
        lines = [title(run, colours, colour, mark, width, asked=asked)]
        said = news(run, colours)
        if said is not None:
            said.truncate(width, overflow="ellipsis")
            lines.append(said)
        self.set_lines(lines)


def title(
    run: Follower,
    colours: dict[str, str],
    colour: str,
    mark: str,
    width: int,
    *,
    asked: str,
) -> Text:
    """Name, state, model, data, device; what finds no room is left out from the right."""
    state = run.state
    secondary = colours["secondary"]
    text = Text(" ", no_wrap=True, end="")
    text.append(f"{mark} ", style=colour)
    text.append(formatting.shorten(name_of(run), max(12, width // 4)), style="bold")
    text.append("  ")
    text.append_text(state_of(run, colours, asked=asked))
    if run.reading:
        text.append("  reading…", style=colours["warning"])
    text.append("  ")
    synthetic = state.data_kind == "synthetic"
    data = "synthetic data, not CIFAR-10" if synthetic else data_of(run)
    if state.data_kind == "folder" and state.started is not None:
        data = f"folder {formatting.clean(state.started.data_source, 40)}"
    text.append(data, style=colours["foreground" if state.real_data else "warning"])
    parts = [formatting.shorten(model_of(run).rpartition("/")[2], 30)]
    if state.described is not None:
        parts.append(f"{formatting.count(state.described.parameters)} parameters")
    if state.started is not None:
        device = formatting.clean(state.started.device, 40)
        parts.append(f"{device} {formatting.clean(state.started.precision, 8)}")
        parts.append(f"batch {state.started.batch_size}")
        parts.append(f"{state.started.train_images:,} train images")
    if state.attempt > 1:
        parts.append(f"attempt {state.attempt}")
    for part in parts:
        if text.cell_len + len(part) + 3 > width:
            break
        text.append(f"   {part}", style=secondary)
    text.truncate(width, overflow="ellipsis")
    return text


def news(run: Follower, colours: dict[str, str]) -> Text | None:
    """Why it failed, or the last warning; ``None`` when all is well."""
    state = run.state
    text = Text(" ", no_wrap=True, end="")
    if state.ended is not None and state.ended.error:
        said = formatting.clean(state.ended.error, 300) + run.more
        return text.append(said, style=colours["error"])
    if damaged(run):
        return text.append(formatting.clean(run.problem, 300), style=colours["error"])
    if run.lost:
        return text.append(run.lost, style=colours["error"])
    if run.status == "crashed":
        checkpoint = state.checkpoints.get("last")
        kept = f"; its last checkpoint is of {_whole_epochs(run)}" if checkpoint else ""
        return text.append(f"its trainer ended without a word{kept}", style=colours["error"])
    notice = _notice(run)
    if notice is not None:
        style = {"warning": "warning", "error": "error"}.get(notice.level, "secondary")
        return text.append(formatting.clean(notice.message, 300), style=colours[style])
    if run.damaged:
        words = f"{run.damaged} damaged line{'s' * (run.damaged > 1)} in the log skipped"
        return text.append(words, style=colours["warning"])
    return None


def _whole_epochs(run: Follower) -> str:
    """How far the last checkpoint is, in epochs that are done; it is saved within them as well."""
    step = run.state.checkpoints["last"].step
    done = run.state.epochs_done(step)
    return f"epoch {done}" if done else f"step {step:,}"


def _notice(run: Follower) -> events.Notice | None:
    """The last warning or error; before the first step also what is being prepared."""
    waits = run.state.started is None or (run.state.progress is None and run.state.ended is None)
    notices = [notice for _, notice in run.state.notices]
    over = _over(notices)
    said = [n for n in notices if (waits or n.level != "info") and n not in over]
    return said[-1] if said else None


def _over(notices: list[events.Notice]) -> list[events.Notice]:
    """Troubles that a later notice says are over: nothing to worry about any more."""
    over: list[events.Notice] = []
    for i, notice in enumerate(notices):
        code = notice.code.removesuffix(events.SAVED_AGAIN) + events.NOT_SAVED
        if notice.code.endswith(events.SAVED_AGAIN):
            over += [n for n in notices[:i] if n.code == code]
        elif notice.code == events.DISK_WRITABLE:
            over += [n for n in notices[:i] if n.code in (events.DISK_FULL, events.DISK_ERROR)]
    return over

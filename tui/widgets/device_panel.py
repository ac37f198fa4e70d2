"""GPU use, memory, temperature and watts; or CPU and memory where there is no GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual import work

from trainer import events
from trainer.runs.follower import Follower
from trainer.runs.runstate import RUNNING
from tui import formatting
from tui.device_stats import DeviceStats, Sample
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from textual.timer import Timer

    from tui.app import CifarApp

SECONDS = 2.0
BAR = 8
LABEL = 12


class DevicePanel(Lines):
    """Reads figures on a thread, and only while it is visible and its run trains on this machine.

    Of a run that has ended it shows what the log tells: nothing is read, nothing repainted.
    """

    DEFAULT_CSS = "DevicePanel { height: 1fr; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._stats: DeviceStats | None = None
        self._sample: Sample | None = None
        self._run: Follower | None = None
        self._shown: tuple[object, ...] = ()
        self._rested = False
        self._timer: Timer | None = None
        self.readings = 0
        """How often figures were asked for."""

    def on_mount(self) -> None:
        """Look now and then whether there is something to read."""
        app = cast("CifarApp", self.app)
        self._timer = self.set_interval(SECONDS * app.terminal.device, self._tick, pause=True)

    def show(self, run: Follower) -> None:
        """Show the device of a run; nothing happens when nothing of it has changed."""
        state = run.state
        memory = formatting.size(state.memory)
        log = (run.status, state.attempt, id(state.started), id(state.ranks))
        key = (id(run), *log, memory, self.app.theme)
        if key == self._shown:
            return
        self._shown = key
        before = self._run
        self._run = run
        if self._timer is not None:
            (self._timer.resume if run.status in RUNNING else self._timer.pause)()
        if before is not run:
            self._sample = None
            self._rested = True
            self._tick()
        self._paint()

    def samples(self) -> bool:
        """Whether there is something to read: the run trains, here, and the panel is seen."""
        run = self._run
        if run is None or run.state.started is None or run.status not in RUNNING:
            return False
        seen = self.screen.is_active and self.display and self.size.height > 0
        return seen and run.here

    def _tick(self) -> None:
        self._rested = not self._rested
        # beside a run on this machine's processor every second time
        if self.samples() and not (self._rested and cast("CifarApp", self.app).shares_processor):
            self._read()

    @work(thread=True, exclusive=True, group="device", description="read GPU or CPU figures")
    def _read(self) -> None:
        run = self._run
        if run is None or run.state.started is None:
            return
        device = run.state.started.device
        if self._stats is None or self._stats.device != device:
            self._stats = DeviceStats(device)
        self.readings += 1
        sample = self._stats.read()
        if self.app.is_running:
            self.app.call_from_thread(self._take, run, sample)

    def _take(self, run: Follower, sample: Sample) -> None:
        if run is self._run:
            self._sample = sample
            self._paint()

    def _paint(self) -> None:
        run = self._run
        if run is None:
            return
        colours = self.app.theme_variables
        fresh = self._sample if run.status in RUNNING else None
        lines = _figures(fresh, colours) if fresh is not None else []
        lines += _facts(run, colours, named=fresh is not None)
        traffic = cast("CifarApp", self.app).traffic
        if fresh is not None and traffic.total:
            rate = (
                f"{formatting.compact(traffic.per_second())}B/s, "
                f"{formatting.compact(traffic.total)}B"
            )
            lines.append(_line("to terminal", rate, colours))
        for line in lines:
            line.truncate(max(1, self.size.width), overflow="ellipsis")
        height = self.size.height
        self.set_lines((lines + [Text("")] * (height - len(lines)))[:height] if height else lines)

    def on_resize(self) -> None:
        """Another number of lines fits."""
        self._paint()


def _figures(sample: Sample, colours: dict[str, str]) -> list[Text]:
    lines = [Text(formatting.clean(sample.name, 40), style="bold", no_wrap=True, end="")]
    if sample.reason:
        lines[0] = Text(sample.reason, style=colours["warning"], no_wrap=True, end="")
    if sample.use is not None:
        word = "GPU use" if sample.gpu else "CPU use"
        lines.append(_line(word, f"{sample.use:>3}%", colours, sample.use / 100))
    if sample.total:
        lines.append(
            _line("memory", _of(sample.used, sample.total), colours, sample.used / sample.total)
        )
    heat = [f"{sample.celsius} °C"] if sample.celsius is not None else []
    heat += [f"{sample.watts} W"] if sample.watts is not None else []
    if heat:
        lines.append(_line("heat, power", ", ".join(heat), colours))
    return lines


def _of(used: int, total: int) -> str:
    """``1.6 of 23.5 GiB``: the unit once where both have it."""
    first, second = formatting.size(used), formatting.size(total)
    if first.split()[-1] == second.split()[-1]:
        first = first.split()[0]
    return f"{first} of {second}"


def _facts(run: Follower, colours: dict[str, str], *, named: bool) -> list[Text]:
    """What the log tells of the run's machine."""
    state = run.state
    begun = state.started
    if begun is None:
        return []
    lines = []
    if state.memory is not None:
        lines.append(_line("this run", formatting.size(state.memory), colours))
    if not named:
        lines.insert(0, Text(formatting.clean(begun.device, 60), style="bold", end=""))
    if begun.ranks:
        lines += _ranks(begun.ranks, state.ranks, colours)
    if not run.here:
        lines.append(_line("on", formatting.clean(begun.host, 40), colours))
    if begun.threads:
        lines.append(_line("threads", str(begun.threads), colours))
    if begun.torch:
        lines.append(_line("torch", formatting.clean(begun.torch, 30), colours))
    lines.append(_line("precision", formatting.clean(begun.precision, 20), colours))
    return lines


def _ranks(
    ranks: tuple[events.Rank, ...], figures: events.Ranks | None, colours: dict[str, str]
) -> list[Text]:
    """A line for each of the processes that train together: its speed and memory."""
    lines = []
    several = len({rank.host for rank in ranks}) > 1
    for number, rank in enumerate(ranks):
        words = [formatting.clean(f"{rank.host} {rank.device}" if several else rank.device, 30)]
        if figures is not None and number < min(
            len(figures.images_per_second), len(figures.memory)
        ):
            words = [f"{figures.images_per_second[number]:,.0f} images/s"]
            words.append(formatting.size(figures.memory[number]))
            if several:
                words.append(formatting.clean(rank.host, 20))
        lines.append(_line(f"rank {number}", ", ".join(words), colours))
    return lines


def _line(name: str, words: str, colours: dict[str, str], share: float | None = None) -> Text:
    text = Text(f"{name:<{LABEL}}", style=colours["secondary"], no_wrap=True, end="")
    if share is not None:
        text.append(formatting.bar(share, BAR), style=f"{colours['accent']} on {colours['panel']}")
        text.append(" ")
    return text.append(words, style=colours["foreground"])

"""GPU use, memory, temperature and watts; or CPU and memory where there is no GPU."""

from __future__ import annotations

from rich.text import Text
from textual import work

from tui import formatting
from tui.device_stats import DeviceStats, Gpu, Sample
from tui.widgets.lines import Lines

SECONDS = 2.0
BAR = 10


class DevicePanel(Lines):
    """Reads the figures on a thread, only while it can be seen and a run is active."""

    DEFAULT_CSS = "DevicePanel { height: 1fr; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._stats: DeviceStats | None = None
        self._sample: Sample | None = None
        self._own: int | None = None
        self.active = False
        """Whether a run is going: nothing is read for finished ones after the first time."""

    def on_mount(self) -> None:
        """Begin to read."""
        self.set_interval(SECONDS, self._tick)

    def show(self, *, active: bool, own: int | None) -> None:
        """Tell whether a run is going and how many bytes its process or its GPU holds."""
        self.active, self._own = active, own
        if self._sample is None:
            self._tick()
        self._paint()

    def _tick(self) -> None:
        if self.screen.is_active and self.display and (self.active or self._sample is None):
            self._read()

    @work(thread=True, exclusive=True, group="device", description="read GPU and CPU figures")
    def _read(self) -> None:
        self._stats = self._stats or DeviceStats()
        sample = self._stats.read()
        self.app.call_from_thread(self._take, sample)

    def _take(self, sample: Sample) -> None:
        self._sample = sample
        self._paint()

    def _paint(self) -> None:
        if self._sample is None:
            return
        colours = self.app.theme_variables
        lines = [line for gpu in self._sample.gpus for line in _gpu_lines(gpu, colours)]
        lines += _machine_lines(self._sample, colours)
        if self._own is not None:
            lines.append(_line("this run", formatting.size(self._own), colours))
        self.set_lines(lines)


def _gpu_lines(gpu: Gpu, colours: dict[str, str]) -> list[Text]:
    lines = [Text(formatting.clean(gpu.name, 28), style="bold", no_wrap=True, end="")]
    if gpu.use is not None:
        lines.append(_line("use", f"{gpu.use:>3} %", colours, gpu.use / 100))
    if gpu.total:
        words = f"{formatting.size(gpu.used)} of {formatting.size(gpu.total)}"
        lines.append(_line("memory", words, colours, gpu.used / gpu.total))
    heat = [f"{gpu.celsius} °C"] if gpu.celsius is not None else []
    heat += [f"{gpu.watts} W"] if gpu.watts is not None else []
    if heat:
        lines.append(_line("heat", "  ".join(heat), colours))
    return lines


def _machine_lines(sample: Sample, colours: dict[str, str]) -> list[Text]:
    words = f"{formatting.size(sample.memory_used)} of {formatting.size(sample.memory_total)}"
    cpu = f"{sample.cpu:>3} % of {sample.cores} core{'s' * (sample.cores != 1)}"
    return [
        _line("CPU", cpu, colours, sample.cpu / 100),
        _line("memory", words, colours, sample.memory_used / sample.memory_total),
    ]


def _line(name: str, words: str, colours: dict[str, str], share: float | None = None) -> Text:
    text = Text(f"{name:<9}", style=colours["secondary"], no_wrap=True, end="")
    if share is not None:
        full = min(BAR, round(share * BAR))
        text.append("━" * full, style=colours["accent"])
        text.append("━" * (BAR - full) + " ", style=colours["panel"])
    text.append(words, style=colours["foreground"])
    return text

"""The net of the chosen run, layer by layer, and the limits it was made for."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import DataTable, Static

from model.coverage import layer_skips, short
from trainer.characters import in_words
from trainer.events import LayerRow, ModelDescribed
from trainer.runs.follower import Follower
from trainer.runs.runstate import RUNNING
from trainer.words import UNKNOWN, axes, figure, yes
from tui import formatting
from tui.formatting import clean
from tui.runs.alive import Alive
from tui.runs.store import Changes
from tui.screens.base import StoreScreen
from tui.widgets import layer_table
from tui.widgets.layer_table import MEASURED_SORTS, SORTS, LayerTable, Row, Sort, block_of
from tui.widgets.limits_panel import NARROW, LimitsPanel, packed
from tui.widgets.lines import say


class LayersScreen(StoreScreen):
    """Table, totals, the formula behind the chosen row, and the limits."""

    TAB = "layers"
    CSS_PATH = "layers.tcss"
    AUTO_FOCUS = "LayerTable"
    BINDINGS = [
        Binding("o", "sort", "Sort", id="layers.sort", tooltip="Sort by the next of the columns"),
        Binding("f", "fold", "Fold", id="layers.fold", tooltip="Fold all blocks, or unfold them"),
        Binding(
            "v",
            "measured",
            "Measured",
            id="layers.measured",
            tooltip="What is measured in training first, or the shapes",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.sort: Sort = "path"
        self.open_blocks: frozenset[str] | None = None
        self.measured_first = False
        self._shown: tuple[object, ...] = ()
        self._alive = Alive(())
        self._whose_images = ""
        """In which channels are dead, where it is not the whole batch."""
        self._mark: tuple[object, ...] = ()

    def body(self) -> ComposeResult:
        """Title, table or a sentence, totals, formula, limits."""
        yield Static("", id="title", markup=False)
        yield Static("", id="nothing", markup=False)
        yield LayerTable()
        yield Static("", id="totals", markup=False)
        yield Static("", id="formula", markup=False)
        yield LimitsPanel()

    def ready(self) -> None:
        """The table has the keys."""
        self.query_one(LayerTable).focus()

    def on_resize(self) -> None:
        """Other columns may fit."""
        self.call_after_refresh(self._repaint)

    def show(self, changes: Changes) -> None:
        """Repaint when the chosen run is another one, or was described."""
        if self.stands and (changes.listing or self.store.selected in changes.runs):
            self._repaint()

    def _repaint(self) -> None:
        run = self.store.current
        net = run.state.described if run is not None else None
        there = net is not None and bool(net.layers)
        if self.has_class("-nothing") == there:
            self.set_class(not there, "-nothing")
            self.call_after_refresh(self.keep_focus)
            self.refresh_bindings()
        self._say("#title", self._title(run))
        if run is None or net is None or not there:
            self._shown = ()
            self._say("#nothing", Text(_why_nothing(run)))
            return
        width = self.size.width
        newer = self._look(run)
        if not self._alive and self.sort in MEASURED_SORTS:
            self.sort = "path"
        # sorted by what is measured, a newer measurement is another order
        step = self._alive.step if self.sort in MEASURED_SORTS else bool(self._alive)
        look = (self.sort, self.open_blocks, self.measured_first, step)
        key = (run.run.id, net, width, look, self.app.theme)
        if key == self._shown and newer:
            self.query_one(LayerTable).measure(self._alive)
            self._show_formula()
        if key != self._shown:
            self._shown = key
            unit, _ = layer_table.macs_unit(net.layers)
            self.query_one(LayerTable).fill(
                layer_table.rows_of(
                    net.layers, open_blocks=self.open_blocks, sort=self.sort, alive=self._alive
                ),
                self.cifar.colours(),
                sort=self.sort,
                width=width,
                unit=unit,
                alive=self._alive,
                measured=self.measured_first,
            )
            self._say("#totals", self._totals(net, width))
            self._show_formula()
        self.set_class(bool(self._alive), "-alive")
        self.query_one(LimitsPanel).show_run(run.state, self.cifar.colours(), width)

    def _look(self, run: Follower) -> bool:
        """Take the newest measurement; whether it is another one than before."""
        started, kept = run.state.started, run.state.layer_stats
        several = started is not None and len(started.ranks) > 1
        self._whose_images = " in rank 0's images" if several else ""
        mark = (run.run.id, len(kept), kept[-1].step if kept else -1)
        if mark == self._mark:
            return False
        self._mark = mark
        self._alive = Alive(kept)
        return True

    def _title(self, run: Follower | None) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis")
        if run is None or run.state.queued is None:
            return text
        queued, colours = run.state.queued, self.cifar.colours()
        text.append(f" {clean(queued.model, 60)}", style="bold")
        text.append(f"  run {clean(run.name, 60)}", style=colours["secondary"])
        if self.sort != "path":
            names = {
                "macs": "multiply-adds",
                "receptive": "receptive field",
                "update": "update-to-weight ratio",
                "gradient": "gradient norm",
                "weight": "weight norm",
                "dead": "dead channels",
            }
            text.append(f"  sorted by {names.get(self.sort, self.sort)}", style=colours["primary"])
        if self.open_blocks is not None:
            key = in_words("↵", ascii=self.cifar.terminal.ascii)
            text.append(f"  folded by block: {key} opens one", style=colours["primary"])
        return text

    def _totals(self, net: ModelDescribed, width: int) -> Text:
        """On as many lines as it takes, nothing that limits may ask for is cut; in full words where
        short ones save no line.
        """
        found = [self._totals_in(net, width, narrow=narrow) for narrow in (width < NARROW, True)]
        return min(found, key=lambda text: text.plain.count("\n"))

    def _totals_in(self, net: ModelDescribed, width: int, *, narrow: bool) -> Text:
        colours = self.cifar.colours()
        parameters = Text(f"{net.parameters:,} parameters", style="bold")
        if net.trainable_parameters != net.parameters:
            parameters.append(f" ({net.trainable_parameters:,} trainable)", style="not bold")
        followed = net.receptive_field is not None  # older logs have False for what is unknown
        field = axes(net.receptive_field) if net.receptive_field else UNKNOWN
        macs = UNKNOWN if net.macs is None else formatting.compact(net.macs)
        separable = UNKNOWN if net.depthwise_separable is None else net.depthwise_separable
        average = yes(net.global_average_pooling if followed else None)
        fc = yes(net.fc_after_pooling if followed else None)
        pooled = bool(net.global_average_pooling or net.fc_after_pooling)
        # of an older log, or where nothing is known, there may be pooling
        where = "before pooling" if pooled or not followed else "before positions mix"
        parts = [parameters, Text(f"{macs} MACs"), Text(f"receptive field {field} {where}")]
        parts += [
            Text(words, style=colours["secondary"])
            for words in (
                f"{separable} {'DW sep.' if narrow else 'depthwise separable'}",
                f"{net.dilated} dilated",
                f"{net.strided3x3} strided 3×3",  # noqa: RUF001
                f"{net.max_pools} max pools",
                f"{'GAP' if narrow else 'global average pooling'} {average}",
                f"FC after {'GAP' if narrow else 'pooling'} {fc}",
            )
        ]
        if told := short(net.receptive_field, net.input_shape, pooled=pooled):
            parts[2:3] = []
            parts.insert(0, Text(told, style=colours["warning"]))
        return packed(parts, width - 2, " · ")

    def _show_formula(self) -> None:
        row = self.query_one(LayerTable).chosen
        colours = self.cifar.colours()
        text = Text(no_wrap=True, overflow="ellipsis")
        if row is not None:
            text.append(f" {clean(row.last.path)}", style=f"bold {colours['primary']}")
            text.append(f"  {_about(row.last)}\n", style=colours["secondary"])
            if told := layer_skips(row.last):
                text.append(f" {told}:", style=colours["warning"])
            text.append(f" {clean(layer_table.formula(row.last), 300)}")
            if self._alive:
                text.append("\n ").append_text(self._told(row))
        self._say("#formula", text)

    def _told(self, row: Row) -> Text:
        """What was measured of the chosen row, in words."""
        found, colours = self._alive.figures(row.calls), self.cifar.colours()
        words = []
        if found.weight is not None:
            words.append(f"weights {layer_table.short_number(found.weight)}")
        if found.gradient is not None:
            words.append(f"gradient {layer_table.short_number(found.gradient)}")
        if found.update is not None:
            words.append(f"log10 update/weight {found.update:.2f}")
        if found.dead is not None:
            words.append(f"{figure(found.dead, 1)}% of channels dead{self._whose_images}")
        elif not row.folded and (mean := self._alive.mean_dead(row.calls[0])) is not None:
            words.append(
                f"{figure(mean, 1)}% of channels dead in the mean of its calls{self._whose_images}"
            )
        told = ", ".join(words) or "nothing is measured of it"
        text = Text(told, no_wrap=True, overflow="ellipsis")
        place = f"  step {self._alive.step:,}, epoch {self._alive.epoch}"
        return text.append(place, style=colours["secondary"])

    def _say(self, where: str, text: Text) -> None:
        line = self.query_one(where, Static)
        lines = str(line.content).count("\n") != text.plain.count("\n")
        say(line, text, layout=lines or where == "#nothing")

    # ---- keys -------------------------------------------------------------------------------

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """The formula follows the cursor."""
        event.stop()
        self._show_formula()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter opens a folded block, or folds the block of the layer."""
        event.stop()
        row = self.query_one(LayerTable).chosen
        if row is None or self.open_blocks is None:
            return
        block = _block(row)
        self.open_blocks = self.open_blocks ^ {block}
        self._repaint()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without layers there is nothing to sort, fold or turn to."""
        return action not in ("sort", "fold", "measured") or not self.has_class("-nothing")

    def action_sort(self) -> None:
        """Sort by the next of the columns; the first is the order of the forward pass."""
        sorts = SORTS + MEASURED_SORTS if self._alive else SORTS
        at = sorts.index(self.sort) if self.sort in sorts else -1
        self.sort = sorts[(at + 1) % len(sorts)]
        self._repaint()

    def action_fold(self) -> None:
        """Fold all blocks, or unfold them."""
        self.open_blocks = frozenset() if self.open_blocks is None else None
        self._repaint()

    def action_measured(self) -> None:
        """What is measured in training first, or the shapes: where there is no room for both."""
        self.measured_first = not self.measured_first
        if not self._alive:
            self.notify("nothing is measured of this run's layers yet (train.layer_stats)")
        self._repaint()


def _block(row: Row) -> str:
    return row.name if row.folded else block_of(row.name)


def _about(layer: LayerRow) -> str:
    """All that the table has no room for."""
    words = [clean(layer.type, 40)]
    if layer.kernel is not None:
        words.append(f"{axes(layer.kernel, square=True)}")
        words += [
            f"{name} {axes(value)}"
            for name, value in (
                ("stride", layer.stride),
                ("padding", layer.padding),
                ("dilation", layer.dilation),
            )
            if value is not None
        ]
    if layer.groups is not None:
        words.append(f"groups {layer.groups}")
    words.append(
        f"{layer_table.shape(layer.input_shape)} → {layer_table.shape(layer.output_shape)}"
    )
    if layer.macs is None:
        words.append("MACs unknown")
    elif layer.macs:
        words.append(f"{layer.macs:,} MACs")
    return ", ".join(words)


def _why_nothing(run: Follower | None) -> str:
    if run is None:
        return "No run is chosen: start one with s, or choose one in the list (1)."
    if run.state.described is not None:
        return "This run's net has no layers that could be followed."
    if run.status == "queued":
        return "The net is looked at when the run starts: this one still waits in the queue."
    if run.status in RUNNING:
        return "The run is starting: its layers appear in a moment."
    return "This run ended before its net was looked at: its dashboard (2) says why."

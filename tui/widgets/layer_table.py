"""The table of a net's layers: columns by width, sorted or folded by block."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from rich.text import Text
from textual.binding import Binding
from textual.widgets import DataTable

from model.coverage import layer_skips
from trainer.events import LayerRow
from trainer.words import axes, figure
from tui import formatting
from tui.columns import fitting_columns
from tui.formatting import DASH, clean
from tui.runs.alive import TREND, Alive, Call
from tui.widgets.fixed_table import FixedTable

Sort = Literal["path", "parameters", "macs", "receptive", "update", "gradient", "weight", "dead"]
SORTS: tuple[Sort, ...] = ("path", "parameters", "macs", "receptive")
MEASURED_SORTS: tuple[Sort, ...] = ("update", "gradient", "weight", "dead")
NOBODY = Alive(())
PATH_MIN, PATH_MAX = 14, 40
PADDING = 2
SCROLLBAR = 1
BAR = 8
MANY_DEAD = 0.5
"""Share of dead channels from which on it is shown as a warning."""


@dataclass(frozen=True)
class Row:
    """A row: one layer, or a folded block of several that follow each other."""

    name: str
    layers: tuple[LayerRow, ...]
    calls: tuple[Call, ...]
    """Which call of its module each of the layers is."""
    total: int
    """Parameters of the whole net."""

    @property
    def folded(self) -> bool:
        """Whether it stands for several layers."""
        return len(self.layers) > 1

    @property
    def last(self) -> LayerRow:
        """The layer whose output is the row's."""
        return self.layers[-1]

    @property
    def parameters(self) -> int:
        """Of all its layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def share(self) -> float:
        """Of all parameters of the net."""
        return self.parameters / max(1, self.total)

    @property
    def macs(self) -> int | None:
        """Of all its layers; unknown when one is."""
        known = [layer.macs for layer in self.layers if layer.macs is not None]
        return sum(known) if len(known) == len(self.layers) else None


def block_of(path: str) -> str:
    """The block of a layer: the first name of its path and the numbers after it."""
    parts = path.split(".")
    end = 1
    while end < len(parts) - 1 and parts[end].isdecimal():
        end += 1
    return ".".join(parts[:end])


def rows_of(
    layers: Sequence[LayerRow],
    *,
    open_blocks: frozenset[str] | None,
    sort: Sort = "path",
    alive: Alive = NOBODY,
) -> list[Row]:
    """Rows in order; ``open_blocks``: the blocks that are not folded, ``None``: none is."""
    rows: list[Row] = []
    total = sum(layer.parameters for layer in layers)
    singles = [
        Row(layer.path, (layer,), (call,), total)
        for layer, call in zip(layers, _calls(layers), strict=True)
    ]
    for name, group in groupby(singles, key=lambda row: block_of(row.name)):
        members = tuple(group)
        if open_blocks is None or name in open_blocks or len(members) == 1:
            rows += members
        else:
            inside = tuple(row.last for row in members)
            rows.append(Row(name, inside, tuple(row.calls[0] for row in members), total))
    if sort == "parameters":
        rows.sort(key=lambda row: -row.parameters)
    elif sort == "macs":
        rows.sort(key=lambda row: -(row.macs or 0))
    elif sort == "receptive":
        rows.sort(key=lambda row: -max(row.last.receptive_field or (0,)))
    elif sort != "path":
        rows.sort(key=lambda row: _least_last(getattr(alive.figures(row.calls), sort)))
    return rows


def _calls(layers: Sequence[LayerRow]) -> list[Call]:
    of, before = Counter(layer.path for layer in layers), Counter[str]()
    calls = []
    for layer in layers:
        calls.append(Call(layer.path, before[layer.path], of[layer.path]))
        before[layer.path] += 1
    return calls


def _least_last(value: float | None) -> float:
    return -value if value is not None else math.inf


def shape(value: tuple[int, ...]) -> str:
    """A tensor's shape without the batch: ``64×16×16``."""  # noqa: RUF002
    return "×".join(map(str, value)) or DASH  # noqa: RUF001


def receptive(layer: LayerRow) -> str:
    """The receptive field, or that it is not known."""
    return axes(layer.receptive_field) if layer.receptive_field else "unknown"


def macs_unit(layers: Sequence[LayerRow]) -> tuple[str, float]:
    """Prefix and size of the unit of a table's multiply-adds: the largest has 1 to 999 of them."""
    largest = max((layer.macs or 0 for layer in layers), default=0)
    for name, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if largest >= size:
            return name, size
    return "", 1.0


@dataclass(frozen=True)
class Column:
    """A column: key, title, width in cells; where there is no room the highest rank goes first."""

    key: str
    title: str
    width: int
    rank: int = 0
    right: bool = True
    measured: bool = False
    """Whether it is measured while the net trains, not derived from it."""


COLUMNS = (
    Column("path", "path", 0, right=False),
    Column("type", "type", 12, 3, right=False),
    Column("kernel", "kernel", 6),
    Column("stride", "stride", 6),
    Column("padding", "padding", 7, 14),
    Column("dilation", "dilation", 8, 4),
    Column("groups", "groups", 6, 12),
    Column("input", "input", 10, 11),
    Column("output", "output", 10, -2),
    Column("parameters", "parameters", 10),
    Column("share", "share", 6, -1),
    Column("bar", "", BAR, 13, right=False),
    Column("macs", "MACs", 9, 1),
    Column("jump", "jump", 4, 2),
    Column("receptive", "rec. field", 10),
    Column("weight", "|w|", 7, 8, measured=True),
    Column("gradient", "|g|", 7, 7, measured=True),
    Column("update", "Δw/w", 5, 5, measured=True),
    Column("dead", "dead", 4, 6, measured=True),
    Column("trend", "trend", TREND, 9, right=False, measured=True),
)
ALWAYS = ("path", "parameters")


def columns_for(width: int, path: int, *, measured: bool | None = None) -> list[Column]:
    """The columns that fit beside a path of so many cells.

    ``measured``: None where nothing was measured; else whether those columns come first.
    """
    visible = [column for column in COLUMNS if measured is not None or not column.measured]
    if measured:
        visible = [
            column
            if column.measured or column.key in ALWAYS
            else replace(column, rank=column.rank + 20)
            for column in visible
        ]
    sizes = [(column.width + PADDING, column.rank) for column in visible]
    fits = fitting_columns(sizes, width - path - SCROLLBAR, one_by_one=True)
    visible = [visible[i] for i in fits]
    # the path is cut before these go
    for column in sorted(visible, key=lambda column: -column.rank):
        needed = PATH_MIN + sum(column.width + PADDING for column in visible) + SCROLLBAR
        if column.rank < 0 and needed > width:
            visible.remove(column)
    return visible


class LayerTable(FixedTable):
    """Layers as rows; the key of a row is its number in the list that was given."""

    BINDINGS = [
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
        Binding("g,home", "scroll_top", show=False),
        Binding("G,end", "scroll_bottom", show=False),
    ]
    DEFAULT_CSS = "LayerTable { height: 1fr; }"

    def __init__(self) -> None:
        super().__init__(id="layers", cursor_type="row", cell_padding=1, zebra_stripes=True)
        self.moved = False
        """Whether the cursor is where it is because somebody moved it."""
        self._rows: list[Row] = []
        self._visible: list[Column] = []
        self._colours: dict[str, str] = {}

    @property
    def chosen(self) -> Row | None:
        """The row under the cursor."""
        return self._rows[self.cursor_row] if 0 <= self.cursor_row < len(self._rows) else None

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """The cursor begins in the first row, and comes back there when it was moved."""
        self.moved |= event.cursor_row > 0

    def on_data_table_row_selected(self) -> None:
        """Enter chooses the first row as well."""
        self.moved = True

    def fill(
        self,
        rows: Sequence[Row],
        colours: dict[str, str],
        *,
        sort: Sort,
        width: int,
        unit: str,
        alive: Alive = NOBODY,
        measured: bool = False,
    ) -> None:
        """Show these rows; the cursor stays on the layer it was on."""
        before = self.chosen
        size = {"G": 1e9, "M": 1e6, "k": 1e3}.get(unit, 1.0)
        longest = max((len(row.name) + 2 * row.folded for row in rows), default=0)
        path = max(PATH_MIN, min(PATH_MAX, longest))
        visible = columns_for(width, path, measured=measured if alive else None)
        room = width - sum(column.width + PADDING for column in visible) - SCROLLBAR
        path = max(PATH_MIN, min(path, room))
        self.clear(columns=True)
        self._rows, self._visible, self._colours = list(rows), visible, colours
        for column in visible:
            title = f"MACs ({unit})" if column.key == "macs" and unit else column.title
            if column.key == sort != "path":
                title = f"{title}▼"
            label = Text(title, justify="right" if column.right else "left")
            self.add_column(label, key=column.key, width=column.width or path)
        for row in rows:
            cells = [
                _measured(column, row, alive, colours)
                if column.measured
                else _cell(column, row, colours, column.width or path, size)
                for column in visible
            ]
            self.add_row(*cells)
        self.move_cursor(row=_same(rows, before) if before else 0, animate=False)

    def measure(self, alive: Alive) -> None:
        """Show a newer measurement: only cells that say something else are painted again."""
        measured = [at for at, column in enumerate(self._visible) if column.measured]
        for number, (key, row) in enumerate(zip(self.rows, self._rows, strict=True)):
            new = {at: _measured(self._visible[at], row, alive, self._colours) for at in measured}
            self.set_cells(key, number, new)


def _same(rows: Sequence[Row], before: Row) -> int:
    """Number of the row with the same call of a layer: itself, its block, or a layer of it."""
    calls = {(call.path, call.number) for call in before.calls}
    for number, row in enumerate(rows):
        if any((call.path, call.number) in calls for call in row.calls):
            return number
    return 0


def _measured(column: Column, row: Row, alive: Alive, colours: dict[str, str]) -> Text:
    if column.key == "trend":
        words = "" if row.folded else alive.trend(row.last.path)
        return Text(words, style=colours["primary"], no_wrap=True)
    value = getattr(alive.figures(row.calls), column.key)
    style = ""
    if value is None:
        words = ""
    elif column.key == "update":
        words = f"{value:.1f}"
    elif column.key == "dead":
        words = f"{figure(value, 0)}%"
        style = colours["warning"] if value >= MANY_DEAD else ""
    else:
        words = short_number(value)
    return Text(words, style=style, justify="right", no_wrap=True)


def short_number(value: float) -> str:
    """Two or three significant digits in at most seven cells: 0.0123, 1.23, 1235, 1.2e+06."""
    if 999.5 <= value < 1e6:
        return f"{value:.0f}"
    return f"{value:.3g}" if 1e-3 <= value < 1e6 or not value else f"{value:.1e}"


def _cell(column: Column, row: Row, colours: dict[str, str], width: int, size: float) -> Text:
    layer = row.last
    if column.key == "bar":
        return Text(formatting.bar(row.share, width).rstrip(), style=colours["primary"])
    if column.key == "path":
        style = "bold" if row.folded else "" if row.parameters else colours["secondary"]
        name = f"▸ {row.name}" if row.folded else row.name
        return Text(_tail(clean(name), width), style=style, no_wrap=True)
    style = ""
    if column.key == "receptive" and layer.receptive_field is None:
        style = colours["warning"]
    if column.key == "stride" and layer_skips(layer):
        style = colours["warning"]
    if row.folded and column.key in BLOCK_LEFT_OUT:
        words = ""
    elif column.key == "macs":
        words = DASH if row.macs is None else _scaled(row.macs, size)
    else:
        words = WORDS[column.key](row)
    justify: Literal["right", "left"] = "right" if column.right else "left"
    return Text(clean(words, width), style=style, justify=justify, no_wrap=True)


BLOCK_LEFT_OUT = ("kernel", "stride", "padding", "dilation", "groups")
WORDS: dict[str, Callable[[Row], str]] = {
    "type": lambda row: f"{len(row.layers)} layers" if row.folded else row.last.type,
    "kernel": lambda row: axes(row.last.kernel, square=True),
    "stride": lambda row: axes(row.last.stride),
    "padding": lambda row: axes(row.last.padding),
    "dilation": lambda row: axes(row.last.dilation),
    "groups": lambda row: "" if row.last.groups is None else str(row.last.groups),
    "input": lambda row: shape(row.layers[0].input_shape),
    "output": lambda row: shape(row.last.output_shape),
    "parameters": lambda row: formatting.count(row.parameters) if row.parameters else "",
    "share": lambda row: formatting.percent(row.share, 1) if row.parameters else "",
    "jump": lambda row: axes(row.last.jump),
    "receptive": lambda row: receptive(row.last),
}


def _scaled(value: int, size: float) -> str:
    if not value:
        return ""
    if size > 1 and value / size < 0.0005:  # beside a share that is not nothing
        return "<0.001"
    return f"{value / size:.3f}" if size > 1 else f"{value:,}"


def _tail(text: str, width: int) -> str:
    """The end of a path that is too long: the beginning is what its neighbours share."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def formula(layer: LayerRow) -> str:
    """How the layer's receptive field r follows from its input's: r + (k_eff - 1) * jump.

    From the row alone: a layer with a window adds (k_eff - 1) * jump to its input's receptive
    field, so that the input's is what is left; not behind a gate. Source: Araujo, Norris, Sim,
    "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.
    """
    if layer.receptive_field is None:
        return f"receptive field unknown: {layer.reason or 'no reason given'}"
    if layer.kernel is None or layer.stride is None or layer.jump is None:
        return f"receptive field {axes(layer.receptive_field)}: {_no_window(layer)}"
    if layer.pooled:
        return (
            f"receptive field {axes(layer.receptive_field)}, jump {axes(layer.jump)}: "
            "the greater of what its windows see and what comes from pooled features (a gate)"
        )
    dilation = layer.dilation or (1, 1)
    parts = [
        _axis(layer.receptive_field[i], layer.kernel[i], layer.stride[i], dilation[i], jump)
        for i, jump in enumerate(layer.jump)
    ]
    if None in parts:
        return f"receptive field {axes(layer.receptive_field)}, jump {axes(layer.jump)}"
    if parts[0] == parts[1]:
        return str(parts[0])
    return f"height: {parts[0]}; width: {parts[1]}"


def _no_window(layer: LayerRow) -> str:
    if layer.jump is None:
        return "over all positions that are pooled, not clipped to the image"
    if layer.joins is None:
        return "it looks at one position at a time of its inputs"
    if layer.joins:
        return "the union of its inputs"
    return "as its input, it looks at one position at a time"


def _axis(out: int, kernel: int, stride: int, dilation: int, jump: int) -> str | None:
    """One axis in numbers; ``None`` where the row does not tell (a transposed convolution)."""
    if stride < 1 or jump % stride:
        return None
    before = jump // stride
    effective = dilation * (kernel - 1) + 1
    into = out - (effective - 1) * before
    if into < 1:
        return None
    k = "" if dilation == 1 else f"k_eff = {dilation}×({kernel} − 1) + 1 = {effective}, "  # noqa: RUF001
    return (
        f"{k}r = {into} + ({effective} − 1)×{before} = {out}, "  # noqa: RUF001
        f"jump = {before}×{stride} = {jump}"  # noqa: RUF001
    )

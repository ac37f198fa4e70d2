"""The coursework's limits as ticks and crosses, with what is required and what the net has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual.widgets import Static

from trainer import config as settings
from trainer.characters import in_words
from trainer.config import LimitSettings
from trainer.events import ModelDescribed
from trainer.runs.runstate import RunState
from trainer.words import axes, yes
from tui import formatting

if TYPE_CHECKING:
    from tui.app import CifarApp

NARROW = 118


@dataclass(frozen=True)
class Check:
    """One requirement; ``met`` is ``None`` while it is not known."""

    name: str
    short: str
    """The name where there is little room."""
    required: str
    actual: str
    met: bool | None


def checks(limits: LimitSettings, net: ModelDescribed, best: float | None) -> list[Check]:
    """What is required, against the net and the best test accuracy."""
    found: list[Check] = []
    field = net.receptive_field
    if limits.max_parameters is not None:
        met = net.parameters < limits.max_parameters
        found.append(
            Check(
                "parameters", "params", f"< {limits.max_parameters:,}", f"{net.parameters:,}", met
            )
        )
    if limits.min_receptive_field is not None:
        met_field = None if field is None else min(field) > limits.min_receptive_field
        actual = axes(field) if field else "unknown"
        required = f"> {limits.min_receptive_field}"
        found.append(Check("receptive field", "RF", required, actual, met_field))
    counts: tuple[tuple[str, str, int | None, int | None], ...] = (
        ("depthwise separable", "DW sep.", limits.depthwise_separable, net.depthwise_separable),
        ("dilated", "dilated", limits.dilated, net.dilated),
    )
    for name, short, least, has in counts:
        if least is not None:
            enough = None if has is None else has >= least
            actual = "unknown" if has is None else str(has)
            found.append(Check(name, short, f"≥ {least}", actual, enough))
    # without a receptive field the net could not be followed: older logs have False there
    followed = field is not None
    if limits.global_average_pooling is not None:
        has_pool = net.global_average_pooling if followed else None
        met_pool = has_pool if limits.global_average_pooling else True
        required = "required" if limits.global_average_pooling else "optional"
        found.append(Check("global average pooling", "GAP", required, yes(has_pool), met_pool))
    if limits.no_fc_after_pooling is not None:
        has_fc = net.fc_after_pooling if followed else None
        met_fc = (None if has_fc is None else not has_fc) if limits.no_fc_after_pooling else True
        required = "forbidden" if limits.no_fc_after_pooling else "allowed"
        found.append(Check("FC after pooling", "FC after GAP", required, yes(has_fc), met_fc))
    if limits.target_accuracy is not None:
        met_target = None if best is None else best >= limits.target_accuracy
        target = limits.target_accuracy
        # 87.0 %, but 87.55 %: not fewer digits than it has
        digits = 1 if round(1000 * target, 6).is_integer() else 2
        required = f"≥ {formatting.percent(target, digits)}"
        actual = formatting.percent(best)
        found.append(Check("best test accuracy", "best test", required, actual, met_target))
    return found


class LimitsPanel(Static):
    """As many checks on a line as fit."""

    DEFAULT_CSS = "LimitsPanel { height: auto; padding: 0 1; }"

    def __init__(self) -> None:
        super().__init__("", id="limits", markup=False)
        self._shown: tuple[object, ...] = ()

    def show_run(self, state: RunState, colours: dict[str, str], width: int) -> None:
        """Show the limits of a run; nothing is painted when nothing changed."""
        best = state.best.test_accuracy if state.best else None
        config = state.queued.config if state.queued else ""
        key = (config, state.described, best, width, colours.get("success"))
        if key == self._shown or state.described is None:
            return
        self._shown = key
        asked = settings.of_log(config)
        if asked is None:
            self.update(Text("the run's configuration cannot be read: its limits are unknown"))
            return
        ascii = cast("CifarApp", self.app).terminal.ascii
        found = [
            replace(check, required=in_words(check.required, ascii=ascii))
            for check in checks(asked.limits, state.described, best)
        ]
        self.update(_lines(found, colours, width - 2))


def _lines(found: Sequence[Check], colours: dict[str, str], width: int) -> Text:
    if not found:
        return Text("this run's preset sets no limits", style=colours["secondary"])
    narrow = width < NARROW
    return packed([_part(check, colours, short=narrow) for check in found], width, "   ")


def packed(parts: Sequence[Text], width: int, between: str) -> Text:
    """As many parts on a line as fit, none of them broken."""
    text = Text()
    for part in parts:
        line = text.plain.rpartition("\n")[2]
        if line:
            fits = len(line) + len(between) + part.cell_len <= width
            text.append(between if fits else "\n")
        text.append_text(part)
    return text


def _part(check: Check, colours: dict[str, str], *, short: bool) -> Text:
    glyph, colour = {
        True: ("✓", colours["success"]),
        False: ("✗", colours["error"]),
        None: ("?", colours["warning"]),
    }[check.met]
    part = Text()
    part.append(f"{glyph} ", style=f"bold {colour}")
    part.append(f"{check.short if short else check.name} ")
    part.append(check.actual, style="bold")
    part.append(f" ({check.required})", style=colours["secondary"])
    return part

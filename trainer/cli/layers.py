"""``layers``: a net's layer table with shapes, parameters, MACs and receptive fields."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from model import registry, user_file
from model.errors import ModelError
from trainer.cli.options import JsonOption
from trainer.cli.output import DASH, Column, clean, count, out, percent, table
from trainer.errors import ConfigError
from trainer.files.paths import check_working_directory
from trainer.words import UNKNOWN, axes, yes

if TYPE_CHECKING:
    from model.summary import Summary

COLUMNS = (
    Column("layer", flexible=True),
    Column("type", keep=8),
    Column("kernel", keep=6),
    Column("stride", keep=6),
    Column("padding", keep=2),
    Column("dilation", keep=5),
    Column("groups", right=True, keep=4),
    Column("input", keep=1),
    Column("output", keep=7),
    Column("parameters", right=True),
    Column("share", right=True, keep=2),
    Column("MACs", right=True, keep=7),
    Column("jump", keep=1),
    Column("RF", right=True),
)


class Norm(StrEnum):
    """The normalisation after each convolution."""

    batch = "batch"
    layer = "layer"
    group = "group"


def layers(
    model: Annotated[str, typer.Argument(help="A name from the registry, or file.py:Class.")],
    json: JsonOption = False,
    norm: Annotated[Norm, typer.Option("--norm", help="Normalisation.")] = Norm.batch,
    classes: Annotated[
        int, typer.Option("--classes", min=2, max=10_000, metavar="N", help="Outputs of the net.")
    ] = 10,
) -> None:
    """Print a model's layers and receptive fields."""
    if not user_file.is_file(model):
        _known(model)
    check_working_directory()
    from model.checks import check_output
    from model.summary import summarize

    if json:
        out.alone()
    try:
        net = registry.build(model, classes=classes, norm=norm.value)
        with user_file.importable(model):
            check_output(net, classes)
        summary = summarize(net)
    except ModelError as error:
        raise ConfigError(str(error)) from None
    if json:
        out.json(summary)
        return
    out.lines(*_table(summary), "", *_totals(summary), *_warnings(summary))


def _known(model: str) -> None:
    """Refuse an unknown name before torch is loaded for nothing."""
    try:
        registry.describe(model)
    except ModelError as error:
        raise ConfigError(str(error)) from None


def _table(summary: Summary) -> list[Text]:
    rows = [_row(layer) for layer in summary.layers]
    footer = [""] * len(COLUMNS)
    footer[0], footer[9] = "total", count(summary.parameters)
    footer[10], footer[11] = percent(1.0), count(summary.macs)
    footer[13] = axes(summary.receptive_field)
    return table(COLUMNS, rows, footer=footer)


def _row(layer: Any) -> tuple[str, ...]:
    return (
        layer.path,
        layer.type,
        axes(layer.kernel),
        axes(layer.stride),
        axes(layer.padding),
        axes(layer.dilation),
        count(layer.groups) if layer.groups is not None else "",
        _shape(layer.input_shape),
        _shape(layer.output_shape),
        count(layer.parameters),
        percent(layer.share),
        count(layer.macs),
        axes(layer.jump),
        axes(layer.receptive_field) or DASH,
    )


def _warnings(summary: Summary) -> list[Text]:
    """Where the net does not look at all there is."""
    from model.coverage import layer_skips, short

    pooled = bool(summary.global_average_pooling or summary.fc_after_pooling)
    found = [short(summary.receptive_field, summary.input_shape, pooled=pooled)] + [
        f"{layer.path}: {told}" for layer in summary.layers if (told := layer_skips(layer))
    ]
    return [Text(f"warning: {line}", style="yellow") for line in found if line]


def _shape(value: tuple[int, ...]) -> str:
    return "×".join(map(str, value))  # noqa: RUF001


def _field(summary: Summary) -> str:
    """The receptive field, and where it is taken."""
    if summary.receptive_field is None:
        return f"receptive field {UNKNOWN} before global pooling: {clean(summary.reason)}"
    pooled = summary.global_average_pooling or summary.fc_after_pooling
    where = "global pooling" if pooled else "the layer that mixes all positions"
    field = axes(summary.receptive_field)
    return f"receptive field {field} before {where}, not clipped to the image"


def _totals(summary: Summary) -> list[str]:
    macs = count(summary.macs)
    if summary.macs is None:
        macs = f"{UNKNOWN}: {clean(summary.macs_reason)}"
    separable = UNKNOWN if summary.depthwise_separable is None else summary.depthwise_separable
    return [
        f"parameters {summary.parameters:,} ({summary.trainable_parameters:,} trainable)",
        f"multiply-adds (MACs) per image {macs}",
        _field(summary),
        f"depthwise separable {separable}, dilated {summary.dilated}, "
        f"strided 3x3 {summary.strided3x3}, max pooling {summary.max_pools}",
        f"global average pooling {yes(summary.global_average_pooling)}, "
        f"FC after pooling {yes(summary.fc_after_pooling)}",
    ]

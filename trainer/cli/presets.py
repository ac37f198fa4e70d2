"""``presets``: what can be trained with a name."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from trainer import config as settings
from trainer.cli.options import JsonOption
from trainer.cli.output import Column, clean, count, escaped, out, table
from trainer.config import RunConfig
from trainer.presets import catalog

COLUMNS = (
    Column("preset"),
    Column("model", keep=8),
    Column("epochs", right=True, keep=7),
    Column("description", flexible=True),
)


def presets(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[PRESET]", help="Print this preset as TOML.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the presets, or print one as TOML to save and edit."""
    if name is None:
        _list([catalog.load(preset) for preset in catalog.names()], json)
        return
    config = catalog.load(name)
    if json:
        out.json(settings.to_mapping(config))
        return
    # without its name: a file that was edited is another preset
    own = msgspec.structs.replace(config, preset="")
    # split before others escape what Python takes for the end of a line, too
    lines = escaped(settings.to_toml(own)).split("\n")
    head = f"# Preset {clean(name)}. Save it as mine.toml, edit it, then: cifar-tui train mine.toml"
    out.lines(head, *(line for line in lines if line not in ('preset = ""', 'name = ""')))


def _list(configs: list[RunConfig], json: bool) -> None:
    if json:
        out.json([settings.to_mapping(config) for config in configs])
        return
    rows = [(c.preset, c.model.name, count(c.train.epochs), c.description) for c in configs]
    out.lines(*table(COLUMNS, rows))

"""The fields of a new run as text, and the configuration that comes of them. No widgets here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from model import registry, user_file
from model.errors import ModelError
from trainer import config as settings
from trainer.config import RunConfig
from trainer.errors import ConfigError, UserError
from trainer.files.paths import expanded, is_dir, is_file
from trainer.lifecycle.admission import anchored_data
from trainer.presets import catalog
from tui.datasource import BUILT_IN

ORIGIN = "form"
NORMS = settings.choices_of(RunConfig, "model.norm")
PRECISIONS = settings.choices_of(RunConfig, "train.precision")


@dataclass(frozen=True)
class Field:
    """A line of the form: where its value belongs in the configuration, how it is typed."""

    key: str
    label: str
    path: tuple[str, ...]
    kind: Literal["text", "int", "float", "choice"]
    hint: str = ""
    choices: tuple[str, ...] = ()


FIELDS = (
    Field("model", "model", ("model", "name"), "text"),
    Field("norm", "norm", ("model", "norm"), "choice", "after each convolution", NORMS),
    Field("data", "data", ("data",), "text", "cifar10, cifar100, synthetic, or a folder"),
    Field("epochs", "epochs", ("train", "epochs"), "int", "passes over the training split"),
    Field("batch", "batch size", ("train", "batch_size"), "int", "images per optimizer step"),
    Field("lr", "peak lr", ("optimizer", "lr"), "float"),
    Field("seed", "seed", ("train", "seed"), "int", "of weights, order and augmentation"),
    Field(
        "precision",
        "precision",
        ("train", "precision"),
        "choice",
        "auto: what this device multiplies fastest",
        PRECISIONS,
    ),
    Field("device", "device", ("train", "device"), "text"),
    Field(
        "processes",
        "processes",
        ("train", "processes"),
        "int",
        "train together, each on a GPU of its own or all on the CPU",
    ),
    Field("name", "name", ("name",), "text", "free text, for you"),
    Field("settings", "settings", (), "text", "key=value …, e.g. optimizer.weight_decay=1e-4"),
)
BY_KEY = {field.key: field for field in FIELDS}


def defaults(preset: str, data: str, device: str | None) -> dict[str, str]:
    """The text of each field for a preset, with the app's data and device."""
    values = settings.to_mapping(catalog.load(preset))
    texts = {field.key: _text(_at(values, field.path)) for field in FIELDS if field.path}
    return {**texts, "data": data, "device": device or texts["device"], "name": "", "settings": ""}


def build(preset: str, texts: Mapping[str, str]) -> tuple[RunConfig | None, dict[str, str]]:
    """The configuration, or ``None`` and what is wrong by field (``""``: with the whole)."""
    base = settings.to_mapping(catalog.load(preset))
    wrong: dict[str, str] = {}
    whole = base
    for field in FIELDS:
        text = texts.get(field.key, "").strip()
        try:
            whole = _with(whole, field, text)
            _check(settings.from_mapping(_with(base, field, text), origin=ORIGIN), field, text)
        except UserError as error:
            wrong[field.key] = _reason(error, field)
    if wrong:
        return None, wrong
    try:
        return settings.from_mapping(whole, origin=ORIGIN), {}
    except UserError as error:
        return None, {"": str(error).removeprefix(f"{ORIGIN}: ")}


def _check(config: RunConfig, field: Field, text: str) -> None:
    """What the types of the settings cannot know: whether model and data exist."""
    if field.key in ("model", "settings"):  # the settings may name another net
        try:
            if file := registry.look_up(config.model.name):
                if not is_file(path := expanded(file)):
                    raise ConfigError(f"no such file: {path}")
                user_file.check_class(config.model.name)
        except ModelError as error:
            raise ConfigError(str(error)) from None
    if field.key == "settings":
        settings.check_limits(config.limits)
    elif field.key == "data" and config.data not in BUILT_IN:
        if not text:
            raise ConfigError("a name or a folder")
        if not is_dir(Path(config.data)):
            raise ConfigError("no such data set and no such folder")


def _with(values: Mapping[str, Any], field: Field, text: str) -> dict[str, Any]:
    """A copy of the settings with a field's text in its place."""
    if field.key == "settings":
        try:
            parts = shlex.split(text)
        except ValueError as error:
            raise ConfigError(f"{str(error).lower()} in the settings") from None
        return settings.override(values, parts)
    result = settings.override(values, ())
    table = result
    for part in field.path[:-1]:
        table = table.setdefault(part, {})
    table[field.path[-1]] = _value(field, text)
    return result


def _value(field: Field, text: str) -> object:
    if field.kind == "int":
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"a whole number, not {text!r}") from None
    if field.kind == "float":
        try:
            return float(text)
        except ValueError:
            raise ConfigError(f"a number, not {text!r}") from None
    return anchored_data(text) if field.key == "data" and text else text


def _reason(error: UserError, field: Field) -> str:
    text = str(error).removeprefix(f"{ORIGIN}: ").removeprefix(".".join(field.path) + ": ")
    return text.removeprefix("--set ").replace("`", "")


def _at(values: Mapping[str, Any], path: tuple[str, ...]) -> object:
    for part in path[:-1]:
        values = values.get(part, {})
    return values.get(path[-1], "")


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

"""The presets that come with the program, and the user's own TOML files. Torch-free."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from trainer import config as settings
from trainer.config import RunConfig
from trainer.errors import ConfigError


def names() -> tuple[str, ...]:
    """Names of the built-in presets, sorted."""
    files = resources.files("trainer.presets").iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load(spec: str, overrides: Iterable[str] = ()) -> RunConfig:
    """The configuration of a built-in preset or of a ``.toml`` file, with ``key=value`` overrides.

    Raises:
        ConfigError: no such preset or file, or a setting in it is wrong.
    """
    values = settings.override(_values(spec), overrides)
    return settings.from_mapping(values, origin=spec)


def _values(spec: str) -> dict[str, Any]:
    if spec in names():
        text = resources.files("trainer.presets").joinpath(f"{spec}.toml").read_text("utf-8")
        return {"preset": spec, **settings.parse_toml(text, origin=spec)}
    if spec.endswith(".toml"):
        return {"preset": Path(spec).stem, **settings.read_file(Path(spec))}
    near = difflib.get_close_matches(spec, names(), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"no preset {spec!r}: {hint}presets are {', '.join(names())}, or give a .toml file"
    )

"""What is worth calling the user for, and how: settings, and what has changed in a run. Torch-free.

Settings come from ``[alerts]`` in the user's own configuration file, then from the command line.
Never from a run's settings: a preset of others must not start a command here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import platformdirs
from msgspec import Meta

from trainer import events
from trainer.errors import ConfigError
from trainer.files.paths import expanded
from trainer.runs.runstate import RunState, Status
from trainer.runs.stall import STEPS
from trainer.words import percent

Kind = Literal["end", "nan", "stall", "best"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ENDED: tuple[Status, ...] = ("completed", "stopped", "failed", "crashed")


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[alerts]`` of the user's configuration."""

    when: tuple[Kind, ...] = ("end", "nan", "stall")
    """At the end of a run, at a loss that is not a number, at a stall, at a new best accuracy."""
    bell: bool = True
    """Ring the terminal's bell."""
    notify: bool = True
    """Ask the terminal for a desktop notification (OSC 9)."""
    stall_steps: Annotated[int, Meta(ge=2, le=10**6)] = STEPS
    """A stall is no step for so many times the median step, and at least 30 s."""
    on_end: str = ""
    """A command that the training process starts when a run has ended."""


def user_file() -> Path:
    """``CIFAR_TUI_CONFIG``, or ``config.toml`` in the user's configuration directory.

    Raises:
        ConfigError: the variable names the home of nobody.
    """
    named = os.environ.get("CIFAR_TUI_CONFIG")
    if named:
        return expanded(named)
    return Path(platformdirs.user_config_dir("cifar-tui")) / "config.toml"


def load(
    when: str | None = None, stall_steps: int | None = None, on_end: str | None = None
) -> AlertSettings:
    """The user's settings, with what the command line says in their place.

    Args:
        when: kinds with commas, or ``none``.
        stall_steps: as in the settings.
        on_end: as in the settings; empty for none.

    Raises:
        ConfigError: one of them, or the file, is wrong.
    """
    path = user_file()
    table: Any = {}
    if _is_there(path):
        from trainer import config  # not for the app's first paint without such a file

        found = config.read_file(path)
        table = found.pop("alerts", {})
        for name, value in found.items():  # a setting of no effect would be missed at a run's end
            what = "table" if isinstance(value, dict) else "key"
            raise ConfigError(f"{path}: unknown {what} {name!r}: all settings belong into [alerts]")
    asked: dict[str, Any] = {"stall_steps": stall_steps, "on_end": on_end}
    if when is not None:
        asked["when"] = kinds(when)
    try:
        settings = msgspec.convert(table, AlertSettings)
    except msgspec.ValidationError as error:
        from trainer import config

        raise ConfigError(f"{path}: alerts: {config.explain(error, AlertSettings)}") from None
    given = {key: value for key, value in asked.items() if value is not None}
    settings = msgspec.structs.replace(settings, **given)
    if not 2 <= settings.stall_steps <= 10**6:
        raise ConfigError(f"--stall-steps must be 2 to 1000000, not {settings.stall_steps}")
    split(settings.on_end, named=f"{path}: alerts.on_end" if on_end is None else "--on-end")
    return settings


def _is_there(path: Path) -> bool:
    named = bool(os.environ.get("CIFAR_TUI_CONFIG"))
    try:
        found = path.is_file()
    except OSError as error:
        if named:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        return False  # a home that is not this user's, as in containers
    if named and not found and path != Path(os.devnull):
        raise ConfigError(f"CIFAR_TUI_CONFIG: there is no file {path}")
    return found


def kinds(text: str) -> tuple[Kind, ...]:
    """The kinds in ``end,nan``; ``none`` is none of them.

    Raises:
        ConfigError: there is another word in it.
    """
    words = [word.strip() for word in text.split(",")]
    if words in (["none"], [""]):
        return ()
    wrong = [word for word in words if word not in KINDS]
    if wrong:
        raise ConfigError(f"--alert takes {', '.join(KINDS)} or none, not {wrong[0]!r}")
    return tuple(kind for kind in KINDS if kind in words)


def split(command: str, *, named: str = "--on-end") -> list[str]:
    """The words of a command, as a shell would split them; nothing else of a shell is done.

    Args:
        command: the line.
        named: where it comes from, for the error.

    Raises:
        ConfigError: a quote is open, or it is not UTF-8: what tells a trainer of it is.
    """
    import shlex  # not for the first paint

    try:
        command.encode()
        words = shlex.split(command)
    except UnicodeEncodeError:
        raise ConfigError(f"{named} is not UTF-8 text") from None
    except ValueError as error:
        raise ConfigError(f"{named} {command!r}: {error}") from None
    if any("\0" in word for word in words):
        raise ConfigError(f"{named}: a command cannot contain a null character")
    return words


class Alert(msgspec.Struct, frozen=True):
    """Something to call the user for."""

    kind: Kind
    text: str
    """One line without the run's name; parts of it come from the log."""


class _Known(msgspec.Struct, frozen=True):
    ended: bool
    stalled: bool
    nan_at: float
    best: float


class Watcher:
    """Tells what has changed in a run since the last look; what was so at the first is no news."""

    def __init__(self) -> None:
        self._known: _Known | None = None

    def look(self, state: RunState, status: Status, stalled: int | None) -> list[Alert]:
        """News of a run, the most important first."""
        nan = [(at, n) for at, n in state.notices if n.code == events.NOT_A_NUMBER]
        best = state.best.test_accuracy if state.best is not None else None
        now = _Known(
            ended=status in ENDED,
            stalled=stalled is not None,
            nan_at=nan[-1][0] if nan else 0.0,
            best=-1.0 if best is None else best,
        )
        before, self._known = self._known, now
        if before is None:
            return []
        found: list[Alert] = []
        if now.ended and not before.ended:
            found.append(Alert("end", _end(state, status)))
        if nan and now.nan_at != before.nan_at:
            found.append(Alert("nan", nan[-1][1].message))
        if now.stalled and not before.stalled:
            found.append(Alert("stall", f"no step for {stalled} s"))
        # the first evaluation is the best for lack of others
        if now.best > before.best >= 0 and state.best is not None:
            accuracy = f"best test accuracy {percent(now.best)}"
            found.append(Alert("best", f"{accuracy}, epoch {state.best.epoch}"))
        return found


def _end(state: RunState, status: Status) -> str:
    if status == "failed":
        error = state.ended.error if state.ended is not None else None
        return f"failed: {error or 'no reason given'}"
    best = state.best.test_accuracy if state.best is not None else None
    return f"{status}" + ("" if best is None else f": best test accuracy {percent(best)}")

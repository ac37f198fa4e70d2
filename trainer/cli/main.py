"""The command line without the app: ``python -m trainer …``, and the commands of ``cifar-tui``.

Nothing here imports torch; commands that need it import it when they run.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

import typer

from trainer.cli import data, diff, inspect, layers, mistakes, presets, runs, train
from trainer.cli.output import REPLACED, out, warn
from trainer.errors import UserError
from trainer.exit_codes import BAD_INPUT, COMPLETED, FAILED, STOPPED

app = typer.Typer(
    name="cifar-tui",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("presets")(presets.presets)
app.command("layers")(layers.layers)
app.command("runs")(runs.runs)
app.command("show")(runs.show)
app.command("mistakes")(mistakes.mistakes)
app.command("diff")(diff.diff)
app.command("inspect")(inspect.inspect)
app.command("data")(data.data)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            installed = metadata.version("cifar-tui")
        except metadata.PackageNotFoundError:
            installed = "(not installed: run from its source)"
        out.lines(f"cifar-tui {installed}")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option(
        "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
    ),
]


@app.callback(no_args_is_help=True)
def trainer_only(version: VersionOption = False) -> None:
    """Train CIFAR-10 classifiers and look at their runs."""


def run(
    arguments: Sequence[str] | None = None, *, command: typer.Typer = app, name: str = "cifar-tui"
) -> int:
    """Run a command line; every error the user can cause is one line on standard error.

    Args:
        arguments: without the program's name; ``sys.argv`` by default.
        command: this module's ``app``, with another callback perhaps.
        name: the program's name in the help.

    Returns:
        The exit code, see ``trainer/exit_codes.py``.
    """
    _survive_odd_streams()
    try:
        given = None if arguments is None else list(arguments)
        return _code(command(args=given, prog_name=name, standalone_mode=False))
    except SystemExit as end:
        # so the library of the command line ends when nobody reads its help any more
        return COMPLETED if isinstance(end.__context__, BrokenPipeError) else _code(end.code)
    except UserError as error:
        warn(error)
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        return STOPPED
    except Exception as error:
        if hasattr(error, "format_message"):
            return _misused(error)
        if isinstance(error, OSError):
            out.check()  # the library of the command line writes its help by itself
            if out.lost is not None:
                return _code(None)
        if os.environ.get("CIFAR_TUI_DEBUG"):
            raise
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        warn(f"unexpected error: {reason} (CIFAR_TUI_DEBUG=1 shows where)")
        return FAILED
    finally:
        out.take_back()


def _misused(error: Any) -> int:
    """A wrong option or argument, found by the command line's library: one line as well."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return BAD_INPUT
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "cifar-tui"
    text = error.format_message().rstrip(".")
    warn(f"{text[:1].lower()}{text[1:]} ('{path} --help' tells more)")
    return BAD_INPUT


def _code(code: object) -> int:
    if out.required and out.lost is not None and out.lost.errno != errno.EPIPE and not code:
        return FAILED
    return code if isinstance(code, int) else COMPLETED if code is None else FAILED


def _survive_odd_streams() -> None:
    """Closed streams become the null device; for characters they cannot encode stand others."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=REPLACED)

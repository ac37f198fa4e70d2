"""Options that several commands have, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.files.paths import absolute
from trainer.runs.rundir import default_runs_dir


def not_empty(text: str) -> str:
    """What an option was given; an unset variable is no "here" for what is made there."""
    if not text:
        raise typer.BadParameter("it is empty")
    return text


def _path(text: str) -> Path:
    return Path(not_empty(text))


RunsDirOption = Annotated[
    Path | None,
    typer.Option(
        "--runs-dir", parser=_path, metavar="DIR", help="Where the runs lie.", show_default=False
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        parser=_path,
        metavar="DIR",
        help="Where downloaded data sets lie.",
        show_default=False,
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        parser=not_empty,
        metavar="DATA",
        help="cifar10, cifar100, synthetic, or a folder.",
        show_default=False,
    ),
]
TrustNetOption = Annotated[
    bool,
    typer.Option(
        "--trust-net", help="Run the code of a run's net although its file is another user's."
    ),
]
ChangedNetOption = Annotated[
    bool,
    typer.Option("--changed-net", help="Take a run's net although its files were changed since."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
AlertOption = Annotated[
    str | None,
    typer.Option(
        "--alert",
        metavar="end,nan,stall,best|none",
        help="When to ring and to notify.",
        show_default=False,
    ),
]
StallOption = Annotated[
    int | None,
    typer.Option(
        "--stall-steps",
        metavar="N",
        help="A stall: no step for N times the median step, at least 30 s.",
        show_default=False,
    ),
]
OnEndOption = Annotated[
    str | None,
    typer.Option(
        "--on-end",
        metavar="CMD",
        help="Start a command when the run has ended; CIFAR_TUI_* tell it how, over all attempts. "
        "No shell; its output goes to on-end.log in the run's folder.",
        show_default=False,
    ),
]


def runs_dir(given: Path | None) -> Path:
    """The runs directory that an option names, or the usual one; an absolute path."""
    return absolute(given) if given is not None else default_runs_dir()


def data_dir(given: Path | None) -> Path | None:
    """The data directory that an option names; an absolute path."""
    return absolute(given) if given is not None else None

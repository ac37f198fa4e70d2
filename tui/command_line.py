"""The command line of ``cifar-tui``: the trainer's commands, and the app where there is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import typer

from trainer.cli.main import VersionOption, app, run
from trainer.cli.options import AlertOption, OnEndOption

OpenApp = Callable[..., int]


def run_with_app(open_app: OpenApp) -> int:
    """Run the command line; the exit status. ``open_app`` takes the app's options."""

    def open_or_pass(
        context: typer.Context,
        runs_dir: Annotated[
            str | None, typer.Option("--runs-dir", metavar="DIR", help="Where the runs lie.")
        ] = None,
        data: Annotated[
            str | None,
            typer.Option(metavar="DATA", help="cifar10, cifar100, synthetic, or a folder."),
        ] = None,
        device: Annotated[
            str | None, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
        ] = None,
        alert: AlertOption = None,
        stall_steps: Annotated[
            str | None,
            typer.Option(
                metavar="N", help="A stall: no step for N times the median step, at least 30 s."
            ),
        ] = None,
        on_end: OnEndOption = None,
        version: VersionOption = False,
    ) -> None:
        """Train CIFAR-10 classifiers in the terminal. Without a command: open the app."""
        if runs_dir:
            # a command after it means the same directory
            os.environ["CIFAR_TUI_RUNS"] = runs_dir
        if context.invoked_subcommand is None:
            raise typer.Exit(open_app(runs_dir, data, device, alert, stall_steps, on_end))

    app.callback(invoke_without_command=True, no_args_is_help=False)(open_or_pass)
    return run(command=app)

"""The command line of ``cifar-tui``: the trainer's commands, and the app where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from trainer.cli.main import VersionOption, app, run
from trainer.cli.options import AlertOption, OnEndOption, not_empty
from trainer.config import DEVICES
from trainer.errors import ConfigError

OpenApp = Callable[..., int]


def run_with_app(open_app: OpenApp) -> int:
    """Run the command line; the exit status. ``open_app`` takes the app's options."""

    def open_or_pass(
        context: typer.Context,
        runs_dir: Annotated[
            str | None,
            typer.Option("--runs-dir", parser=not_empty, metavar="DIR", help="Where the runs lie."),
        ] = None,
        data: Annotated[
            str | None,
            typer.Option(
                parser=not_empty, metavar="DATA", help="cifar10, cifar100, synthetic, or a folder."
            ),
        ] = None,
        device: Annotated[str | None, typer.Option(metavar="DEVICE", help=f"{DEVICES}.")] = None,
        alert: AlertOption = None,
        stall_steps: Annotated[
            str | None,
            typer.Option(
                metavar="N", help="A stall: no step for N times the median step, at least 30 s."
            ),
        ] = None,
        on_end: OnEndOption = None,
        human: Annotated[
            str | None,
            typer.Option(
                metavar="FILE",
                help="People's answers, an .npy of counts as CIFAR-10H; also CIFAR_TUI_HUMAN.",
            ),
        ] = None,
        review: Annotated[
            str | None,
            typer.Option(
                metavar="FILE",
                help="A label review, JSON as label-errors has it; also CIFAR_TUI_REVIEW.",
            ),
        ] = None,
        ascii: Annotated[
            bool,
            typer.Option("--ascii", help="Only ASCII; automatic where the locale is not UTF-8."),
        ] = False,
        low_bandwidth: Annotated[
            bool, typer.Option("--low-bandwidth", help="For a link of some 9,600 baud.")
        ] = False,
        full_bandwidth: Annotated[
            bool, typer.Option("--full-bandwidth", help="Do not slow the charts down under SSH.")
        ] = False,
        graphics: Annotated[
            bool,
            typer.Option(
                "--graphics",
                help="Kitty's or Sixel graphics for one image, where the terminal has them.",
            ),
        ] = False,
        version: VersionOption = False,
    ) -> None:
        """Train CIFAR-10 classifiers in the terminal. Without a command: open the app."""
        if context.invoked_subcommand is not None:
            _hand_on(context, context.invoked_subcommand, runs_dir)
        else:
            status = open_app(
                runs_dir,
                data,
                device,
                alert,
                stall_steps,
                on_end,
                human,
                review,
                ascii=ascii,
                low_bandwidth=low_bandwidth,
                full_bandwidth=full_bandwidth,
                graphics=graphics,
            )
            raise typer.Exit(status)

    app.callback(invoke_without_command=True, no_args_is_help=False)(open_or_pass)
    return run(command=app)


def _hand_on(context: typer.Context, name: str, runs_dir: str | None) -> None:
    """Give a command the runs directory before it.

    Raises:
        ConfigError: there are other options before it, which it would not get.
    """
    group: Any = context.command
    options = {option: p for p in group.get_command(context, name).params for option in p.opts}
    for given in context.command.params:
        option = given.opts[0]
        if option == "--runs-dir" or context.params.get(given.name or "") in (None, False):
            continue
        if option in options:
            raise ConfigError(f"put {option} behind the command: cifar-tui {name} … {option}")
        raise ConfigError(f"{option} is the app's: 'cifar-tui {name}' does not have it")
    if runs_dir is not None and "--runs-dir" in options:
        context.default_map = {name: {options["--runs-dir"].name: runs_dir}}

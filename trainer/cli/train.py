"""``train``: one run without the app."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from trainer import events, exit_codes
from trainer.cli.attend import attend
from trainer.cli.detach import detach
from trainer.cli.options import (
    AlertOption,
    ChangedNetOption,
    DataDirOption,
    DataOption,
    JsonOption,
    OnEndOption,
    RunsDirOption,
    StallOption,
    TrustNetOption,
    data_dir,
    runs_dir,
)
from trainer.cli.output import clean, duration, out, percent, warn
from trainer.cli.progress import JsonView, PlainView, TerminalView, View
from trainer.config import setting
from trainer.distributed.attempt import resubmit_once, submit_once
from trainer.distributed.rank import dismiss, follow
from trainer.distributed.world import from_environment
from trainer.errors import ConfigError, RunError
from trainer.files.paths import check_working_directory
from trainer.lifecycle import alerts
from trainer.lifecycle.admission import admitted, anchored_data, check_data
from trainer.lifecycle.aftermath import ended as ended_before
from trainer.lifecycle.on_end import seconds_of
from trainer.lifecycle.submit import read_config, resubmit, submit, withdraw
from trainer.loop import cores, heap
from trainer.presets import catalog
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import DELETED, RunDir, find
from trainer.spoiled import leave


def train(
    preset: Annotated[
        str | None,
        typer.Argument(metavar="PRESET|FILE.toml", help="What to train.", show_default=False),
    ] = None,
    data: DataOption = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", help="Passes over the training split.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            help="Images per optimizer step, of all processes together.",
        ),
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", metavar="X", help="Peak learning rate.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of weights, order and augmentation.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="auto|cpu|cuda|cuda:N|mps",
            help="Where to train; auto: a GPU where there is one.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="auto|fp32|bf16|fp16",
            help="Of convolutions and products; auto: bf16 where the device multiplies in it.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The run's name.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting: optimizer.momentum=0.8"),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="RUN", help="Go on with a run that stopped, failed or crashed."
        ),
    ] = None,
    trust_net: TrustNetOption = False,
    changed_net: ChangedNetOption = False,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            metavar="N",
            help="Train in N processes together, each on a GPU or all on the CPU.",
        ),
    ] = None,
    max_restarts: Annotated[
        int | None,
        typer.Option(
            "--max-restarts", metavar="N", help="Start all processes anew when one has died."
        ),
    ] = None,
    detached: Annotated[
        bool, typer.Option("--detach", help="Train in a process of its own and return at once.")
    ] = False,
    alert: AlertOption = None,
    stall_steps: StallOption = None,
    on_end: OnEndOption = None,
    json: JsonOption = False,
    directory: RunsDirOption = None,
    data_directory: DataDirOption = None,
) -> None:
    """Train a preset, or a TOML file of your own. Ctrl-C stops it and keeps a checkpoint."""
    check_working_directory()
    heap.share_one_arena()
    cores.give_way()
    if json:
        out.alone()
    world = from_environment()
    if world is not None and not world.first:
        raise typer.Exit(follow(world))
    if world is not None and (detached or processes is not None):
        raise ConfigError("torchrun says how many processes train: no --processes, no --detach")
    if world is not None:
        processes = world.size
    asked = {
        "data": data,
        "name": name,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.seed": seed,
        "train.device": device,
        "train.precision": precision,
        "train.max_restarts": max_restarts,
        "optimizer.lr": lr,
    }
    given = [setting(key, value) for key, value in asked.items() if value is not None]
    overrides, place = [*given, *(settings or [])], data_dir(data_directory)
    calls = alerts.load(alert, stall_steps, on_end)
    if changed_net and resume is None:
        raise ConfigError("--changed-net goes with --resume: a new run takes the net as it is")
    if trust_net and resume is None:
        raise ConfigError("--trust-net goes with --resume: a new run's net is the one you name")
    if detached and (alert is not None or stall_steps is not None):
        raise ConfigError(
            "--alert and --stall-steps ring in the terminal, which --detach leaves: take --on-end, "
            "or give them to the app"
        )
    found = False  # whether torchrun has started anew what trains it already
    if resume is not None:
        fixed = [value for key, value in asked.items() if key != "data" and value is not None]
        if preset is not None or settings or fixed:
            raise ConfigError(
                "--resume goes on with a run's own settings: give no others with it but --data, "
                "where its data lie by now, and --processes"
            )
        if data is not None:
            data = anchored_data(data)
            check_data(data, place)
        if world is None:
            run = find(runs_dir(directory), resume)
            resubmit(
                run,
                processes=processes,
                data=data,
                data_dir=place,
                trust_net=trust_net,
                changed_net=changed_net,
            )
        else:
            run, found = resubmit_once(
                *(resume, runs_dir(directory), world),
                data=data,
                data_dir=place,
                trust_net=trust_net,
                changed_net=changed_net,
            )
        config = read_config(run)
    elif preset is None:
        raise ConfigError("what to train? give a preset ('cifar-tui presets' lists them) or a file")
    else:
        if processes is not None:
            overrides.append(f"train.processes={processes}")
        config = admitted(catalog.load(preset, overrides), place)
        if world is None:
            run = submit(config, runs_dir(directory))
        else:
            run, found = submit_once(config, runs_dir(directory), world)
    if detached:
        where = None if directory is None else run.path.parent
        _leave(run, place, where, new=resume is None, json=json, on_end=calls.on_end)
        return
    if world is not None and found:
        if (before := ended_before(run)) is not None:
            leave(dismiss(world, run, before))
        world = replace(world, restarts=max(1, world.restarts))
    old = found or resume is not None
    out.required = False  # from here on the run is what counts
    view: View = JsonView() if json else TerminalView() if _is_live() else PlainView()
    out.lend()
    new = resume is None and not run.has_checkpoint("last")
    ended = attend(run, Control(run), view, place, resume=old, new=new, settings=calls, world=world)
    # only an attempt is over when ranks were lost: a notice has told it, torchrun starts them anew
    anew = world is not None and world.restarts_left and ended_before(run) is None
    follower = Follower(run)
    state = follower.catch_up()
    if not json and not (anew and ended.state == "failed"):
        _conclude(follower, ended, config.data)
    if world is not None:
        leave(exit_codes.for_torchrun(ended))
    if state.ended is None and ended.state == "completed":
        raise typer.Exit(exit_codes.FAILED)  # whoever looks at the run finds a crash
    raise typer.Exit(exit_codes.of_run(ended))


def _leave(
    run: RunDir,
    data_directory: Path | None,
    directory: Path | None,
    *,
    new: bool,
    json: bool,
    on_end: str,
) -> None:
    """Let another process train the run, and say how to find it in a directory that was named."""
    try:
        pid = detach(run, data_dir=data_directory, resume=not new, on_end=on_end)
    except RunError:
        if new:
            withdraw(run)
        raise
    if json:
        out.json({"run": run.id, "folder": str(run.path), "pid": pid})
    else:
        there = "" if directory is None else f" --runs-dir {shlex.quote(clean(directory, 4096))}"
        out.lines(
            f"run {run.id} trains in process {pid}",
            f"watch it: cifar-tui{there}",
            f"look at it: cifar-tui show {run.id}{there}",
        )


def _conclude(follower: Follower, ended: events.RunEnded, data: str) -> None:
    run, state = follower.run, follower.state
    best = ""
    if ended.best_accuracy is not None:
        best = f": best test accuracy {percent(ended.best_accuracy)} in epoch {ended.best_epoch}"
    seconds = seconds_of(state, ended)
    out.lines(f"{ended.state}{best} on {clean(data)}, {duration(seconds)}")
    if ended.error != DELETED:  # else neither its folder nor its log is there
        out.lines(f"run {run.path}")
        _warn_of_log(follower)
    if ended.state == "failed":
        warn(f"the run failed: {ended.error or 'for an unknown reason'}{follower.more}")
    elif ended.error:
        warn(f"the run stays {ended.state}: {ended.error}")


def _warn_of_log(follower: Follower) -> None:
    """Where it does not tell all of the run."""
    state, log = follower.state, follower.run.log
    if follower.problem:
        warn(f"the log {log} cannot be read: was the folder moved or removed?")
    elif state.missing or state.ended is None:
        full = state.told(events.DISK_FULL)
        lost = f"{state.missing} events miss" if state.missing else "its end misses"
        warn(f"the log of this run is incomplete ({lost}){': the disk was full' if full else ''}")


def _is_live() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")

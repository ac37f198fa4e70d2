"""Figures of several runs side by side, and the settings in which they differ. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer import config as settings
from trainer.events import Variant
from trainer.runs.follower import Follower
from trainer.runs.runstate import EpochRow, RunState
from trainer.words import axes, trained
from tui import formatting
from tui.columns import fitting_columns
from tui.formatting import DASH
from tui.run_words import data_of, model_of, name_of, norm_of, time_of


@dataclass(frozen=True)
class Column:
    """A column of the results: its width in cells, and how early it goes where there is no room."""

    title: str
    width: int
    rank: int = 0
    right: bool = True


COLUMNS = (
    Column("preset", 13, 3, right=False),
    Column("model", 13, 2, right=False),
    Column("norm", 8, 4, right=False),
    Column("optimizer", 11, 4, right=False),
    Column("lr", 10, 3),
    Column("data", 11, 0, right=False),
    Column("parameters", 12, 1),
    Column("RF", 8, 3),
    Column("MACs", 8, 4),
    Column("best test acc", 15, 0),
    Column("epoch", 7, 0),
    Column("EMA test acc", 14, 1),
    Column("TTA test acc", 14, 1),
    Column("last train acc", 16, 1),
    Column("time", 10, 0),
    Column("images/s", 10, 2),
)
OTHERS: dict[str, Variant] = {"EMA test acc": "ema", "TTA test acc": "tta"}
"""Columns that are there only where a run has such an evaluation."""
IGNORED = ("name", "preset", "description", "limits")


def fitting(width: int, runs: Sequence[Follower] = ()) -> tuple[int, ...]:
    """Indices of the columns for a width, of those that these runs have."""
    made = {
        variant for run in runs for variant in OTHERS.values() if run.state.latest_eval(variant)
    }
    had = [i for i, c in enumerate(COLUMNS) if c.title not in OTHERS or OTHERS[c.title] in made]
    sizes = [(COLUMNS[i].width, COLUMNS[i].rank) for i in had]
    return tuple(had[at] for at in fitting_columns(sizes, width))


def best_first(runs: Sequence[Follower]) -> list[Follower]:
    """By best test accuracy; runs without an evaluation last."""

    def rank(run: Follower) -> float:
        best = best_accuracy(run)
        return 1.0 if best is None else -best

    return sorted(runs, key=rank)


def best_accuracy(run: Follower) -> float | None:
    """On the test split, 0 to 1; ``None`` without an evaluation."""
    return run.state.best.test_accuracy if run.state.best is not None else None


def comparable(runs: Sequence[Follower]) -> bool:
    """Whether all runs that have begun were tested on the same images."""
    begun = [run.state.started for run in runs if run.state.started is not None]
    return len({(s.data_kind, s.data_fingerprint) for s in begun}) <= 1


def figures(run: Follower) -> dict[str, Any]:
    """The results of a run for export; every accuracy names its split."""
    state = run.state
    best = state.best
    last = _last_trained(state)
    described, started = state.described, state.started
    field = described.receptive_field if described is not None else None
    flat = _flat(run)
    ema, tta = state.latest_eval("ema"), state.latest_eval("tta")
    return {
        "run": run.run.id,
        "name": name_of(run),
        "state": run.status,
        "preset": formatting.clean(state.queued.preset) if state.queued is not None else None,
        "model": model_of(run),
        "norm": norm_of(str(flat.get("model.name", "")), flat.get("model.norm")),
        "optimizer": flat.get("optimizer.name"),
        "lr": flat.get("optimizer.lr"),
        "data": started.data_kind if started is not None else data_of(run),
        "data_fingerprint": started.data_fingerprint if started is not None else None,
        "best_test_accuracy": best.test_accuracy if best is not None else None,
        "best_epoch": best.epoch if best is not None else None,
        "test_loss_at_best": best.test_loss if best is not None else None,
        "ema_test_accuracy": ema.accuracy if ema is not None else None,
        "tta_test_accuracy": tta.accuracy if tta is not None else None,
        "last_train_accuracy": last.train_accuracy if last is not None else None,
        "last_train_images": (last.train_images or None) if last is not None else None,
        "last_images_per_second": last.images_per_second if last is not None else None,
        "epochs": state.epochs_trained,
        "seconds": state.elapsed,
        "parameters": described.parameters if described is not None else None,
        "macs": described.macs if described is not None else None,
        "receptive_field": _field(field),
    }


def _field(field: tuple[int, int] | None) -> int | str | None:
    """One number of a square field, else both: a column of an export has one value."""
    if field is None:
        return None
    return field[0] if field[0] == field[1] else axes(field)


def last_left_easy_out(run: Follower) -> bool:
    """Whether a run's last training accuracy is of the hardest images only."""
    last = _last_trained(run.state)
    return last is not None and run.state.left_easy_out(last)


def _last_trained(state: RunState) -> EpochRow | None:
    return next((row for row in reversed(state.epochs) if row.train_accuracy is not None), None)


def cells(run: Follower) -> tuple[str, ...]:
    """The table's cells, in the order of ``COLUMNS``."""
    found = figures(run)
    return (
        found["preset"] or DASH,
        formatting.clean(found["model"].rpartition("/")[2]) or DASH,
        str(found["norm"] or DASH),
        str(found["optimizer"] or DASH),
        formatting.rate(found["lr"]),
        data_of(run),
        formatting.count(found["parameters"]),
        str(found["receptive_field"] or DASH),
        formatting.compact(found["macs"]),
        formatting.percent(found["best_test_accuracy"]),
        str(found["best_epoch"] or DASH),
        formatting.percent(found["ema_test_accuracy"]),
        formatting.percent(found["tta_test_accuracy"]),
        trained(formatting.percent(found["last_train_accuracy"]), hardest=last_left_easy_out(run)),
        time_of(run),
        formatting.compact(found["last_images_per_second"]),
    )


def differences(runs: Sequence[Follower]) -> dict[str, list[str]]:
    """Settings that are not the same in all runs: key, value in each run."""
    flat = [_flat(run) for run in runs]
    keys = sorted({key for one in flat for key in one})
    found = {key: [str(one.get(key, DASH)) for one in flat] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def _flat(run: Follower) -> dict[str, Any]:
    config = settings.of_log(run.state.queued.config) if run.state.queued is not None else None
    if config is None:
        return {}
    flat: dict[str, Any] = {}
    for key, value in settings.to_mapping(config).items():
        if key in IGNORED:
            continue
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in value.items()})
        else:
            flat[key] = value
    return flat

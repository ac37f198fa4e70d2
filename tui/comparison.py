"""Figures of several runs side by side, and the settings in which they differ. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer import config as settings
from trainer.errors import ConfigError
from trainer.runstate import Follower
from tui import formatting
from tui.widgets.run_table import data_of, model_of, name_of

COLUMNS: tuple[tuple[str, int], ...] = (
    ("best test", 11),
    ("at", 6),
    ("test loss", 11),
    ("train acc", 11),
    ("parameters", 12),
    ("RF", 5),
    ("MACs", 8),
    ("time", 10),
    ("images/s", 10),
    ("data", 12),
)
IGNORED = ("name", "preset", "description", "limits")


def best_first(runs: Sequence[Follower]) -> list[Follower]:
    """By best test accuracy; runs without an evaluation last."""
    return sorted(runs, key=lambda r: -(r.state.best.test_accuracy or 0.0) if r.state.best else 1.0)


def figures(run: Follower) -> dict[str, Any]:
    """The results of a run for export; every accuracy names its split."""
    state = run.state
    best, last = state.best, state.epochs[-1] if state.epochs else None
    described, started = state.described, state.started
    field = described.receptive_field if described is not None else None
    return {
        "run": run.run.id,
        "name": name_of(run),
        "state": run.status,
        "model": model_of(run),
        "data": started.data_kind if started is not None else data_of(run),
        "data_fingerprint": started.data_fingerprint if started is not None else None,
        "best_test_accuracy": best.test_accuracy if best is not None else None,
        "best_epoch": best.epoch if best is not None else None,
        "test_loss_at_best": best.test_loss if best is not None else None,
        "last_train_accuracy": last.train_accuracy if last is not None else None,
        "last_images_per_second": last.images_per_second if last is not None else None,
        "epochs": len(state.epochs),
        "seconds": state.elapsed,
        "parameters": described.parameters if described is not None else None,
        "macs": described.macs if described is not None else None,
        "receptive_field": max(field) if field is not None else None,
    }


def cells(run: Follower) -> tuple[str, ...]:
    """The table's cells, in the order of ``COLUMNS``."""
    found = figures(run)
    return (
        formatting.percent(found["best_test_accuracy"]),
        str(found["best_epoch"] or formatting.DASH),
        formatting.decimal(found["test_loss_at_best"]),
        formatting.percent(found["last_train_accuracy"]),
        formatting.count(found["parameters"]),
        str(found["receptive_field"] or formatting.DASH),
        formatting.compact(found["macs"]),
        formatting.duration(found["seconds"], tenths=False),
        formatting.compact(found["last_images_per_second"]),
        data_of(run),
    )


def differences(runs: Sequence[Follower]) -> dict[str, list[str]]:
    """Settings that are not the same in all runs: key, value in each run."""
    flat = [_flat(run) for run in runs]
    keys = sorted({key for one in flat for key in one})
    found = {key: [str(one.get(key, formatting.DASH)) for one in flat] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def _flat(run: Follower) -> dict[str, Any]:
    if run.state.queued is None:
        return {}
    try:
        values = settings.to_mapping(settings.from_toml(run.state.queued.config))
    except ConfigError:
        return {}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in IGNORED:
            continue
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in value.items()})
        else:
            flat[key] = value
    return flat

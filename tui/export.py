"""Export of runs: results and epochs as CSV and JSON, the four graphs as SVG. Torch-free."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from trainer.errors import RunError
from trainer.runstate import EpochRow, Follower
from tui import comparison
from tui.curves import Quantity, Split, epoch_points


def export_runs(runs: Sequence[Follower], runs_dir: Path) -> Path:
    """Write ``summary.csv``, ``epochs.csv``, ``runs.json`` and four ``.svg`` graphs.

    File names come from the program alone, never from a run's name.

    Returns:
        The new folder, ``export-…`` in the runs directory.

    Raises:
        RunError: it cannot be written.
    """
    folder = runs_dir / f"export-{time.strftime('%Y%m%d-%H%M%S')}"
    summaries = [comparison.figures(run) for run in comparison.best_first(runs)]
    try:
        folder.mkdir(exist_ok=True)
        _write_csv(folder / "summary.csv", summaries)
        _write_csv(folder / "epochs.csv", _epochs(runs))
        everything = [
            {**comparison.figures(run), "epoch_rows": [asdict(r) for r in run.state.epochs]}
            for run in runs
        ]
        (folder / "runs.json").write_text(json.dumps(everything, indent=1, allow_nan=False))
        for split in ("train", "test"):
            for quantity in ("loss", "accuracy"):
                _write_graph(folder, runs, quantity, split)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from None
    return folder


def _epochs(runs: Sequence[Follower]) -> list[dict[str, Any]]:
    return [{"run": run.run.id, **asdict(row)} for run in runs for row in run.state.epochs]


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    names = list(rows[0]) if rows else ["run", *(f.name for f in fields(EpochRow))]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({k: _inert(v) for k, v in row.items()} for row in rows)


def _inert(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula becomes text."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return f"'{value}"
    return value


def _write_graph(folder: Path, runs: Sequence[Follower], quantity: Quantity, split: Split) -> None:
    lines = []
    palette = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
    curves = [epoch_points(run.state, quantity, split, "epoch") for run in runs]
    xs = [x for c in curves for x in c.x] or [1.0]
    ys = [y for c in curves for y in c.y] or [0.0, 1.0]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    width, height = right - left or 1.0, high - low or 1.0
    for i, (run, curve) in enumerate(zip(runs, curves, strict=True)):
        colour = palette[i % len(palette)]
        points = " ".join(
            f"{60 + 520 * (x - left) / width:.1f},{340 - 300 * (y - low) / height:.1f}"
            for x, y in zip(curve.x, curve.y, strict=True)
        )
        lines.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>'
            f'<text x="600" y="{60 + 20 * i}" fill="{colour}">{run.run.id}</text>'
        )
    labels = (
        f'<text x="60" y="25">{split} {quantity} by epoch</text>'
        f'<text x="5" y="340">{low:.3g}</text><text x="5" y="50">{high:.3g}</text>'
        f'<text x="60" y="365">{left:g}</text><text x="560" y="365">{right:g}</text>'
        '<path d="M60 40V340H580" fill="none" stroke="#888"/>'
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 380" '
        f'font-family="sans-serif" font-size="13">{labels}{"".join(lines)}</svg>\n'
    )
    (folder / f"{split}-{quantity}.svg").write_text(svg, "utf-8")

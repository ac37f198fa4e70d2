"""Export of runs: results and epochs as CSV and JSON, the four graphs as SVG. Torch-free."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from trainer.analysis.export import inert
from trainer.errors import RunError
from trainer.runs.follower import Follower
from trainer.runs.runstate import EpochRow
from tui import formatting
from tui.charts import comparison, curves
from tui.charts.curves import Points, Quantity, Split

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 60, 640, 40, 370


@dataclass(frozen=True)
class Export:
    """Files by name, ready to be written; names come from the program, never from a run."""

    files: Mapping[str, str | bytes]

    def write(self, runs_dir: Path) -> Path:
        """Write them into a new folder ``export-…`` of the runs directory, which it returns.

        Raises:
            RunError: it cannot be written.
        """
        stamp = f"export-{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            folder = _new_folder(runs_dir, stamp)
            for name, content in self.files.items():
                raw = content.encode() if isinstance(content, str) else content
                _write_whole(folder / name, raw)
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"cannot write {runs_dir / stamp}: {reason}") from None
        return folder


def _write_whole(path: Path, content: bytes) -> None:
    """Half a file on a full disk would look like all of it."""
    try:
        path.write_bytes(content)
    except OSError:
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()  # unless other files are there
        raise


def _new_folder(runs_dir: Path, stamp: str) -> Path:
    for number in range(1, 1000):
        folder = runs_dir / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise OSError(0, "too many exports in one second")


def prepare(runs: Sequence[Follower], colours: Sequence[str]) -> Export:
    """The files of an export, out of the runs as they are now: ``colours`` as ``#rrggbb``."""
    ordered = comparison.best_first(runs)
    everything = [
        {**comparison.figures(run), "epoch_rows": [asdict(row) for row in run.state.epochs]}
        for run in ordered
    ]
    files: dict[str, str | bytes] = {
        "summary.csv": _csv([comparison.figures(run) for run in ordered], []),
        "epochs.csv": _csv(_epochs(ordered), ["run", *EpochRow.__struct_fields__]),
        "runs.json": json.dumps(everything, indent=1, ensure_ascii=False) + "\n",
    }
    for split in ("train", "test"):
        for quantity in ("loss", "accuracy"):
            files[f"{split}-{quantity}.svg"] = graph(runs, colours, quantity, split)
    return Export(files)


def _epochs(runs: Sequence[Follower]) -> list[dict[str, Any]]:
    return [{"run": run.run.id, **asdict(row)} for run in runs for row in run.state.epochs]


def _csv(rows: list[dict[str, Any]], names: list[str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names or list(rows[0]))
    writer.writeheader()
    writer.writerows({k: inert(v) for k, v in row.items()} for row in rows)
    return text.getvalue()


def graph(
    runs: Sequence[Follower], colours: Sequence[str], quantity: Quantity, split: Split
) -> str:
    """One of the four graphs as SVG, by epoch."""
    lines = [curves.epoch_points(run.state, quantity, split, "epoch").finite() for run in runs]
    # at least 1: a damaged log may know of an epoch 0 alone
    x = (0.0, max([1.0, *(float(line.x[-1]) for line in lines if len(line))]))
    y = curves.value_limits(lines, quantity, fit=False)
    parts = [_axes(x, y, quantity, f"{split} {quantity}")]
    for i, (run, colour, line) in enumerate(zip(runs, colours, lines, strict=True)):
        placed = _placed(line, x, y)
        where = " ".join(f"{px:.1f},{py:.1f}" for px, py in placed)
        if len(placed) == 1:  # a line of one point is none
            (px, py) = placed[0]
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>')
        name = escape(formatting.clean(comparison.figures(run)["name"], 32))
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{where}"/>'
            f'<path d="M660 {55 + 22 * i}h24" stroke="{colour}" stroke-width="3"/>'
            f'<text x="690" y="{60 + 22 * i}" fill="#dadada">{name}</text>'
        )
    height = max(HEIGHT, 70 + 22 * len(runs))  # each has a line of the legend
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" '
        f'fill="#121212"/>{"".join(parts)}</svg>\n'
    )


def _placed(
    line: Points, x: tuple[float, float], y: tuple[float, float]
) -> list[tuple[float, float]]:
    across = LEFT + (RIGHT - LEFT) * (line.x - x[0]) / (x[1] - x[0])
    down = BOTTOM - (BOTTOM - TOP) * (line.y - y[0]) / (y[1] - y[0])
    return list(zip(across.tolist(), down.tolist(), strict=True))


def _axes(x: tuple[float, float], y: tuple[float, float], quantity: Quantity, title: str) -> str:
    grey = 'fill="#9e9e9e"'
    found = [
        f'<text x="{LEFT}" y="25" fill="#dadada" font-weight="bold">{title}</text>'
        f'<text x="{RIGHT}" y="{BOTTOM + 40}" {grey} text-anchor="end">epoch</text>'
        f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="#9e9e9e"/>'
    ]
    for tick in curves.whole_ticks(*x, 8):
        at = LEFT + (RIGHT - LEFT) * (tick - x[0]) / (x[1] - x[0])
        found.append(
            f'<text x="{at:.1f}" y="{BOTTOM + 18}" {grey} text-anchor="middle">{tick:g}</text>'
        )
    for tick in curves.ticks(*y, 6):
        at = BOTTOM - (BOTTOM - TOP) * (tick - y[0]) / (y[1] - y[0])
        label = f"{100 * tick:.0f} %" if quantity == "accuracy" else f"{tick:.4g}"
        found.append(
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" {grey} text-anchor="end">{label}</text>'
        )
    return "".join(found)

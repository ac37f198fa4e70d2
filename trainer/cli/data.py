"""``data``: what images are there, and getting them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from trainer.cli.options import DataDirOption, DataOption, JsonOption, data_dir
from trainer.cli.output import Column, clean, count, out, size, table
from trainer.errors import ConfigError, DataError

if TYPE_CHECKING:
    from trainer.data.dataset import Dataset

COLUMNS = (Column("class", flexible=True), Column("train", right=True), Column("test", right=True))


def data(
    data: DataOption = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show augmented training images in the terminal.")
    ] = False,
    preset: Annotated[
        str, typer.Option("--preset", help="Whose augmentation the preview shows.")
    ] = "dws-late",
    json: JsonOption = False,
    data_directory: DataDirOption = None,
) -> None:
    """Say what images there are: counts, checksums, mean and std."""
    from trainer.data import sources

    source, place = data or "cifar10", data_dir(data_directory)
    found = sources.available(source, data_dir=place)
    if not found.ready:
        if json:
            out.json({"error": found.message})
        raise DataError(found.message)
    if preview:
        _preview(source, place, preset)
        return
    report = describe(sources.load(source, data_dir=place), found.path)
    if json:
        out.json(report)
    else:
        out.lines(*_lines(report))


def _preview(source: str, place: Path | None, preset: str) -> None:
    from trainer.cli import preview
    from trainer.data import sources
    from trainer.presets import catalog

    settings = catalog.load(preset).augment
    if not (out.has_colours() or os.environ.get("FORCE_COLOR")):
        raise ConfigError("the preview needs a terminal with colours")
    dataset = sources.load(source, data_dir=place)
    preview.show(dataset, settings, shutil.get_terminal_size().columns)


def describe(dataset: Dataset, path: Path | None = None) -> dict[str, Any]:
    """A data set in numbers; class names in the order of their labels."""
    import numpy as np

    classes = len(dataset.classes)
    train, test = (
        np.bincount(split.labels, minlength=classes).tolist()
        for split in (dataset.train, dataset.test)
    )
    return {
        "kind": dataset.kind,
        "source": dataset.source,
        "path": None if path is None else str(path),
        "files": _files(path),
        "train_images": len(dataset.train.labels),
        "test_images": len(dataset.test.labels),
        "memory": dataset.train.images.nbytes + dataset.test.images.nbytes,
        "fingerprint": dataset.fingerprint,
        "mean": dataset.mean,
        "std": dataset.std,
        "classes": [
            {"name": name, "train": train[i], "test": test[i]}
            for i, name in enumerate(dataset.classes)
        ],
        "notices": dataset.notices,
    }


def _files(path: Path | None) -> list[dict[str, Any]]:
    """Files right in the folder, with sizes; image folders have none there."""
    if path is None:
        return []
    try:
        files = sorted(p for p in path.iterdir() if p.is_file())
        return [{"name": p.name, "bytes": p.stat().st_size} for p in files]
    except OSError:
        return []


def _lines(report: dict[str, Any]) -> list[str | Text]:
    lines: list[str | Text] = [
        f"{clean(report['kind'])}: {clean(report['source'])}",
        f"{report['train_images']:,} train and {report['test_images']:,} test images of 32×32, "  # noqa: RUF001
        f"{len(report['classes'])} classes, {size(report['memory'])} in memory",
        f"mean {_triple(report['mean'])}, std {_triple(report['std'])} (red, green, blue; train)",
        f"SHA-256 of the test split {report['fingerprint']}",
        *(f"  {clean(f['name'])}  {size(f['bytes'])}" for f in report["files"]),
        *(Text(f"notice: {clean(notice, 400)}", style="yellow") for notice in report["notices"]),
        "",
    ]
    rows = [(c["name"], count(c["train"]), count(c["test"])) for c in report["classes"]]
    total = ("total", count(report["train_images"]), count(report["test_images"]))
    return [*lines, *table(COLUMNS, rows, footer=total)]


def _triple(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)

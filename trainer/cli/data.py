"""``data``: what images are there, getting them, and seeing them augmented."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.text import Text

from trainer.cli.options import DataDirOption, DataOption, JsonOption, data_dir
from trainer.cli.output import PLAIN, Column, clean, count, out, size, table, warn
from trainer.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.data.report import DataReport

COLUMNS = (Column("class", flexible=True), Column("train", right=True), Column("test", right=True))
PRESET = "dws-late"
STEP_SECONDS = 0.1
"""Between two lines of progress for scripts."""


def data(
    data: DataOption = None,
    download: Annotated[
        bool, typer.Option("--download", help="Get cifar10 or cifar100 when it is not there.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show augmented training images in the terminal.")
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="PRESET",
            help=f"Whose augmentation and image sizes the preview shows; default: {PRESET}.",
        ),
    ] = None,
    json: JsonOption = False,
    data_directory: DataDirOption = None,
) -> None:
    """Say what images there are: counts, checksums, mean and std."""
    if json and preview:
        raise ConfigError("--preview is for people: leave out --preview or --json")
    if preset is not None and not preview:
        raise ConfigError("--preset says what --preview shows: give both, or neither")
    source, place = data or "cifar10", data_dir(data_directory)
    try:
        if download:
            _download(source, place, json)
        if preview:
            _preview(source, place, preset or PRESET)
            return
        from trainer.data.report import report_on

        report = report_on(source, data_dir=place)
    except DataError as error:
        if json:
            out.json({"error": str(error)})
        raise
    if json:
        out.json(report)
    else:
        out.lines(*_lines(report))


def _download(source: str, place: Path | None, json: bool) -> None:
    from trainer.data import sources
    from trainer.data.download import download

    folder = place or sources.default_data_dir()
    if json:
        download(source, folder, _json_progress())
    else:
        with _bar(f"downloading {clean(source)}") as progress:
            download(source, folder, progress)


def _json_progress() -> Callable[[int, int], None]:
    last = -STEP_SECONDS

    def progress(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= STEP_SECONDS:
            last = time.monotonic()
            out.json({"downloaded": done, "total": total})

    return progress


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, else a line once it begins; standard output stays for the report."""
    if not sys.stderr.isatty():
        told = False

        def tell(done: int, total: int) -> None:
            nonlocal told
            if not told:
                warn(title)
            told = True

        yield tell
        return
    from rich.console import Console

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, **PLAIN), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def _preview(source: str, place: Path | None, preset: str) -> None:
    from trainer.cli import preview
    from trainer.data import sources
    from trainer.presets import catalog

    config = catalog.load(preset)
    dataset = sources.load(source, data_dir=place)
    preview.show(dataset, config.augment, config.train, shutil.get_terminal_size().columns)


def _lines(report: DataReport) -> list[str | Text]:
    lines: list[str | Text] = [
        f"{clean(report.kind)}: {clean(report.source)}",
        f"{report.train_images:,} train and {report.test_images:,} test images of 32×32, "  # noqa: RUF001
        f"{len(report.classes)} classes, {size(report.memory)} in memory",
        f"mean {_triple(report.mean)}, std {_triple(report.std)} (red, green, blue; train)",
        f"SHA-256 of the test split {report.fingerprint}",
    ]
    if report.shared_images:
        lines.append(f"{report.shared_images:,} test images are training images as well")
    lines += [f"  {f.md5}  {clean(f.name)}  {size(f.bytes)}" for f in report.files]
    lines += [Text(f"notice: {clean(n, 400)}", style="yellow") for n in report.notices]
    rows = [(c.name, count(c.train), count(c.test)) for c in report.classes]
    total = ("total", count(report.train_images), count(report.test_images))
    return [*lines, "", *table(COLUMNS, rows, footer=total)]


def _triple(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)

"""Long logs and many runs: made here, and what it takes to fold them.

    python bench/long_log.py [--events 1000000] [--epochs 5000] [--runs 1000] [--folder FOLDER]

Writes one run of so many events and a directory of so many runs (30 epochs of 60 events each), in
the form in which the trainer writes them, into FOLDER or a temporary one. Prints the seconds and
the MiB that it takes to fold the long one whole, how the memory grows on the way, and the seconds
that it takes to list the runs. No terminal here: ``bench/monitor.py`` opens both in the app.
"""

from __future__ import annotations

import math
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command
from trainer import config as settings
from trainer import events
from trainer.events import AnyEvent, Envelope
from trainer.presets import catalog
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from tui.runs.store import Store

CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGES = 1000
EVERY = 0.25
"""Seconds between two events, as the trainer sends them."""


class Writer:
    """Stamps events as the run log does, without waiting for the disk."""

    def __init__(self, run: RunDir) -> None:
        run.path.mkdir(parents=True)
        self._run = run
        self._file = run.log.open("wb", buffering=1 << 20)
        self.seq = 0
        self._began = 1_764_000_000.0

    def emit(self, event: AnyEvent, *, attempt: int = 1) -> None:
        """Append an event, a quarter of a second after the last."""
        elapsed = round(EVERY * self.seq, 4)
        envelope = Envelope(
            v=events.VERSION,
            run=self._run.id,
            attempt=attempt,
            seq=self.seq,
            time=self._began + elapsed,
            elapsed=elapsed,
            event=event,
        )
        self._file.write(events.encode(envelope))
        self.seq += 1

    def close(self) -> None:
        """Put everything on disk."""
        self._file.close()


def write_run(run: RunDir, *, epochs: int, each: int, seed: int = 0) -> int:
    """Write a completed run with ``each`` points of training an epoch; the number of events."""
    chance = random.Random(seed)
    log = Writer(run)
    preset = catalog.load("quick")
    text = settings.to_toml(preset)
    log.emit(queued(text, epochs, seed), attempt=0)
    log.emit(started(4 * each))
    log.emit(_described())
    best = (0.0, 0)
    for epoch in range(1, epochs + 1):
        first = (epoch - 1) * 4 * each
        log.emit(events.EpochStarted(epoch=epoch, step=first))
        for i in range(1, each + 1):
            log.emit(_progress(epoch, 4 * i, 4 * each, (epoch - 1 + i / each) / epochs, chance))
        accuracy = round(0.9 - 0.8 * math.exp(-8 * epoch / epochs) + chance.gauss(0, 0.005), 4)
        best = max(best, (accuracy, epoch), key=lambda pair: pair[0])
        for event in end_of_epoch(epoch, first + 4 * each, accuracy, each, chance):
            log.emit(event)
    log.emit(
        events.RunEnded(
            state="completed",
            best_accuracy=best[0],
            best_epoch=best[1],
            final_accuracy=accuracy,
            seconds=log.seq * EVERY,
        )
    )
    log.close()
    return log.seq


def queued(text: str, epochs: int, seed: int) -> events.RunQueued:
    return events.RunQueued(
        name=f"run {seed}",
        preset="quick",
        model="resnet8",
        data="cifar10",
        epochs=epochs,
        config=text,
    )


def started(steps_per_epoch: int) -> events.RunStarted:
    return events.RunStarted(
        device="cpu",
        precision="bf16",
        steps_per_epoch=steps_per_epoch,
        batch_size=256,
        train_images=50_000,
        test_images=10 * IMAGES,
        classes=CLASSES,
        data_kind="cifar10",
        data_source="a folder",
        data_fingerprint="0" * 64,
        host="bench",
    )


def _described() -> events.ModelDescribed:
    rows = tuple(
        events.LayerRow(
            path=f"blocks.{i}.conv",
            type="Conv2d",
            input_shape=(64, 32, 32),
            output_shape=(64, 32, 32),
            parameters=36_864,
            share=1 / 40,
            macs=37_748_736,
            kernel=(3, 3),
            stride=(1, 1),
            padding=(1, 1),
            dilation=(1, 1),
            groups=1,
            jump=(1, 1),
            receptive_field=(2 * i + 3, 2 * i + 3),
        )
        for i in range(40)
    )
    return events.ModelDescribed(
        layers=rows,
        parameters=40 * 36_864,
        trainable_parameters=40 * 36_864,
        macs=40 * 37_748_736,
        receptive_field=(81, 81),
    )


def _progress(epoch: int, done: int, total: int, at: float, chance: random.Random) -> AnyEvent:
    return events.Progress(
        phase="train",
        epoch=epoch,
        step=(epoch - 1) * total + done,
        done=done,
        total=total,
        loss=2.3 * math.exp(-4 * at) + 0.2 + abs(chance.gauss(0, 0.08)),
        accuracy=min(1.0, max(0.0, 0.9 - 0.8 * math.exp(-8 * at) + chance.gauss(0, 0.02))),
        lr=0.1 * (1 + math.cos(math.pi * at)) / 2,
        images_per_second=3000 + chance.gauss(0, 50),
        memory=1_169_936_384,
    )


def end_of_epoch(
    epoch: int, step: int, accuracy: float, each: int, chance: random.Random
) -> Iterator[AnyEvent]:
    seconds = each * EVERY
    yield events.EpochEnded(
        epoch=epoch,
        step=step,
        loss=2.3 - 2 * accuracy,
        accuracy=accuracy,
        lr=0.1,
        seconds=seconds,
        images_per_second=50_000 / seconds,
    )
    correct = [int(IMAGES * min(1.0, accuracy + chance.gauss(0, 0.02))) for _ in CLASSES]
    yield events.EvalEnded(
        epoch=epoch,
        step=step,
        split="test",
        variant="plain",
        loss=2.4 - 2 * accuracy,
        accuracy=accuracy,
        correct=sum(correct),
        images=10 * IMAGES,
        per_class=tuple(c / IMAGES for c in correct),
        confusion=tuple(
            tuple(c if i == j else (IMAGES - c) // 9 for j in range(10))
            for i, c in enumerate(correct)
        ),
        seconds=1.0,
    )
    yield events.CheckpointSaved(role="last", epoch=epoch, step=step, path="checkpoints/last.pt")


def write_long(folder: Path, *, wanted: int, epochs: int) -> RunDir:
    """One run of about so many events."""
    run = RunDir(folder / "20261123-120000-long-0000")
    write_run(run, epochs=epochs, each=max(1, wanted // epochs - 4))
    return run


def write_many(folder: Path, *, runs: int) -> None:
    """A directory of completed runs."""
    for i in range(runs):
        hour, minute = divmod(i, 60)
        stamp = f"202611{1 + hour // 24:02d}-{hour % 24:02d}{minute:02d}00"
        write_run(RunDir(folder / f"{stamp}-quick-{i:04x}"), epochs=30, each=60, seed=i)


def resident() -> float:
    """MiB of this process that are in memory now."""
    return psutil.Process().memory_info().rss / 2**20


def fold_long(run: RunDir) -> None:
    """Print what folding takes, and how the memory grows on the way."""
    size = run.log.stat().st_size
    follower = Follower(run)
    before, began = resident(), time.perf_counter()
    marks: list[float] = []
    while follower.behind():
        follower.poll(limit=1 << 18)
        if follower.offset > size * (len(marks) + 1) / 10:
            marks.append(resident() - before)
    seconds = time.perf_counter() - began
    state = follower.state
    print(f"fold of {state.seq + 1:,} events ({size / 2**20:.0f} MiB): {seconds:.2f} s")
    print(f"  {len(state.epochs):,} epochs, {len(state.steps):,} points of training kept")
    print(f"  memory by tenths, MiB: {' '.join(f'{mark:.1f}' for mark in marks)}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  greatest resident size of this process: {peak:.0f} MiB")


def list_many(folder: Path, rounds: int) -> None:
    """Print what it takes to know all runs of a directory."""
    took = []
    for _ in range(rounds):
        store = Store(folder)
        began = time.perf_counter()
        store.poll(now=True, budget=math.inf)
        while store.loading:
            store.poll(now=True, budget=math.inf)
        took.append(time.perf_counter() - began)
    print(f"list of {len(store):,} runs: {statistics.median(took):.2f} s")


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--events", type=command.positive, default=1_000_000)
    parser.add_argument("--epochs", type=command.positive, default=5000)
    parser.add_argument("--runs", type=command.positive, default=1000)
    parser.add_argument("--folder", type=Path, help="keep what is made; made before, it is used")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        long = RunDir(folder / "long" / "20261123-120000-long-0000")
        if not long.log.exists():
            write_long(folder / "long", wanted=options.events, epochs=options.epochs)
        if not (folder / "many").exists():
            write_many(folder / "many", runs=options.runs)
        fold_long(long)
        list_many(folder / "many", 3)


if __name__ == "__main__":
    command.run(main)

"""The mistakes screen, from key to painted, with 10,000 test images and 200 evaluations.

    python bench/mistakes.py [--data FOLDER] [--images 10000] [--evaluations 200] [--rounds 12]

Makes a run with such predictions in a temporary folder, in the trainer's own format, and test
images of noise in CIFAR-10's binary layout (or takes the test images of FOLDER). Opens it through a
pseudo-terminal of 160x50 in true colour, presses keys, and prints a table of milliseconds:

    first   from the key to the end of the first paint that answers it
    whole   to the last byte before a third of a second of silence: also what a thread had to read
    cpu     processor time of the app meanwhile, all of its threads: what a busy machine stretches
"""

from __future__ import annotations

import os
import random
import select
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command, long_log
from bench.terminal import COLUMNS, LINES, Terminal
from trainer import events
from trainer.data import sources
from trainer.runs import predictions
from trainer.runs.predictions import Predictions
from trainer.runs.rundir import RunDir

BOUND = 100
"""Milliseconds that an action may take."""
SILENCE = 0.33
PAINTED = b"\x1b[?2026l"
"""The end of a synchronised update."""
DOWN, RIGHT, PAGE_DOWN, END = "\x1b[B", "\x1b[C", "\x1b[6~", "\x1b[F"


class Timed(Terminal):
    """Notes when bytes came and keeps the screen afterwards: its upkeep is not the app's time."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(command)
        self.took: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
        self.unseen: dict[str, int] = defaultdict(int)

    def act(self, name: str, key: str, shows: str = "", patience: float = 6.0) -> None:
        """Press a key and note its times, if what it leads to is on the screen then."""
        sent, processor = time.perf_counter(), self.processor()
        self.press(key)
        first, last, data, seen = 0.0, 0.0, b"", False
        while not seen and time.perf_counter() - sent < patience:
            self.check()
            while select.select([self.fd], [], [], SILENCE)[0]:
                try:
                    data += os.read(self.fd, 1 << 16)
                except OSError:  # the app has closed its side: look at how it ended
                    time.sleep(0.05)
                    self.check()
                    break
                last = time.perf_counter() - sent
                if not first and PAINTED in data:
                    first = last
            spent = self.processor() - processor
            self.feed(data)
            # on a busy machine silence may also come before the answer
            seen, data = bool(first) and self.shows(shows), b""
        if name and seen:
            self.took[name].append((1000 * first, 1000 * last, 1000 * spent))
        elif name:
            self.unseen[name] += 1


def make_images(folder: Path, images: int) -> None:
    """CIFAR-10's binary layout, of noise: no two cells of a picture have the same colours."""
    chance = np.random.default_rng(0)
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        rows = chance.integers(0, 256, (images, 3073), np.uint8)
        rows[:, 0] = np.arange(images) % 10
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    (folder / "batches.meta.txt").write_text("\n".join(names.split()) + "\n")


def make_run(run: RunDir, data: str, evaluations: int) -> None:
    """A completed run whose net learns slowly, with its predictions of each evaluation."""
    test = sources.load_test(data)
    chance = np.random.default_rng(1)
    log = long_log.Writer(run)
    log.emit(long_log.queued("", evaluations, 0), attempt=0)
    log.emit(long_log.started(200))
    labels = test.test.labels
    hard = chance.normal(0, 2, (len(labels), len(test.classes)))
    for epoch in range(1, evaluations + 1):
        logits = hard + chance.normal(0, 0.5, hard.shape)
        logits[np.arange(len(labels)), labels] += 5 * epoch / evaluations + 1
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        path = run.predictions(epoch, "plain")
        made = Predictions(
            shares.astype(np.float16), labels, "test", test.fingerprint, epoch, logits.argmax(1)
        )
        predictions.save(made, path)
        accuracy = 1 - len(made.wrong) / len(labels)
        for event in long_log.end_of_epoch(epoch, 200 * epoch, accuracy, 54, random.Random(epoch)):
            log.emit(event)
        log.emit(
            events.PredictionsSaved(
                epoch=epoch,
                step=200 * epoch,
                split="test",
                variant="plain",
                path=str(path.relative_to(run.path)),
                images=len(labels),
            )
        )
    log.close()


def press_all(terminal: Timed, rounds: int, images: int) -> None:
    """Every action, so many times; each round at another evaluation."""
    for at in range(rounds):
        terminal.act("", "1")
        terminal.act("open the screen", "4", r"mistakes +sorted by")
        for step in range(3):
            terminal.act("evaluation before, from disk", "[", r"epoch \d+")
            if step:
                terminal.act("evaluation after, kept", "]", r"epoch \d+")
        for _ in range(6):
            terminal.act("sort: next quantity", "o", r"sorted by")
        terminal.act("sort: reverse", "O", r"sorted by")
        terminal.act("", "O")
        for _ in range(4):
            terminal.act("page", PAGE_DOWN, r"page \d+")
        for _ in range(2):
            terminal.act("cursor", RIGHT, r"page \d+")
        terminal.act("all images", "t", rf"{images:,}")
        terminal.act("", "j")
        for digit in str(37 * at + 11):
            terminal.act("", digit)
        terminal.act("jump to an index", "\r", rf"#{37 * at + 11}\b")
        terminal.act("mistakes only", "t", r"mistakes")
        one_image(terminal)
        terminal.act("", "z")
        terminal.act("size: a list", "z", r"p\(predicted\)")
        terminal.act("size: large", "z", r"page")
        terminal.act("matrix: keys to it", "k")
        terminal.act("matrix: a cell", DOWN if at % 2 else RIGHT)
        terminal.act("cell to its images", "\r", r"sorted by")
        terminal.act("", "/")
        terminal.act("", END)
        for _ in range(40):
            terminal.press("\x7f")
        terminal.pump(1)
        for letter in "cat>dog conf>0.5":
            terminal.act("filter: a letter", letter)
        terminal.act("filter: enter", "\r", r"cat>dog")
        terminal.act("no filter (escape)", "\x1b", r"mistakes")
        terminal.act("CSV, to the message", "e", r"written to")
        terminal.act("PNG, to the message", "E", r"drawn in")


def one_image(terminal: Timed) -> None:
    """One image large, its neighbours in the grid."""
    terminal.act("one image", "\r", r"test image #")
    for _ in range(3):
        terminal.act("one image: the next", RIGHT, r"test image #")
    terminal.act("", "\x1b")


def table(terminal: Timed) -> None:
    """Median and worst of first paint and whole; mean of cpu, counted in ticks of 10 ms."""
    print(
        f"{'action':34}{'n':>4}  {'first':>6} {'worst':>6}   {'whole':>6} {'worst':>6}   {'cpu':>5}"
    )
    for name, took in terminal.took.items():
        first, whole, spent = (sorted(column) for column in zip(*took, strict=True))
        late = "  over" if statistics.median(first) > BOUND else ""
        print(
            f"{name:34}{len(took):4}  {statistics.median(first):6.0f} {first[-1]:6.0f}   "
            f"{statistics.median(whole):6.0f} {whole[-1]:6.0f}   "
            f"{statistics.mean(spent):5.0f}{late}"
        )
    for name, times in terminal.unseen.items():
        print(f"{name}: not seen {times} times")
    if terminal.unseen:
        raise command.NoFigureError("answers that did not come, so the slowest: see the last lines")


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--data", help="a folder with test images; else noise")
    parser.add_argument("--images", type=command.positive, default=10_000)
    parser.add_argument("--evaluations", type=command.positive, default=200)
    parser.add_argument("--rounds", type=command.positive, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data = options.data or f"{temporary}/data"
        if not options.data:
            make_images(Path(data), options.images)
        images = len(sources.load_test(data).test.labels)
        runs = Path(temporary) / "runs"
        make_run(RunDir(runs / "20261123-120000-run-0000"), data, options.evaluations)
        terminal = Timed([*command.APP, "--runs-dir", str(runs), "--data", data])
        try:
            terminal.pump(1)
            terminal.press("\x1b[?2026;2$y")  # this terminal knows synchronised updates
            terminal.require(60, lambda: terminal.shows("completed|crashed"), "the run")
            terminal.pump(7)  # the trainer behind it has loaded torch and rests
            terminal.act("first opening of the screen", "4", r"mistakes +sorted by")
            press_all(terminal, options.rounds, images)
        finally:
            terminal.quit()
    print(f"{images:,} images, {options.evaluations} evaluations, {COLUMNS}x{LINES}, ms")
    table(terminal)


if __name__ == "__main__":
    command.run(main)

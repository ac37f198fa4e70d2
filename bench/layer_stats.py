"""What measuring the layers costs: steps with and without, in turns, in one process.

    python bench/layer_stats.py [--data FOLDER] [--preset dws-late --preset fast] [--pairs 15]

A few measured steps in an epoch of hundreds are lost in the noise of any machine. So of two
trainings that are alike but for `train.layer_stats`, one measures every step, the other none; short
blocks of both alternate, and which of a pair goes first changes from pair to pair. The median of
the ratios tells the cost of one measured step, and, times the share of steps that a run measures,
that of a run as it is trained.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command
from trainer import config as settings
from trainer import device as devices
from trainer.config import TrainSettings
from trainer.lifecycle.prepare import prepare
from trainer.lifecycle.submit import submit
from trainer.loop.engine import Training
from trainer.presets import catalog
from trainer.runs.control import Control
from trainer.runs.runlog import RunLog

USUAL = TrainSettings().layer_stats


class Side:
    """A training of a preset; ``every``: whether each of its steps is measured."""

    def __init__(self, options: argparse.Namespace, preset: str, folder: Path, every: bool) -> None:
        self._block = options.steps
        asked = {"data": options.data, "train.device": options.device}
        overrides = [settings.setting(key, value) for key, value in asked.items()]
        overrides += ["train.epochs=1000", f"train.layer_stats={USUAL if every else 0}"]
        config = catalog.load(preset, overrides + options.set)
        run = submit(config, folder)
        log = RunLog(run)
        self.training: Training = prepare(run, config, log, Control(run), None, resume=False)
        self._at = 0
        self._order = torch.randperm(len(self.training.labels)).to(self.training.device)
        self._draws = self.training.augment.draw(len(self._order), epoch=1, seed=0)
        if every:  # all steps are taken for one that a run would measure
            steps = range(self.steps_per_epoch)
            due = self.training.layer_stats.due
            self.training.at.batch = next(s for s in steps if due(s, self.steps_per_epoch))
        self.measured = 0
        # on a GPU a run's steps are graphs, the measured ones too
        self.training._record_or_tell()
        if self.training.graphs is not None:
            self.training.graphs.begin_epoch(self._draws)
        self.training.net.train()

    @property
    def batch_size(self) -> int:
        return self.training.config.train.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return self.training.steps_per_epoch

    def block(self) -> float:
        """Seconds of a block of steps, their events included."""
        training = self.training
        devices.synchronize(training.device)
        began = time.perf_counter()
        for _ in range(self._block):
            start = self._at % self.steps_per_epoch * self.batch_size
            training._step(self._order[start : start + self.batch_size], self._draws)
            self._at += 1
            if (found := training.layer_stats.take()) is not None:
                training.log.emit(found)
                self.measured += 1
        devices.synchronize(training.device)
        return time.perf_counter() - began


def measure(options: argparse.Namespace, preset: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sides = [Side(options, preset, Path(folder), every) for every in (False, True)]
        for side in sides:
            side.block()  # the first one warms up
        ratios, plain = [], []
        for pair in range(options.pairs):
            turn = sides if pair % 2 == 0 else sides[::-1]
            seconds = {side: side.block() for side in turn}
            ratios.append(seconds[sides[1]] / seconds[sides[0]])
            plain.append(seconds[sides[0]] / options.steps)
        steps = sides[0].steps_per_epoch
        batch = sides[0].batch_size
    if sides[0].measured or not sides[1].measured:
        raise command.NoFigureError(
            "the two sides are not what they should be: nothing is compared"
        )
    low, _, high = quantiles(ratios, n=4)
    share = min(USUAL, steps) / steps
    found = median(ratios) - 1
    print(
        f"{preset}, batches of {batch}, {steps} steps an epoch: "
        f"a step {median(plain) * 1000:.1f} ms, measured {1 + found:.3f} times that "
        f"(middle half of {options.pairs} pairs {low:.3f} to {high:.3f}); "
        f"a run with {USUAL} an epoch takes {1 + found * share:.5f} times as long "
        f"(quartiles {1 + (low - 1) * share:.5f} to {1 + (high - 1) * share:.5f})"
    )


def at_least_two(text: str) -> int:
    """Pairs: one alone has no quartiles."""
    if text == "1":
        raise argparse.ArgumentTypeError("must be 2 or more: one pair has no spread")
    return command.positive(text)


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--preset", action="append", help="dws-late and fast when none is given")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pairs", type=at_least_two, default=15)
    parser.add_argument("--steps", type=command.positive, default=4, help="steps in a block")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    for preset in options.preset or ["dws-late", "fast"]:
        measure(options, preset)


if __name__ == "__main__":
    command.run(main)

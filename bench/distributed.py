"""Two processes against one: images a second of the training loop, on the CPU.

    python bench/distributed.py [--data FOLDER] [--preset quick] [--norm group] [--steps 60]

Each round trains the same steps in one process with one thread, in one with two threads, and in
two processes (torchrun, Gloo) with one thread each, at the same global batch, and takes the speed
from the runs' own logs: the images of the epoch over its seconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command
from trainer.errors import ConfigError
from trainer.presets import catalog
from trainer.runs.follower import Follower
from trainer.runs.rundir import scan

SIDES = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes": (2, 1)}


def speed(options: argparse.Namespace, processes: int, threads: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = [
            *(*command.TRAINER, "train", options.preset, "--data", options.data),
            *("--device", "cpu", "--epochs", "2", "--batch-size", str(options.batch_size)),
            *("--processes", str(processes), "--runs-dir", folder),
            *("--set", f"train_limit={options.batch_size * options.steps}"),
            *("--set", f"model.norm={options.norm}"),
            *("--set", "evaluate.every=2", "--set", "evaluate.tta=none"),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(started, env=environment, check=True, stdout=subprocess.DEVNULL)
        (run,) = scan(Path(folder))
        last = Follower(run).catch_up().epochs[-1]  # the first one warms up
        assert last.images_per_second is not None
        return last.images_per_second


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--norm", default="batch")
    parser.add_argument("--batch-size", type=command.positive, default=128)
    parser.add_argument("--steps", type=command.positive, default=60)
    parser.add_argument("--rounds", type=command.positive, default=3)
    options = parser.parse_args()
    if options.batch_size % 2:
        raise ConfigError(f"--batch-size must be even, for two processes, not {options.batch_size}")
    catalog.load(options.preset, [f"train.processes={n}" for n, _ in SIDES.values()])
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side, (processes, threads) in SIDES.items():
            found[side].append(speed(options, processes, threads))
    what = f"{options.preset}, {options.norm} norm, global batch {options.batch_size}"
    print(f"{what}, {os.cpu_count()} cores")
    for side, speeds in found.items():
        print(
            f"{side:>21}: {median(speeds):7.0f} images/s  ({min(speeds):.0f} to {max(speeds):.0f})"
        )
    one, two, both = (median(found[side]) for side in SIDES)
    print(f"2 processes / 1 process, 1 thread:  {both / one:.2f}")
    print(f"2 processes / 1 process, 2 threads: {both / two:.2f}")


if __name__ == "__main__":
    command.run(main)

"""Accuracy of a preset over many seeds.

    python bench/seeds.py --data FOLDER [--preset fast] [--seeds 20] [--at-once 1]
        [--set KEY=VALUE] [--runs-dir RUNS] [--json]

Each run is one of the trainer's, with a log of its own. Several at once share the device: a GPU is
not filled by one small net. Seconds are told only where runs were alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from trainer import config as settings
from trainer.control import Control
from trainer.errors import UserError
from trainer.follower import Follower
from trainer.presets import catalog
from trainer.session import train_run
from trainer.submit import submit


@dataclass(frozen=True)
class Outcome:
    seed: int
    accuracy: float
    """Test accuracy after the last epoch."""
    tta: float | None
    seconds: float
    """Training and the evaluation with test-time augmentation."""
    device: str


def run(preset: str, overrides: list[str], runs_dir: str, seed: int) -> Outcome:
    """Train with one seed.

    Raises:
        RuntimeError: it did not end as it should.
    """
    config = catalog.load(preset, [*overrides, f"train.seed={seed}"])
    settings.check(config)
    folder = submit(config, Path(runs_dir))
    ended = train_run(folder, Control(folder))
    state = Follower(folder).catch_up()
    last, tta = state.latest_eval(), state.latest_eval("tta")
    if ended.state != "completed" or last is None or state.started is None:
        raise RuntimeError(f"seed {seed}: {ended.state} {ended.error or ''}")
    trained = sum(row.train_seconds or 0.0 for row in state.epochs)
    return Outcome(
        seed=seed,
        accuracy=last.accuracy,
        tta=tta.accuracy if tta is not None else None,
        seconds=trained + (tta.seconds if tta is not None else 0.0),
        device=state.started.device,
    )


def told(name: str, values: list[float]) -> str:
    """Mean, its standard error, deviation and extremes."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return (
        f"{name:12} {statistics.fmean(values):.2%} ± {deviation / len(values) ** 0.5:.2%}"
        f"   one run ± {deviation:.2%}   {min(values):.2%} to {max(values):.2%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=1, metavar="N")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs-dir", type=Path, help="where the runs and their logs are kept")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs_dir = str((options.runs_dir or Path(tempfile.mkdtemp(prefix="seeds-"))).resolve())
    overrides = [f"data={json.dumps(options.data)}", *options.set]
    # a worker trains one run after the other: loading torch and starting a GPU is paid for once
    context = get_context("spawn")
    with ProcessPoolExecutor(options.at_once, mp_context=context) as pool:
        waiting = [
            pool.submit(run, options.preset, overrides, runs_dir, seed)
            for seed in range(options.seeds)
        ]
        found = [outcome.result() for outcome in waiting]
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in found]))
        return
    print(f"{options.preset}, {len(found)} seeds, {found[0].device}")
    print(told("plain", [outcome.accuracy for outcome in found]))
    with_tta = [outcome.tta for outcome in found if outcome.tta is not None]
    if with_tta:
        print(told("with TTA", with_tta))
    if options.at_once == 1:
        print(f"seconds      {statistics.median(outcome.seconds for outcome in found):.3g}")


if __name__ == "__main__":
    try:
        main()
    except (UserError, RuntimeError) as error:
        sys.exit(str(error))

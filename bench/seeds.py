"""Accuracy of a preset over many seeds.

    python bench/seeds.py --data FOLDER [--preset fast] [--seeds 20] [--at-once 1]
        [--set KEY=VALUE] [--runs-dir RUNS] [--json]

Each run is one of the trainer's, with a log of its own. Several at once share the device: a GPU is
not filled by one small net. Seconds are told only where runs were alone. Without --runs-dir runs
are removed at the end. Each seed is told of when it is done (with --json on standard error). A seed
that fails is told of with its reason, and the exit status is 1; the figures are then of the others,
as they are of those that were done when it is ended early.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command
from trainer import config as settings
from trainer.data import sources
from trainer.errors import first_line
from trainer.lifecycle.session import train_run
from trainer.lifecycle.submit import submit
from trainer.loop import heap
from trainer.presets import catalog
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.spoiled import leave, spoiled


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
    if not spoiled():
        from trainer import device  # loads torch, which is not needed where seeds are counted

        device.give_memory_back()  # else dead runs stay on the GPU until Python looks for cycles
    state = Follower(folder).catch_up()
    last, tta = state.latest_eval(), state.latest_eval("tta")
    if ended.state != "completed" or last is None or state.started is None:
        raise RuntimeError(f"{ended.state} {ended.error or ''}".strip())
    trained = sum(row.train_seconds or 0.0 for row in state.epochs)
    return Outcome(
        seed=seed,
        accuracy=last.accuracy,
        tta=tta.accuracy if tta is not None else None,
        seconds=trained + (tta.seconds if tta is not None else 0.0),
        device=state.started.device,
    )


def line(outcome: Outcome) -> str:
    """What one seed came to."""
    tta = "" if outcome.tta is None else f", with TTA {outcome.tta:.2%}"
    return f"seed {outcome.seed}: {outcome.accuracy:.2%}{tta}"


def told(name: str, values: list[float]) -> str:
    """Mean, its standard error, deviation and extremes."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return (
        f"{name:12} {statistics.fmean(values):.2%} ± {deviation / len(values) ** 0.5:.2%}"
        f"   one run ± {deviation:.2%}   {min(values):.2%} to {max(values):.2%}"
    )


def serve(pipe: Connection, preset: str, overrides: list[str], runs_dir: str) -> None:
    """A process of its own: train the seeds that come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: who started it ends it
    heap.share_one_arena()
    with suppress(EOFError):
        while True:
            seed = pipe.recv()
            try:
                result: Outcome | str = run(preset, overrides, runs_dir, seed)
            except BaseException as error:
                result = first_line(error)
            pipe.send((result, not spoiled()))
            if spoiled():
                leave(1)


class Slot:
    """A process that trains one run after the other: loading torch and starting a GPU is paid for
    once. One in which CUDA has failed, or that has died, costs its own seed alone.
    """

    def __init__(self, preset: str, overrides: list[str], runs_dir: str) -> None:
        context: SpawnContext = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, preset, overrides, runs_dir))
        self._process.start()
        theirs.close()
        self.seed = -1
        self.lives = True
        """Whether it can train another one."""

    def begin(self, seed: int) -> None:
        """Let it train a seed."""
        self.seed = seed
        self.pipe.send(seed)

    def result(self) -> Outcome | str:
        """What the seed came to, or why it failed; ``pipe`` tells when."""
        result: Outcome | str
        try:
            result, self.lives = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            self.lives, result = False, f"its process ended ({self._process.exitcode})"
        if not self.lives:
            self.end()
        return result

    def end(self) -> None:
        """Whatever it does."""
        self._process.terminate()
        self._process.join()
        self.pipe.close()


def train(
    options: argparse.Namespace, overrides: list[str], runs_dir: str, found: list[Outcome]
) -> int:
    """Add what the seeds come to, each told of at once; how many failed."""
    failed = 0
    waiting = deque(range(options.seeds))
    idle: list[Slot] = []
    busy: dict[Connection, Slot] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < options.at_once:
                slot = idle.pop() if idle else Slot(options.preset, overrides, runs_dir)
                slot.begin(waiting.popleft())
                busy[slot.pipe] = slot
            for pipe in wait(list(busy)):
                slot = busy.pop(pipe)
                result = slot.result()
                if slot.lives:
                    idle.append(slot)
                if isinstance(result, str):
                    failed += 1
                    print(f"seed {slot.seed} failed: {result}", file=sys.stderr)
                    continue
                found.append(result)
                out = sys.stderr if options.json else sys.stdout
                print(line(result), file=out, flush=True)
    finally:
        for slot in [*idle, *busy.values()]:
            slot.end()
    return failed


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--seeds", type=command.positive, default=20)
    parser.add_argument("--at-once", type=command.positive, default=1, metavar="N")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs-dir", type=Path, help="where the runs and their logs are kept")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    # bad input is told of once, not by each seed
    overrides = [settings.setting("data", options.data), *options.set]
    config = catalog.load(options.preset, overrides)
    settings.check(config)
    sources.load_test(config.data)
    with ExitStack() as stack:
        folder = options.runs_dir or stack.enter_context(tempfile.TemporaryDirectory())
        found: list[Outcome] = []
        try:
            failed = train(options, overrides, str(Path(folder).resolve()), found)
        finally:
            if found:
                report(options, sorted(found, key=lambda outcome: outcome.seed))
    if failed:
        raise command.NoFigureError(f"{failed} of {options.seeds} seeds failed: see above")


def report(options: argparse.Namespace, found: list[Outcome]) -> None:
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in found]), flush=True)
        return
    print(f"{options.preset}, {len(found)} seeds, {found[0].device}")
    print(told("plain", [outcome.accuracy for outcome in found]))
    with_tta = [outcome.tta for outcome in found if outcome.tta is not None]
    if with_tta:
        print(told("with TTA", with_tta))
    if options.at_once == 1:
        print(f"seconds      {statistics.median(outcome.seconds for outcome in found):.3g}")
    sys.stdout.flush()


if __name__ == "__main__":
    command.run(main)

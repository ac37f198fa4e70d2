"""The preset `fast` against airbench94_muon.py: seconds from the first step to the final accuracy.

    python bench/airbench.py --reference airbench94_muon.py --data FOLDER [--preset fast]
        [--set train.compile=true] [--rounds 1] [--references 1] [--only reference] [--json]

The reference is the file of that name of Keller Jordan's cifar10-airbench, which you bring; it is
executed as it is on a GPU (one of its warm-up runs first, so that compilation is not counted). On a
CPU its `cuda` becomes `cpu`, its fp16 bf16, and nothing is compiled. Both sides train on the same
pixels, in turns, each in one process for all of its runs. Counted are, on both sides, training and
the evaluation with test-time augmentation. Not counted, on neither, are the evaluations between,
loading, and what precedes the first step: the whitening, which the reference's own clock has in it
and which is taken out of it again, and on a GPU compilation and recording the steps as CUDA graphs.
Without --runs-dir our runs are removed at the end. --references runs the reference so often in each
round, for its accuracy over many seeds. Each run is told of when it is done (with --json on
standard error); ended early, the figures are of the runs that were done.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command
from bench.seeds import Slot
from trainer import config as settings
from trainer.data import sources
from trainer.errors import ConfigError
from trainer.presets import catalog
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir

READY, ANSWER = "reference ready", "reference: answer "


class Clock:
    """What the reference takes from `torch.cuda.Event`, on a CPU."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: Clock) -> float:
        """Milliseconds."""
        return 1000 * (other.at - self.at)


def for_cpu(source: str) -> str:
    """The reference without CUDA: every line that names it, and nothing else."""
    for old, new in (
        ("@torch.compile\n", "\n"),
        ('torch.device("cuda")', 'torch.device("cpu")'),
        (".half()", ".bfloat16()"),
        ("torch.cuda.Event", "Clock"),
        ("torch.cuda.synchronize()", "pass"),
    ):
        if old not in source:
            raise ConfigError(f"this is not the airbench94_muon.py that was expected: no {old!r}")
        source = source.replace(old, new)
    return source


class Whitening:
    """Does what a net's method did and keeps how long the device took for it the last time."""

    def __init__(self, net: type) -> None:
        self.seconds = 0.0
        work = net.init_whiten  # type: ignore[attr-defined]

        def timed(*arguments: Any) -> None:
            _synchronize()
            began = time.perf_counter()
            work(*arguments)
            _synchronize()
            self.seconds = time.perf_counter() - began

        net.init_whiten = timed  # type: ignore[attr-defined]


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reference(path: Path, data: str) -> None:
    """Runs of the reference: for each seed on standard input a line with its figures."""
    cuda = torch.cuda.is_available()
    source = path.read_text("utf-8")
    sys.argv = [str(path.resolve())]  # it reads its own source
    space: dict[str, Any] = {"__name__": "reference", "Clock": Clock}
    exec(compile(source if cuda else for_cpu(source), str(path), "exec"), space)
    dataset = sources.load(data)
    seen: list[dict[str, Any]] = []

    def note(variables: dict[str, Any], is_final_entry: bool) -> None:
        kept = {k: variables.get(k) for k in ("epoch", "val_acc", "tta_val_acc", "time_seconds")}
        seen.append(kept)
        print("reference:", kept, file=sys.stderr, flush=True)

    space["print_training_details"] = note
    whitening = Whitening(space["CifarNet"])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("cifar10").mkdir()
        for name, split in (("train", dataset.train), ("test", dataset.test)):
            images = torch.from_numpy(split.images).permute(0, 2, 3, 1).contiguous()
            labels = torch.from_numpy(split.labels).long()
            values = {"images": images, "labels": labels, "classes": list(dataset.classes)}
            torch.save(values, f"cifar10/{name}.pt")
        net = space["CifarNet"]().to("cuda" if cuda else "cpu")
        net = net.to(memory_format=torch.channels_last)
        if cuda:
            net.compile(mode="max-autotune")
            space["main"]("warmup", net)
        print(READY, flush=True)
        for line in sys.stdin:
            seen.clear()
            torch.manual_seed(int(line))
            tta = space["main"](int(line), net)
            plain = [s["val_acc"] for s in seen if s["epoch"] != "eval"][-1]
            seconds = seen[-1]["time_seconds"] - whitening.seconds
            found = {"accuracy": plain, "tta": tta, "seconds": seconds}
            print(ANSWER + json.dumps(found), flush=True)
        os.chdir("/")


class Reference:
    """The reference in a process of its own, warmed up once: it is made for many runs in a row."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._hear(READY)

    def run(self, seed: int) -> dict[str, Any]:
        """One run."""
        assert self._process.stdin is not None
        print(seed, file=self._process.stdin, flush=True)
        found: dict[str, Any] = json.loads(self._hear(ANSWER))
        return found

    def _hear(self, wanted: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(wanted):
                return line.removeprefix(wanted)
        raise subprocess.CalledProcessError(self._process.wait(), ["the reference"])


@contextmanager
def started() -> Iterator[Reference]:
    """The reference, until no more runs are wanted of it."""
    side = [sys.executable, *sys.argv, "--side"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(side, stdin=pipe, stdout=pipe, text=True)
    try:
        yield Reference(process)
    finally:
        process.terminate()
        process.wait()


def ours(slot: Slot, seed: int, runs_dir: Path) -> dict[str, Any]:
    """One run of the preset; the figures are those of its log."""
    before = set(runs_dir.iterdir())
    slot.begin(seed)
    outcome = slot.result()
    if isinstance(outcome, str):
        raise command.NoFigureError(f"our run with seed {seed}: {outcome}")
    (folder,) = set(runs_dir.iterdir()) - before
    if outcome.tta is None:
        raise command.NoFigureError(f"{folder} ended without test-time augmentation")
    for _, notice in Follower(RunDir(folder)).catch_up().notices:
        if notice.code in ("not-compiled", "no-cuda-graphs"):
            raise command.NoFigureError(f"{folder.name}: {notice.message}")
    return {
        "accuracy": outcome.accuracy,
        "tta": outcome.tta,
        "seconds": outcome.seconds,
        "run": folder.name,
    }


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--reference", type=Path, required=True, metavar="FILE")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--rounds", type=command.positive, default=1)
    parser.add_argument("--references", type=command.positive, default=1, metavar="N")
    parser.add_argument("--runs-dir", type=Path, help="where our runs and their logs are kept")
    parser.add_argument("--only", choices=("reference", "ours"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.side:
        reference(options.reference, options.data)
        return
    overrides = check(options)
    results: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        kept = options.runs_dir or stack.enter_context(tempfile.TemporaryDirectory())
        runs_dir = Path(kept).resolve()
        runs_dir.mkdir(parents=True, exist_ok=True)
        other = slot = None
        if options.only != "ours":
            other = stack.enter_context(started())
        if options.only != "reference":
            slot = Slot(options.preset, overrides, str(runs_dir))
            stack.callback(slot.end)
        out = sys.stderr if options.json else sys.stdout
        try:
            for seed in range(options.rounds):
                if other is not None:
                    for number in range(options.references):
                        results.setdefault("reference", []).append(
                            other.run(options.references * seed + number)
                        )
                        print(line("reference", results), file=out, flush=True)
                if slot is not None:
                    found = ours(slot, seed, runs_dir)
                    results.setdefault("ours", []).append(found)
                    print(line("ours", results), file=out, flush=True)
        finally:
            if results:
                report(results, as_json=options.json)


def check(options: argparse.Namespace) -> list[str]:
    """Refuse what would only be found out after minutes.

    Returns:
        What our runs have besides their preset.

    Raises:
        UserError: what it is.
    """
    if options.only != "ours":
        command.file(options.reference, "--reference")
    sources.load_test(options.data)
    overrides = [*options.set, settings.setting("data", options.data)]
    if options.only != "reference":
        config = catalog.load(options.preset, overrides)
        settings.check(config)
        if config.evaluate.tta == "none":
            raise ConfigError(
                f"{options.preset} has no test-time augmentation, which is compared here: choose "
                "another --preset, or add --set evaluate.tta=flip"
            )
    return overrides


def line(side: str, results: dict[str, list[dict[str, Any]]]) -> str:
    """The last run of a side."""
    number, run = len(results[side]), results[side][-1]
    accuracy = f"accuracy {run['accuracy']:.2%}, with TTA {run['tta']:.2%}"
    return f"round {number}, {side}: {run['seconds']:.3g} s, {accuracy}"


def report(results: dict[str, list[dict[str, Any]]], *, as_json: bool) -> None:
    seconds = {
        side: statistics.median(r["seconds"] for r in found) for side, found in results.items()
    }
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "this CPU"
    ratio = seconds["ours"] / seconds["reference"] if len(seconds) == 2 else None
    if as_json:
        found = {"device": device, "results": results, "seconds": seconds, "ratio": ratio}
        print(json.dumps(found), flush=True)
        return
    for side, found in results.items():
        plain, tta = (statistics.fmean(r[key] for r in found) for key in ("accuracy", "tta"))
        print(
            f"{side:9} {seconds[side]:7.3g} s   accuracy {plain:.2%}, with TTA {tta:.2%}"
            f"   ({len(found)} runs)"
        )
    if ratio is not None:
        print(f"ours / reference on {device}, seconds: {ratio:.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    command.run(main)

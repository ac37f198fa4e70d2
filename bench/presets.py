"""Accuracy against parameters and against seconds, for all presets, each point from a run's log.

    python bench/presets.py --data FOLDER --runs-dir RUNS [--preset fast --preset quick] [--seeds 3]
    python bench/presets.py --runs-dir RUNS --only-table [--keep bench/results]

Every preset is trained with seeds 0, 1, … by `cifar-tui train`, one run after the other; a run that
is complete in RUNS is not trained again. The table is made from the logs in RUNS alone: seconds are
those of training without evaluation and pauses, accuracies are of the last epoch, not the best one.
A table is of runs on the same images, in the same precision and on the same kind of device.
`--keep` copies what the table rests on: each run's log, without its progress between epochs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command
from trainer import config as settings
from trainer.errors import ConfigError, UserError
from trainer.lifecycle import submit
from trainer.presets import catalog
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.runs.runstate import RunState

LEFT_OUT = {"Progress", "LayerStats"}


@dataclass(frozen=True)
class Point:
    preset: str
    seed: int
    epochs: int
    parameters: int
    accuracy: float
    """Test accuracy after the last epoch."""
    tta: float | None
    seconds: float
    """Training alone, all epochs."""
    images_per_second: float
    device: str
    precision: str
    run: str
    images: str
    """Fingerprint of what it was tested on; their name in a log that has none."""

    @property
    def conditions(self) -> tuple[str, str, str]:
        """What the points of a table have in common: images, kind of device, precision."""
        return self.images, self.device.partition(":")[0], self.precision


def point(run: RunDir) -> Point | None:
    """What a completed, unchanged preset's run says; None for any other."""
    try:
        config = submit.read_config(run)
        state = Follower(run).catch_up()
        asked = catalog.load(config.preset, [settings.setting("data", config.data)])
    except UserError:
        return None
    if state.ended is None or state.ended.state != "completed" or not _whole(state):
        return None
    if not _is_preset(config, asked):
        return None
    assert state.started is not None
    assert state.described is not None
    rows = [r for r in state.epochs if r.train_seconds is not None]
    seconds = sum(r.train_seconds or 0.0 for r in rows)
    last, tta = state.latest_eval(), state.latest_eval("tta")
    assert last is not None
    images = sum((r.images_per_second or 0.0) * (r.train_seconds or 0.0) for r in rows)
    return Point(
        preset=config.preset,
        seed=config.train.seed,
        epochs=len(rows),
        parameters=state.described.parameters,
        accuracy=last.accuracy,
        tta=None if tta is None else tta.accuracy,
        seconds=seconds,
        images_per_second=images / seconds,
        device=state.started.device,
        precision=state.started.precision,
        run=run.id,
        images=state.started.data_fingerprint or config.data,
    )


def _whole(state: RunState) -> bool:
    return None not in (state.started, state.described, state.latest_eval())


def _is_preset(config: object, asked: object) -> bool:
    """Whether nothing but the seed, the device and the name was changed."""
    first, second = (settings.to_mapping(c) for c in (config, asked))  # type: ignore[arg-type]
    for values in (first, second):
        values.pop("name")
        for key in ("seed", "device", "precision"):
            values["train"].pop(key)
    return first == second


def points(runs_dir: Path) -> list[Point]:
    """The newest complete run of each unchanged preset and seed.

    Raises:
        ConfigError: they cannot be compared.
    """
    folders = sorted(p for p in runs_dir.iterdir() if p.is_dir()) if runs_dir.is_dir() else []
    newest: dict[tuple[str, int], Point] = {}
    for found in filter(None, (point(RunDir(folder)) for folder in folders)):
        older = newest.get((found.preset, found.seed))
        if older is not None:
            print(f"{older.run} is left out: {found.run} is newer", file=sys.stderr)
        newest[found.preset, found.seed] = found
    if newest:
        alike(list(newest.values()), next(iter(newest.values())).conditions)
    return list(newest.values())


def alike(found: list[Point], conditions: tuple[str, str, str]) -> None:
    """Refuse points of other images, another kind of device or another precision.

    Raises:
        ConfigError: which of them it is.
    """
    words = ("on other images", "on another kind of device", "in another precision")
    for p in found:
        for what, mine, other in zip(words, p.conditions, conditions, strict=True):
            if mine != other:
                raise ConfigError(
                    f"{p.run} was trained {what} ({mine[:12]}, not {other[:12]}) and cannot be "
                    "compared: choose another --runs-dir, or move it away"
                )


def train_missing(options: argparse.Namespace) -> None:
    chosen = options.preset or catalog.names()
    found = points(options.runs_dir)
    if found:  # what is to come must be comparable, before hours are spent on it
        from trainer import device as devices
        from trainer.data import sources

        device = devices.resolve(options.device)
        images = sources.load_test(options.data).fingerprint
        precision = devices.precision("auto", device)
        alike(found, (images, device.type, precision))
    have = {(p.preset, p.seed) for p in found}
    for preset in chosen:
        for seed in range(options.seeds):
            if (preset, seed) in have:
                continue
            started = [*command.TRAINER, "train", preset, "--seed", str(seed)]
            started += ["--data", options.data, "--runs-dir", str(options.runs_dir)]
            started += ["--device", options.device]
            print("+", " ".join(started), file=sys.stderr, flush=True)
            subprocess.run(started, check=True, stdout=sys.stderr)


def keep(found: list[Point], runs_dir: Path, folder: Path) -> None:
    """Copy the logs of the points, a file per preset and seed, without names of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    for p in found:
        run = RunDir(runs_dir / p.run)
        source = json.dumps(submit.read_config(run).data, ensure_ascii=False)[1:-1]
        kept = []
        for line in run.log.read_text("utf-8").splitlines():
            entry = json.loads(line.replace(source, "FOLDER") if "/" in source else line)
            if entry["event"]["kind"] not in LEFT_OUT:
                entry["event"].pop("host", None)
                kept.append(json.dumps(entry, separators=(",", ":")) + "\n")
        (folder / f"{p.preset}-seed{p.seed}.jsonl").write_text("".join(kept), "utf-8")


def table(found: list[Point]) -> str:
    """One line a preset: means over its seeds, ± the standard deviation where there are several."""
    head = "| preset | parameters | epochs | seconds | images/s | accuracy | with TTA | seeds |"
    lines = [head, "|---|--:|--:|--:|--:|--:|--:|---|"]
    groups: dict[str, list[Point]] = {}
    for p in sorted(found, key=lambda p: (p.parameters, p.preset, p.seed)):
        groups.setdefault(p.preset, []).append(p)
    for preset, many in groups.items():
        tta = [p.tta for p in many if p.tta is not None]
        cells = [
            preset,
            f"{many[0].parameters:,}",
            str(many[0].epochs),
            f"{statistics.median(p.seconds for p in many):.0f}",
            f"{statistics.median(p.images_per_second for p in many):,.0f}",
            _mean([p.accuracy for p in many]),
            _mean(tta) if tta else "-",
            ", ".join(str(p.seed) for p in many),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(shares: list[float]) -> str:
    mean = f"{100 * statistics.fmean(shares):.2f} %"
    return mean if len(shares) < 2 else f"{mean} ± {100 * statistics.stdev(shares):.2f}"


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument(
        "--preset", action="append", choices=catalog.names(), help="only these; all by default"
    )
    parser.add_argument("--seeds", type=command.positive, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only-table", action="store_true", help="train nothing")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy the points' logs there")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.only_table and not options.runs_dir.is_dir():
        raise ConfigError(f"--runs-dir {options.runs_dir}: there is no such folder")
    if not options.only_table:
        train_missing(options)
    found = points(options.runs_dir)
    if not found:
        raise ConfigError(f"{options.runs_dir} has no complete run of an unchanged preset")
    if options.keep:
        keep(found, options.runs_dir, options.keep)
    if options.json:
        print(json.dumps([asdict(p) for p in found], indent=1))
    else:
        print(table(found))


if __name__ == "__main__":
    command.run(main)

"""All figures of a GPU in one go, the weightiest first; what fails or takes too long is left out.

    python bench/gpu.py --reference airbench94_muon.py --data FOLDER [--only PART ...]
        [--seconds N] [--runs-dir RUNS]

Parts, each a program of this folder with what it was called with, its output and its seconds:

    airbench   `fast` against the reference, compiled on both sides, three rounds in turns
    seeds      accuracy of `fast` over 20 seeds
    watched    a small net in small batches, its epochs alone and watched in turns
    accuracy   `resnet18` trained to its end
    resnet18   its steps, compiled, and the share of the matrix rate they reach
    steps      those of `fast`, recorded and compiled
    kernels    norms by torch and by our kernels for a GPU
    own        steps of `fast` with these kernels, recorded and not compiled
    own18      the same of `resnet18`
    notebook   the loop against a notebook's

What is measured is printed at once, and a part that is cut short reports what it has. All is over
after --seconds: a part gets what is left, and is left out where that is not worth a start. Runs and
their logs are kept in --runs-dir, a folder for each part; without it they are removed. The
reference alone compiles for four minutes before its first run (an H200, 16 processor cores), unless
what was compiled before is there (TORCHINDUCTOR_CACHE_DIR names the folder).
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command
from trainer.data import sources

BENCH = Path(__file__).resolve().parent
SMALL = """
[model]
name = "resnet8"

[augment]
flip = "random"
shift = 4

[train]
batch_size = 32

[evaluate]
batch_size = 20
"""
"""Its evaluations take long enough for the app to be stopped, or to go on, meanwhile."""
PATIENCE = 20.0
"""Seconds that a part has to end when it is told to; a run closes its log meanwhile."""
SHORTEST = 40.0
"""Seconds that a part needs at least: torch alone is loaded for some."""
PR_SET_PDEATHSIG = 1
COMPILED = ["--set", "train.compile=true"]
OWN = ["--set", "train.kernels=on"]


def parts(
    reference: str, data: list[str], small: str, runs: Path
) -> dict[str, tuple[float, list[str]]]:
    """Of each part the seconds it may take, and the command."""

    def kept(part: str) -> list[str]:
        return ["--runs-dir", str(runs / part)]

    beside = ["--only", "beside", "--rounds", "15", "--preset", small]
    twenty = ["--seeds", "20", "--at-once", "6", *kept("seeds")]
    ours = ["--rounds", "3", *kept("airbench"), *COMPILED]
    return {
        "airbench": (600, ["airbench.py", "--reference", reference, *data, *ours]),
        "seeds": (300, ["seeds.py", *data, *twenty]),
        "watched": (180, ["monitor.py", *data, *beside]),
        "accuracy": (180, ["presets.py", *data, "--preset", "resnet18", *kept("accuracy")]),
        "resnet18": (180, ["steps.py", *data, "--preset", "resnet18", "--kernels", *COMPILED]),
        "steps": (240, ["steps.py", *data, "--kernels", *COMPILED]),
        "kernels": (120, ["kernels.py", "--device", "cuda"]),
        "own": (120, ["steps.py", *data, "--kernels", *OWN]),
        "own18": (120, ["steps.py", *data, "--preset", "resnet18", "--kernels", *OWN]),
        "notebook": (120, ["notebook.py", *data, "--rounds", "3", "--steps", "60"]),
    }


def run(part: list[str], limit: float) -> int | str:
    """A part's exit status, or that it took too long.

    Nothing that it started goes on beside the next part, whatever ends this one.
    """
    process = subprocess.Popen(part, start_new_session=True, preexec_fn=end_with_parent)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"not done after {limit:.0f} s"
    finally:
        end_group(process)


def end_with_parent() -> None:
    """Called in a child before its program: it is told to end when its parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End the leader of a process group and all that is left of its group."""
    end = time.monotonic() + PATIENCE
    with suppress(ProcessLookupError, PermissionError):  # there is none left, or only dead ones
        try:
            os.killpg(process.pid, signal.SIGTERM)
            while time.monotonic() < end and lives(process.pid):
                process.poll()
                time.sleep(0.1)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def lives(group: int) -> bool:
    """Whether a process of a group runs; what is dead and not yet waited for does not."""
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError, PermissionError):
            dead = process.info["status"] == psutil.STATUS_ZOMBIE
            if not dead and os.getpgid(process.pid) == group:
                return True
    return False


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--reference", default="airbench94_muon.py", metavar="FILE")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--only", nargs="+", choices=parts("", [], "", Path()))
    parser.add_argument("--seconds", type=command.positive, help="all is over after so many")
    parser.add_argument("--runs-dir", type=Path, help="where runs and their logs are kept")
    options = parser.parse_args()
    end = math.inf if options.seconds is None else time.monotonic() + options.seconds
    if "airbench" in (options.only or ["airbench"]):
        command.file(options.reference, "--reference")
    sources.load_test(options.data)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.toml"
        small.write_text(SMALL, "utf-8")
        runs = (options.runs_dir or Path(folder)).resolve()
        found = parts(options.reference, ["--data", options.data], str(small), runs)
        failed = []
        for name, (limit, (program, *rest)) in found.items():
            if options.only and name not in options.only:
                continue
            began = time.monotonic()
            limit = min(limit, end - began - PATIENCE)
            if limit < SHORTEST:
                failed.append(f"{name} (no time is left)")
                continue
            print(f"\n== {name}: python bench/{program} {' '.join(rest)}", flush=True)
            code = run([sys.executable, "-u", str(BENCH / program), *rest], limit)
            print(f"== {name}: {time.monotonic() - began:.0f} s", flush=True)
            if code:
                failed.append(f"{name} ({code})")
    if failed:
        raise command.NoFigureError(f"left out: {', '.join(failed)}")


if __name__ == "__main__":
    command.run(main)

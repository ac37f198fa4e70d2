"""All figures of a GPU in one go, the weightiest first; what fails or takes too long is left out.

    python bench/gpu.py --reference airbench94_muon.py --data FOLDER [--only PART ...]

Parts, each a program of this folder with what it was called with, its output and its seconds:

    airbench   `fast` against the reference, compiled on both sides, three rounds in turns
    seeds      accuracy of `fast` over 20 seeds
    resnet18   its steps, compiled, and the share of the matrix rate they reach
    steps      those of `fast`, recorded and compiled
    watched    a small net in small batches, its epochs alone and watched in turns
    notebook   the loop against a notebook's

The reference alone compiles for three minutes before its first run (an H200, 16 processor cores).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
SMALL = """
[model]
name = "resnet8"

[augment]
flip = "random"
shift = 4

[train]
batch_size = 32
"""
COMPILED = ["--set", "train.compile=true"]


def parts(reference: str, data: list[str], small: str) -> dict[str, tuple[int, list[str]]]:
    """Of each part the seconds it may take, and the command."""
    return {
        "airbench": (
            600,
            ["airbench.py", "--reference", reference, *data, "--rounds", "3", *COMPILED],
        ),
        "seeds": (300, ["seeds.py", *data, "--seeds", "20", "--at-once", "6"]),
        "resnet18": (180, ["steps.py", *data, "--preset", "resnet18", "--kernels", *COMPILED]),
        "steps": (240, ["steps.py", *data, "--kernels", *COMPILED]),
        "watched": (180, ["monitor.py", *data, "--only", "beside", "--preset", small]),
        "notebook": (120, ["notebook.py", *data, "--rounds", "3", "--steps", "60"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", default="airbench94_muon.py", metavar="FILE")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--only", nargs="+", choices=parts("", [], ""))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.toml"
        small.write_text(SMALL, "utf-8")
        found = parts(options.reference, ["--data", options.data], str(small))
        failed = []
        for name, (limit, (program, *rest)) in found.items():
            if options.only and name not in options.only:
                continue
            print(f"\n== {name}: python bench/{program} {' '.join(rest)}", flush=True)
            began = time.monotonic()
            try:
                code = subprocess.run(
                    [sys.executable, str(BENCH / program), *rest], timeout=limit, check=False
                ).returncode
            except subprocess.TimeoutExpired:
                code = f"not done after {limit} s"
            print(f"== {name}: {time.monotonic() - began:.0f} s", flush=True)
            if code:
                failed.append(f"{name} ({code})")
    if failed:
        sys.exit(f"left out: {', '.join(failed)}")


if __name__ == "__main__":
    main()

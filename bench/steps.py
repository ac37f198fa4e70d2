"""How long a step takes at each size of images, and which share of the matrix rate it reaches.

    python bench/steps.py [--data FOLDER] [--preset fast] [--device auto] [--set train.compile=true]
        [--steps 30] [--rounds 3] [--kernels]

Each line is the median of some rounds; nothing else should run. On a GPU the step is measured as it
is started kernel by kernel and as a CUDA graph; `--kernels` adds those of a recorded step that take
the longest. The operations of a step are taken for six times the net's multiply-adds, forward and
both gradients; the matrix rate is that of bf16 matrices of 8192 (on a CPU 2048).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command
from trainer import config as settings
from trainer import device as devices
from trainer import schedule
from trainer.lifecycle.prepare import prepare
from trainer.lifecycle.submit import submit
from trainer.loop.cuda_graphs import Recorder, StepGraphs
from trainer.loop.engine import Training
from trainer.presets import catalog
from trainer.runs.control import Control
from trainer.runs.runlog import RunLog


def matrix_rate(device: torch.device) -> float:
    """Operations a second of a product of square bf16 matrices, median of five blocks."""
    size, block = (8192, 20) if device.type == "cuda" else (2048, 5)
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))

    def products() -> None:
        for _ in range(block):
            left @ right

    products()
    return 2 * size**3 * block / median(seconds(products, device) for _ in range(5))


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """How long the device takes for it."""
    devices.synchronize(device)
    began = time.perf_counter()
    work()
    devices.synchronize(device)
    return time.perf_counter() - began


def training_of(preset: str, asked: dict[str, str], changed: list[str], folder: Path) -> Training:
    """A preset's, with settings by name and those of ``--set``, in a run of its own."""
    overrides = [settings.setting(key, value) for key, value in asked.items()]
    config = catalog.load(preset, [*overrides, *changed])
    run = submit(config, folder)
    return prepare(run, config, RunLog(run), Control(run), None, resume=False)


def ways(training: Training, side: int) -> dict[str, Callable[[], None]]:
    """How a step on images of a side is done here; each call does one."""
    index = torch.randperm(len(training.labels))[: training.config.train.batch_size]
    index = index.to(training.device)
    draws = training.augment.draw(len(training.labels), epoch=1, seed=0)
    found = {"as it is": lambda: training._compute(index, draws, side, False)}
    if training.device.type == "cuda":
        graphs = StepGraphs(training._compute, index, draws, Recorder(training.device))
        graphs.record(side)
        found["recorded"] = lambda: graphs(index, side)
    return found


def kernels(work: Callable[[], None], count: int) -> None:
    """Print the kernels that take the longest, of a step each."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(5):
            work()
        torch.cuda.synchronize()
    found = sorted(profiler.key_averages(), key=lambda e: -e.self_device_time_total)
    for event in found[:count]:
        name = event.key[:90]
        print(f"    {event.self_device_time_total / 5e3:7.3f} ms {event.count / 5:5.0f}  {name}")


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=command.positive, default=30, help="in a round")
    parser.add_argument("--rounds", type=command.positive, default=3)
    parser.add_argument("--kernels", action="store_true", help="on a GPU")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asked = {"data": options.data, "train.device": options.device}
        training = training_of(options.preset, asked, options.set, Path(folder))
        device, batch = training.device, training.config.train.batch_size
        training.net.train()
        training.optimizers.set_factor(0.1)
        rate = matrix_rate(device)
        print(
            f"{options.preset}, batches of {batch}, {devices.describe(device)}, "
            f"torch {torch.__version__}; matrices {rate / 1e12:.3g} TFLOP/s"
        )
        for side in schedule.sides(training.config.train):
            for name, step in ways(training, side).items():

                def block(step: Callable[[], None] = step) -> None:
                    for _ in range(options.steps):
                        step()

                block()
                command.check_compiled(training.forward)
                took = median(seconds(block, device) for _ in range(options.rounds))
                images = options.steps * batch / took
                command.check_compiled(training.forward)
                line = f"{side} pixels, {name:9} {1e3 * took / options.steps:8.2f} ms a step"
                line += f"  {images:9,.0f} images/s"
                if side == schedule.SIDE:
                    line += f"  {6 * training.summary.macs * images / rate:.0%} of the matrix rate"
                print(line, flush=True)
            if options.kernels and device.type == "cuda":
                kernels(step, 25)
        training.settle()


if __name__ == "__main__":
    command.run(main)

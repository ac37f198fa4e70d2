"""Whether the kernels cost accuracy: gradients in bf16 against fp32's, by torch and by the kernels.

    python bench/gradients.py [--data FOLDER] [--preset quick] [--set KEY=VALUE]
        [--steps 400 1200] [--batches 30]

A net is trained for so many steps; there the gradients of some batches, augmented as in training,
are computed in fp32 by torch, in bf16 by torch, and in bf16 by the kernels, from the same weights.
Printed are, as the median and the greatest over the net's parameters:

- how much they are off in a batch: norm of the difference over the norm of fp32's gradient;
- how much they are off on average over the batches, as a share of what independent errors of that
  size come to by chance: about 1, or it is a bias, which training cannot average away;
- what of the average gradient is missing or too much along itself.

The ratio is that of the first, kernels over torch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command
from bench.steps import training_of
from trainer.kernels.build import BuildError, library
from trainer.kernels.images import Draws
from trainer.loop.engine import Training
from trainer.schedule import SIDE

FACTOR = 0.3
"""Of the learning rate, for the steps between."""

Gradients = dict[str, Tensor]
"""By parameter, in fp64."""


class Off(NamedTuple):
    """Of one parameter."""

    batch: float
    """Norm of the difference over the norm of the gradient, root mean squares over the batches."""
    chance: float
    """Norm of the mean difference over what independent ones have."""
    along: float
    """Part of the mean difference along the mean gradient."""


def prepared(
    options: argparse.Namespace, folder: Path, precision: str, *, kernels: bool
) -> Training:
    """One on the CPU, with a net of its own."""
    asked = {"data": options.data, "train.device": "cpu", "train.precision": precision}
    without = patch.object(Training, "_find_kernels", lambda _: (False, ""))
    with nullcontext() if kernels else without:
        training = training_of(options.preset, asked, options.set, folder)
    training.net.train()
    return training


def gradients(training: Training, index: Tensor, draws: Draws) -> Gradients:
    """Of a batch, [B] indices of training images."""
    images = training.augment(training.images.index_select(0, index), index, draws)
    training._find_gradients(images, training.labels.index_select(0, index), False)
    named = training.net.named_parameters()
    return {name: p.grad.double() for name, p in named if p.grad is not None}


def compare(exact: list[Gradients], found: list[Gradients]) -> list[Off]:
    """One for each parameter that has a gradient."""
    offs = []
    for name in exact[0]:
        true = torch.stack([batch[name].flatten() for batch in exact])
        off = torch.stack([batch[name].flatten() for batch in found]) - true
        mean, size = true.mean(0), off.square().sum(1).mean().sqrt()
        offs.append(
            Off(
                float(size / true.square().sum(1).mean().sqrt()),
                float(off.mean(0).norm() / size * len(true) ** 0.5),
                float(off.mean(0) @ mean / mean.square().sum()),
            )
        )
    return offs


def told(name: str, offs: list[Off]) -> str:
    """A line of the table."""
    parts = []
    for values in zip(*offs, strict=True):
        greatest = max(values, key=abs)
        parts.append(f"{median(values):8.4f} {greatest:8.4f}")
    return f"  {name:8}" + "   ".join(parts)


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=command.positive, nargs="+", default=[400, 1200])
    parser.add_argument("--batches", type=command.positive, default=30)
    options: argparse.Namespace = parser.parse_args()
    try:
        library()
    except BuildError as error:
        raise command.NoFigureError(f"there are no kernels: {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "fp32": prepared(options, Path(folder), "fp32", kernels=False),
            "torch": prepared(options, Path(folder), "bf16", kernels=False),
            "kernels": prepared(options, Path(folder), "bf16", kernels=True),
        }
        trained, size = ways["torch"], ways["torch"].config.train.batch_size
        print(f"{options.preset}, {options.batches} batches of {size}, torch {torch.__version__}")
        print(f"  {'':8}{'off in a batch':20}{'over chance':20}along the gradient")
        draws = trained.augment.draw(len(trained.labels), epoch=1, seed=0)
        order = torch.Generator().manual_seed(0)
        done = 0
        for steps in [0, *sorted(options.steps)]:
            trained.optimizers.set_factor(FACTOR)
            while done < steps:
                trained._compute(batch(trained, order), draws, SIDE, False)
                done += 1
            for training in ways.values():
                training.net.load_state_dict(trained.net.state_dict())
            found: dict[str, list[Gradients]] = {way: [] for way in ways}
            for _ in range(options.batches):
                index = batch(trained, order)
                for way, training in ways.items():
                    found[way].append(gradients(training, index, draws))
            offs = {way: compare(found["fp32"], found[way]) for way in ("torch", "kernels")}
            off = {way: median(one.batch for one in found) for way, found in offs.items()}
            print(f"after {steps} steps: {off['kernels'] / off['torch']:.3f}")
            for way, of_way in offs.items():
                print(told(way, of_way), flush=True)


def batch(training: Training, order: torch.Generator) -> Tensor:
    """Indices of training images, [B]."""
    found = torch.randperm(len(training.labels), generator=order)
    return found[: training.config.train.batch_size]


if __name__ == "__main__":
    command.run(main)

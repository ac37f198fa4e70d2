"""What the kernels for a CPU replace and what they take: torch's layers and ours, in turns.

    python bench/kernels.py [--rounds 15]

Each layer is run forward and backward in bf16, with the gradient of its input where it has one in
its net, once by torch and once as the engine exchanges it; then the update of Muon for the filters
of a net. Printed are the medians in milliseconds, their ratio, and how much the gradient of the
weights, or the update, is off from fp64. At last whole nets, both ways, by kernels one after the
other and with their norms joined to the convolutions before them.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command
from model import registry
from model.blocks import conv_pool
from trainer.kernels import fused
from trainer.loop import convolutions, heap
from trainer.loop.optim import Muon

CPU = torch.device("cpu")


def layer(
    images: int, side: int, inputs: int, outputs: int, **how: int
) -> tuple[nn.Conv2d, Tensor]:
    """A convolution that keeps the size, but for its stride, and images for it."""
    kernel = how.setdefault("kernel_size", 3)
    padding = how.get("dilation", 1) * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, padding=padding, bias=False, **how)  # type: ignore[arg-type]
    shape = images, inputs, side, side
    last = torch.channels_last
    return conv.to(memory_format=last), torch.randn(shape).bfloat16().to(memory_format=last)


def layers() -> dict[str, tuple[nn.Conv2d, Tensor, bool, bool]]:
    """By name: convolution, images, whether it is pooled, whether its input has a gradient."""
    return {
        "fast: 24 to 64, pooled": (*layer(2000, 31, 24, 64), True, False),
        "fast: 64 to 64": (*layer(2000, 15, 64, 64), False, True),
        "fast: 64 to 256, pooled": (*layer(2000, 15, 64, 256), True, True),
        "fast: 256 to 256": (*layer(2000, 7, 256, 256), False, True),
        "fast: 256 to 256, at 3x3": (*layer(2000, 3, 256, 256), False, True),
        "dws-normal: 16 to 16": (*layer(256, 32, 16, 16), False, True),
        "dws-normal: 16 to 32, stride 2": (*layer(256, 32, 16, 32, stride=2), False, True),
        "dws-normal: 32 to 32": (*layer(256, 16, 32, 32), False, True),
        "dws-normal: 32 to 64, stride 2": (*layer(256, 16, 32, 64, stride=2), False, True),
        "dws-normal: 64 to 64, dilated": (*layer(256, 8, 64, 64, dilation=2), False, True),
        "tiny: 64 to 64, 1x1": (*layer(256, 16, 64, 64, kernel_size=1), False, True),
        "tiny: 64, depthwise": (*layer(256, 16, 64, 64, groups=64), False, True),
        "tiny: 24, depthwise, stride 2": (
            *layer(256, 32, 24, 24, groups=24, stride=2),
            False,
            True,
        ),
    }


def in_turns(
    first: Callable[[], object], second: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Milliseconds of each, medians."""
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 2):  # two to warm up
        for work, times in zip((first, second), found, strict=True):
            began = time.perf_counter()
            work()
            if turn > 1:
                times.append(1e3 * (time.perf_counter() - began))
    return median(found[0]), median(found[1])


def off(found: Tensor, expected: Tensor) -> float:
    """Root of the mean square, relative."""
    return float((found.double() - expected).norm() / expected.norm())


def compare(
    name: str, conv: nn.Conv2d, images: Tensor, pooled: bool, wanted: bool, rounds: int
) -> None:
    sides = [(conv, nn.MaxPool2d(2)), (copy.deepcopy(conv), nn.MaxPool2d(2))]
    for net in map(nn.ModuleList, sides):  # pooling was a kernel before, on both sides
        fused.choose_per_layer(net)
    convolutions.choose_per_layer(nn.ModuleList(sides[1]), CPU, "bf16", kernels=True)

    def work(ours: nn.Conv2d, pool: nn.Module) -> None:
        ours.zero_grad()
        x = images.detach().requires_grad_(wanted)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = conv_pool(ours, pool, x) if pooled else ours(x)
        y.backward(gradient)

    with torch.no_grad():
        size = conv(images.float()[:1]).shape
    shrunk = [n // 2 if pooled else n for n in size[2:]]
    gradient = torch.randn(len(images), size[1], *shrunk).bfloat16()
    gradient = gradient.to(memory_format=torch.channels_last)
    before, after = in_turns(lambda: work(*sides[0]), lambda: work(*sides[1]), rounds)
    few, gradient = images[:64], gradient[:64]
    exact = copy.deepcopy(conv).double()
    exact.weight.data = conv.weight.detach().bfloat16().double()
    y = exact(few.double())
    (nn.functional.max_pool2d(y, 2) if pooled else y).backward(gradient.double())
    images = few
    errors = []
    for ours, pool in sides:
        work(ours, pool)
        assert ours.weight.grad is not None
        assert exact.weight.grad is not None
        errors.append(off(ours.weight.grad, exact.weight.grad))
    told(name, before, after, errors)


def compare_muon(name: str, rounds: int) -> None:
    net = registry.build(name).to(memory_format=torch.channels_last)
    filters = [p for p in net.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.requires_grad]
    sides = []
    for tiled in (False, True):
        own = [nn.Parameter(p.detach().clone()) for p in filters]
        for p in own:
            generator = torch.Generator().manual_seed(p.numel())
            p.grad = torch.randn(p.shape, generator=generator)
            p.grad = p.grad.to(memory_format=torch.channels_last)
        sides.append(Muon(own, 0.03, 0.9, tiled=tiled))
    errors = []
    for muon in sides:
        largest = max(muon.param_groups[0]["params"], key=Tensor.numel)
        start = largest.detach().double()
        muon.step()
        step = start * len(start) ** 0.5 / start.norm() - largest.detach().double()
        assert largest.grad is not None
        errors.append(off(step.flatten(1), 0.03 * orthogonalised(largest.grad.double().flatten(1))))
    before, after = in_turns(sides[0].step, sides[1].step, rounds)
    told(f"Muon, {len(filters)} layers of {name}", before, after, errors)


def compare_joined(name: str, images: int, rounds: int) -> None:
    joined = registry.build(name).to(memory_format=torch.channels_last)
    fused.choose_per_layer(joined)
    convolutions.choose_per_layer(joined, CPU, "bf16", kernels=True)
    apart = copy.deepcopy(joined)
    for conv in apart.modules():
        if isinstance(conv, convolutions.TiledConv2d):
            conv.and_norm = None  # type: ignore[assignment]
    given = torch.randn(images, 3, 32, 32).bfloat16().to(memory_format=torch.channels_last)

    def work(net: nn.Module) -> None:
        net.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(given)
        logits.float().square().mean().backward()

    before, after = in_turns(lambda: work(apart), lambda: work(joined), rounds)
    title = f"{name}, norms joined"
    print(f"{title:34} {before:8.2f} {after:8.2f} ms  {after / before:.2f}")


def orthogonalised(x: Tensor) -> Tensor:
    """What ``trainer.loop.optim.orthogonalise`` computes, in fp64."""
    x = x / x.norm()
    for _ in range(3):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def told(name: str, before: float, after: float, errors: list[float]) -> None:
    errors_told = " and ".join(f"{error:.1e}" for error in errors)
    print(f"{name:34} {before:8.2f} {after:8.2f} ms  {after / before:.2f}  off {errors_told}")


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--rounds", type=command.positive, default=15)
    options: argparse.Namespace = parser.parse_args()
    heap.share_one_arena()  # as a worker begins, and a run
    heap.keep_freed_memory()
    torch.manual_seed(0)
    for name, (conv, images, pooled, wanted) in layers().items():
        compare(name, conv, images, pooled, wanted, options.rounds)
    for name in ("fast", "dws-normal", "tiny"):
        compare_muon(name, options.rounds)
    for name, images in {"fast": 2000, "dws-normal": 256, "dws-late": 256, "tiny": 256}.items():
        compare_joined(name, images, options.rounds)


if __name__ == "__main__":
    main()

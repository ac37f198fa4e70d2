"""What the kernels replace and what they take: torch's layers and ours, in turns.

    python bench/kernels.py [--rounds 15] [--device cpu]

On a CPU each layer is run forward and backward in bf16, with the gradient of its input where it has
one in its net, once by torch and once as the engine exchanges it; then the update of Muon for the
filters of a net. Printed are the medians in milliseconds, their ratio, and how much the gradient of
the weights, or the update, is off from fp64. At last whole nets, both ways, by kernels one after
the other and with their norms joined to the convolutions before them.

On a GPU (`--device cuda`) batch norm with what stands round it, both ways, recorded as CUDA graphs;
and which share of a copy's bytes a second ours reaches, counting a tensor once for each time that
it must be read or written.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command
from model import registry
from model.blocks import conv_pool, norm_act
from trainer import device as devices
from trainer.kernels import fused
from trainer.loop import convolutions, heap
from trainer.loop.cuda_graphs import Recorder
from trainer.loop.optim import Muon

CPU = torch.device("cpu")
REPLAYS = 20
"""Of a CUDA graph, in a measurement."""


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


NORMS = {
    # images, channels, side, pooled, activation, added
    "resnet18: 64 at 32x32, ReLU": (512, 64, 32, False, nn.ReLU, False),
    "resnet18: the same and a residual": (512, 64, 32, False, nn.ReLU, True),
    "resnet18: 256 at 8x8, ReLU": (512, 256, 8, False, nn.ReLU, False),
    "resnet18: 512 at 4x4, ReLU": (512, 512, 4, False, nn.ReLU, False),
    "fast: 64 at 31x31, pooled, GELU": (2000, 64, 31, True, nn.GELU, False),
    "fast: 64 at 15x15, GELU": (2000, 64, 15, False, nn.GELU, False),
    "fast: 256 at 15x15, pooled, GELU": (2000, 256, 15, True, nn.GELU, False),
    "dws-normal: 32 at 16x16, ReLU": (256, 32, 16, False, nn.ReLU, False),
}
NORM_BYTES, ADDED_BYTES = 16, 6
"""For each number of 2 bytes: a norm reads 6 and writes 2; for a residual it reads that and its own
output and writes a gradient. Pooling in place of the first reading writes its output and where it
was, and reads that again in place of writing: as many. It reads and writes what was pooled, too."""


def compare_norms(device: torch.device, rounds: int) -> None:
    from trainer.kernels import gpu  # in Triton, which is not everywhere

    copied = torch.empty(2**28, dtype=torch.bfloat16, device=device)
    there = torch.empty_like(copied)

    def move() -> None:
        there.copy_(copied)

    (took,) = recorded([move], device, rounds)
    speed = 2 * copied.nbytes / took
    print(f"a copy of {copied.nbytes / 1e9:.2g} GB: {speed / 1e9:.2f} TB/s")
    for name, (count, channels, side, pooled, act, added) in NORMS.items():
        shape = count, channels, side, side
        x = torch.randn(shape, device=device).bfloat16().to(memory_format=torch.channels_last)
        usual = nn.ModuleList([nn.BatchNorm2d(channels), nn.MaxPool2d(2), act()]).to(device)
        ours = copy.deepcopy(usual)
        gpu.choose_per_layer(ours)
        small = x[:, :, : side // 2, : side // 2] if pooled else x
        gradient, residual = torch.randn_like(small), torch.randn_like(small)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        works = [
            partial(both_ways, layers, x, gradient, residual if added else None, pooled=pooled)
            for layers in (usual, ours)
        ]
        before, after = recorded(works, device, rounds)
        numbers = small.numel()
        needed = numbers * (NORM_BYTES + ADDED_BYTES * added) + 2 * x.nbytes * pooled
        share = needed / after / speed
        print(
            f"{name:34} {before:8.3f} {after:8.3f} ms  {after / before:.2f}  {share:.0%} of a copy"
        )


def both_ways(
    layers: nn.ModuleList, x: Tensor, gradient: Tensor, residual: Tensor | None, *, pooled: bool
) -> None:
    """act(norm(x) + residual), pooled before or not, and its gradients."""
    norm, pool, act = layers
    x = x.detach().requires_grad_()
    added = None if residual is None else residual.detach().requires_grad_()
    if pooled and isinstance(norm, fused.FusedBatchNorm2d):
        y = norm.pooled(x, fused.GELU)  # type: ignore[operator]
    else:
        y = norm_act(norm, act, pool(x) if pooled else x, None if added is None else lambda: added)
    y.backward(gradient)


def recorded(
    works: Sequence[Callable[[], None]], device: torch.device, rounds: int
) -> tuple[float, ...]:
    """Milliseconds of each, medians, in turns."""
    found: list[list[float]] = [[] for _ in works]
    replays = [Recorder(device)(work) for work in works]
    for _ in range(rounds):
        for replay, times in zip(replays, found, strict=True):
            torch.cuda.synchronize(device)
            began = time.perf_counter()
            for _ in range(REPLAYS):
                replay()
            torch.cuda.synchronize(device)
            times.append(1e3 * (time.perf_counter() - began) / REPLAYS)
    return tuple(map(median, found))


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
    parser.add_argument("--device", default="cpu")
    options: argparse.Namespace = parser.parse_args()
    device = devices.resolve(options.device)
    torch.manual_seed(0)
    if device.type == "cuda":
        compare_norms(device, options.rounds)
        return
    heap.share_one_arena()  # as a worker begins, and a run
    heap.keep_freed_memory()
    for name, (conv, images, pooled, wanted) in layers().items():
        compare(name, conv, images, pooled, wanted, options.rounds)
    for name in ("fast", "dws-normal", "tiny"):
        compare_muon(name, options.rounds)
    for name, count in {"fast": 2000, "dws-normal": 256, "dws-late": 256, "tiny": 256}.items():
        compare_joined(name, count, options.rounds)


if __name__ == "__main__":
    main()

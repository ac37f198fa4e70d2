"""Triton's kernels give what torch's layers give: run by ``test_gpu_kernels``, on a GPU or read
line by line by Triton's interpreter, which has to be chosen before Triton is imported.
"""

from __future__ import annotations

import copy
import os

import pytest
import torch
from torch import Tensor, nn

from model import registry
from model.blocks import conv_norm_act, norm_act
from model.fast import ShiftNorm
from tests import norm_helpers
from tests.norm_helpers import ACTS, ROUNDING, compare_with_exact, error
from trainer.kernels import gpu
from trainer.kernels.build import BuildError

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WAYS = [("none", False), ("none", True), ("relu", False), ("relu", True), ("gelu", False)]


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few programs take many tiles in turns, of small images, too."""
    monkeypatch.setattr(gpu, "PARTS", 3)
    if INTERPRETED:  # in whose time it counts how many numbers there are room for
        monkeypatch.setattr(gpu, "TILE", 512)


def some(*shape: int, seed: int = 0, wanted: bool = True) -> Tensor:
    return norm_helpers.some(*shape, seed=seed, wanted=wanted, device=DEVICE.type)


def norm(channels: int, **settings: float | None) -> nn.BatchNorm2d:
    layer = norm_helpers.norm(channels, **settings).to(DEVICE)
    assert isinstance(layer, nn.BatchNorm2d)
    return layer


def ours(layer: nn.Module) -> nn.Module:
    net = nn.ModuleList([copy.deepcopy(layer)])
    gpu.choose_per_layer(net)
    return net[0]


@pytest.mark.parametrize("shape", [(6, 16, 8, 8), (5, 24, 6, 4), (3, 96, 9, 9), (5, 64, 7, 7)])
@pytest.mark.parametrize(("act", "added"), WAYS)
def test_norm_with_activation_and_addition(
    shape: tuple[int, int, int, int], act: str, added: bool
) -> None:
    usual = norm(shape[1])
    residual = some(*shape, seed=1) if added else None
    compare_with_exact(ours(usual), usual, act, some(*shape), residual)


@pytest.mark.parametrize(("act", "added"), WAYS)
def test_evaluation(act: str, added: bool) -> None:
    usual = norm(24)
    usual.running_mean = torch.linspace(-1, 1, 24).to(DEVICE)
    usual.running_var = torch.linspace(0.1, 2, 24).to(DEVICE)
    layer, exact = ours(usual).eval(), usual.double().eval()
    x, residual = some(5, 24, 6, 4, wanted=False), some(5, 24, 6, 4, seed=1, wanted=False)
    with torch.no_grad():
        y = norm_act(layer, ACTS[act], x, (lambda: residual) if added else None)
        wide = residual.double()
        expected = norm_act(exact, ACTS[act], x.double(), (lambda: wide) if added else None)
    assert y.dtype == torch.bfloat16
    assert error(y, expected) < ROUNDING


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("act", ["none", "relu", "gelu"])
def test_pooled_between_a_convolution_and_its_norm(side: int, act: str) -> None:
    layers = nn.ModuleList([nn.Conv2d(8, 16, 3, padding=1, bias=False), ShiftNorm(16)])
    layers.append(nn.MaxPool2d(2))
    with torch.no_grad():
        layers[1].bias.copy_(torch.linspace(-0.2, 0.2, 16))
    layers.to(DEVICE).to(memory_format=torch.channels_last)
    joined = copy.deepcopy(layers)
    gpu.choose_per_layer(joined)
    gradient = some(4, 16, side // 2, side // 2, seed=5, wanted=False)
    found = []
    for conv, after, pool in (joined, layers):
        x = some(4, 8, side, side)
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            y = conv_norm_act(conv, after, ACTS[act], x, pool=pool)
        assert y.dtype == torch.bfloat16
        wanted = [x, conv.weight, after.bias]
        found.append([y, *torch.autograd.grad(y, wanted, gradient)])
    assert type(found[0][0].grad_fn).__name__ == "_NormBackward"
    for mine, theirs in zip(*found, strict=True):
        assert error(mine, theirs) < 2 * ROUNDING  # theirs is rounded in between
    for name, buffer in layers[1].named_buffers():
        torch.testing.assert_close(joined[1].get_buffer(name), buffer)


def test_the_first_of_equals_is_the_maximum() -> None:
    """As torch's pooling has it; and the line and column that no window takes have no gradient."""
    layer = ours(ShiftNorm(8).to(DEVICE))
    x = torch.zeros(2, 8, 5, 5, device=DEVICE).bfloat16()
    x[0, :, 2, 3] = 1
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    gradient = some(2, 8, 2, 2, seed=3, wanted=False)
    layer.pooled(x, gpu.NONE).backward(gradient)
    assert x.grad is not None
    hit = x.grad != 0
    assert hit[0, :, 2, 3].all()
    assert hit[1, :, :4:2, :4:2].all()
    assert int(hit.sum()) == 8 * 8


def test_a_mean_far_from_zero_leaves_the_variance_its_digits() -> None:
    x = (some(64, 8, 8, 8, wanted=False).float() * 0.5 + 100).bfloat16()
    x = x.to(memory_format=torch.channels_last)
    layer, exact = ours(norm(8)), norm(8).double()
    layer(x.requires_grad_())
    exact(x.double())
    assert error(layer.running_var, exact.running_var) < 1e-5
    assert error(layer.running_mean, exact.running_mean) < 1e-6


@pytest.mark.parametrize(("act", "added"), WAYS)
def test_what_is_not_a_number_stays(act: str, added: bool) -> None:
    x = some(4, 8, 4, 4, wanted=False)
    x[1, 3] = float("nan")
    residual = some(4, 8, 4, 4, seed=1)
    y = norm_act(
        ours(norm(8)), ACTS[act], x.requires_grad_(), (lambda: residual) if added else None
    )
    assert y[:, 3].isnan().all()
    assert not y[:, 2].isnan().any()
    pooled = ours(ShiftNorm(8).to(DEVICE)).pooled(x, gpu.RELU)
    assert pooled[:, 3].isnan().all()


def test_the_same_input_gives_the_same_numbers() -> None:
    x, gradient = some(20, 64, 5, 5), some(20, 64, 5, 5, seed=1, wanted=False)
    found = []
    for _ in range(3):
        layer = ours(norm(64))
        y = norm_act(layer, nn.ReLU(), x)
        found.append([y, *torch.autograd.grad(y, [x, *layer.parameters()], gradient)])
    for again in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], again, strict=True))


@pytest.mark.parametrize(
    ("layer", "shape", "dtype"),
    [
        (norm(8, momentum=None), (4, 8, 4, 4), torch.bfloat16),
        (norm(8), (4, 8, 4, 4), torch.float32),
        (norm(12), (4, 12, 4, 4), torch.bfloat16),
        (nn.BatchNorm2d(8, affine=False, track_running_stats=False), (4, 8, 4, 4), torch.float32),
    ],
)
def test_what_the_kernels_do_not_take_is_torchs(
    layer: nn.BatchNorm2d, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    layer = layer.to(DEVICE)
    x = some(*shape).detach().to(dtype).requires_grad_()
    torch.testing.assert_close(ours(layer)(x), copy.deepcopy(layer)(x))


def test_a_single_value_per_channel_is_an_error() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ours(norm(8))(some(1, 8, 1, 1))


def test_hooks_hear_what_they_would_have_heard() -> None:
    layer, act = ours(norm(8)), nn.ReLU()
    heard: list[Tensor] = []
    layer.register_forward_hook(lambda module, given, output: heard.append(output))
    x = some(4, 8, 4, 4)
    y = norm_act(layer, act, x)
    assert torch.equal(y, act(heard[0]))


def test_they_are_tried_before_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.check(DEVICE)
    right = gpu.gradients_of

    def wrong(*given: object, **how: object) -> tuple[Tensor, ...]:
        of_x, *others = right(*given, **how)  # type: ignore[arg-type]
        return 1.05 * of_x, *others

    monkeypatch.setattr(gpu, "gradients_of", wrong)
    with pytest.raises(BuildError, match="kernels are off by"):
        gpu.check(DEVICE)
    monkeypatch.setattr(gpu, "gradients_of", lambda *given, **how: 1 / 0)
    with pytest.raises(BuildError, match="Triton makes no kernels: "):
        gpu.check(DEVICE)


@pytest.mark.parametrize("name", ["fast", "resnet8"])
def test_whole_nets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients as near to fp32's as torch's are."""
    if INTERPRETED:
        monkeypatch.setattr(gpu, "TILE", 1 << 15)
    torch.manual_seed(0)
    net = registry.build(name).to(DEVICE).to(memory_format=torch.channels_last)
    fused = copy.deepcopy(net)
    gpu.choose_per_layer(fused)
    images, labels = some(6, 3, 32, 32, wanted=False), torch.arange(6, device=DEVICE)
    found = []
    for each, rounded in ((net, False), (copy.deepcopy(net), True), (fused, True)):
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=rounded):
            logits = each(images if rounded else images.float())
        nn.functional.cross_entropy(logits.float(), labels).backward()
        weights = [p.grad.flatten() for p in each.parameters() if p.grad is not None]
        found.append(torch.cat(weights))
    exact, usual, mine = found
    assert error(mine, exact) < 1.2 * error(usual, exact) + 1e-3

"""Grad-CAM and the effective receptive field against small computations by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import penultimate, registry
from model.effective_receptive_field import effective_receptive_field, mass_box
from model.errors import ModelError
from model.grad_cam import NoGradient, conv_layers, grad_cam
from model.receptive_field import gradient_intervals


class Tiny(nn.Module):
    """One convolution, ReLU in place, mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1, stride=2)
        self.act = nn.ReLU(inplace=True)
        self.out = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.conv(x)).mean((2, 3)))


def seeded(build: type[nn.Module] = Tiny) -> nn.Module:
    torch.manual_seed(3)
    return build()


@pytest.mark.parametrize("of_class", [0, 1])
def test_grad_cam_is_the_formula_of_the_paper(of_class: int) -> None:
    net, image = seeded(), torch.randn(1, 3, 32, 32)
    maps = F.conv2d(image, net.conv.weight, net.conv.bias, stride=2, padding=1)[0]
    # d score / d A_k(i, j) = w_k / 256 where A_k > 0, else 0; its mean over the positions:
    alpha = [net.out.weight[of_class, k] * (maps[k] > 0).float().mean() / 256 for k in range(2)]
    small = (alpha[0] * maps[0] + alpha[1] * maps[1]).clamp(min=0)
    small = (small / small.max()).detach()
    found = grad_cam(net, image, "conv", of_class)
    wanted = F.interpolate(small[None, None], (32, 32), mode="bilinear", align_corners=False)
    assert found.shape == (32, 32)
    assert torch.allclose(found, wanted[0, 0], atol=1e-5)
    assert 0 < float(found.max()) <= 1


def test_nothing_is_left_in_the_net() -> None:
    net = registry.build("resnet8")
    net.train()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    layer = conv_layers(net)[-1]
    grad_cam(net, torch.randn(1, 3, 32, 32), layer, 4)
    effective_receptive_field(net, torch.randn(2, 3, 32, 32), layer)
    with pytest.raises(ModelError):
        grad_cam(net, torch.randn(1, 4, 32, 32), layer, 4)
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "of_class", "reason"),
    [
        ("nothing", 0, "no layer 'nothing'"),
        ("out", 0, "no map"),
        ("conv", 2, "no class 2: 0 to 1"),
    ],
)
def test_what_cannot_be_looked_at_is_said(layer: str, of_class: int, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        grad_cam(seeded(), torch.randn(1, 3, 32, 32), layer, of_class)


class Frozen(Tiny):
    """A stem that keeps no gradients, as frozen backbones have it."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            maps = self.conv(x)
        return self.out(self.act(maps).mean((2, 3)))


def test_a_net_that_keeps_no_gradients_is_no_failure() -> None:
    with pytest.raises(NoGradient, match="keeps no gradients around conv"):
        effective_receptive_field(seeded(Frozen), torch.randn(1, 3, 32, 32), "conv")

    class Chosen(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            return F.one_hot(super().forward(x).argmax(1), 2).float()

    with pytest.raises(NoGradient):
        grad_cam(seeded(Chosen), torch.randn(1, 3, 32, 32), "conv", 0)


def test_a_layer_that_is_not_there_is_said_everywhere() -> None:
    with pytest.raises(ModelError, match="no layer 'nothing'"):
        gradient_intervals(seeded(), at="nothing")
    with pytest.raises(ModelError, match="no layer 'nothing'"):
        penultimate.features(seeded(), torch.randn(1, 3, 32, 32), "nothing")


def test_a_class_that_nothing_speaks_for_is_dark() -> None:
    net = seeded()
    with torch.no_grad():
        net.out.weight.zero_()
    assert not grad_cam(net, torch.randn(1, 3, 32, 32), "conv", 1).any()


def test_the_effective_field_of_a_linear_net_is_its_kernel() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Conv2d(1, 1, 3, padding=1))
    first, second = torch.rand(3, 3), torch.rand(3, 3)
    with torch.no_grad():
        net[0].weight.copy_(first[None, None])
        net[1].weight.copy_(second[None, None])
    # one kernel after the other is the kernel of their full convolution
    kernel = torch.zeros(5, 5)
    for row in range(3):
        for column in range(3):
            kernel[row : row + 3, column : column + 3] += second[row, column] * first
    field = effective_receptive_field(net, torch.randn(4, 1, 32, 32), "1")
    wanted = torch.zeros(32, 32)
    wanted[14:19, 14:19] = kernel / kernel.max()
    assert torch.allclose(field.map, wanted, atol=1e-6)


def test_filters_in_pairs_of_both_signs_do_not_cancel() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 24, 2, bias=False))
    with torch.no_grad():
        net[0].weight[12:] = -net[0].weight[:12]
    images = torch.randn(4, 3, 32, 32)
    state = torch.get_rng_state()
    field = effective_receptive_field(net, images, "0")
    assert torch.equal(torch.get_rng_state(), state)
    assert field.box == (15, 16, 15, 16)
    assert field.map[15:17, 15:17].min() > 0.1


def test_what_cancels_is_no_gradient_but_rounding() -> None:
    """The channels that are added all but equal those that are subtracted."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, bias=False))
    added = torch.rand(2, generator=torch.Generator().manual_seed(0)) < 0.5
    assert added.tolist() == [True, False]
    with torch.no_grad():
        net[0].weight[1] = net[0].weight[0] * (1 + 3e-7)
    field = effective_receptive_field(net, torch.randn(4, 3, 32, 32), "0")
    assert field.box is None
    assert not field.map.any()


@pytest.mark.parametrize("name", registry.names())
def test_the_theoretical_field_encloses_the_effective_one(name: str) -> None:
    torch.manual_seed(0)
    net = registry.build(name)
    images = torch.randn(2, 3, 32, 32)
    for layer in conv_layers(net)[:: max(1, len(conv_layers(net)) // 3)]:
        (top, bottom), (left, right) = gradient_intervals(net, at=layer)
        field = effective_receptive_field(net, images, layer)
        outside = field.map.clone()
        outside[top : bottom + 1, left : right + 1] = 0
        assert not outside.any(), layer
        assert field.box is not None
        first_row, last_row, first_column, last_column = field.box
        assert top <= first_row <= last_row <= bottom
        assert left <= first_column <= last_column <= right


def test_the_box_is_the_smallest_on_each_axis() -> None:
    mass = torch.zeros(32, 32)
    mass[10, 5:15] = 10.0
    mass[30, 31] = 0.5  # less than 2.5 % of all
    assert mass_box(mass) == (10, 10, 5, 14)
    assert mass_box(mass, share=1.0) == (10, 30, 5, 31)
    assert mass_box(torch.zeros(4, 4)) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_box_holds_its_share(seed: int) -> None:
    mass = torch.rand(32, 32, generator=torch.Generator().manual_seed(seed)) ** 8
    top, bottom, left, right = mass_box(mass) or (0, 0, 0, 0)
    assert float(mass[top : bottom + 1, left : right + 1].sum()) >= 0.95 * float(mass.sum())

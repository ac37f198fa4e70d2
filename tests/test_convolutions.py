"""Convolutions chosen per layer on a CPU: which, and that their results stay the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from trainer.loop import convolutions
from trainer.loop.convolutions import (
    GuardedConv2d,
    StridedConv2d,
    StridedDepthwiseConv2d,
    WideConv2d,
    apart,
    choose_per_layer,
    side_by_side,
)

CPU = torch.device("cpu")


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that says it has matrix tiles; the arithmetic is right on any."""
    monkeypatch.setattr(convolutions, "has_matrix_tiles", lambda: True)


def test_strided_depthwise_convolutions_are_exchanged_without_tiles_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convolutions, "has_matrix_tiles", lambda: False)
    net = nn.Sequential(
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.Conv2d(16, 64, 3, padding=1),
    )
    names = list(net.state_dict())
    choose_per_layer(net, CPU, "bf16")
    assert [type(layer) for layer in net] == [
        StridedDepthwiseConv2d,
        nn.Conv2d,
        GuardedConv2d,
        nn.Conv2d,
    ]
    assert list(net.state_dict()) == names
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(torch.randn(1, 8, 8, 8)).dtype == torch.bfloat16


@pytest.mark.usefixtures("tiles")
def test_fp32_and_gpus_change_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(64, 64, 3, padding=1))
    choose_per_layer(net, CPU, "fp32")
    choose_per_layer(net, torch.device("cuda"), "bf16")
    assert [type(layer) for layer in net] == [nn.Conv2d, nn.Conv2d]


@pytest.mark.usefixtures("tiles")
def test_wide_where_the_size_is_kept_and_there_are_channels() -> None:
    net = nn.ModuleList(
        [
            nn.Conv2d(64, 64, 3, padding=1),
            nn.Conv2d(64, 64, 3, padding=2, dilation=2),
            nn.Conv2d(64, 64, 1),
            nn.Conv2d(16, 64, 3, padding=1),
            nn.Conv2d(64, 64, 3),
            nn.Conv2d(64, 64, 3, padding=1, stride=2),
            nn.Conv2d(64, 64, 3, padding=1, groups=2),
            nn.Conv2d(64, 64, 3, padding="same"),
            nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        ]
    )
    choose_per_layer(net, CPU, "bf16")
    assert [type(layer) is WideConv2d for layer in net] == [True] * 3 + [False] * 6
    assert [i for i, layer in enumerate(net) if type(layer) is StridedConv2d] == [5]


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("width", [1, 2, 3, 5, 7, 11])
@pytest.mark.parametrize(
    ("kernel", "dilation", "bias"), [(3, 1, False), (3, 2, True), (1, 1, True)]
)
@pytest.mark.parametrize("images", [2, 7, 33])
def test_gradients_are_those_of_torch(
    width: int, kernel: int, dilation: int, bias: bool, images: int
) -> None:
    torch.manual_seed(0)
    padding = dilation * (kernel - 1) // 2
    usual = nn.Conv2d(48, 56, kernel, padding=padding, dilation=dilation, bias=bias)
    ours = copy.deepcopy(usual)
    choose_per_layer(nn.ModuleList([ours]), CPU, "bf16")
    assert type(ours) is WideConv2d
    _same_gradients(usual, ours, (images, 48, width + 1, width))


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("width", [4, 7, 8, 10, 12])
@pytest.mark.parametrize(
    ("kernel", "padding", "dilation", "bias"), [(3, 1, 1, False), (3, 2, 2, True), (1, 0, 1, True)]
)
@pytest.mark.parametrize("images", [1, 7, 8])
def test_gradients_of_strided_layers_are_those_of_torch(
    width: int, kernel: int, padding: int, dilation: int, bias: bool, images: int
) -> None:
    usual = nn.Conv2d(8, 24, kernel, 2, padding, dilation, bias=bias)
    ours = copy.deepcopy(usual)
    choose_per_layer(nn.ModuleList([ours]), CPU, "bf16")
    assert type(ours) is StridedConv2d
    _same_gradients(usual, ours, (images, 8, width + 1, width))


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("kernel", [1, 2, 3, 8])
@pytest.mark.parametrize("padding", [0, 1])
def test_gradients_of_strided_layers_do_not_depend_on_the_order_in_memory(
    kernel: int, padding: int
) -> None:
    usual = nn.Conv2d(8, 24, kernel, 2, padding if kernel > 1 else 0)
    ours = copy.deepcopy(usual)
    ours.__class__ = StridedConv2d
    for layout in (torch.channels_last, torch.contiguous_format):
        _same_gradients(usual, ours, (7, 8, 9, 8), layout)


@pytest.mark.parametrize(("dilation", "bias"), [(1, False), (2, True)])
def test_gradients_of_strided_depthwise_layers_are_those_of_torch(
    dilation: int, bias: bool
) -> None:
    usual = nn.Conv2d(8, 8, 3, 2, dilation, dilation, groups=8, bias=bias)
    ours = copy.deepcopy(usual)
    choose_per_layer(nn.ModuleList([ours]), CPU, "bf16")
    assert type(ours) is StridedDepthwiseConv2d
    _same_gradients(usual, ours, (3, 8, 9, 6))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(32, 64, 3, 2, 1, groups=32), (1, 1)),
        (nn.Conv2d(32, 32, 3, 3, 1, groups=32), (5, 2)),
        (nn.Conv2d(32, 64, 3, 2, 1), (1, 1)),
        (nn.Conv2d(32, 64, 3, 2, 1, groups=2), (1, 1)),
        (nn.Conv2d(32, 64, 3, 2, 1, padding_mode="replicate"), (1, 1)),
        (nn.Conv2d(32, 64, 3, (1, 2), 1), (12, 2)),  # a column: the output is wrong
        (nn.Conv2d(64, 64, 3, 2, 1, bias=False), (16, 2)),
        (nn.Conv2d(24, 64, 4, 4), (12, 12)),  # 24 channels times 4 are three tiles: so it is here
        (nn.Conv2d(8, 64, 8, padding=3), (9, 9)),
    ],
)
@pytest.mark.usefixtures("tiles")
def test_shapes_that_onednn_gets_wrong_are_computed_in_fp32(
    layer: nn.Conv2d, size: tuple[int, int], compiled: bool
) -> None:
    ours = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    choose_per_layer(nn.ModuleList([ours]), CPU, "bf16", compiled=compiled)
    exact = copy.deepcopy(layer).double()
    image = torch.randn(5, layer.in_channels, *size, generator=_same())
    found = []
    for net, x in ((ours, image), (exact, image.double())):
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=net is ours):
            y = net(x)
        y.backward(torch.ones_like(y))
        found.append([y.detach(), x.grad, *(p.grad for p in net.parameters())])
    assert found[0][0].dtype == torch.bfloat16
    for mine, theirs in zip(*found, strict=True):
        assert mine is not None
        assert theirs is not None
        assert (mine.double() - theirs).norm() <= 2**-6 * theirs.norm()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert (ours(image).double() - found[1][0]).norm() <= 2**-6 * found[1][0].norm()


def test_shapes_that_onednn_gets_right_stay_in_bf16() -> None:
    layers = [
        (nn.Conv2d(64, 128, 3, 2, 1), (2, 2)),
        (nn.Conv2d(64, 128, 1, 2), (1, 1)),
        (nn.Conv2d(3, 32, 4, 4), (32, 32)),
        (nn.Conv2d(16, 32, 4, 2, 1), (16, 16)),
        (nn.Conv2d(64, 64, 3, 2, 1, groups=64), (2, 2)),
        (nn.Conv2d(64, 64, 3, 2, 1, groups=64), (12, 2)),
    ]
    for layer, size in layers:
        choose_per_layer(nn.ModuleList([layer]), CPU, "bf16", compiled=True)
        assert not (isinstance(layer, GuardedConv2d) and layer.is_wrong(torch.zeros(2, 1, *size)))


def _same_gradients(
    usual: nn.Conv2d,
    ours: nn.Conv2d,
    shape: tuple[int, ...],
    layout: torch.memory_format = torch.channels_last,
) -> None:
    # small whole numbers: sums of their products are exact, so nothing depends on the order
    x = torch.randint(-2, 3, shape, generator=_same()).float()
    found = []
    for layer in (usual, ours):
        with torch.no_grad():
            layer.weight.copy_(torch.randint(-1, 2, layer.weight.shape, generator=_same()).float())
            if layer.bias is not None:
                layer.bias.zero_()
        image = x.to(memory_format=layout, copy=True).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(image)
        y.backward(torch.randint(-1, 2, y.shape, generator=_same()).to(y.dtype))
        gradients = [p.grad for p in layer.parameters()]
        found.append([y.detach(), image.grad, *gradients])
    for theirs, mine in zip(*found, strict=True):
        assert theirs is not None
        assert mine is not None
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=2**-7, atol=0)


def _same() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.usefixtures("tiles")
def test_outside_training_the_layer_is_the_usual_one() -> None:
    layer = nn.Conv2d(48, 48, 3, padding=1)
    choose_per_layer(nn.ModuleList([layer]), CPU, "bf16")
    x = torch.randn(2, 48, 5, 5)
    assert layer(x).dtype == torch.float32
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_images_side_by_side() -> None:
    images = torch.arange(1, 13).view(3, 1, 2, 2)
    wide = side_by_side(images, 2, 1)
    assert wide.shape == (2, 1, 2, 6)
    assert wide[0, 0].tolist() == [[1, 2, 0, 5, 6, 0], [3, 4, 0, 7, 8, 0]]
    assert wide[1, 0].tolist() == [[9, 10, 0, 0, 0, 0], [11, 12, 0, 0, 0, 0]]
    assert torch.equal(apart(wide, 2, images), images)

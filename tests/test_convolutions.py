"""Convolutions chosen per layer on a CPU: which, and that their results stay the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from model.blocks import conv_norm_act, conv_pool
from tests.kernel_helpers import needs_tiles
from trainer.kernels import fused, tiles
from trainer.loop.convolutions import (
    DepthwiseConv2d,
    GuardedConv2d,
    TiledConv2d,
    choose_per_layer,
)

CPU = torch.device("cpu")


def test_depthwise_convolutions_are_exchanged_without_kernels_too() -> None:
    net = nn.Sequential(
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.Conv2d(16, 64, 3, padding=1),
    )
    names = list(net.state_dict())
    choose_per_layer(net, CPU, "bf16")
    assert [type(layer) for layer in net] == [
        DepthwiseConv2d,
        DepthwiseConv2d,
        GuardedConv2d,
        nn.Conv2d,
    ]
    assert list(net.state_dict()) == names
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(torch.randn(1, 8, 8, 8)).dtype == torch.bfloat16


@needs_tiles
def test_fp32_and_gpus_change_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(64, 64, 3, padding=1))
    choose_per_layer(net, CPU, "fp32", kernels=True)
    choose_per_layer(net, torch.device("cuda"), "bf16", kernels=True)
    assert [type(layer) for layer in net] == [nn.Conv2d, nn.Conv2d]


@needs_tiles
def test_tiles_where_channels_fill_them() -> None:
    net = nn.ModuleList(
        [
            nn.Conv2d(64, 64, 3, padding=1),
            nn.Conv2d(16, 32, 3, padding=2, dilation=2),
            nn.Conv2d(24, 64, 1),
            nn.Conv2d(64, 64, 3, padding=1, stride=2),
            nn.Conv2d(24, 64, 3, padding=1, stride=2),
            nn.Conv2d(3, 64, 3, padding=1),
            nn.Conv2d(64, 40, 3),
            nn.Conv2d(64, 64, 3, padding=1, groups=2),
            nn.Conv2d(64, 64, 3, padding="same"),
            nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
            nn.Conv2d(64, 64, 3, stride=(1, 2)),
            nn.Conv2d(64, 64, 3, dilation=(1, 2)),
        ]
    )
    choose_per_layer(net, CPU, "bf16", kernels=True)
    assert [type(layer) is TiledConv2d for layer in net] == [True] * 4 + [False] * 8


def tiled(layer: nn.Conv2d) -> nn.Conv2d:
    ours = copy.deepcopy(layer)
    choose_per_layer(nn.ModuleList([ours]), CPU, "bf16", kernels=True)
    assert type(ours) is TiledConv2d
    return ours


SIZES = [(1, 1), (2, 3), (4, 4), (7, 7), (9, 16), (32, 31)]
HOW = [  # kernel, stride, padding, dilation, bias
    (3, 1, 1, 1, False),
    (3, 1, 2, 2, True),
    (1, 1, 0, 1, True),
    (3, 2, 1, 1, False),
    (1, 2, 0, 1, False),
    (5, 3, 2, 1, True),
    (3, 2, 2, 2, False),
    (2, 1, 0, 1, False),
    (4, 1, 3, 1, False),
    (3, 1, 3, 1, False),  # padding wider than the kernel reaches
]


@needs_tiles
@pytest.mark.parametrize(
    ("size", "how"),
    [
        (size, how)
        for size in SIZES
        for how in HOW
        if min(size) + 2 * how[2] > how[3] * (how[0] - 1)  # the kernel fits into the image
    ],
)
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 16), (24, 48), (32, 16), (80, 32)])
def test_tiles_give_what_torch_gives(
    size: tuple[int, int], how: tuple[int, int, int, int, bool], inputs: int, outputs: int
) -> None:
    if how[1] > 1 and inputs == 24:
        inputs = 48  # with a stride whole tiles alone
    kernel, stride, padding, dilation, bias = how
    usual = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=bias)
    for layout in (torch.channels_last, torch.contiguous_format):
        _same_gradients(usual, tiled(usual).to(memory_format=layout), (5, inputs, *size), layout)


@needs_tiles
@pytest.mark.parametrize("images", [1, 2, 3, 67, 130])
@pytest.mark.parametrize("threads", [1, 3])
def test_tiles_with_any_number_of_images_and_threads(images: int, threads: int) -> None:
    usual = nn.Conv2d(32, 32, 3, padding=1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _same_gradients(usual, tiled(usual), (images, 32, 4, 4))
    finally:
        torch.set_num_threads(before)


@needs_tiles
def test_tiles_of_many_channels() -> None:
    usual = nn.Conv2d(256, 272, 3, padding=1)
    _same_gradients(usual, tiled(usual), (9, 256, 7, 7))


@needs_tiles
def test_sums_are_rounded_once() -> None:
    layer = nn.Conv2d(64, 64, 3, padding=1)
    x = torch.randn(4, 64, 15, 15, generator=_same()).bfloat16()
    exact = copy.deepcopy(layer).double()
    with torch.no_grad():
        exact.weight.copy_(layer.weight.bfloat16())
        exact.bias.copy_(layer.bias)  # type: ignore[union-attr, arg-type]
    results = []
    for net, image in ((tiled(layer), x), (exact, x.double())):
        image = image.requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=net is not exact):
            y = net(image)
        y.backward(torch.ones_like(y))
        results.append((y.detach(), net.weight.grad))
        image.grad = None
    (y, of_weight), (expected, of_expected) = results
    assert (y.double() - expected).abs().max() <= 2**-8 * expected.abs().max()
    assert of_weight is not None
    assert of_weight.dtype == torch.float32
    assert (of_weight.double() - of_expected).norm() <= 1e-6 * of_expected.norm()


@needs_tiles
def test_what_is_not_a_number_stays_where_it_is_seen() -> None:
    layer = tiled(nn.Conv2d(16, 16, 3, padding=1))
    x = torch.zeros(7, 16, 8, 8)
    x[1, 2, 4, 0] = torch.nan
    x[4, 2, 4, 7] = torch.nan
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        seen = layer(x).isnan().any(1)
    assert seen[1, 3:6, :2].all()
    assert seen[4, 3:6, 6:].all()
    assert not seen[[0, 2, 3, 5, 6]].any()
    assert not seen[1, :, 2:].any()


@needs_tiles
@pytest.mark.parametrize("size", [(2, 2), (3, 5), (7, 7), (15, 16), (31, 31)])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 16), (32, 48)])
def test_a_convolution_with_its_pooling(size: tuple[int, int], inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    ours = tiled(nn.Conv2d(inputs, outputs, 3, padding=1))
    pool = nn.MaxPool2d(2)
    found = []
    for together in (True, False):
        x = torch.randint(-2, 3, (5, inputs, *size), generator=_same()).float().requires_grad_()
        ours.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = conv_pool(ours, pool, x) if together else pool(ours(x))
        y.backward(torch.randint(-1, 2, y.shape, generator=_same()).to(y.dtype))
        found.append([y.detach(), x.grad, *(p.grad for p in ours.parameters())])
    for mine, theirs in zip(*found, strict=True):
        assert mine is not None
        assert theirs is not None
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


@needs_tiles
def test_pooling_keeps_what_is_not_a_number() -> None:
    layer = tiled(nn.Conv2d(16, 16, 1))
    x = torch.zeros(1, 16, 4, 4)
    x[0, 0, 1, 2] = torch.nan
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = conv_pool(layer, nn.MaxPool2d(2), x)
    assert found[0, 0].isnan().tolist()[0][1]
    assert not found[0, 0, 1].isnan().any()


@needs_tiles
def test_who_listens_to_a_layer_hears_it_and_its_pooling() -> None:
    layer, pool = tiled(nn.Conv2d(16, 16, 3, padding=1)), nn.MaxPool2d(2)
    heard: list[tuple[int, ...]] = []
    pool.register_forward_hook(lambda _m, _i, out: heard.append(tuple(out.shape)))
    x = torch.randn(2, 16, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        conv_pool(layer, pool, x)
        assert heard == [(2, 16, 4, 4)]
        layer.register_forward_hook(lambda _m, _i, out: heard.append(tuple(out.shape)))
        conv_pool(layer, pool, x)
    assert heard[1:] == [(2, 16, 8, 8), (2, 16, 4, 4)]


class Normed(nn.Module):
    """A convolution, perhaps its pooling, a norm and an activation, perhaps with an addition."""

    def __init__(self, act: str = "relu", *, pooled: bool = False, **how: int) -> None:
        super().__init__()
        how = {"kernel_size": 3, "padding": 1, **how}
        self.conv = nn.Conv2d(32, 48, bias=False, **how)  # type: ignore[arg-type]
        self.norm, self.act = nn.BatchNorm2d(48), ACTS[act]()
        self.pool = nn.MaxPool2d(2) if pooled else None
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        residual = None if added is None else lambda: added
        return conv_norm_act(self.conv, self.norm, self.act, x, residual, pool=self.pool)


ACTS = {"none": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU}


def exchanged(net: Normed) -> Normed:
    ours = copy.deepcopy(net)
    fused.choose_per_layer(ours)
    choose_per_layer(ours, CPU, "bf16", kernels=True)
    return ours


def apart(net: Normed) -> Normed:
    """The same by kernels one after the other."""
    net = copy.deepcopy(net)
    net.conv.and_norm = None  # type: ignore[assignment]
    return net


def some(*shape: int, seed: int = 1) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
    return values.to(memory_format=torch.channels_last)


def found_by(
    net: Normed, x: torch.Tensor, added: torch.Tensor | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The output, and with it all gradients and buffers."""
    given = [t.detach().requires_grad_() for t in (x, added) if t is not None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(*given)
    y.backward(some(*y.shape, seed=3))
    tensors = y, *(t.grad for t in (*given, *net.parameters())), *net.buffers()
    return y, [t.detach().double() for t in tensors if t is not None]


@needs_tiles
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    "how",
    [{}, {"kernel_size": 1, "padding": 0}, {"stride": 2}, {"dilation": 2, "padding": 2}],
    ids=["3x3", "1x1", "strided", "dilated"],
)
@pytest.mark.parametrize(
    ("act", "added"),
    [("none", False), ("none", True), ("relu", False), ("relu", True), ("gelu", False)],
)
@pytest.mark.parametrize("pooled", [False, True])
def test_a_convolution_with_its_norm(
    act: str, added: bool, pooled: bool, how: dict[str, int], threads: int
) -> None:
    torch.manual_seed(0)
    x = some(3 if threads == 5 else 37, 32, 9, 10)  # fewer images than threads, too
    net = exchanged(Normed(act, pooled=pooled, **how))
    with torch.no_grad():
        shape = Normed(act, pooled=pooled, **how)(x.float()).shape
    residual = some(*shape, seed=2) if added else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        one_by_one = found_by(apart(net), x, residual)[1]
        y, together = found_by(net, x, residual)
    finally:
        torch.set_num_threads(before)
    assert type(y.grad_fn).__name__ == "_NormedBackward"
    assert len(together) == 8 + added
    for mine, theirs in zip(together, one_by_one, strict=True):
        # the same sums in another order: what lies between two bf16 numbers may be rounded the
        # other way, and a ReLU may let a number pass
        assert (mine - theirs).norm() <= 2e-3 * theirs.norm()
    assert (together[0] - one_by_one[0]).abs().max() <= 2**-7 * one_by_one[0].abs().max()


@needs_tiles
def test_the_moments_of_a_convolution_keep_their_digits() -> None:
    layer = tiled(nn.Conv2d(16, 32, 1))
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.fill_(300)  # type: ignore[union-attr]
    moments = torch.empty(2, 32, dtype=torch.float64)
    y, _ = tiles.convolved(
        some(70, 16, 9, 9), layer.weight, layer.bias, layer, pooled=False, moments=moments
    )
    values = y.double().permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(moments[0], values.mean(1), rtol=1e-8, atol=0)
    torch.testing.assert_close(moments[1], values.var(1, correction=0), rtol=1e-5, atol=0)


@needs_tiles
def test_a_norm_behind_a_convolution_lets_what_is_not_a_number_spread() -> None:
    net = exchanged(Normed(kernel_size=1, padding=0))
    with torch.no_grad():
        net.conv.weight[3].fill_(torch.inf)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(some(8, 32, 4, 4))
    assert y[:, 3].isnan().all()
    assert not y[:, :3].isnan().any()


@needs_tiles
@pytest.mark.parametrize("listened", ["conv", "pool", "norm", "act"])
def test_who_listens_to_a_layer_with_a_norm_hears_it(listened: str) -> None:
    net = exchanged(Normed("gelu", pooled=True))
    x = some(4, 32, 8, 8)
    heard: list[torch.Tensor] = []
    module = net.get_submodule(listened)
    module.register_forward_hook(lambda _module, _given, out: heard.append(out.detach().clone()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x)
        shape = (4, 48, 8, 8) if listened == "conv" else (4, 48, 4, 4)
        assert [t.shape for t in heard] == [shape]
        if listened == "pool":
            assert torch.equal(heard[0], conv_pool(net.conv, nn.MaxPool2d(2), x))
    if listened == "act":
        assert torch.equal(heard[0], y)


@needs_tiles
@pytest.mark.parametrize("listened", ["pool", "act"])
def test_who_hears_before_a_layer_hears_what_it_is_given(listened: str) -> None:
    net, x = exchanged(Normed(pooled=True)), some(4, 32, 8, 8)
    heard: list[torch.Tensor] = []
    net.get_submodule(listened).register_forward_pre_hook(
        lambda _module, given: heard.append(given[0].detach())
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(x)
    assert len(heard) == 1
    if listened == "pool":
        assert heard[0].shape == (4, 48, 8, 8)
    else:
        assert (heard[0] < 0).any()


@needs_tiles
@pytest.mark.parametrize("added", [False, True])
def test_what_is_saved_of_both_may_be_kept_in_another_order(added: bool) -> None:
    net, x = exchanged(Normed(pooled=True)), some(4, 32, 8, 8)
    residual = some(4, 48, 4, 4, seed=2) if added else None
    found = []
    for pack in (torch.Tensor.clone, torch.Tensor.contiguous):
        net.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            found.append(found_by(copy.deepcopy(net), x, residual)[1])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@needs_tiles
@pytest.mark.parametrize("why", ["evaluated", "no gradients", "fp32", "a bias", "24 channels"])
def test_a_norm_that_a_convolution_cannot_take(why: str) -> None:
    net = Normed()
    if why == "a bias":
        net.conv.bias = nn.Parameter(torch.zeros(48))
    if why == "24 channels":
        net.conv = nn.Conv2d(24, 48, 3, bias=False)
    ours = exchanged(net.train(why != "evaluated"))
    x = some(4, 24 if why == "24 channels" else 32, 8, 8).requires_grad_()
    precise = torch.autocast("cpu", dtype=torch.bfloat16, enabled=why != "fp32")
    with torch.set_grad_enabled(why not in ("evaluated", "no gradients")), precise:
        given = x if why != "fp32" else x.float()
        assert ours.conv.and_norm(None, ours.norm, ours.act, given, None) is None
        y, expected = ours(given), apart(ours)(given)
    torch.testing.assert_close(y, expected)


@needs_tiles
def test_a_second_derivative_past_a_norm_is_an_error() -> None:
    net, x = exchanged(Normed()), some(4, 32, 8, 8).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x).float().square().sum()
    (gradient,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.float().sum().backward()


@needs_tiles
def test_what_does_not_fit_goes_torchs_way() -> None:
    layer = tiled(nn.Conv2d(16, 16, 3))
    assert layer(torch.randn(2, 16, 5, 5)).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(0, 16, 5, 5)).shape == (0, 16, 3, 3)
        assert layer(torch.randn(16, 5, 5)).shape == (16, 3, 3)
        with pytest.raises(RuntimeError, match="channels"):
            layer(torch.randn(2, 8, 5, 5))
        with pytest.raises(RuntimeError, match="size"):
            layer(torch.randn(2, 16, 2, 2))
    with torch.autocast("cpu", dtype=torch.float16):
        assert layer(torch.randn(2, 16, 5, 5)).dtype == torch.float16


@needs_tiles
@pytest.mark.parametrize("how", ["slice", "expanded", "bias", "another shape"])
def test_parameters_that_lie_otherwise_in_memory(how: str) -> None:
    layer = nn.Conv2d(32, 32, 3, padding=1)
    if how == "slice":
        layer.weight = nn.Parameter(torch.randn(32, 256, 3, 3, generator=_same())[:, :32])
    elif how == "expanded":
        layer.weight = nn.Parameter(torch.randn(1, 32, 3, 3).expand(32, -1, -1, -1))
    elif how == "bias":
        layer.bias = nn.Parameter(torch.randn(64 * 32, generator=_same())[::64] * 10)
    x = torch.randn(2, 32, 8, 8, generator=_same())
    ours = tiled(layer)
    if how == "another shape":
        ours.weight = nn.Parameter(torch.randn(16, 32, 3, 3))
        with pytest.raises(RuntimeError, match="bias"), torch.autocast("cpu", torch.bfloat16):
            ours(x)
        return
    found = []
    for net in (layer, ours):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x)
        y.backward(torch.ones_like(y))
        assert net.weight.grad is not None
        found.append((y.detach(), net.weight.grad.bfloat16()))
    for theirs, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.02, atol=0.05)


@needs_tiles
@pytest.mark.parametrize("how", [{"padding": -1}, {"dilation": 0}, {"stride": 0}])
def test_layers_that_torch_refuses_are_left_to_it(how: dict[str, int]) -> None:
    layer = nn.Conv2d(32, 32, 3, **how)  # type: ignore[arg-type]
    choose_per_layer(nn.ModuleList([layer]), CPU, "bf16", kernels=True)
    assert type(layer) is not TiledConv2d


@needs_tiles
def test_a_second_derivative_is_an_error() -> None:
    layer = tiled(nn.Conv2d(16, 16, 3))
    x = torch.randn(2, 16, 5, 5, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x).float().square().sum()
    (gradient,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1)])
@pytest.mark.parametrize(
    ("kernel", "padding", "dilation", "bias"),
    [(3, 1, 1, False), (3, 2, 2, True), (5, 1, 1, False), (2, 0, 1, False)],
)
@pytest.mark.parametrize("outputs", [8, 24])
def test_gradients_of_depthwise_layers_are_those_of_torch(
    stride: int | tuple[int, int],
    kernel: int,
    padding: int,
    dilation: int,
    bias: bool,
    outputs: int,
) -> None:
    usual = nn.Conv2d(8, outputs, kernel, stride, padding, dilation, groups=8, bias=bias)
    ours = copy.deepcopy(usual)
    choose_per_layer(nn.ModuleList([ours]), CPU, "bf16")
    assert type(ours) is DepthwiseConv2d
    for size in ((9, 6), (10, 8)):
        _same_gradients(usual, ours, (3, 8, *size))


def test_a_depthwise_padding_wider_than_the_kernel_is_for_torch() -> None:
    layer = nn.Conv2d(8, 8, 3, padding=3, groups=8)
    choose_per_layer(nn.ModuleList([layer]), CPU, "bf16")
    assert type(layer) is nn.Conv2d


@pytest.mark.parametrize("kernels", [False, pytest.param(True, marks=needs_tiles)])
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
def test_shapes_that_onednn_gets_wrong_are_computed_in_fp32(
    layer: nn.Conv2d, size: tuple[int, int], kernels: bool
) -> None:
    ours = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    choose_per_layer(nn.ModuleList([ours]), CPU, "bf16", kernels=kernels)
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
        choose_per_layer(nn.ModuleList([layer]), CPU, "bf16")
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
    for layer in (copy.deepcopy(usual).double(), ours):
        layer.zero_grad()
        with torch.no_grad():
            layer.weight.copy_(torch.randint(-1, 2, layer.weight.shape, generator=_same()).float())
            if layer.bias is not None:
                layer.bias.zero_()
        given = x.to(layer.weight.dtype)
        image = given.to(memory_format=layout, copy=True).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=layer is ours):
            y = layer(image)
        y.backward(torch.randint(-1, 2, y.shape, generator=_same()).to(y.dtype))
        gradients = [p.grad for p in layer.parameters()]
        found.append([y.detach(), image.grad, *gradients])
    assert found[1][0].dtype == torch.bfloat16
    for theirs, mine in zip(*found, strict=True):
        assert theirs is not None
        assert mine is not None
        torch.testing.assert_close(mine.double(), theirs, rtol=2**-7, atol=0)


def _same() -> torch.Generator:
    return torch.Generator().manual_seed(1)

"""Receptive fields: the arithmetic against the gradient, on nets that hypothesis makes up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.errors import ModelError
from model.layout import Seen, image
from model.receptive_field import Axis, Underivable, gradient_intervals
from model.summary import summarize
from model.trace import Tracer
from tests.net_helpers import gradient_probe

SIZE = (3, 110, 117)
CHANNELS = 4


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring on tensors this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def follow(net: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Seen]:
    """The net's output and what it sees."""
    images = torch.rand(1, *shape)
    tracer = Tracer(images, image(images.shape), list(net.parameters()), lambda _: None)
    with torch.no_grad(), tracer:
        output = net(images)
    seen = tracer.seen(output)
    assert isinstance(seen, Seen), seen
    return output, seen


class Join(nn.Module):
    """Branches, cropped to the smallest, then added or concatenated."""

    def __init__(self, branches: list[nn.Module], concat: bool, inplace: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.concat, self.inplace = concat, inplace

    def forward(self, x: Tensor) -> Tensor:
        outs = [b(x) for b in self.branches]
        h, w = (min(o.shape[d] for o in outs) for d in (2, 3))
        if self.concat:
            # the arithmetic does not tell channels apart, so none of them may be dropped
            return torch.cat([(o[:, :2] + o[:, 2:])[..., -h:, :w] for o in outs], 1)
        first = outs[0][:, :, :h, -w:]
        for other in outs[1:]:
            part = other[:, :, (other.shape[2] - h) // 2 :][:, :, :h, :w]
            first = first.clone().add_(part) if self.inplace else F.relu(first) + part
        return first


pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def layers(draw: st.DrawFn, inputs: int = CHANNELS, stride: int | None = None) -> nn.Module:
    """A convolution or pooling that keeps the number of channels."""
    (kh, kw), (dh, dw) = draw(pairs), draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    s = stride or draw(st.sampled_from([1, 1, 1, 2, 3]))
    kind = draw(st.sampled_from(["conv", "conv", "depthwise", "same", "max", "avg", "pad"]))
    if inputs != CHANNELS and kind != "pad":
        kind = "conv"
    if kind in ("max", "avg"):
        padding = (draw(st.integers(0, kh // 2)), draw(st.integers(0, kw // 2)))
        if kind == "avg":
            return nn.AvgPool2d((kh, kw), s, padding)
        return nn.MaxPool2d((kh, kw), s, padding, (dh, dw))
    if kind == "pad":
        sides = draw(st.tuples(*[st.integers(0, 3)] * 4))
        pad = draw(st.sampled_from([nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d]))(sides)
        return nn.Sequential(pad, nn.Conv2d(inputs, CHANNELS, (kh, kw), s, dilation=(dh, dw)))
    padding_: tuple[int, int] | str = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    if kind == "same" and s == 1:
        padding_ = "same"
    groups = CHANNELS if kind == "depthwise" else 1
    layer = nn.Conv2d(inputs, CHANNELS, (kh, kw), s, padding_, (dh, dw), groups)
    tail = draw(st.sampled_from([nn.Identity(), nn.BatchNorm2d(CHANNELS), nn.ReLU(), nn.GELU()]))
    return nn.Sequential(layer, tail)


@st.composite
def nets(draw: st.DrawFn) -> nn.Module:
    """A stem, then layers, residual and concatenating branches."""
    net = nn.Sequential(draw(layers(inputs=3)))
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["layer", "layer", "add", "concat"]))
        if kind == "layer":
            net.append(draw(layers()))
            continue
        stride = draw(st.sampled_from([1, 1, 2]))
        one = nn.Sequential(draw(layers(stride=stride)), draw(layers(stride=1)))
        straight = nn.Identity() if stride == 1 else nn.Conv2d(CHANNELS, CHANNELS, 1, stride)
        two = draw(st.sampled_from([straight, draw(layers(stride=stride))]))
        net.append(Join([one, two], kind == "concat", draw(st.booleans())))
    return net


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(nets())
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_arithmetic_is_what_the_gradient_says(net: nn.Module) -> None:
    try:
        net.eval()(torch.rand(1, *SIZE))
    except RuntimeError:  # a kernel larger than what strides have left of the image
        reject()
    output, seen = follow(net, SIZE)
    expected = []
    for dim, axis, size in zip((2, 3), seen.axes, SIZE[1:], strict=True):
        assert axis.near is not None
        centre = output.shape[dim] // 2
        lo, hi = (edge + axis.jump * centre for edge in axis.near)
        assume(lo >= 0 and hi < size)  # not clipped by the image
        expected.append((lo, hi))
    assert gradient_intervals(net, SIZE) == tuple(expected)
    extents = tuple(hi - lo + 1 for lo, hi in expected)
    summary = summarize(net, SIZE)
    assert summary.receptive_field == extents
    assert summary.layers[-1].receptive_field == extents


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_even_kernels_at_a_join_lie_side_by_side() -> None:
    """One branch sees a pixel more to the left, the other one more to the right: 3, not 2."""

    class Sides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Conv2d(3, 4, 2, padding=1) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x)[:, :, :-1, :-1] + self.b(x)[:, :, 1:, 1:]

    assert summarize(Sides()).receptive_field == (3, 3)
    assert gradient_probe(Sides()) == (3, 3)


def test_axis_by_hand() -> None:
    axis = Axis().window(3, 1, 1).window(3, 2, 1).window(3, 1, 2, dilation=2)
    assert (axis.near, axis.jump, axis.extent) == ((-6, 6), 2, 13)
    pooled = axis.collapse(16)
    assert (pooled.near, pooled.far, pooled.extent, pooled.before) == (None, (-6, 36), 43, 13)
    assert pooled.window(3) == pooled
    gated = axis.join(pooled)
    assert (gated.near, gated.far) == ((-6, 6), (-6, 36))
    with pytest.raises(Underivable, match="jump 2 and 1"):
        axis.join(Axis())


def test_probe_sees_through_norms_activations_and_pools() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.LayerNorm(16),
        nn.Tanh(),
    )
    assert gradient_probe(net) == (8, 8)
    assert gradient_probe(net, at="3") == (4, 4)


class ChannelNorm(nn.Module):
    """Layer norm over channels, written by hand as ConvNeXt does."""

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        return x / (x.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


class StandardisedConv(nn.Conv2d):
    """Weight standardisation (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = w / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


def test_probe_sees_through_what_subtracts_a_mean() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 2, 2), ChannelNorm(), nn.Conv2d(8, 8, 7, padding=3), ChannelNorm()
    )
    assert gradient_intervals(net, at="1") == ((16, 17), (16, 17))
    assert gradient_intervals(net, at="3") == gradient_intervals(net, at="2")
    assert gradient_intervals(net) == ((10, 23), (10, 23))
    standard = nn.Sequential(StandardisedConv(3, 8, 3, padding=1), StandardisedConv(8, 8, 3, 2))
    assert gradient_probe(standard, at="0") == (3, 3)
    assert gradient_probe(standard) == (5, 5)


def test_probe_changes_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    gradient_probe(net)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert net[0].weight.grad is None
    assert not net[0]._forward_hooks
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_probe_says_what_is_wrong() -> None:
    with pytest.raises(ModelError, match="gradient probe fails: RuntimeError"):
        gradient_probe(nn.Linear(7, 10))
    blind = nn.Conv2d(3, 4, 1, padding=40, stride=200)
    with pytest.raises(ModelError, match="nothing of the image"):
        gradient_probe(blind)

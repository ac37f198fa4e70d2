"""The layer table against tables made by hand, functional code, and what it must leave alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import registry, rules
from model.checks import check_output
from model.errors import ModelError
from model.operator_call import Call
from model.receptive_field import gradient_intervals
from model.summary import Layer, Summary, summarize


def rows(summary: Summary) -> dict[str, Layer]:
    return {layer.path: layer for layer in summary.layers}


def fields(net: nn.Module, shape: tuple[int, ...] = (3, 32, 32)) -> list[tuple[str, int, int]]:
    """(path, jump, receptive field) of the rows with a window, or a join, height only."""
    return [
        (r.path, r.jump[0], r.receptive_field[0])
        for r in summarize(net, shape).layers
        if r.jump and r.receptive_field and (r.kernel or r.type in ("add", "cat"))
    ]


class Functional(nn.Module):
    """A body as a function, for nets that are nothing but a forward."""

    def __init__(self, body: object, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)  # type: ignore[operator]


def conv(inputs: int = 3, outputs: int = 8, k: int = 3, **kwargs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, k, **{"padding": k // 2, **kwargs})


# ------------------------------------------------------------------------------------ by hand


def test_alexnet_as_in_the_paper_on_receptive_fields() -> None:
    """Araujo et al. 2019, table 1: AlexNet v2 has receptive field 195 and stride 32."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 11, 4),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 4, 5, padding=2),
        nn.MaxPool2d(3, 2),
        *(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)),
        nn.MaxPool2d(3, 2),
    )
    assert fields(net, (3, 224, 224)) == [
        ("0", 4, 11),
        ("1", 8, 19),
        ("2", 8, 51),
        ("3", 16, 67),
        ("4", 16, 99),
        ("5", 16, 131),
        ("6", 16, 163),
        ("7", 32, 195),
    ]


def test_vgg16_as_published() -> None:
    """VGG-16: 212 after the last pooling, stride 32 (Araujo et al. 2019, table 1)."""
    net, inputs = nn.Sequential(), 3
    for convs in (2, 2, 3, 3, 3):
        for _ in range(convs):
            net.append(conv(inputs, 4))
            inputs = 4
        net.append(nn.MaxPool2d(2))
    s = summarize(net, (3, 64, 64))
    assert s.receptive_field == (212, 212)
    assert s.layers[-1].jump == (32, 32)
    assert s.max_pools == 5


def test_residual_and_dilated_net() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        y = F.relu(m.b(y)) + m.skip(y)
        z = torch.cat([m.wide(y), m.narrow(y)], 1)
        return m.fc(z.mean((2, 3)))

    net = Functional(
        body,
        a=conv(3, 8),
        b=conv(8, 8, stride=2),
        skip=conv(8, 8, 1, stride=2),
        wide=conv(8, 4, dilation=3, padding=3),
        narrow=conv(8, 4),
        fc=nn.Linear(8, 10),
    )
    s = summarize(net)
    assert fields(net) == [
        ("a", 1, 3),
        ("b", 2, 5),
        ("skip", 2, 3),
        ("add", 2, 5),
        ("wide", 2, 17),
        ("narrow", 2, 9),
        ("cat", 2, 17),
    ]
    assert [r.type for r in s.layers][2] == "relu"
    assert s.receptive_field == (17, 17)
    assert s.receptive_field_global == (32, 32)
    assert s.receptive_field_unclipped == (17 + 15 * 2, 17 + 15 * 2)
    assert s.global_average_pooling
    assert s.fc_after_pooling
    assert (s.dilated, s.strided3x3) == (1, 1)


def test_a_dilation_of_one_pixel_dilates_nothing() -> None:
    net = nn.Sequential(conv(3, 8, 1, dilation=4), conv(8, 8, 1), conv(8, 8, dilation=2))
    assert summarize(net).dilated == 1


def test_rows_of_a_residual_block_stand_as_it_is_written() -> None:
    paths = [layer.path for layer in summarize(registry.build("resnet8")).layers]
    block = [path.removeprefix("stages.1.0.") for path in paths if path.startswith("stages.1.0.")]
    conv = ["conv1.conv", "conv1.norm", "conv1.act", "conv2.conv", "conv2.norm"]
    assert block == [*conv, "shortcut.conv", "shortcut.norm", "add", "act"]


def test_row_of_a_convolution() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, (3, 5), (2, 1), (1, 2), groups=2))
    (row,) = summarize(net, (4, 16, 20)).layers
    assert (row.path, row.type) == ("0", "Conv2d")
    assert (row.kernel, row.stride, row.padding) == ((3, 5), (2, 1), (1, 2))
    assert (row.dilation, row.groups) == ((1, 1), 2)
    assert (row.input_shape, row.output_shape) == ((4, 16, 20), (8, 8, 20))
    assert row.parameters == 8 * 2 * 15 + 8
    assert row.macs == 8 * 8 * 20 * 2 * 15
    assert row.share == 1.0
    assert (row.jump, row.receptive_field) == ((2, 1), (3, 5))


@pytest.mark.parametrize(
    ("net", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 8 * 32 * 32 * 27),
        (nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3), 6 * 16 * 16 * 9),
        (nn.Conv2d(3, 8, 3, dilation=2), 8 * 28 * 28 * 27),
        (nn.ConvTranspose2d(3, 8, 2, stride=2), 3 * 32 * 32 * 8 * 4),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), 30720),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)), 30),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), 0),
        (
            nn.Sequential(nn.Flatten(2), nn.LSTM(1024, 5, num_layers=2, bidirectional=True)),
            3 * 2 * (4 * 5 * (1024 + 5) + 4 * 5 * (2 * 5 + 5)),
        ),
    ],
)
def test_macs_by_hand(net: nn.Module, macs: int) -> None:
    assert summarize(net).macs == macs


@pytest.mark.parametrize("gates", [3, 4], ids=["GRU", "LSTM"])
def test_macs_of_the_recurrent_layers_of_a_gpu(gates: int) -> None:
    """One operator for all layers and directions, with a list of weights and biases."""
    x, h = torch.zeros(6, 2, 8), torch.zeros(2, 2, 5)
    one = [torch.zeros(gates * 5, n) for n in (8, 5)] + [torch.zeros(gates * 5)] * 2
    arguments = (x, one * 2, 4, None, h, h, 2, 5, 0, 1, False, 0.0, False, True, [], None)
    call = Call(torch.ops.aten._cudnn_rnn.default, arguments, {}, {}, {}, [x])
    assert rules.macs(call, weighted=True) == 6 * 2 * 2 * gates * 5 * (8 + 5)


def test_macs_of_a_bilinear_layer() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        return m.fc(x.mean((2, 3)), x.amax((2, 3)))

    assert summarize(Functional(body, fc=nn.Bilinear(3, 3, 10))).macs == 10 * 3 * 3


def test_macs_of_an_operator_without_a_rule_are_unknown() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        return torch.cdist(m.a(x).mean((2, 3)), m.fc.weight)

    s = summarize(Functional(body, a=conv(), fc=nn.Linear(8, 10, bias=False)))
    assert rows(s)["a"].macs == 8 * 1024 * 27
    assert rows(s)["fc"].macs is None
    assert s.macs is None


# --------------------------------------------------------------------- for each image, or a batch


def learned_image(m: nn.Module, x: Tensor) -> Tensor:
    return m.a(x) + m.a(m.learned.expand_as(x))


def steps(m: nn.Module, x: Tensor) -> Tensor:
    return m.rnn(x.permute(0, 2, 3, 1).flatten(2))[0].mean(1)


def cells(m: nn.Module, x: Tensor) -> Tensor:
    hidden = None
    for row in x.permute(2, 0, 3, 1).flatten(2):
        hidden = m.cell(row, hidden)
    assert hidden is not None
    return hidden


def queries(m: nn.Module, x: Tensor) -> Tensor:
    tokens = m.tokens.expand(len(x), -1, -1)
    return tokens @ m.q.weight + m.k(x.flatten(2)) @ m.one


def repeated(m: nn.Module, x: Tensor) -> Tensor:
    return m.norm(m.a(x)) + m.learned.repeat(len(x), 1, 1, 1)[:, :1]


def low_rank(m: nn.Module, x: Tensor) -> Tensor:
    return F.conv2d(x, (m.u @ m.v).view(8, 3, 3, 3), padding=1)


def convs_of(count: int) -> int:
    return count * 8 * 1024 * 27


def three(gates: int) -> int:
    """Of one recurrent layer of 20 over 32 rows of 96, the product of its first state included."""
    return 32 * gates * 20 * (96 + 20)


P = nn.Parameter
PER_IMAGE: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], dict[str, object], int]] = {
    "learned image": (
        learned_image,
        {"a": conv(), "learned": P(torch.ones(1, 3, 32, 32))},
        convs_of(2),
    ),
    "hidden state": (steps, {"rnn": nn.RNN(96, 20, batch_first=True)}, three(1)),
    "two layers": (steps, {"rnn": nn.GRU(96, 20, batch_first=True)}, three(3)),
    "cell": (cells, {"cell": nn.GRUCell(96, 20)}, three(3)),
    "queries": (
        queries,
        {
            "tokens": P(torch.ones(1, 3, 4)),
            "q": nn.Linear(4, 4, bias=False),
            "k": nn.Linear(1024, 4),
            "one": P(torch.ones(4, 4)),
        },
        3 * 4 * 4 + 3 * 1024 * 4 + 3 * 4 * 4,
    ),
    # repeated parameters have no rule, and no multiply-adds
    "instance norm": (
        repeated,
        {
            "a": conv(),
            "norm": nn.InstanceNorm2d(8, affine=True),
            "learned": P(torch.ones(1, 3, 32, 32)),
        },
        convs_of(1),
    ),
    "once a batch": (
        low_rank,
        {"u": P(torch.ones(8, 2)), "v": P(torch.ones(2, 27))},
        convs_of(1),
    ),
}


def with_parts(body: object, parts: dict[str, object]) -> nn.Module:
    net = Functional(body)
    for name, part in parts.items():
        setattr(net, name, part)
    return net


@pytest.mark.parametrize(("body", "parts", "macs"), PER_IMAGE.values(), ids=PER_IMAGE)
def test_work_for_each_image_counts_though_it_is_not_on_the_image(
    body: object, parts: dict[str, object], macs: int
) -> None:
    s = summarize(with_parts(body, parts))
    assert s.macs == macs
    assert sum(row.macs or 0 for row in s.layers) == macs


def test_the_row_of_a_layer_on_a_learned_image() -> None:
    learned = {"a": conv(), "learned": P(torch.ones(1, 3, 32, 32))}
    one, two = (row for row in summarize(with_parts(learned_image, learned)).layers if row.kernel)
    assert (one.path, one.macs, one.receptive_field) == ("a", convs_of(1), (3, 3))
    assert (two.path, two.macs, two.kernel) == ("a", convs_of(1), (3, 3))
    assert two.reason == "does not depend on the image"


def test_a_layer_whose_work_does_not_grow_with_the_images_is_of_the_batch_or_unknown() -> None:
    def once(m: nn.Module, x: Tensor) -> Tensor:
        return m.fc(m.positions) + x.mean((1, 2, 3), keepdim=True)[:, 0]

    parts = {"fc": nn.Linear(4, 8), "positions": P(torch.ones(64, 4))}
    row = rows(summarize(with_parts(once, parts)))["fc"]
    assert (row.macs, row.input_shape, row.output_shape) == (0, (64, 4), (64, 8))

    def among_images(m: nn.Module, x: Tensor) -> Tensor:
        y = x.mean((2, 3))
        return y @ y.T @ y

    s = summarize(Functional(among_images))
    assert s.macs is None
    assert "matmul" in s.macs_reason or "linear" in s.macs_reason


def test_a_net_that_goes_image_by_image_has_the_same_multiply_adds() -> None:
    def one_by_one(m: nn.Module, x: Tensor) -> Tensor:
        return torch.stack([m.fc(m.a(each[None]).mean((2, 3))[0]) for each in x])

    s = summarize(Functional(one_by_one, a=conv(), fc=nn.Linear(8, 10)))
    assert s.macs == convs_of(1) + 80


def test_a_batch_may_be_halved() -> None:
    def halves(m: nn.Module, x: Tensor) -> Tensor:
        return torch.cat([m.a(half) for half in x.chunk(2)])

    assert summarize(Functional(halves, a=conv())).macs == convs_of(1)


def test_what_a_first_pass_makes_and_later_ones_keep_hides_nothing() -> None:
    def kept(m: nn.Module, x: Tensor) -> Tensor:
        if m.table is None:
            m.table = torch.linspace(0, 1, 1024).sin()
        return learned_image(m, x).flatten(2) * m.table

    learned = {"a": conv(), "learned": P(torch.ones(1, 3, 32, 32)), "table": None}
    assert summarize(with_parts(kept, learned)).macs == convs_of(2)


class Tagged(Tensor):
    """A tensor of the user's own class."""


def tagged(m: nn.Module, x: Tensor) -> Tensor:
    return m.fc(m.a(x.as_subclass(Tagged)).mean((2, 3))).as_subclass(Tensor)


def test_a_tensor_of_another_class_is_the_same_image() -> None:
    s = summarize(Functional(tagged, a=conv(), fc=nn.Linear(8, 10)))
    assert (s.macs, s.receptive_field) == (convs_of(1) + 80, (3, 3))
    assert s.global_average_pooling


@pytest.mark.parametrize(
    "away", [lambda x: torch.from_numpy(x.numpy().copy()), lambda x: torch.tensor(x.tolist())]
)
def test_where_the_image_is_lost_what_follows_from_it_is_unknown(
    away: Callable[[Tensor], Tensor],
) -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        return m.fc(F.max_pool2d(m.a(away(x)), 2).mean((2, 3)))

    s = summarize(Functional(body, a=conv(stride=2), fc=nn.Linear(8, 10)))
    assert s.macs is None
    assert s.global_average_pooling is None
    assert s.fc_after_pooling is None
    assert s.depthwise_separable is None
    assert s.receptive_field is None
    assert "does not depend on the image" in s.macs_reason
    assert "does not depend on the image" in s.reason
    # what is done with as many images is counted all the same
    assert (rows(s)["a"].macs, rows(s)["fc"].macs) == (convs_of(1) // 4, 80)
    assert (s.strided3x3, s.max_pools) == (1, 1)


def sequence_first(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x).flatten(2).permute(2, 0, 1)
    return m.fc(m.norm(x).mean(0))


def sides(row: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return row.input_shape, row.output_shape


def test_shapes_are_without_the_batch_wherever_it_stands() -> None:
    net = Functional(sequence_first, a=conv(3, 2, 4, stride=4), norm=nn.LayerNorm(2))
    net.fc = nn.Linear(2, 2)
    found = rows(summarize(net))
    assert sides(found["norm"]) == ((81, 2), (81, 2))
    assert sides(found["mean"]) == ((81, 2), (2,))
    assert sides(found["fc"]) == ((2,), (2,))
    lstm = rows(summarize(with_parts(steps, {"rnn": nn.LSTM(96, 20, batch_first=True)})))
    recurrent = next(row for row in lstm.values() if row.parameters)
    assert sides(recurrent) == ((32, 96), (32, 20))


def test_a_dimension_beside_the_batch_stays() -> None:
    def heads(m: nn.Module, x: Tensor) -> Tensor:
        return m.fc(x.reshape(len(x) * 3, 1024)).view(len(x), 3)

    row = rows(summarize(Functional(heads, fc=nn.Linear(1024, 1))))["fc"]
    assert sides(row) == ((3, 1024), (3, 1))


@pytest.mark.parametrize("name", registry.names())
def test_parameters_add_up(name: str) -> None:
    net = registry.build(name)
    s = summarize(net)
    assert s.parameters == sum(p.numel() for p in net.parameters())
    assert sum(r.parameters for r in s.layers) == s.parameters
    assert sum(r.share for r in s.layers) == pytest.approx(1)
    assert sum(r.macs or 0 for r in s.layers) == s.macs
    assert s.buffers == sum(b.numel() for b in net.buffers())
    assert s.reason == ""


# ------------------------------------------------------------------- functional code, sharing


def test_module_used_twice_and_tied_weights_count_once() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        return F.conv2d(m.b(m.b(m.a(x))), m.b.weight, padding=1)

    net = Functional(body, a=conv(), b=conv(8, 8))
    s = summarize(net)
    assert [(r.path, r.parameters) for r in s.layers] == [
        ("a", 224),
        ("b", 584),
        ("b", 0),
        ("b", 0),
    ]
    assert s.layers[-1].type == "conv2d"
    assert s.receptive_field == (9, 9)
    assert s.macs == 8 * 1024 * 27 + 3 * 8 * 1024 * 72


def test_unused_parameters_have_a_row() -> None:
    net = Functional(lambda m, x: m.a(x), a=conv(), idle=nn.Linear(4, 5))
    row = rows(summarize(net))["idle"]
    assert (row.parameters, row.reason) == (25, "not used in the forward pass")


def test_weights_computed_in_the_forward_belong_to_their_layer() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        w = m.a.weight
        return F.conv2d(x, (w - w.mean((1, 2, 3), keepdim=True)) / w.std(), padding=1)

    net = Functional(body, a=nn.Conv2d(3, 8, 3, bias=False))
    (row,) = summarize(net).layers
    assert (row.path, row.parameters, row.receptive_field) == ("a", 216, (3, 3))
    normed = nn.utils.parametrizations.weight_norm(conv())
    (row,) = summarize(normed).layers
    assert row.parameters == sum(p.numel() for p in normed.parameters())
    assert row.kernel == (3, 3)


EQUIVALENT = {
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "module": lambda x: nn.AdaptiveAvgPool2d((1, 1))(x)[:, :, 0, 0],
    "mean": lambda x: x.mean((2, 3)),
    "twice": lambda x: x.mean(3).mean(2),
    "flat": lambda x: x.flatten(2).mean(-1),
    "whole window": lambda x: F.avg_pool2d(x, x.shape[-1]).squeeze(),
    "sum": lambda x: x.sum((-1, -2)) / 256,
}


@pytest.mark.parametrize("pooling", EQUIVALENT.values(), ids=EQUIVALENT)
def test_all_ways_to_pool_globally(pooling: object) -> None:
    body = lambda m, x: pooling(m.a(x))  # type: ignore[operator]  # noqa: E731
    s = summarize(Functional(body, a=conv(3, 10, stride=2)))
    assert s.global_average_pooling
    assert not s.fc_after_pooling
    assert s.receptive_field == (3, 3)
    assert s.receptive_field_global == (32, 32)
    assert s.receptive_field_unclipped == (33, 33)


def test_other_heads_are_not_called_average_pooling() -> None:
    flat = summarize(nn.Sequential(conv(), nn.Flatten(), nn.Linear(8 * 1024, 10)))
    assert not flat.global_average_pooling
    assert flat.receptive_field == (3, 3)
    assert flat.receptive_field_global == (32, 32)
    largest = summarize(Functional(lambda m, x: m.a(x).amax((2, 3)), a=conv()))
    assert not largest.global_average_pooling
    late = summarize(nn.Sequential(conv(), nn.AdaptiveAvgPool2d(1), conv(8, 10, 1), nn.Flatten()))
    assert late.fc_after_pooling


def halved(*rest: nn.Module) -> nn.Sequential:
    """Five times a convolution and max pooling, which leave one position: it sees 94 pixels."""
    pairs = [(conv(8 if i else 3), nn.MaxPool2d(2)) for i in range(5)]
    return nn.Sequential(*(layer for pair in pairs for layer in pair), *rest)


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


SINGLE = {
    # 2 pixels of jump 16 are pooled: 94 - 16 before
    "flattened": ([nn.Flatten(), nn.Linear(8, 10)], 78, False, True),
    "averaged": ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)], 94, True, True),
    "axis by axis": ([Functional(lambda m, x: x.mean(3).mean(2))], 94, True, False),
    "1x1 before": ([conv(8, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()], 94, True, False),
    "convolved": ([conv(8, 10), nn.AdaptiveAvgPool2d(1), nn.Flatten()], 158, True, False),
    "padded": ([nn.ZeroPad2d(1), nn.Conv2d(8, 10, 3), nn.Flatten()], 158, False, False),
    "shuffled": (
        [Functional(lambda m, x: shuffled(m.a(x)).mean((2, 3)), a=conv(8, 8))],
        158,
        True,
        False,
    ),
    "spread": ([nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(392, 10)], 78, False, True),
}


@pytest.mark.parametrize(("rest", "field", "average", "fc"), SINGLE.values(), ids=SINGLE)
def test_pooling_that_leaves_one_position_is_global_if_no_window_follows(
    rest: list[nn.Module], field: int, average: bool, fc: bool
) -> None:
    s = summarize(halved(*rest))
    assert s.receptive_field == (field, field)
    assert s.receptive_field_global == (32, 32)
    assert (s.global_average_pooling, s.fc_after_pooling) == (average, fc)


def test_two_global_poolings_of_different_strides_are_joined() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        return m.c(F.avg_pool2d(m.a(x), 32) + F.max_pool2d(m.b(x), 16)).flatten(1)

    s = summarize(Functional(body, a=conv(), b=conv(stride=2), c=conv(8, 10, 1)))
    assert s.receptive_field == (3, 3)
    assert s.receptive_field_unclipped == (34, 34)
    assert s.fc_after_pooling


UNFOLLOWED = {
    "transposed": nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1),
    "upsampled": nn.Upsample(scale_factor=2),
}


@pytest.mark.parametrize("mode", ["circular", "reflect"])
def test_circular_padding_is_followed_as_reflecting_one(mode: str) -> None:
    layer = nn.Conv2d(8, 8, 5, 2, padding=2, padding_mode=mode)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    s = summarize(nn.Sequential(conv(), nn.CircularPad2d((1, 2, 0, 1)), layer, *head))
    assert s.receptive_field == (7, 7)
    assert s.global_average_pooling
    row = rows(s)["2"]
    assert (row.padding, row.input_shape) == ((2, 2), (8, 33, 35))


@pytest.mark.parametrize("module", [True, False])
def test_pixel_unshuffling_is_a_window_of_its_patches(module: bool) -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        return m.a(F.pixel_unshuffle(x, 2))

    net = nn.Sequential(nn.PixelUnshuffle(2), conv(12))
    s = summarize(net if module else Functional(body, a=conv(12)))
    stem = s.layers[0]
    assert (stem.kernel, stem.stride, stem.jump) == ((2, 2), (2, 2), (2, 2))
    assert (stem.receptive_field, s.receptive_field) == ((2, 2), (6, 6))
    assert (s.max_pools, s.macs) == (0, 12 * 9 * 8 * 16 * 16)
    assert gradient_intervals(net) == ((14, 19), (14, 19))


@pytest.mark.parametrize("layer", UNFOLLOWED.values(), ids=UNFOLLOWED)
def test_what_follows_a_layer_that_cannot_be_followed_is_unknown(layer: nn.Module) -> None:
    separable = [conv(8, 8, groups=8), conv(8, 8, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    s = summarize(nn.Sequential(conv(), layer, *separable, *head))
    assert s.receptive_field is None
    assert s.global_average_pooling is None
    assert s.fc_after_pooling is None
    assert s.depthwise_separable is None
    before = summarize(nn.Sequential(conv(), *separable, layer))
    assert before.depthwise_separable == 1


def test_pooling_that_misses_the_border_does_not_see_the_whole_image() -> None:
    s = summarize(nn.Sequential(nn.Conv2d(3, 4, 1, stride=3), nn.AdaptiveAvgPool2d(1)), (3, 32, 36))
    assert s.receptive_field_global == (31, 34)


def test_squeeze_and_excitation_is_no_global_pooling() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        gate = torch.sigmoid(m.gate(y.mean((2, 3), keepdim=True)))
        return m.b(y * gate)

    net = Functional(body, a=conv(), gate=conv(8, 8, 1), b=conv(8, 8, stride=2))
    s = summarize(net)
    assert not s.global_average_pooling
    assert rows(s)["b"].jump == (2, 2)
    assert s.receptive_field == (34, 34)  # the gate sees all: 3 + 31 positions
    assert [path for path, row in rows(s).items() if row.pooled] == ["mul", "b"]


def test_gates_pooled_along_one_axis_are_no_global_pooling() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        gates = m.rows(y.mean(3, keepdim=True)), m.columns(y.mean(2, keepdim=True))
        return m.fc((y * gates[0].sigmoid() * gates[1].sigmoid()).flatten(1))

    gates = {"rows": conv(8, 8, 1), "columns": conv(8, 8, 1)}
    s = summarize(Functional(body, a=conv(), **gates, fc=nn.Linear(8 * 1024, 10)))
    assert not s.global_average_pooling
    assert not s.fc_after_pooling


def test_a_gate_between_depthwise_and_pointwise_does_not_part_them() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        y = m.depthwise(m.a(x))
        return m.pointwise(y * torch.sigmoid(m.gate(y.mean((2, 3), keepdim=True))))

    parts = {"a": conv(), "depthwise": conv(8, 8, groups=8), "gate": conv(8, 8, 1)}
    net = Functional(body, **parts, pointwise=conv(8, 4, 1))
    assert [r.path for r in summarize(net).layers if r.is_separable] == ["depthwise", "pointwise"]


def test_shuffle_permute_linear_and_slices_are_followed() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x).reshape(-1, 2, 4, 32, 32).transpose(1, 2).reshape(-1, 8, 32, 32)
        y = m.b(m.fc(m.norm(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2))
        half, other = y.chunk(2, 1)
        y = F.pad((half * other)[:, :, 1::2, ::2], (0, 0, 0, 0, 2, 2))
        return torch.einsum("nchw,cd->ndhw", m.c(y), torch.ones(4, 5))

    net = Functional(
        body,
        a=conv(),
        norm=nn.LayerNorm(8),
        fc=nn.Linear(8, 8),
        b=conv(8, 8),
        c=conv(8, 4),
    )
    s = summarize(net)
    assert rows(s)["fc"].receptive_field == (3, 3)
    assert rows(s)["b"].receptive_field == (5, 5)
    assert rows(s)["c"].receptive_field == (9, 9)
    assert s.receptive_field == (9, 9)
    assert s.layers[-1].jump == (2, 2)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda m, x: F.interpolate(m.a(x), scale_factor=2.0), "no rule for upsample"),
        (lambda m, x: F.pixel_shuffle(m.a(x), 2), "no rule for pixel_shuffle"),
        (lambda m, x: m.a(x) + F.interpolate(m.b(x), 32), "no rule for upsample"),
        (lambda m, x: m.a(x).flip(3), "flip of rows or columns"),
        (lambda m, x: F.adaptive_avg_pool2d(m.a(x), 5), "adaptive pooling of 32 positions to 5"),
        (lambda m, x: m.a(x) + m.b(x).repeat(1, 1, 2, 2), "no rule for|written in place"),
        (lambda m, x: m.a(x)[:, :, :16, :16] + m.b(x), "jump 1 and 2"),
        (lambda m, x: m.a(x) + m.a(x).transpose(2, 3), "different places"),
        (lambda m, x: torch.cat([m.a(x), m.a(x)], 2), "concatenated"),
        (lambda m, x: m.a(x) @ m.a(x), "both depend on the image"),
        (lambda m, x: F.conv_transpose2d(x, torch.ones(3, 8, 2, 2), stride=2), "transposed"),
        (lambda m, x: m.a(x).reshape(-1, 8, 16, 64), "splits rows or columns"),
        (lambda m, x: torch.zeros(2, 10), "does not depend on the image"),
    ],
)
def test_what_cannot_be_derived_is_unknown_with_a_reason(body: object, reason: str) -> None:
    s = summarize(Functional(body, a=conv(), b=conv(stride=2)))
    assert s.receptive_field is None
    assert s.receptive_field_global is None
    assert re.search(reason, s.reason), s.reason
    assert s.parameters == 448


def test_writing_into_a_part_of_a_tensor_is_noticed() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        y[:, :4] += m.b(x)
        return y

    s = summarize(Functional(body, a=conv(), b=conv(3, 4, 5)))
    assert s.receptive_field is None
    assert "in place" in s.reason

    def whole(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        y += m.b(x)
        return F.relu_(y)

    assert summarize(Functional(whole, a=conv(), b=conv(3, 8, 5))).receptive_field == (5, 5)


@pytest.mark.parametrize(
    "act",
    [
        lambda y: y * torch.sigmoid(y),
        lambda y: y * torch.tanh(F.softplus(y)),
        lambda y: y * F.relu6(y + 3) / 6,
    ],
    ids=["swish", "mish", "hard swish"],
)
def test_an_activation_by_hand_does_not_part_them(act: Callable[[Tensor], Tensor]) -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        return m.pointwise(act(m.depthwise(m.a(x))))

    parts = {"a": conv(), "depthwise": conv(8, 8, groups=8), "pointwise": conv(8, 4, 1)}
    assert summarize(Functional(body, **parts)).depthwise_separable == 1

    def residual(m: nn.Module, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.pointwise(x + m.depthwise(x))

    assert summarize(Functional(residual, **parts)).depthwise_separable == 0


def test_a_linear_layer_over_channels_is_pointwise() -> None:
    def block(m: nn.Module, x: Tensor) -> Tensor:  # as ConvNeXt's
        y = m.norm(m.depthwise(m.a(x)).permute(0, 2, 3, 1))
        y = m.narrow(F.gelu(m.wide(y)))
        return m.head(y.mean((1, 2)))

    parts = {"a": conv(), "depthwise": conv(8, 8, groups=8), "norm": nn.LayerNorm(8)}
    linear = {"wide": nn.Linear(8, 32), "narrow": nn.Linear(32, 8), "head": nn.Linear(8, 10)}
    s = summarize(Functional(block, **parts, **linear))
    assert s.depthwise_separable == 1
    assert [r.path for r in s.layers if r.is_separable] == ["depthwise", "wide"]
    assert summarize(Functional(block, **parts, **linear), (3, 1, 1)).depthwise_separable == 1

    def rows(m: nn.Module, x: Tensor) -> Tensor:
        return m.rows(m.depthwise(m.a(x)))

    def flat(m: nn.Module, x: Tensor) -> Tensor:
        return m.flat(m.depthwise(m.a(x)).flatten(1))

    def halves(m: nn.Module, x: Tensor) -> Tensor:
        return m.part(m.depthwise(m.a(x)).permute(0, 2, 3, 1).unflatten(3, (2, 4)))

    assert not summarize(Functional(rows, **parts, rows=nn.Linear(32, 8))).depthwise_separable
    assert not summarize(Functional(flat, **parts, flat=nn.Linear(8192, 8))).depthwise_separable
    assert not summarize(Functional(halves, **parts, part=nn.Linear(4, 4))).depthwise_separable


def test_what_joins_is_known_by_its_kind() -> None:
    class Sum(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    class Swish(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(x)

    def body(m: nn.Module, x: Tensor) -> Tensor:
        one, two = m.swish(m.a(x)), m.b(x)
        y = torch.maximum(one, two) + torch.stack([one - two, one / two]).sum(0)
        return m.sum(m.scale * y, two)

    net = Functional(body, a=conv(), b=conv(), swish=Swish(), sum=Sum())
    net.scale = nn.Parameter(torch.ones(8, 1, 1))
    joined = {r.type: r.joins for r in summarize(net).layers}
    names = ("maximum", "sub", "div", "stack", "add", "Sum")
    assert all(joined[name] for name in names)
    assert not any(joined[name] for name in ("Conv2d", "Swish", "sum", "mul"))


def test_the_image_is_not_what_a_first_layer_takes() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        return m.a(F.pad(x, (2, 2, 2, 2)))

    s = summarize(Functional(body, a=conv()))
    assert s.layers[0].input_shape == (3, 36, 36)
    assert s.input_shape == (3, 32, 32)


def test_a_fixed_filter_counts_as_nothing() -> None:
    class Blur(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("filters", torch.ones(8, 1, 3, 3) / 9)

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.filters, stride=2, padding=1, groups=8)

    s = summarize(nn.Sequential(conv(), Blur(), conv(8, 8, 1)))
    assert (s.depthwise_separable, s.strided3x3) == (0, 0)
    assert s.receptive_field == (5, 5)
    learned = summarize(nn.Sequential(conv(), conv(8, 8, groups=8, stride=2), conv(8, 8, 1)))
    assert (learned.depthwise_separable, learned.strided3x3) == (1, 1)


def test_depthwise_separable_pairs() -> None:
    def block(groups: int, between: nn.Module) -> nn.Sequential:
        return nn.Sequential(conv(8, 8, groups=groups), between, conv(8, 16, 1))

    paired = summarize(nn.Sequential(conv(), block(8, nn.BatchNorm2d(8)))).layers
    assert [r.is_separable for r in paired] == [False, True, False, True]
    assert [r.is_depthwise for r in paired] == [False, True, False, False]
    for net in (
        block(4, nn.ReLU()),  # grouped, not depthwise
        block(8, nn.MaxPool2d(2)),  # something else between
        nn.Sequential(conv(8, 8, groups=8), conv(8, 8)),  # no pointwise
        nn.Sequential(conv(8, 16, 1), conv(16, 16, groups=16)),  # the wrong way round
    ):
        assert summarize(nn.Sequential(conv(), net)).depthwise_separable == 0
    assert summarize(nn.Sequential(conv(), block(8, nn.ReLU(inplace=True)))).depthwise_separable


def test_a_leaf_with_several_functional_layers_is_shown_layer_by_layer() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1 = nn.Parameter(torch.randn(8, 3, 3, 3))
            self.w2 = nn.Parameter(torch.randn(8, 8, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(F.relu(F.conv2d(x, self.w1)), self.w2)

    layers = summarize(nn.Sequential(Custom())).layers
    assert [(r.path, r.parameters) for r in layers] == [
        ("0.conv2d", 216),
        ("0.relu", 0),
        ("0.conv2d_2", 576),
    ]
    assert layers[-1].receptive_field == (5, 5)


# ------------------------------------------------------------------------------- left alone


class Counting(nn.Module):
    """Changes a buffer in place, replaces another, and draws random numbers, even in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = torch.ones(1)
        return x + torch.rand(1)


def test_parameters_that_a_net_writes_to_stay_as_they_were() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.calls = nn.Linear(3, 10), nn.Parameter(torch.zeros(1))
            self.drawn = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.fc.bias.add_(1)
            self.calls.data += 1
            self.drawn = nn.Parameter(torch.rand(2))
            out: Tensor = self.fc(x.mean((2, 3)))
            return out

    net = Writing()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    parameters = [id(p) for p in net.parameters()]
    summarize(net)
    check_output(net, 10)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert [id(p) for p in net.parameters()] == parameters


@pytest.mark.parametrize("training", [True, False])
def test_the_net_and_the_generator_stay_as_they_were(training: bool) -> None:
    net = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.Dropout(0.5), Counting()).train(training)
    net[1].train(not training)
    hook = net[0].register_forward_hook(lambda *_: None)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    buffers = [id(b) for b in net.buffers()]
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    summarize(net)
    assert torch.equal(torch.rand(3), expected)
    assert [m.training for m in net] == [training, not training, training, training]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert [id(b) for b in net.buffers()] == buffers
    assert all(p.grad is None for p in net.parameters())
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net] == [1, 0, 0, 0]
    hook.remove()


def test_a_net_that_fails_is_one_line_and_left_alone() -> None:
    net = nn.Sequential(conv(), nn.Linear(7, 10)).train()
    with pytest.raises(ModelError, match=r"fails on a batch \[2, 3, 32, 32\]") as raised:
        summarize(net)
    assert "\n" not in str(raised.value)
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_train_mode_gives_the_same_summary() -> None:
    net = registry.build("dws-late")
    assert summarize(net.train()) == summarize(net.eval())


def test_double_precision_and_channels_last() -> None:
    net = registry.build("resnet8").double().to(memory_format=torch.channels_last)
    assert summarize(net).receptive_field == (25, 25)


def test_rows_are_plain_python() -> None:
    for row in summarize(registry.build("dws-late")).layers:
        for value in vars(row).values():
            items = value if isinstance(value, tuple) else (value,)
            assert {type(i) for i in items} <= {int, str, float, bool, type(None)}


def test_a_net_runs_three_times_for_its_table() -> None:
    """On two images, on four, and followed: each run of a large net takes a tenth of a second."""
    net, runs = registry.build("resnet18"), list[int]()
    net.register_forward_pre_hook(lambda net, images: runs.append(len(images[0])))
    summarize(net)
    assert sorted(runs) == [2, 2, 4]


def test_attention_is_counted_by_its_products() -> None:
    class Attends(nn.Module):
        def __init__(self, how: str) -> None:
            super().__init__()
            self.how = how
            self.attention = nn.MultiheadAttention(48, 4, batch_first=True)
            self.fc = nn.Linear(48, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.reshape(len(x), 64, 48)
            if self.how == "module":
                x = self.attention(x, x, x, need_weights=False)[0]
            else:
                x = F.scaled_dot_product_attention(x, x, x)
            out: torch.Tensor = self.fc(x.mean(1))
            return out

    products = 2 * 64 * 64 * 48
    fast = torch.backends.mha.get_fastpath_enabled()
    assert summarize(Attends("function")).macs == products + 480
    assert summarize(Attends("module")).macs == 4 * 64 * 48 * 48 + products + 480
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_a_linear_layer_after_any_global_pooling_is_told() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            out: torch.Tensor = self.fc(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))
            return out

    assert summarize(Both()).fc_after_pooling
    assert summarize(registry.build("fast")).fc_after_pooling
    assert not summarize(registry.build("dws-late")).fc_after_pooling


def test_the_padding_of_one_dimension_is_none_of_the_other() -> None:
    net = nn.Sequential(
        nn.Flatten(2), nn.Conv1d(3, 4, 5, padding=2), nn.Flatten(), nn.LazyLinear(2)
    )
    net(torch.zeros(1, 3, 32, 32))
    row = next(row for row in summarize(net).layers if row.type == "Conv1d")
    assert (row.kernel, row.padding) == ((1, 5), (0, 2))


@pytest.mark.parametrize(
    ("layer", "padding"),
    [
        (nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), (1, 1)),
        (nn.Conv2d(3, 8, 3, padding="same", padding_mode="replicate"), (1, 1)),
        (nn.Conv2d(3, 8, 3, padding="same", dilation=2), (2, 2)),
        (nn.Conv2d(3, 8, 4, padding="same"), None),  # 1 before, 2 after
        (nn.Conv2d(3, 8, 3, padding="valid"), (0, 0)),
    ],
)
def test_padding_is_that_of_the_layer(layer: nn.Module, padding: tuple[int, int] | None) -> None:
    assert rows(summarize(nn.Sequential(layer)))["0"].padding == padding


def test_padding_by_the_layer_before_is_not_that_of_the_layer() -> None:
    s = summarize(nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3)))
    assert rows(s)["1"].padding == (0, 0)


def test_a_transposed_convolution_is_no_strided_one() -> None:
    net = nn.Sequential(conv(stride=2), nn.ConvTranspose2d(8, 8, 3, stride=2))
    assert summarize(net).strided3x3 == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_scripted_modules_are_followed_by_their_operators() -> None:
    scripted = torch.jit.script(nn.Sequential(conv(8, 8, stride=2), nn.BatchNorm2d(8), nn.ReLU()))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    net = nn.Sequential(conv(), scripted, *head)
    for _ in range(3):
        net(torch.rand(2, 3, 32, 32))
    s = summarize(net)
    assert s.receptive_field == (5, 5)
    assert (s.strided3x3, s.global_average_pooling, s.fc_after_pooling) == (1, True, True)
    assert sum(row.parameters for row in s.layers) == s.parameters
    assert rows(s)["1.0"].parameters == 8 * 8 * 9 + 8


def test_layers_that_are_not_made_yet_can_be_looked_at() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    check_output(net, 2)
    assert summarize(net).parameters > 0


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_frozen_torchscript_net_has_no_mode_and_is_looked_at_all_the_same() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()
    assert summarize(torch.jit.freeze(torch.jit.script(net))).macs == 30720

"""The registered nets keep what their names promise, whatever the norm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from model import registry
from model.fast import Fast
from model.summary import summarize
from tests.net_helpers import gradient_probe

NORMS = ("batch", "layer", "group")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring on batches this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("norm", NORMS)
def test_standard(norm: str) -> None:
    s = summarize(registry.build("standard", norm=norm))
    assert 450_000 < s.parameters < 550_000
    assert (s.depthwise_separable, s.dilated, s.strided3x3, s.max_pools) == (0, 0, 3, 0)
    assert s.global_average_pooling


@pytest.mark.parametrize("norm", NORMS)
def test_dws_normal(norm: str) -> None:
    s = summarize(registry.build("dws-normal", norm=norm))
    assert s.parameters < 200_000
    assert s.receptive_field is not None
    assert min(s.receptive_field) > 44
    assert (s.depthwise_separable, s.dilated, s.strided3x3, s.max_pools) == (1, 1, 3, 0)
    assert s.global_average_pooling


@pytest.mark.parametrize("norm", NORMS)
def test_dws_late(norm: str) -> None:
    s = summarize(registry.build("dws-late", norm=norm))
    assert s.parameters < 100_000
    assert s.receptive_field is not None
    assert min(s.receptive_field) > 52
    assert (s.depthwise_separable, s.dilated, s.max_pools) == (2, 1, 0)
    assert s.global_average_pooling
    assert not s.fc_after_pooling


@pytest.mark.parametrize("norm", NORMS)
def test_tiny(norm: str) -> None:
    s = summarize(registry.build("tiny", norm=norm))
    assert s.parameters < 100_000
    assert s.receptive_field == (57, 57)
    assert s.global_average_pooling


@pytest.mark.parametrize("name", ["standard", "dws-normal", "dws-late"])
def test_coursework_nets_have_four_blocks_and_the_field_their_table_says(name: str) -> None:
    net = registry.build(name)
    table = [line.split() for line in (type(net).__doc__ or "").splitlines()]
    said = {line[0].lower(): int(line[-1]) for line in table if line and line[0][:1] == "C"}
    assert [*said] == ["c1", "c2", "c3", "c4"]
    for block, field in said.items():
        assert gradient_probe(net, (3, 128, 128), at=block) == (field, field)
    assert summarize(net).receptive_field == (field, field)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [n for n in registry.names() if n not in ("fast", "resnet18")])
def test_norm_is_the_only_norm(name: str, norm: str) -> None:
    net = registry.build(name, norm=norm)
    found = {
        "batch" if isinstance(m, nn.BatchNorm2d) else "layer" if m.num_groups == 1 else "group"
        for m in net.modules()
        if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)
    }
    assert found == {norm}


@pytest.mark.parametrize(
    ("name", "parameters", "field"),
    [
        ("resnet8", 78_042, 25),
        ("resnet20", 272_474, 81),
        ("resnet18", 11_173_962, 109),
    ],
)
def test_resnets_have_the_published_sizes(name: str, parameters: int, field: int) -> None:
    s = summarize(registry.build(name))
    assert s.parameters == parameters
    # stem 3, then +2 jumps a convolution: counted by hand
    assert s.receptive_field == (field, field)
    assert s.fc_after_pooling


def test_all_nets_learn_a_batch_by_heart() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    for name in ("standard", "dws-normal", "dws-late", "resnet8"):
        net = registry.build(name).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
        losses = []
        for _ in range(12):
            loss = nn.functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] < 5, name
        assert losses[-1] < 0.8 * losses[0], name


def test_fast_whitens_patches() -> None:
    torch.manual_seed(0)
    net = Fast(width=0.25)
    mix = torch.tensor([[1.0, 0.9, 0.8], [0.0, 0.3, 0.2], [0.1, 0.0, 0.3]])
    images = torch.einsum("nchw,cd->ndhw", torch.randn(64, 3, 16, 16), mix)
    net.prepare(images)
    out = net.whiten(images)[:, :12].transpose(0, 1).flatten(1)
    covariance = out @ out.T / out.shape[1]
    assert torch.allclose(covariance, torch.eye(12), atol=0.03)
    assert torch.equal(net.whiten.weight[:12], -net.whiten.weight[12:])
    assert not net.whiten.weight.requires_grad


def test_fast_starts_with_copies_and_small_logits() -> None:
    torch.manual_seed(0)
    net = Fast(width=0.25)
    group = net.groups[2]
    x = torch.randn(2, group.conv1.in_channels, 8, 8)
    assert torch.allclose(group.conv1(x)[:, : x.shape[1]], x, atol=1e-6)
    assert net(torch.randn(8, 3, 32, 32)).abs().max() < 1
    assert {n for n, p in net.named_parameters() if not p.requires_grad} == {
        "whiten.weight",
        "whiten.bias",
    }

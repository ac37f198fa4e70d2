"""What is measured of each layer: against figures by hand, without changing the training."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training_helpers import at_step, tiny_dataset, tiny_run
from trainer import events
from trainer.device import HostCopy
from trainer.lifecycle.session import train_run
from trainer.loop import layer_stats
from trainer.loop.layer_stats import LayerStats, peaks
from trainer.runs import checkpoint
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.runs.runstate import LAYER_STATS_KEPT


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)


def one_step(stats: LayerStats, net: nn.Module, images: torch.Tensor, lr: float = 0.1) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    stats.watch()
    net(images).square().sum().backward()
    stats.before_step()
    optimizer.step()
    stats.after_step(images.shape[-1])


def measure(net: nn.Module, images: torch.Tensor, lr: float = 0.1) -> events.LayerStats:
    stats = LayerStats(net, 1)
    one_step(stats, net, images, lr)
    stats.begin_read(epoch=1, step=7, side=images.shape[-1])
    found = stats.take()
    assert found is not None
    assert stats.take() is None
    return found


def test_a_recorded_step_is_told_with_the_activations_of_its_images_size() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.small, self.large = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.GELU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.small(x) if x.shape[-1] < 8 else self.small(self.large(x))

    net = Net()
    stats = LayerStats(net, 1)
    for side in (8, 16, 8):
        one_step(stats, net, torch.randn(2, 3, side, side))
    kept = stats._left[8][0]
    for side, activations in ((16, ("large", "small")), (8, ("small",)), (16, ("large", "small"))):
        # what is replayed runs no Python: it only writes where the recorded step did
        stats._left[side][0].fill_(side)
        stats.begin_read(epoch=1, step=side, side=side)
        found = stats.take()
        assert found is not None
        assert found.activations == activations
        assert found.dead == (float(side),) * len(activations)
        assert found.weight_norm == (float(side),)
    assert stats._left[8][0] is kept


def test_of_a_gpu_that_is_far_behind_every_measurement_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = False

    class Copy(HostCopy):
        def ready(self) -> bool:
            return there

    monkeypatch.setattr(layer_stats, "HostCopy", Copy)
    net = nn.Linear(3, 2)
    stats = LayerStats(net, 1)
    images = torch.randn(4, 3)
    for step in (1, 2, 3):
        one_step(stats, net, images)
        stats.begin_read(epoch=1, step=step, side=images.shape[-1])
        assert stats.take() is None
    there = True
    found = [stats.take() for _ in range(3)]
    assert [one.step for one in found if one] == [1, 2, 3]
    assert len({one.weight_norm for one in found if one}) == 3, "each its own figures"
    assert stats.take() is None


def test_norms_and_the_update_ratio_are_those_by_hand() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    before = [p.detach().clone() for p in net.parameters()]
    found = measure(net, torch.randn(5, 3, 8, 8))
    grads = [p.grad for p in net.parameters()]
    assert found.step == 7
    assert found.layers == ("0", "1")
    for i, (weights, gradients) in enumerate([(before[:2], grads[:2]), (before[2:], grads[2:])]):
        weight = torch.cat([w.flatten() for w in weights]).norm().item()
        gradient = torch.cat([g.flatten() for g in gradients if g is not None]).norm().item()
        assert found.weight_norm[i] == pytest.approx(weight, rel=1e-3)
        assert found.gradient_norm[i] == pytest.approx(gradient, rel=1e-3)
        # plain SGD: the update is lr times the gradient
        assert found.update_ratio[i] == pytest.approx(math.log10(0.1 * gradient / weight), abs=2e-3)


def test_dead_channels_are_counted_at_each_call_of_a_module() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.act(x * self.scale)
            second: torch.Tensor = self.act(first - 2)
            return second

    images = torch.ones(2, 4, 3, 3) * torch.tensor([-1.0, 1.0, 3.0, 4.0]).view(1, 4, 1, 1)
    found = measure(Net(), images)
    assert found.layers == ("(net)",)
    assert found.activations == ("act", "act")
    assert found.dead == (0.25, 0.5)


def test_a_call_that_nothing_is_known_of_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = half_dead(nn.Conv2d(8, 16, 3)), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.act(self.act(self.conv(x)).sum())
            return self.act(self.conv(x)) * y

    found = measure(Net(), torch.randn(2, 8, 6, 6))
    assert found.activations == ("act",) * 3
    assert found.dead == (0.5, None, 0.5)
    monkeypatch.setattr(layer_stats, "CALLS", 2)
    found = measure(Net(), torch.randn(2, 8, 6, 6))
    assert (found.activations, found.dead) == (("act",), (0.5,)), "of so many calls the mean"


class To(nn.Module):
    """Dimensions in another order."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.dims)


class Middle(nn.Module):
    """Half of the channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, x.shape[1] // 4 : -x.shape[1] // 4]


class LayerNorm2d(nn.LayerNorm):
    """As ConvNeXt has it: [N, C, H, W]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def half_dead(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        layer.bias[: len(layer.bias) // 2] = -10  # type: ignore[index, arg-type]
    return layer


@pytest.mark.parametrize(
    ("layers", "shape", "dead"),
    [
        ([To(0, 2, 3, 1), half_dead(nn.Linear(8, 16)), nn.ReLU()], (2, 8, 6, 5), 0.5),
        ([To(0, 2, 3, 1), half_dead(nn.Linear(8, 16)), nn.ReLU()], (2, 8, 16, 16), 0.5),
        ([To(0, 2, 3, 1), half_dead(nn.LayerNorm(8)), nn.ReLU()], (2, 8, 8, 8), 0.5),
        ([half_dead(LayerNorm2d(8)), nn.ReLU()], (2, 8, 6, 6), 0.5),
        (
            [To(0, 2, 3, 1), half_dead(nn.Linear(8, 16)), To(0, 3, 1, 2), nn.ReLU()],
            (2, 8, 6, 6),
            0.5,
        ),
        ([nn.Flatten(2), half_dead(nn.Conv1d(8, 16, 3)), nn.ReLU()], (2, 8, 3, 4), 0.5),
        (
            [nn.Flatten(2), half_dead(nn.Conv1d(8, 16, 3)), To(0, 2, 1), nn.ReLU()],
            (2, 8, 3, 4),
            0.5,
        ),
        ([nn.Flatten(2), To(0, 2, 1), half_dead(nn.Linear(8, 16)), nn.ReLU()], (2, 8, 3, 4), 0.5),
        ([half_dead(nn.Conv2d(8, 16, 3)), nn.MaxPool2d(2), nn.ReLU()], (2, 8, 34, 34), 0.5),
        ([half_dead(nn.Conv2d(8, 16, 3)), nn.Dropout(), nn.ReLU()], (2, 8, 18, 18), 0.5),
        ([half_dead(nn.Conv2d(8, 32, 3)), Middle(), nn.ReLU()], (2, 8, 18, 18), 0.5),
        (
            [half_dead(nn.Conv2d(8, 32, 3)), Middle(), To(0, 2, 3, 1), nn.ReLU()],
            (2, 8, 18, 18),
            None,
        ),
        ([half_dead(nn.Conv2d(8, 16, 3)), nn.PixelShuffle(2), nn.ReLU()], (2, 8, 6, 6), None),
        # which dimension of [N, 16, 16, 16] is meant cannot be told any more
        (
            [To(0, 2, 3, 1), half_dead(nn.Linear(8, 16)), To(0, 3, 1, 2), nn.ReLU()],
            (2, 8, 16, 16),
            None,
        ),
    ],
)
def test_dead_channels_are_found_where_the_layer_before_has_them(
    layers: list[nn.Module], shape: tuple[int, ...], dead: float | None
) -> None:
    found = measure(nn.Sequential(*layers), torch.randn(shape))
    assert found.dead == (() if dead is None else (dead,))


def test_a_gate_of_channels_does_not_hide_them() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = half_dead(nn.Conv2d(8, 16, 3))
            self.fc, self.act = nn.Linear(16, 16), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.conv(x)
            gate = torch.sigmoid(self.fc(y.mean((2, 3))))[:, :, None, None]
            out: torch.Tensor = self.act(y * gate)
            return out

    net = Gated()
    assert measure(net, torch.randn(2, 8, 18, 18)).dead == (0.5,)
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in net.modules()]
    assert not any(after or before for after, before in hooks), "nothing is left in the net"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 16, 5, 5), (2, 24, 7, 7), (2, 300, 3, 3), (1, 4, 1, 1)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_greatest_value_of_each_channel(
    dtype: torch.dtype, shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)) - 2
    values = values.to(dtype).to(memory_format=layout)
    assert torch.equal(peaks(values, 1), values.amax((0, 2, 3)))
    last = values.flatten(2).transpose(1, 2).contiguous()  # [N, T, C]
    assert torch.equal(peaks(last, 2), values.amax((0, 2, 3)))
    assert torch.equal(peaks(values[:, :, 0, 0].contiguous(), 1), values[:, :, 0, 0].amax(0))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_scripted_net_is_measured_as_far_as_it_can_be() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    found = measure(torch.jit.script(net), torch.randn(2, 3, 8, 8))
    assert found.layers == ("0",)
    assert found.dead == ()
    partly = nn.Sequential(torch.jit.script(net), half_dead(nn.Conv2d(8, 8, 3)), nn.ReLU())
    assert measure(partly, torch.randn(2, 3, 8, 8)).dead == (0.5,)


def test_a_channel_that_is_not_a_number_is_not_dead() -> None:
    values = torch.full((4, 3, 5, 5), -1.0).to(memory_format=torch.channels_last)
    values[1, 2, 3, 4] = math.nan
    assert (peaks(values, 1) <= 0).tolist() == [True, True, False]


def test_what_is_no_number_is_none() -> None:
    net = nn.Linear(2, 2)
    found = measure(net, torch.full((1, 2), torch.inf))
    assert found.gradient_norm == (None,)
    assert found.update_ratio == (None,)
    assert measure(nn.Linear(2, 2), torch.ones(1, 2), lr=0.0).update_ratio == (None,)


def test_due_is_so_often_an_epoch() -> None:
    for steps in (1, 3, 4, 195):
        stats = LayerStats(nn.Linear(2, 2), 4)
        due = [batch for batch in range(steps) if stats.due(batch, steps)]
        assert len(due) == min(4, steps)
        assert steps < 5 or due[-1] < steps - 1
    assert not LayerStats(nn.Linear(2, 2), 0).due(0, 1)


def test_training_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    states, folds = [], []
    for n in (0, 3):
        run = tiny_run(tmp_path / str(n), f"train.layer_stats={n}")
        train_run(run, Control(run))
        states.append(checkpoint.load(run.checkpoint("last"))["net"])
        folds.append(Follower(run).catch_up())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    assert not folds[0].layer_stats
    assert len(folds[1].layer_stats) == 3 * len(folds[1].epochs)
    last = folds[1].layer_stats[-1]
    assert folds[1].epochs[-2].step < last.step <= folds[1].epochs[-1].step
    assert folds[1].described is not None
    paths = {layer.path for layer in folds[1].described.layers}
    assert set(last.layers) <= paths


def test_a_resumed_run_measures_what_the_whole_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.loop.reports.PROGRESS_SECONDS", 0.0)

    def measured(run: RunDir) -> list[events.LayerStats]:
        return list(Follower(run).catch_up().layer_stats)

    whole, parts = tiny_run(tmp_path / "whole"), tiny_run(tmp_path / "parts")
    train_run(whole, Control(whole))
    first = Control(parts)
    train_run(parts, first, listener=at_step(3, lambda: first.request("stop")))
    train_run(parts, Control(parts), resume=True)
    assert measured(whole) == measured(parts)


def test_a_fold_keeps_a_bounded_number(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "train.layer_stats=6", "train.epochs=30")
    train_run(run, Control(run))
    kept = Follower(run).catch_up().layer_stats
    assert isinstance(kept, deque)
    assert len(kept) == LAYER_STATS_KEPT < 180
    assert kept[-1].epoch == 30

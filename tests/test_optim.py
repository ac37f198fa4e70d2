from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.kernel_helpers import needs_tiles
from tests.training_helpers import log_of, tiny_dataset, tiny_run
from trainer import events
from trainer.config import OptimizerSettings
from trainer.errors import ConfigError
from trainer.loop.optim import HOW, Muon, Optimizers, orthogonalise

CPU = torch.device("cpu")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_every_optimizer_lowers_the_loss(name: str) -> None:
    model = net()
    lr = {"sgd": 0.1, "adam": 0.01, "adamw": 0.01, "muon": 0.05}[name]
    optimizers = Optimizers(model, OptimizerSettings(name=name, lr=lr), CPU)
    x, y = torch.randn(32, 3, 8, 8), torch.arange(32) % 4
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizers.zero_grad()
        loss.backward()
        for optimizer in optimizers.all:
            optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_all_parameters_are_optimized_exactly_once() -> None:
    for name in ("sgd", "muon"):
        model = net()
        optimizers = Optimizers(model, OptimizerSettings(name=name), CPU)
        seen = [p for o in optimizers.all for g in o.param_groups for p in g["params"]]
        assert len(seen) == len({id(p) for p in seen}) == len(list(model.parameters()))


def test_only_weights_decay() -> None:
    model = net()
    optimizers = Optimizers(model, OptimizerSettings(weight_decay=0.1), CPU)
    decays = {
        id(p): g["weight_decay"]
        for o in optimizers.all
        for g in o.param_groups
        for p in g["params"]
    }
    for parameter in model.parameters():
        assert decays[id(parameter)] == (0.1 if parameter.ndim >= 2 else 0.0)


def test_factor_scales_every_group_from_its_own_peak() -> None:
    settings = OptimizerSettings(name="muon", lr=0.2, aux_lr=0.6)
    optimizers = Optimizers(net(), settings, CPU)
    optimizers.set_factor(0.5)
    optimizers.set_factor(0.25)
    rates = {g["lr"] for o in optimizers.all for g in o.param_groups}
    assert rates == {0.05, 0.15}
    assert optimizers.lr == 0.05


def test_l1_adds_the_sign_of_the_weights_to_their_gradients() -> None:
    model = net()
    optimizers = Optimizers(model, OptimizerSettings(l1=0.5), CPU)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.add_l1()
    for parameter in model.parameters():
        expected = 0.5 * parameter.sign() if parameter.ndim >= 2 else torch.zeros_like(parameter)
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, expected)


@pytest.mark.parametrize("shape", [(4, 16, 27), (2, 27, 16), (3, 8, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), steps=8).float())
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_orthogonalising_in_a_batch_equals_one_by_one() -> None:
    torch.manual_seed(2)
    batch = torch.randn(3, 8, 20)
    singly = torch.stack([orthogonalise(x[None])[0] for x in batch])
    assert torch.allclose(orthogonalise(batch), singly, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (16, 8, 1, 1), (32, 2, 3, 3)])
def test_the_order_of_filters_in_memory_does_not_matter(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    start, gradient = torch.randn(shape, generator=generator), torch.randn(2, *shape)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(start.clone(memory_format=layout))
        optimizer = Muon([weight], lr=0.1, momentum=0.6, weight_decay=0.01)
        for one in gradient:
            weight.grad = one.clone(memory_format=layout)
            optimizer.step()
        assert weight.is_contiguous(memory_format=layout)
        found.append(weight.detach())
    # orthogonalised in bf16 where the CPU multiplies in it
    assert torch.allclose(*found, atol=0.02)
    assert not torch.allclose(found[0], start, atol=0.02)


def test_muon_with_its_rate_in_a_tensor_does_the_same() -> None:
    generator = torch.Generator().manual_seed(4)
    start = torch.randn(8, 3, 3, 3, generator=generator)
    gradients = torch.randn(3, 8, 3, 3, 3, generator=generator)
    found = []
    for lr in (0.1, torch.tensor(0.1)):
        weight = nn.Parameter(start.clone())
        optimizer = Muon([weight], lr=lr, momentum=0.6, weight_decay=0.01)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        found.append(weight.detach())
    assert torch.allclose(*found, atol=1e-5)
    assert not torch.allclose(found[0], start, atol=0.01)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_another_device_s_way_to_compute_is_not_taken_over(name: str) -> None:
    """A checkpoint of an Apple GPU has fused=False, one of CUDA capturable=True."""
    settings = OptimizerSettings(name=name, lr=0.01)  # type: ignore[arg-type]
    model = net()
    optimizers = Optimizers(model, settings, CPU)
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    for optimizer in optimizers.all:
        optimizer.step()
    states = copy.deepcopy(optimizers.state_dict())
    for state in states:
        for group in state["param_groups"]:
            group.update({k: not group[k] for k in ("fused", "capturable") if k in group})
    other = Optimizers(model, settings, CPU)
    other.load_state_dict(states)
    for own, loaded in zip(optimizers.all, other.all, strict=True):
        for mine, theirs in zip(own.param_groups, loaded.param_groups, strict=True):
            assert {k: mine.get(k) for k in HOW} == {k: theirs.get(k) for k in HOW}
        loaded.step()


def test_muon_keeps_the_norm_of_filters_and_resumes_exactly() -> None:
    def steps(optimizer: Muon, weight: nn.Parameter, seeds: range) -> None:
        for seed in seeds:
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
            optimizer.step()

    first = nn.Parameter(torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(9)))
    whole = Muon([first], lr=0.1, momentum=0.6)
    steps(whole, first, range(3))
    second = nn.Parameter(first.detach().clone())
    resumed = Muon([second], lr=0.1, momentum=0.6)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    steps(whole, first, range(3, 6))
    steps(resumed, second, range(3, 6))
    assert torch.equal(first, second)
    assert first.norm() < 2 * 8**0.5


def test_a_first_step_that_overflows_in_fp16_leaves_nothing_behind() -> None:
    """What a gradient scaler has told a fused optimizer of an overflow, on a CPU as on a GPU."""

    def trained(steps: list[bool]) -> torch.Tensor:
        torch.manual_seed(0)
        net = nn.Linear(64, 64)
        made = Optimizers(net, OptimizerSettings(name="sgd", lr=0.1, momentum=0.9), CPU)
        (sgd,) = made.all
        sgd.grad_scale = None  # type: ignore[attr-defined]
        for overflow in steps:
            for p in net.parameters():
                p.grad = torch.full_like(p, float("inf") if overflow else 1.0)
            sgd.found_inf = torch.tensor(float(overflow))  # type: ignore[attr-defined]
            junk = [torch.full((64, 64), float("nan")) for _ in range(8)]
            del junk  # an uninitialised buffer would find it
            sgd.step()
        return net.weight.detach()

    assert torch.equal(trained([True, False, False]), trained([False, False]))


def test_in_fp16_filters_without_a_gradient_are_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a net whose convolutions are not trained, nor frozen: Muon has nothing to do."""
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(device))
    run = tiny_run(tmp_path, "optimizer.name='muon'", "train.epochs=1")
    net = tmp_path / "tiny.py"
    only_last = "self[8](nn.Sequential(*list(self)[:8])(x).detach())"
    net.write_text(net.read_text().replace("super().forward(x)", only_last))
    (*_, ended) = log_of(run)
    assert isinstance(ended, events.RunEnded)
    assert (ended.state, ended.error) == ("completed", None)


def test_norms_of_more_dimensions_do_not_decay() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm([4, 30, 30]), nn.GroupNorm(2, 4))
    made = Optimizers(net, OptimizerSettings(name="sgd", weight_decay=0.1), CPU)
    weights, others = made.all[0].param_groups
    assert [*weights["params"]] == [net[0].weight]
    assert weights["weight_decay"] == 0.1
    assert len(others["params"]) == 5
    assert others["weight_decay"] == 0.0


def test_muon_without_filters_and_a_frozen_net() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    made = Optimizers(net, OptimizerSettings(name="muon"), CPU)
    assert [type(one) for one in made.all] == [torch.optim.SGD]
    made.set_factor(0.5)
    net.requires_grad_(False)
    for name in ("muon", "sgd"):
        with pytest.raises(ConfigError, match="no parameters to train"):
            Optimizers(net, OptimizerSettings(name=name), CPU)


def test_muon_s_steps_are_those_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.loop.optim.multiplies_bf16", lambda device: False)
    generator = torch.Generator().manual_seed(5)
    for shape in ((8, 3, 3, 3), (16, 4, 1, 1)):  # wide, tall
        weight = nn.Parameter(torch.randn(shape, generator=generator))
        gradients = torch.randn(3, *shape, generator=generator)
        found, expected = steps_and_formula(weight, list(gradients), tiled=False)
        assert torch.allclose(found, expected, atol=1e-4)


@needs_tiles
@pytest.mark.parametrize(
    "shape", [(8, 3, 3, 3), (16, 16, 3, 3), (64, 24, 3, 3), (96, 48, 1, 1), (40, 40, 1, 1)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_tiles_update_as_the_formula_does(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(6)
    start = torch.randn(shape, generator=generator)
    gradients = [g.contiguous(memory_format=layout) for g in torch.randn(3, *shape)]
    errors = []
    for tiled in (True, False):
        weight = nn.Parameter(start.clone(memory_format=layout))
        found, expected = steps_and_formula(weight, gradients, tiled=tiled)
        errors.append(float((found - expected).norm() / expected.norm()))
    assert errors[0] < 2**-8
    assert errors[0] < 1.2 * errors[1] + 1e-4  # no worse than torch's products in bf16


@needs_tiles
def test_tiles_update_all_layers_at_once_and_leave_the_others_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = [(8, 3, 3, 3), (16, 16, 3, 3), (16, 16, 3, 3), (32, 16, 1, 1)]
    generator = torch.Generator().manual_seed(7)
    start = [torch.randn(s, generator=generator) for s in shapes]
    found = []
    for one_by_one in (False, True):
        weights = [nn.Parameter(w.clone()) for w in start]
        for weight in weights:
            weight.grad = torch.ones_like(weight).cumsum(1)
        for some in [[w] for w in weights] if one_by_one else [weights]:
            Muon(some, 0.1, 0.6, tiled=True).step()
        found.append(weights)
    assert all(map(torch.equal, *found))
    weight = nn.Parameter(start[1].clone())
    weight.grad = torch.ones_like(weight)
    Muon([weight], 0.1, 0.6, tiled=True).step()
    assert weight._version > 0  # what was saved of it for a backward pass is known to be stale
    weight = nn.Parameter(start[1].clone())
    weight.grad = torch.randn(16, 16, 3, 3).contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr("trainer.kernels.tiles.muon", lambda *_: pytest.fail("another order"))
    Muon([weight], 0.1, 0.6, tiled=True).step()
    assert not torch.equal(weight, start[1])


def steps_and_formula(
    weight: nn.Parameter, gradients: list[Tensor], *, tiled: bool
) -> tuple[Tensor, Tensor]:
    """A weight as matrix after some steps, and what the formula makes of it in fp64."""
    lr, momentum, decay = 0.1, 0.6, 0.01
    muon = Muon([weight], lr, momentum, decay, tiled=tiled)
    w = weight.detach().double().flatten(1)
    m = torch.zeros_like(w)
    for gradient in gradients:
        weight.grad = gradient
        g = gradient.double().flatten(1)
        muon.step()
        m = momentum * m + g
        x = g + momentum * m
        x /= x.norm()
        for _ in range(3):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        w = w / w.norm() * len(w) ** 0.5 * (1 - lr * decay) - lr * x
    return weight.detach().double().flatten(1), w

"""torch.compile: used where it works, done without where it does not."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from tests.training_helpers import log_of, losses_of, tiny_dataset, tiny_run
from trainer import events
from trainer.kernels.build import compiler
from trainer.loop import engine
from trainer.loop.compilation import Compiled, Halving, HalvingMaxPool2d, choose_per_layer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)


def test_without_a_compiler_training_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    run = tiny_run(tmp_path, "train.compile=true")
    log = log_of(run)
    told = [e for e in log if isinstance(e, events.Notice) and e.code == "not-compiled"]
    assert [e.level for e in told] == ["warning"]
    assert "g++" in told[0].message
    assert not [e for e in log if isinstance(e, events.Notice) and e.code == "compile"]
    assert isinstance(log[-1], events.RunEnded)
    assert log[-1].state == "completed"


def test_a_net_that_cannot_be_compiled_is_trained_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(forward: Any, **how: Any) -> Any:
        def call(images: Tensor) -> Tensor:
            raise TorchDynamoException("cannot do this\nand a long explanation")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/g++")
    told: list[str] = []
    forward = Compiled(nn.Identity(), CPU, told.append)
    for value in (1.0, 2.0):
        assert forward(torch.tensor(value)).item() == value
    assert told == ["training without torch.compile: cannot do this"]


def test_each_size_of_images_is_told_of_before_it_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes a minute in which nothing else is told."""
    told: list[str] = []

    def compiled(forward: Any, **how: Any) -> Any:
        def call(images: Tensor) -> Tensor:
            told.append("computed")
            return images

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/g++")
    forward = Compiled(nn.Identity(), CPU, pytest.fail, lambda size: told.append(str(size[-1])))
    for side in (24, 24, 32):
        forward(torch.zeros(2, 3, side, side))
    assert told == ["24", "computed", "computed", "32", "computed"]


def test_a_python_without_it_trains_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(forward: Any, **how: Any) -> Any:
        raise RuntimeError("torch.compile is not supported on Python 3.99+")

    monkeypatch.setattr(torch, "compile", fails)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/g++")
    told: list[str] = []
    forward = Compiled(nn.Identity(), CPU, told.append)
    assert forward(torch.ones(1)).item() == 1
    assert "Python 3.99" in told[0]
    Compiled(nn.Identity(), torch.device("mps"), told.append)(torch.ones(1))
    assert "Apple" in told[1]


def test_an_error_of_the_net_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(images: Tensor) -> Tensor:
        raise ValueError("the net's own")

    monkeypatch.setattr(torch, "compile", lambda forward, **how: forward)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/g++")
    with pytest.raises(ValueError, match="own"):
        Compiled(wrong, CPU, pytest.fail)(torch.zeros(1))


@pytest.mark.parametrize(
    ("error", "step", "repeated"),
    [
        (RuntimeError("Triton Error [CUDA]: out of resource\nand more"), 1, True),
        (TorchDynamoException("out of resource"), 3, True),  # compiled anew, say
        (RuntimeError("of a step that went well before"), 3, False),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, False),
    ],
)
def test_gradients_that_cannot_be_compiled_are_found_uncompiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, step: int, repeated: bool
) -> None:
    steps: list[int] = []
    compile_with_gradients_that_fail(monkeypatch, error, steps, at=step)
    log = log_of(tiny_run(tmp_path, "train.compile=true", "train.layer_stats=0"))
    ended = log[-1]
    assert isinstance(ended, events.RunEnded)
    told = [e.message for e in log if isinstance(e, events.Notice) and e.code == "not-compiled"]
    if not repeated:
        assert (ended.state, told) == ("failed", [])
        return
    assert len(told) == 1
    assert told[0].startswith("training without torch.compile: ")
    assert told[0].endswith("out of resource")
    assert ended.state == "completed"
    assert len(steps) == step
    assert [e.step for e in log if isinstance(e, events.EpochEnded)] == [6, 12]


def test_what_fails_in_trial_steps_is_recorded_uncompiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sizes are, the first ones too, which could be compiled, and apart from what was."""
    recorded: list[tuple[int, int]] = []
    made = itertools.count()

    class Again:
        def __init__(self, device: torch.device) -> None:
            self.number = next(made)

        def __call__(self, work: Any) -> Any:
            recorded.append((self.number, work.args[2]))  # the side
            for _ in range(3):
                work()
            return work

    monkeypatch.setattr(engine, "Recorder", Again)
    monkeypatch.setattr(engine.Training, "_record_or_tell", engine.Training._record_steps)
    steps: list[int] = []
    error = RuntimeError("out of resource")
    compile_with_gradients_that_fail(monkeypatch, error, steps, at=4)  # of the second size
    settings = "train.compile=true", "train.layer_stats=0", "train.low_resolution=28"
    log = log_of(tiny_run(tmp_path, *settings))
    codes = [e.code for e in log if isinstance(e, events.Notice)]
    assert codes == ["preparing", "compile", "compile", "not-compiled", "cuda-graphs"]
    assert isinstance(log[-1], events.RunEnded)
    assert log[-1].state == "completed"
    assert recorded == [(0, 28), (0, 32), (1, 28), (1, 32)]
    assert len(steps) == 4, "nothing that is compiled is replayed"


def compile_with_gradients_that_fail(
    monkeypatch: pytest.MonkeyPatch, error: Exception, steps: list[int], *, at: int
) -> None:
    """Compiled code whose gradients fail at a step, and the steps that were compiled."""

    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits: Tensor) -> Tensor:
            return logits.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            if len(steps) == at:
                raise error
            return gradient

    def compiled(forward: Any, **how: Any) -> Any:
        def call(images: Tensor) -> Any:
            steps.append(len(steps))
            return Failing.apply(forward(images))

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/g++")


def test_each_run_of_a_process_is_compiled_for_all_its_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch counts what it compiles by function, over all nets: at most eight times."""
    real, compiled = torch.compile, []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Any:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda net, **how: real(net, backend=backend, **how))
    monkeypatch.setattr("shutil.which", lambda name: "/bin/g++")
    told: list[str] = []
    for _ in range(2):
        forward = Compiled(nn.Softsign(), CPU, told.append, sizes=9)
        for side in range(9):
            forward(torch.zeros(1, 3, side, side))
    assert len(compiled) == 18
    assert not told
    compiled.clear()
    with torch._dynamo.config.patch(recompile_limit=1):
        forward = Compiled(nn.Softsign(), CPU, told.append, sizes=1)
        for side in range(3):
            assert forward(torch.zeros(1, 3, side, side)).shape == (1, 3, side, side)
    assert len(compiled) == 1
    assert told == ["training without torch.compile: the net would be compiled again and again"]


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 3)])
def test_halving_is_max_pooling_of_two_by_two(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    # few values, so that windows have several largest ones
    images = torch.randint(0, 3, (3, 5, *size), generator=generator).float()
    images[0, 0, 0, 1] = torch.nan
    images = images.contiguous(memory_format=torch.channels_last)
    found = []
    for pool in (Halving.apply, nn.MaxPool2d(2)):
        leaf = images.clone().requires_grad_()
        pooled = pool(leaf)
        weight = torch.arange(pooled.numel()).view(pooled.shape).float()
        (pooled.nan_to_num() * weight).sum().backward()
        assert leaf.grad is not None
        found.append((pooled, leaf.grad))
    (ours, our_gradient), (theirs, their_gradient) = found
    assert torch.equal(ours.nan_to_num(-1), theirs.nan_to_num(-1))
    assert torch.equal(our_gradient, their_gradient)
    assert our_gradient.is_contiguous(memory_format=torch.channels_last)


def test_only_two_by_two_pooling_side_by_side_is_exchanged() -> None:
    pools = [
        nn.MaxPool2d(2),
        nn.MaxPool2d((2, 2), stride=(2, 2)),
        nn.MaxPool2d(3),
        nn.MaxPool2d(2, stride=1),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, return_indices=True),
    ]
    net = nn.ModuleList(pools)
    choose_per_layer(net, CPU)
    assert not [p for p in net if isinstance(p, HalvingMaxPool2d)]
    choose_per_layer(net, torch.device("cuda"))
    assert [isinstance(p, HalvingMaxPool2d) for p in net] == [True, True] + [False] * 6


@pytest.mark.skipif(not compiler(), reason="no C++ compiler here")
def test_halving_is_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the compiler: the same pooling and gradient, and nothing of torch's own pooling."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.ReLU())
    net = net.to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 9, 11).contiguous(memory_format=torch.channels_last)
    expected = net(images)
    expected.square().sum().backward()
    assert net[0].weight.grad is not None
    gradient = net[0].weight.grad.clone()
    choose_per_layer(net, torch.device("cuda"))
    assert torch.equal(net(images), expected), "not compiled it is torch's own"
    net.zero_grad()

    def own(layer: nn.Module, images: Tensor) -> Tensor:
        raise AssertionError("torch's own pooling")

    monkeypatch.setattr(nn.MaxPool2d, "forward", own)
    output = torch.compile(net, fullgraph=True, dynamic=False)(images)
    output.square().sum().backward()
    assert torch.allclose(output, expected, atol=1e-5)
    assert torch.allclose(net[0].weight.grad, gradient, atol=1e-4)


@pytest.mark.skipif(not compiler(), reason="no C++ compiler here")
def test_a_compiled_run_learns_and_measures_its_activations(tmp_path: Path) -> None:
    losses = []
    for compiled in ("true", "false"):
        run = tiny_run(tmp_path / compiled, f"train.compile={compiled}", "train.precision='fp32'")
        log = log_of(run)
        assert not [e for e in log if isinstance(e, events.Notice) and e.code == "not-compiled"]
        measured = [e for e in log if isinstance(e, events.LayerStats)]
        assert measured
        assert all(e.activations for e in measured)
        losses += [[e.loss for e in log if isinstance(e, events.EpochEnded)]]
    # dropout draws its own numbers in compiled code
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


@pytest.mark.skipif(not compiler(), reason="no C++ compiler here")
def test_a_compiled_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    settings = "train.compile=true", "train.precision='fp32'"
    losses = [
        losses_of(tiny_run(tmp_path / str(stopped), *settings), stopped=stopped)
        for stopped in (True, False)
    ]
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]

"""Kernels for a CPU: they give what torch's layers give, which are used where they do not fit."""

from __future__ import annotations

import copy
import platform
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model import registry
from model.blocks import fork, norm_act
from model.fast import ShiftNorm
from tests.norm_helpers import ACTS, ROUNDING, compare_with_exact, error, norm, some
from tests.training_helpers import losses_of, tiny_dataset, tiny_run
from trainer import events
from trainer.config import AugmentSettings
from trainer.kernels import build
from trainer.kernels.build import BuildError, compiler, library
from trainer.kernels.fused import (
    FusedBatchNorm2d,
    FusedGroupNorm,
    FusedMaxPool2d,
    choose_per_layer,
)
from trainer.lifecycle.session import train_run
from trainer.loop.augment import Augment
from trainer.runs.control import Control
from trainer.runs.follower import Follower

needs_compiler = pytest.mark.skipif(
    platform.system() != "Linux" or not compiler(), reason="no C++ compiler here, or not Linux"
)


def fused(layer: nn.Module) -> nn.Module:
    layer = copy.deepcopy(layer)
    choose_per_layer(layer)
    return layer


@needs_compiler
@pytest.mark.parametrize("kind", ["batch", "group", "layer"])
@pytest.mark.parametrize("shape", [(6, 16, 8, 8), (5, 24, 6, 4), (1, 10, 4, 4), (3, 96, 16, 16)])
@pytest.mark.parametrize(
    ("act", "added"),
    [("none", False), ("none", True), ("relu", False), ("relu", True), ("gelu", False)],
)
def test_norm_with_activation_and_addition(
    kind: str, shape: tuple[int, int, int, int], act: str, added: bool
) -> None:
    torch.manual_seed(0)
    usual = norm(shape[1], kind)
    residual = some(*shape, seed=1) if added else None
    compare_with_exact(fused(usual), usual, act, some(*shape), residual)


@needs_compiler
@pytest.mark.parametrize("kind", ["batch", "batch without statistics", "group", "layer"])
@pytest.mark.parametrize(
    ("act", "added"), [("none", True), ("relu", False), ("relu", True), ("gelu", False)]
)
def test_evaluation_with_activation_and_addition(kind: str, act: str, added: bool) -> None:
    usual = norm(24, *([] if " " in kind else [kind]))
    if kind == "batch":
        usual.running_mean, usual.running_var = torch.linspace(-1, 1, 24), torch.rand(24)
    if " " in kind:
        usual.running_mean = usual.running_var = None
    ours, exact = fused(usual).eval(), usual.double().eval()
    before = copy.deepcopy(ours.state_dict())
    x, residual = some(5, 24, 6, 4, wanted=False), some(5, 24, 6, 4, seed=1, wanted=False)
    heard: list[Tensor] = []
    layer = copy.deepcopy(ACTS[act])
    layer.register_forward_hook(lambda _module, given, _output: heard.append(given[0]))
    with torch.inference_mode():
        y = norm_act(ours, layer, x, (lambda: residual) if added else None)
        z = exact(x.double()) + (residual.double() if added else 0)
        expected = ACTS[act](z)
    assert torch.equal(heard[0], y), "in one piece"
    assert error(y, expected) < ROUNDING
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


@needs_compiler
@pytest.mark.parametrize("kind", ["batch", "group", "layer"])
def test_a_mean_far_from_zero_costs_no_digits(kind: str) -> None:
    x = (some(8, 16, 8, 8, wanted=False).float() + 300).bfloat16().requires_grad_()
    y = fused(norm(16, kind))(x)
    expected = norm(16, kind).double()(x.detach().double())
    assert error(y.detach(), expected.detach()) < ROUNDING


@needs_compiler
def test_a_group_norm_without_weights() -> None:
    usual = nn.GroupNorm(4, 16, affine=False)
    x, gradient = some(3, 16, 6, 6), some(3, 16, 6, 6, seed=1, wanted=False)
    y = fused(usual)(x)
    exact = x.detach().double().requires_grad_()
    expected = usual(exact)
    assert error(y, expected) < ROUNDING
    (found,) = torch.autograd.grad(y, x, gradient)
    (wanted,) = torch.autograd.grad(expected, exact, gradient.double())
    assert error(found, wanted) < ROUNDING


@needs_compiler
def test_what_is_not_a_number_stays_so() -> None:
    x = some(2, 16, 4, 4, wanted=False)
    x[0, 3, 1, 1] = torch.nan
    y = norm_act(fused(norm(16)), nn.ReLU(), x.requires_grad_())
    assert y[:, 3].isnan().all()
    assert not y[:, :3].isnan().any()


@needs_compiler
def test_momentum_none_averages_all_batches() -> None:
    usual = norm(16, momentum=None)
    ours = fused(usual)
    for seed in range(3):
        usual(some(4, 16, 4, 4, seed=seed).float())
        ours(some(4, 16, 4, 4, seed=seed))
    for name, buffer in usual.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)


@needs_compiler
@pytest.mark.parametrize("kind", ["batch", "group"])
@pytest.mark.parametrize(
    "why", ["fp32", "contiguous", "uneven", "evaluated with gradients", "trained without"]
)
def test_what_does_not_fit_goes_torchs_way(why: str, kind: str) -> None:
    x = some(3, 10, 3, 3) if why == "uneven" else some(4, 16, 4, 4)
    if why == "fp32":
        x = x.detach().float().requires_grad_()
    if why == "contiguous":
        x = x.detach().contiguous().requires_grad_()
    usual = norm(x.shape[1], kind)
    ours = fused(usual)
    assert isinstance(ours, FusedBatchNorm2d if kind == "batch" else FusedGroupNorm)
    if why == "evaluated with gradients":
        usual.eval(), ours.eval()
    with torch.set_grad_enabled(why != "trained without"):
        y = norm_act(ours, nn.ReLU(), x)
        assert type(y.grad_fn).__name__ != "_NormBackward"
        assert torch.equal(y, norm_act(usual, nn.ReLU(), x))


@needs_compiler
@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(32), nn.GroupNorm(8, 32), nn.GroupNorm(3, 33, affine=False)]
)
def test_a_norm_of_another_size_is_an_error_and_not_a_write_elsewhere(layer: nn.Module) -> None:
    with pytest.raises(RuntimeError, match="64"):
        norm_act(fused(layer), nn.ReLU(), some(4, 64, 4, 4))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_norm_with_statistics_of_another_type_goes_torchs_way(dtype: torch.dtype) -> None:
    layer = fused(nn.BatchNorm2d(64))
    layer.running_mean, layer.running_var = torch.zeros(2, 64, dtype=dtype)
    with pytest.raises(RuntimeError, match="mixed dtype"):
        layer(some(4, 64, 4, 4))


@needs_compiler
def test_hooks_of_the_activation_see_what_it_gives() -> None:
    act, seen = nn.ReLU(inplace=True), []
    act.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    ours = fused(norm(16))
    y = norm_act(ours, act, some(4, 16, 4, 4))
    assert torch.equal(seen[0], y)
    assert (y >= 0).all()
    assert (y == 0).any()
    assert (act(torch.tensor([-1.0])) == 0).all()


@needs_compiler
@pytest.mark.parametrize("kind", ["before", "gradient", "any module"])
def test_hooks_of_the_activation_are_given_what_it_would_be(kind: str) -> None:
    seen: list[Tensor] = []
    found: list[list[Tensor]] = []

    def keep(_module: nn.Module, given: tuple[Tensor, ...], *_rest: object) -> None:
        seen.append(given[0].detach().clone())

    for fuse in (True, False):
        act = nn.ReLU()
        seen.clear()
        if kind == "before":
            handle = act.register_forward_pre_hook(keep)
        elif kind == "gradient":
            handle = act.register_full_backward_hook(keep)
        else:
            handle = nn.modules.module.register_module_forward_hook(keep)
        try:
            y = norm_act(fused(norm(16)) if fuse else norm(16), act, some(4, 16, 4, 4))
            y.backward(some(*y.shape, seed=1, wanted=False))
        finally:
            handle.remove()
        found.append([*seen])
    assert len(found[0]) == len(found[1]) == (2 if kind == "any module" else 1)
    for ours, theirs in zip(*found, strict=True):
        assert error(ours, theirs.double()) < ROUNDING
    assert (found[0][-1] < 0).any(), "nothing was activated yet"


@needs_compiler
@pytest.mark.parametrize("kind", ["batch", "layer", "added", "pool"])
def test_what_is_saved_for_gradients_may_be_kept_in_another_order(kind: str) -> None:
    layer = nn.MaxPool2d(2) if kind == "pool" else norm(16, "batch" if kind == "added" else kind)
    found = []
    for pack in (Tensor.clone, Tensor.contiguous):
        x, added = some(4, 16, 6, 6), some(4, 16, 6, 6, seed=2)
        ours = fused(layer)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            again = partial(Tensor.clone, added)
            y = norm_act(ours, nn.ReLU(), x, again) if kind == "added" else ours(x)
        y.backward(some(*y.shape, seed=1, wanted=False))
        found.append([t.grad for t in (x, *ours.parameters())])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@needs_compiler
@pytest.mark.parametrize("which", ["weight", "running_mean"])
def test_a_norm_whose_parameters_lie_apart_goes_torchs_way(which: str) -> None:
    usual, table = norm(16), torch.zeros(16, 4)
    column = table[:, 0]
    if which == "weight":
        usual.weight = nn.Parameter(column.copy_(torch.linspace(0.5, 2, 16)))
    else:
        usual.running_mean = column
    ours = usual
    choose_per_layer(ours)
    assert isinstance(ours, FusedBatchNorm2d)
    y = ours(some(4, 16, 4, 4))
    assert type(y.grad_fn).__name__ != "_NormBackward"
    assert not table[:, 1:].any(), "nothing is written beside it"


@needs_compiler
def test_the_norm_of_fast_counts_no_batches_with_kernels_either() -> None:
    usual, x = ShiftNorm(16), some(4, 16, 4, 4)
    ours = fused(usual)
    assert type(ours(x).grad_fn).__name__ == "_NormBackward"
    usual(x.float())
    for name, buffer in usual.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)


@needs_compiler
def test_the_gradients_of_a_fork_are_added() -> None:
    x = some(3, 10, 3, 3)
    first, second = fork(fused(norm(10)), x)
    a, b = some(3, 10, 3, 3, seed=1, wanted=False), some(3, 10, 3, 3, seed=2, wanted=False)
    torch.autograd.backward([first, second], [a, b])
    assert torch.equal(x.grad, a + b)


@needs_compiler
@pytest.mark.parametrize("size", [(2, 2), (4, 6), (5, 7), (31, 31)])
def test_pooling(size: tuple[int, int]) -> None:
    x = some(3, 32, *size).detach()
    x = ((x * 2).round() / 2).requires_grad_()  # many are equal
    ours = fused(nn.MaxPool2d(2))
    assert isinstance(ours, FusedMaxPool2d)
    found = []
    for pool in (nn.MaxPool2d(2), ours):
        y = pool(x)
        (of_x,) = torch.autograd.grad(y, x, some(*y.shape, seed=1, wanted=False))
        found.append((y.detach(), of_x))
    assert type(y.grad_fn).__name__ == "_PoolBackward"
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@needs_compiler
def test_pooling_keeps_what_is_not_a_number() -> None:
    for place in range(4):
        x = some(1, 16, 2, 2, wanted=False)
        x[0, 5].view(-1)[place] = torch.nan
        y = fused(nn.MaxPool2d(2))(x)
        assert y.isnan().flatten().nonzero().tolist() == [[5]]


@needs_compiler
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", ["batch", "layer", "pool", "fork"])
def test_a_second_derivative_is_an_error(kind: str, power: int) -> None:
    """Rather than none; even where the first one is taken of a sum, whose gradient is constant."""
    layer = fused(nn.MaxPool2d(2) if kind == "pool" else norm(16, kind.replace("fork", "batch")))
    x = some(4, 16, 8, 8)
    y = torch.cat(fork(layer, x)) if kind == "fork" else layer(x)
    first = torch.autograd.grad((y.float() ** power).sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.float().square().sum().backward()


def test_only_pooling_of_2x2_is_exchanged() -> None:
    pools = [nn.MaxPool2d(3), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2)]
    pools += [nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, return_indices=True)]
    kinds = [type(pool) for pool in pools]
    choose_per_layer(nn.ModuleList(pools))
    assert [type(pool) for pool in pools] == kinds


@needs_compiler
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"flip": "alternating", "shift": 4},
        {"shift_scale_rotate": 0.5, "dropout": 0.5},
        {
            "flip": "random",
            "shift": 2,
            "shift_scale_rotate": 1.0,
            "shift_limit": 0.9,
            "scale_limit": 0.5,
            "rotate_limit": 180.0,
            "grayscale": 0.3,
            "dropout": 0.5,
        },
    ],
)
def test_augmentation(settings: dict[str, object]) -> None:
    asked = AugmentSettings(**settings)  # type: ignore[arg-type]
    usual, ours = (
        Augment(
            asked,
            mean=(0.49, 0.48, 0.45),
            std=(0.25, 0.24, 0.26),
            device=torch.device("cpu"),
            dtype=torch.bfloat16,
            kernels=kernels,
        )
        for kernels in (False, True)
    )
    draws = usual.draw(300, epoch=2, seed=1)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (100, 3, 32, 32), dtype=torch.uint8, generator=random)
    index = torch.randperm(300, generator=random)[:100]
    expected, found = usual(images, index, draws), ours(images, index, draws)
    assert found.is_contiguous(memory_format=torch.channels_last)
    # fp32 on both sides, rounded to bf16: a few numbers lie between two
    assert (found != expected).float().mean() < 0.01
    torch.testing.assert_close(found, expected, rtol=2 * ROUNDING, atol=1e-4)
    assert torch.equal(found == 0, expected == 0)


@needs_compiler
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ("dws-normal", "dws-late", "tiny", "fast", "resnet8")),
        ("dws-normal", {"norm": "group"}),
        ("dws-normal", {"norm": "layer"}),
    ],
)
def test_a_net_keeps_its_parameters_and_its_gradients(name: str, options: dict[str, str]) -> None:
    torch.manual_seed(0)
    usual = registry.build(name, **options)
    for parameter in usual.parameters():
        if parameter.dim() == 1:  # biases of norms begin with 0, which hides what is done to them
            nn.init.normal_(parameter, std=0.1)
    usual = usual.to(memory_format=torch.channels_last)
    ours = fused(usual)
    assert list(ours.state_dict()) == list(usual.state_dict())
    kind = FusedGroupNorm if options else FusedBatchNorm2d
    assert any(isinstance(layer, kind) for layer in ours.modules())
    images = torch.randn(16, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.arange(16) % 10
    gradients = []
    for net in (usual, ours):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.requires_grad]))
    # both round to bf16 after each layer, but in other places
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98
    ours.load_state_dict(usual.state_dict())
    usual.eval(), ours.eval()
    exact = usual(images)
    assert torch.equal(ours(images), exact), "in fp32 both are torch's"
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert error(ours(images), exact) < 1.1 * error(usual(images), exact)


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library.cache_clear()
    yield
    library.cache_clear()


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "cifar-tui").glob("*"))


@needs_compiler
@pytest.mark.usefixtures("_own_cache", "_quick_compiler")
def test_the_library_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library()
    (path,) = kept(tmp_path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    library.cache_clear()
    monkeypatch.setattr(build, "_compiled", lambda *_: pytest.fail("compiled again"))
    assert library().norm_takes(8, 16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library as the compiler makes it."""
    path = tmp_path_factory.mktemp("made") / "kernels.so"
    build._run(build.to_compile(compiler(), path))
    return path


@pytest.fixture
def _quick_compiler(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that has compiled the source before; what it says is in Latin-1."""
    lines = (
        r"printf 'fran\347ais\n' | tee /dev/stderr",
        'case "$*" in *--version) exit;; esac',
        'while [ "$1" != -o ]; do shift; done',
        f'cp "{made}" "$2"',
    )
    monkeypatch.setenv("CXX", str(script(tmp_path / "quick", "\n".join(lines))))


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


@needs_compiler
@pytest.mark.usefixtures("_own_cache", "_quick_compiler")
def test_a_library_that_others_can_write_is_not_loaded(tmp_path: Path) -> None:
    library()
    (path,) = kept(tmp_path)

    def others_put_one(mode: int) -> None:
        path.unlink()
        path.write_bytes(b"not a library: loading it fails")
        path.chmod(mode)
        library.cache_clear()

    others_put_one(0o666)
    assert library().norm_takes(8, 16)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    others_put_one(0o600)
    path.parent.chmod(0o777)
    assert library().norm_takes(8, 16)
    assert path.read_bytes().startswith(b"not")
    path.parent.chmod(0o700)
    path.parent.parent.chmod(0o777)  # another folder could be put in the place of ours
    library.cache_clear()
    assert library().norm_takes(8, 16)
    assert path.read_bytes().startswith(b"not")
    path.parent.parent.chmod(0o1777)
    library.cache_clear()
    assert library().norm_takes(8, 16)
    assert not path.read_bytes().startswith(b"not")


@needs_compiler
@pytest.mark.usefixtures("_own_cache", "_quick_compiler")
def test_a_library_that_was_damaged_is_compiled_again(tmp_path: Path) -> None:
    library()
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], bytes(len(whole)), whole[:-1]):
        path.unlink()  # it is loaded: to change it in place would end the process
        path.write_bytes(damaged)
        path.chmod(0o600)
        library.cache_clear()
        assert library().norm_takes(8, 16)
        assert path.read_bytes() == whole


@needs_compiler
@pytest.mark.usefixtures("_own_cache", "_quick_compiler")
def test_a_library_that_cannot_be_kept_is_used_nevertheless(tmp_path: Path) -> None:
    library()
    (path,) = kept(tmp_path)
    path.unlink()
    (path / "in the way").mkdir(parents=True)
    library.cache_clear()
    assert library().norm_takes(8, 16)
    assert kept(tmp_path) == [path]


@needs_compiler
@pytest.mark.usefixtures("_own_cache", "_quick_compiler")
def test_a_compiler_may_have_a_launcher_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = compiler()
    launcher = script(tmp_path / "a launcher", 'exec "$@"')
    monkeypatch.setenv("CXX", f"'{launcher}' {plain[0]}")
    assert compiler() == [str(launcher), *plain]
    assert library().norm_takes(8, 16)
    monkeypatch.setenv("CXX", f"{plain[0]} -g")
    library.cache_clear()
    assert library().norm_takes(8, 16)
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("cxx", ["no-such-program g++", "'g++"])
@pytest.mark.usefixtures("_own_cache")
def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, cxx: str) -> None:
    monkeypatch.setenv("CXX", cxx)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(BuildError, match=f"CXX=.*{cxx}"):
        library()


@needs_compiler
@pytest.mark.usefixtures("_own_cache", "_quick_compiler")
def test_a_library_that_lacks_a_function_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(build.ARGUMENTS, "no_such_function", [])
    with pytest.raises(BuildError, match="no_such_function"):
        library()


@pytest.mark.usefixtures("_own_cache")
def test_a_compiler_that_fails_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = script(
        tmp_path / "compiler", '[ "$1" = --version ] && exit\necho "no space\nleft" >&2\nexit 1\n'
    )
    monkeypatch.setenv("CXX", str(fake))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(BuildError, match=r"^.*compiler failed: no space$"):
        library()
    assert kept(tmp_path) == []


@pytest.fixture
def _tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)


@pytest.mark.usefixtures("_own_cache", "_tiny_data")
def test_without_a_compiler_a_run_trains_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    run = tiny_run(tmp_path, "train.precision='bf16'", "train.device='cpu'")
    assert train_run(run, Control(run)).state == "completed"
    log = [envelope.event for envelope in Follower(run)._tail.read()]
    told = [e for e in log if isinstance(e, events.Notice) and e.code == "no-kernels"]
    assert [e.level for e in told] == ["warning"]
    assert "g++" in told[0].message or "Linux" in told[0].message


@needs_compiler
@pytest.mark.usefixtures("_tiny_data")
def test_a_run_with_kernels_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    settings = "train.precision='bf16'", "train.device='cpu'", "augment.shift=2"
    losses = [
        losses_of(tiny_run(tmp_path / str(stopped), *settings), stopped=stopped)
        for stopped in (True, False)
    ]
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]

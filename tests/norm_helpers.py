"""What tests of norms by kernels share, on a CPU and on a GPU."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from model.blocks import make_norm, norm_act

ROUNDING = 2**-8
"""Relative, of one number in bf16; halved by rounding to the nearest."""
ACTS = {"none": nn.Identity(), "relu": nn.ReLU(), "gelu": nn.GELU()}


def some(*shape: int, seed: int = 0, wanted: bool = True, device: str = "cpu") -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
    values = values.to(device).to(memory_format=torch.channels_last)
    return values.requires_grad_(wanted)


def error(found: Tensor, expected: Tensor) -> float:
    """Root of the mean square, relative."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def norm(channels: int, kind: str = "batch", **settings: float | None) -> nn.Module:
    layer = nn.BatchNorm2d(channels, **settings) if settings else make_norm(kind, channels)  # type: ignore[arg-type]
    assert isinstance(layer, nn.BatchNorm2d | nn.GroupNorm)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 2, channels))
        layer.bias.copy_(torch.linspace(1, -1, channels))
    return layer


def both_ways(
    layer: nn.Module, act: str, x: Tensor, residual: Tensor | None, gradient: Tensor
) -> dict[str, Tensor]:
    """act(layer(x) + residual) as ``y``, and all of its gradients."""
    y = norm_act(layer, ACTS[act], x, None if residual is None else lambda: residual)
    wanted = {"x": x, **dict(layer.named_parameters())}
    if residual is not None:
        wanted["residual"] = residual
    found = torch.autograd.grad(y, list(wanted.values()), gradient)
    return {"y": y, **dict(zip(wanted, found, strict=True))}


def compare_with_exact(
    ours: nn.Module, usual: nn.Module, act: str, x: Tensor, residual: Tensor | None
) -> None:
    """A norm by kernels, both ways, is as near to fp64 as bf16 can be."""
    gradient = some(*x.shape, seed=2, wanted=False, device=x.device.type)
    found = both_ways(ours, act, x, residual, gradient)
    assert type(found["y"].grad_fn).__name__ == "_NormBackward"
    exact = copy.deepcopy(usual).double()
    wide = (None if t is None else t.detach().double().requires_grad_() for t in (x, residual))
    expected = both_ways(exact, act, *wide, gradient.double())  # type: ignore[arg-type]
    for name, theirs in expected.items():
        assert error(found[name], theirs) < ROUNDING, name
    assert found["x"].is_contiguous(memory_format=torch.channels_last)
    for name, buffer in exact.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer, check_dtype=False)

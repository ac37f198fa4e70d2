"""Batch norm with what stands round it on a GPU, each way in two kernels, for bf16.

Like ``trainer.kernels.fused``, whose layers these go on from, but by Triton's kernels
(``trainer.kernels.triton_norms``): statistics, then norm, addition and activation in one. Max
pooling between a convolution and its norm is computed with the statistics, and its gradient with
the norm's. torch reads and writes these tensors one operation after the other; its compiler joins
them too, after a minute of work.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor, nn

from model.fast import ShiftNorm
from trainer.errors import first_line
from trainer.kernels import tiles
from trainer.kernels import triton_norms as kernels
from trainer.kernels.build import BuildError
from trainer.kernels.fused import (
    GELU,
    NONE,
    RELU,
    FusedBatchNorm2d,
    FusedShiftNorm,
    How,
    autocasts_to_bf16,
    halves,
    kept,
    laid_out,
    like,
    once,
    takes_anywhere,
    unheard,
)

LANES = 8
"""Channels of 16 bytes, which a thread loads at once."""
BLOCK = 64
"""Channels of a tile at most."""
TILE = 4096
"""Numbers of a tile; half of it where more than one tensor is summed."""
PARTS = 512
"""Programs that sum at most: about four for each multiprocessor of a large GPU."""
ALLOWED = 2**-6
"""Relative error of bf16 results, four times what rounding makes of one number at most."""
LARGEST = 2**31 - 1
"""Numbers of a tensor: the kernels count them in 32 bits."""


def check(device: torch.device) -> None:
    """Try a norm on a GPU, both ways, pooled and not, and compare it with torch's.

    Raises:
        BuildError: Triton cannot compile or start kernels there, or they compute something else.
    """
    random = torch.Generator().manual_seed(0)
    images = torch.randn(6, LANES, 9, 9, generator=random).bfloat16().to(device)
    images = images.to(memory_format=torch.channels_last)
    try:
        off = [*_off(images, pooled=False), *_off(images, pooled=True)]
    except Exception as error:
        raise BuildError(f"Triton makes no kernels: {first_line(error)}") from error
    if not all(each < ALLOWED for each in off):
        told = ", ".join(f"{each:.2g}" for each in off)
        raise BuildError(f"Triton's kernels are off by {told}: update the GPU's driver or torch")


def _off(images: Tensor, *, pooled: bool) -> list[float]:
    """How much norm and ReLU, and their gradient, are off from torch's in fp32, relative."""
    layer = BatchNorm2d(images.shape[1]).to(images.device)
    x, exact = images.clone().requires_grad_(), images.float().requires_grad_()
    y = layer.pooled(x, RELU) if pooled else layer.and_act(nn.ReLU(), x, None)
    assert y is not None
    usual = F.max_pool2d(exact, 2) if pooled else exact
    usual = F.batch_norm(usual, None, None, training=True).relu()
    # weighted, as a norm's gradient for a plain sum is 0
    weights = torch.linspace(-1, 1, y.numel(), device=images.device).view_as(y)
    found = y, *torch.autograd.grad((y.float() * weights).sum(), x)
    expected = usual, *torch.autograd.grad((usual * weights).sum(), exact)
    pairs = [(a.detach().float(), b.detach()) for a, b in zip(found, expected, strict=True)]
    return [float((a - b).norm() / b.norm()) for a, b in pairs]


def choose_per_layer(net: nn.Module) -> None:
    """Exchange the batch norms of a net, and convolutions that may be pooled before one.

    For steps that are recorded: one by one the host starts these kernels no faster than torch's.
    """
    for layer in net.modules():
        layer.__class__ = EXCHANGED.get(type(layer), type(layer))


class _OnGpu(FusedBatchNorm2d):
    """What is other than on a CPU."""

    counts = True
    """Whether it counts its batches."""

    def takes(self, tensor: Tensor) -> bool:
        """bf16 in channels_last, not too large, where this norm is."""
        own = self.running_mean if self.running_mean is not None else self.bias
        return (
            takes_anywhere(tensor)
            and tensor.numel() <= LARGEST
            and own is not None
            and tensor.device == own.device
        )

    def fork(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x twice; torch adds the gradients as fast as memory is."""
        return x, x

    def running(self) -> tuple[Tensor | None, Tensor | None, float]:
        """Counts nothing: a kernel does."""
        return self.running_mean, self.running_var, self.momentum or 0.0

    def pooled(self, input: Tensor, act: int) -> Tensor:
        """act(norm(2x2 max pooling of input)), [N, C, H, W] to [N, C, H // 2, W // 2]."""
        shape = torch.Size((*input.shape[:2], input.shape[2] // 2, input.shape[3] // 2))
        how = How(self.running(), self.eps, act, self.parts(shape))
        return self._applied(input, None, how, pooled=True)

    def _covers(self, rows: int, channels: int) -> bool:
        # one row has no variance, and a cumulative average asks for the number of batches: torch's
        return rows > 1 and channels % LANES == 0 and self.momentum is not None

    def _by(
        self, known: tuple[Tensor, Tensor], input: Tensor, residual: Tensor | None, act: int
    ) -> Tensor:
        return normalised(input, residual, *self.scaled(), *known, self.eps, act, variance=True)

    def _by_batch(self, input: Tensor, residual: Tensor | None, how: How) -> Tensor:
        return self._applied(input, residual, how, pooled=False)

    def _applied(self, input: Tensor, residual: Tensor | None, how: How, *, pooled: bool) -> Tensor:
        counted = self.counts and self.training and self.track_running_stats
        count = self.num_batches_tracked if counted else None
        given = input, residual, *self.scaled(), how, count, pooled
        output: Tensor = _Norm.apply(*given)
        return output


class BatchNorm2d(_OnGpu):
    """Batch norm, its running statistics included."""


class GpuShiftNorm(_OnGpu, FusedShiftNorm):
    """The same for the norm of ``fast``."""

    counts = False


class PooledConv2d(nn.Conv2d):
    """A convolution whose output may be pooled and normalised in one."""

    def and_norm(
        self,
        pool: nn.Module | None,
        norm: nn.Module,
        act: nn.Module,
        input: Tensor,
        residual: Tensor | None,
    ) -> Tensor | None:
        """act(norm(pool(self(input)))), or None: it is not pooled, cannot be one, or is heard."""
        if (
            not (isinstance(pool, nn.MaxPool2d) and isinstance(norm, _OnGpu))
            or residual is not None
            or not self.weight.is_contiguous(memory_format=torch.channels_last)
            or not (halves(pool) and unheard(pool) and unheard(self))
            or not autocasts_to_bf16(input.device)
        ):
            return None
        height, width = tiles.output_size(self, input)
        count = len(input), self.out_channels
        pooled = torch.Size((*count, height // 2, width // 2))
        code = norm.act_after(act, pooled, None)
        if code is None or not pooled.numel() or math.prod((*count, height, width)) > LARGEST:
            return None
        return norm.pooled(laid_out(self(input)), code)


EXCHANGED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: BatchNorm2d,
    ShiftNorm: GpuShiftNorm,
    nn.Conv2d: PooledConv2d,
}


class _Norm(torch.autograd.Function):
    """act(norm(x) + residual), or act(norm(pooling of x))."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        how: How,
        count: Tensor | None,
        pooled: bool,
    ) -> Tensor:
        ctx.shape = x.shape
        x, where, statistics = measured(x, how, count, pooled=pooled)
        mean, spread = statistics
        y = normalised(x, residual, weight, bias, mean, spread, how.eps, how.act)
        ctx.how, ctx.added = how, residual is not None
        ctx.save_for_backward(x, kept(y, residual, how.act), weight, bias, statistics, where)
        return y

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, bias, statistics, where = ctx.saved_tensors
        x, (y, where) = laid_out(x), (None if t is None else laid_out(t) for t in (y, where))
        given = Saved(x, y, weight, bias, statistics, where)
        of_x, of_sum, of_affine = gradients_of(
            like(gradients[0], x), given, ctx.how.act, ctx.shape, added=ctx.added
        )
        of_weight = None if weight is None else of_affine[0]
        of_bias = None if bias is None else of_affine[1]
        return of_x, of_sum, of_weight, of_bias, None, None, None


class Saved(NamedTuple):
    """What the gradients need of the way forward."""

    x: Tensor
    """What was normalised."""
    y: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    statistics: Tensor
    where: Tensor | None
    """Of the pooling which of four the maximum was, uint8 like x."""


def measured(
    x: Tensor, how: How, count: Tensor | None, *, pooled: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """x, or its pooling and where its maxima were; mean and 1 / deviation, fp32 [2, C].

    The running statistics go on by them, and so does ``count``, the number of batches.
    """
    n, channels, height, width = x.shape
    given, where = x, None
    if pooled:
        x = _room(given, n, channels, height // 2, width // 2)
        where = torch.empty_like(x, dtype=torch.uint8)
    # pooling has four loads in flight where the sums alone have one
    rows, tile, grid, partial = _sums(x, TILE // 2 if pooled else TILE)
    statistics = torch.empty(2, channels, device=x.device)
    mean, var, factor = how.running
    with _on(x):
        if where is None:
            kernels.moments[grid](x, partial, rows, channels, **tile)
        else:
            kernels.pool_moments[grid](
                given, x, where, partial, rows, channels, height, width, **tile
            )
        kernels.finish_moments[(triton.cdiv(channels, LANES),)](
            *(given, partial, statistics, mean, var, count),
            *(rows, channels, grid[0], factor, how.eps),
            RUNNING=mean is not None,
            COUNTED=count is not None,
            P=triton.next_power_of_2(grid[0]),
            B=LANES,
        )
    return x, where, statistics


def normalised(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    spread: Tensor,
    eps: float,
    act: int,
    *,
    variance: bool = False,
) -> Tensor:
    """act(norm(x) + residual); ``spread`` is 1 / deviation, or the variance."""
    y = torch.empty_like(x)
    rows, tile, grid = _tiles(x, TILE)
    with _on(x):
        kernels.normalise[grid](
            *(x, residual, weight, bias, mean, spread, y, rows, x.shape[1], eps),
            ACT=act,
            ADDED=residual is not None,
            SCALED=weight is not None,
            SHIFTED=bias is not None,
            VARIANCE=variance,
            **tile,
        )
    return y


def gradients_of(
    gradient: Tensor, saved: Saved, act: int, shape: torch.Size, *, added: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of x (of ``shape`` where it was pooled), residual, and weight and bias [2, C]."""
    x, y, weight, bias, statistics, where = saved
    channels = x.shape[1]
    stored = added and act != NONE
    of_sum = torch.empty_like(x) if stored else None
    of_affine = torch.empty(2, channels, device=x.device)
    affine = {"SCALED": weight is not None, "SHIFTED": bias is not None}
    rows, tile, grid, partial = _sums(x, TILE // 2)
    with _on(x):
        kernels.gradient_sums[grid](
            *(gradient, x, y, statistics, weight, bias, partial, of_sum, rows, channels),
            ACT=act,
            KEPT=y is not None,
            STORED=stored,
            **affine,
            **tile,
        )
        kernels.finish_sums[(triton.cdiv(channels, LANES),)](
            *(partial, of_affine, channels, grid[0]), P=triton.next_power_of_2(grid[0]), B=LANES
        )
        of_x = _room(x, *shape)
        rows, tile, grid = _tiles(x, TILE // 2 if where is not None else TILE)
        kernels.gradient_of_x[grid](
            gradient if of_sum is None else of_sum,
            *(x, statistics, weight, bias, of_affine, where, of_x),
            *(rows, channels, *shape[2:]),
            # what was stored is of before the activation
            ACT=NONE if stored else act,
            **affine,
            POOLED=where is not None,
            **tile,
        )
    return of_x, (gradient if of_sum is None else of_sum) if added else None, of_affine


def _room(x: Tensor, *shape: int) -> Tensor:
    """For numbers like x's, in channels_last."""
    last = torch.channels_last
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=last)


def _tiles(x: Tensor, size: int) -> tuple[int, dict[str, int], tuple[int, int]]:
    """Rows of a tensor, its tiles of so many numbers, and a program for each."""
    channels = x.shape[1]
    rows, block = x.numel() // channels, min(BLOCK, triton.next_power_of_2(channels))
    tile = {"R": max(1, size // block), "B": block}
    return rows, tile, (triton.cdiv(rows, tile["R"]), triton.cdiv(channels, block))


def _sums(x: Tensor, size: int) -> tuple[int, dict[str, int], tuple[int, int], Tensor]:
    """The same with fewer programs, which take tiles in turns, and room for what each finds."""
    rows, tile, (tiles, blocks) = _tiles(x, size)
    parts = min(tiles, max(1, PARTS // blocks))
    return rows, tile, (parts, blocks), torch.empty(2, parts, x.shape[1], device=x.device)


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """Triton starts kernels on the current GPU."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


assert (NONE, RELU, GELU) == (0, 1, 2), "the kernels count on it"

"""Batch norm over the whole batch of all ranks: the same statistics as one process has.

``nn.SyncBatchNorm`` refuses a CPU, makes the host wait for a GPU in each layer, and replaces norms
of other classes (``ShiftNorm``) by itself. Here a layer stays what it is; the call of
``F.batch_norm`` inside its forward is taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode


def synchronise(net: nn.Module, group: dist.ProcessGroup) -> int:
    """Let the batch norms of a net train with the statistics of all ranks.

    Returns:
        How many layers there are. Evaluation is not touched.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, _BatchNorm)]
    for layer in layers:
        layer.forward = _Together(layer.forward, group)  # type: ignore[method-assign]
    return len(layers)


class _Together:
    """A norm's forward under which ``F.batch_norm`` is the synchronised one."""

    def __init__(self, forward: Callable[[Tensor], Tensor], group: dist.ProcessGroup) -> None:
        self._forward, self._mode = forward, _Mode(group)

    def __call__(self, input: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # an evaluation: every rank by itself
            return self._forward(input)
        with self._mode:
            return self._forward(input)


class _Mode(TorchFunctionMode):
    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__()
        self._group = group

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return self._batch_norm(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        func: Callable[..., Tensor],
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return func(input, running_mean, running_var, weight, bias, False, momentum, eps)
        if input.is_cuda:
            norm: Callable[..., Tensor] = _BatchNormOnGpu.apply
            return norm(
                *(input, weight, bias, running_mean, running_var, momentum, eps, self._group)
            )
        mean, variance, count = _statistics(input, self._group)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                unbiased = variance * (count / max(1.0, count - 1))
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        channels = input.shape[1]
        apply: Callable[..., Tensor] = _BatchNormOnHost.apply
        return apply(
            input,
            mean.new_ones(channels) if weight is None else weight,
            mean.new_zeros(channels) if bias is None else bias,
            mean,
            variance,
            eps,
            count,
            self._group,
        )


class _BatchNormOnGpu(Function):
    """Batch norm by the kernels of ``nn.SyncBatchNorm``, whose host never waits for them.

    torch's own leaves out ranks without images, and has to read on the host how many there are; of
    a batch here each rank has one at least.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        group: dist.ProcessGroup,
    ) -> Tensor:
        input = input.contiguous(memory_format=_layout(input))
        channels = input.shape[1]
        mean, invstd = torch.batch_norm_stats(input, eps)
        # a sum of rows that are 0 elsewhere: each rank has its own
        rows = mean.new_zeros((group.size(), 2 * channels + 1))
        own = rows[group.rank()]
        own[:channels], own[channels:-1] = mean, invstd
        own[-1:].fill_(input.numel() // channels)
        dist.all_reduce(rows, group=group)
        means, invstds, counts = rows.split((channels, channels, 1), dim=1)
        if running_mean is None or running_var is None:
            # counts are taken in their type, else in the input's: bf16 cannot tell 256 from 257
            running_mean, running_var = mean.new_zeros((2, channels))
        counts = counts.flatten().to(running_mean.dtype)
        mean, invstd = torch.batch_norm_gather_stats_with_counts(
            *(input, means.contiguous(), invstds.contiguous(), running_mean, running_var),
            *(momentum, eps, counts),
        )
        ctx.group, ctx.biased = group, bias is not None
        ctx.save_for_backward(input, weight, mean, invstd, counts.int())
        return torch.batch_norm_elemt(input, weight, bias, mean, invstd, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        input, weight, mean, invstd, counts = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=_layout(input))
        given = input, mean, invstd, weight
        # gradients of weight and bias are these sums, which torch leaves out without a weight
        of_bias, products, _, _ = torch.batch_norm_backward_reduce(grad, *given, True, False, False)
        of_weight = None if weight is None else (products * invstd).to(weight.dtype)
        sums = torch.stack((of_bias, products))
        dist.all_reduce(sums, group=ctx.group)
        of_input = torch.batch_norm_backward_elemt(grad, *given, sums[0], sums[1], counts)
        return of_input, of_weight, of_bias if ctx.biased else None, *[None] * 5


def _layout(tensor: Tensor) -> torch.memory_format:
    """Of the two that the kernels know: channels_last where it is that."""
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


@torch.no_grad()
def _statistics(input: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, float]:
    """Mean and biased variance per channel over all ranks, float32 [C], and the count."""
    # statistics are as precise as the running ones that are given, which are not looked at
    unused = torch.zeros(input.shape[1], device=input.device)
    mean, variance = torch.batch_norm_update_stats(input, unused, unused.clone(), 0.0)
    mean, variance = mean.double(), variance.double()
    count = input.numel() // input.shape[1]
    # double: the square of the mean is subtracted again
    sums = torch.cat((mean * count, (variance + mean * mean) * count, mean.new_tensor([count])))
    dist.all_reduce(sums, group=group)
    channels, total = input.shape[1], float(sums[-1])
    mean = sums[:channels] / total
    variance = (sums[channels:-1] / total - mean * mean).clamp_min_(0)
    return mean.float(), variance.float(), total


class _BatchNormOnHost(Function):
    """Normalise by given statistics; backward as if they were computed from all ranks' inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        count: float,
        group: dist.ProcessGroup,
    ) -> Tensor:
        ctx.save_for_backward(input, weight, mean, variance)
        ctx.eps, ctx.count, ctx.group = eps, count, group
        return F.batch_norm(input, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        input, weight, mean, variance = ctx.saved_tensors
        # of fixed statistics first; what depends on the statistics is added below
        grad, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grads[0], input, weight, mean, variance, None, None, False, ctx.eps, [True] * 3
        )
        sums = torch.cat((grad_bias, grad_weight)).double()
        dist.all_reduce(sums, group=ctx.group)
        bias_mean, weight_mean = (sums / ctx.count).float().chunk(2)
        scale = (variance + ctx.eps).rsqrt()
        slope = weight * scale * scale * weight_mean
        offset = weight * scale * bias_mean - slope * mean
        shape = (1, -1, *([1] * (input.dim() - 2)))
        correction = torch.addcmul(offset.view(shape), input.float(), slope.view(shape))
        return (grad - correction).to(input.dtype), grad_weight, grad_bias, *[None] * 5

"""Batch and group norm, activation, addition and max pooling as one kernel each, for bf16 on a CPU.

Layers keep their parameters and names; only their class is exchanged. torch's own layers go over
their tensors several times, and its max pooling writes an index of eight bytes per number: on two
cores with AMX a step of ``dws-normal`` spent half of its time there, one of ``fast`` 40 %. A batch
norm behind a convolution on matrix tiles is computed with that (``TiledConv2d.and_norm``).

Their gradients cannot be differentiated once more: that is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.module import _has_any_global_hook

from model.fast import BIAS_SCALE, ShiftNorm
from trainer.kernels.build import at, library

NONE, RELU, GELU = range(3)
LANES = 16
"""Channels that the pooling takes at once."""


class _Norm2d(nn.Module):
    """A norm that computes with its statistics, addition and activation in two passes.

    Used on bf16 in channels_last, in training with gradients and in evaluation without; anything
    else goes torch's way.
    """

    weight: Any
    bias: Any
    eps: float

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to the same shape."""
        if not self._takes(input):
            usual: Tensor = super().forward(input)
            return usual
        return self._fused(input, None, NONE)

    def and_act(self, act: nn.Module, input: Tensor, residual: Tensor | None) -> Tensor | None:
        """act(norm(input) + residual), or None: this cannot be fused, or somebody listens."""
        code = self._joined(act, input.shape, residual)
        if code is None or not self._takes(input):
            return None
        return self._fused(input, residual, code)

    def act_after(self, act: nn.Module, shape: torch.Size, residual: Tensor | None) -> int | None:
        """The activation in act(norm(x) + residual), where x is what a kernel will give, bf16 in
        channels_last of this shape; None: this cannot be fused.
        """
        code = self._joined(act, shape, residual)
        training = self.training and torch.is_grad_enabled()
        return code if training and self._suits(shape) else None

    def _joined(self, act: nn.Module, shape: torch.Size, residual: Tensor | None) -> int | None:
        """The activation in one piece with such a norm and residual; None: there is none."""
        if not (unheard(self) and only_output_heard(act)):
            return None
        if residual is not None and not (self.takes(residual) and residual.shape == shape):
            return None
        return _code(act, residual)

    def fork(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x twice, the gradients added by a kernel."""
        if not (self.training and torch.is_grad_enabled() and x.requires_grad and self.takes(x)):
            return x, x
        first, second = _Fork.apply(x)
        return first, second

    def scaled(self) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias as the norm applies them, fp32 [C]."""
        return self.weight, self.bias

    def channels(self) -> int:
        """C of the inputs that it is made for."""
        raise NotImplementedError

    def parts(self, shape: torch.Size) -> tuple[int, int, int, int]:
        """Of [N, C, H, W]: parts with statistics of their own, rows of each, C, group of C."""
        raise NotImplementedError

    def running(self) -> tuple[Tensor | None, Tensor | None, float]:
        """Running mean and variance, fp32 [C], and the weight of this batch in them."""
        return None, None, 0.0

    def known(self) -> tuple[Tensor, Tensor] | None:
        """Mean and variance, fp32 [C], where they are not those of the batch."""
        return None

    def takes(self, tensor: Tensor) -> bool:
        """Whether the kernels take a tensor."""
        return _takes(tensor)

    def _takes(self, input: Tensor) -> bool:
        return (
            self.training == torch.is_grad_enabled()
            and self.takes(input)
            and self._suits(input.shape)
        )

    def _suits(self, shape: torch.Size) -> bool:
        _, rows, channels, _ = self.parts(shape)
        own = *self.parameters(recurse=False), *self.buffers(recurse=False)
        # torch tells what is wrong with another number; a number of batches is no vector
        if channels != self.channels() or any(t.dim() and not _vector(t, channels) for t in own):
            return False
        return self._covers(rows, channels)

    def _covers(self, rows: int, channels: int) -> bool:
        """Whether the kernels take so many rows of a part, and so many channels."""
        return bool(library().norm_takes(rows, channels))

    def _fused(self, input: Tensor, residual: Tensor | None, act: int) -> Tensor:
        if not self.training and (known := self.known()) is not None:
            return self._by(known, input, residual, act)
        running = self.running() if self.training else (None, None, 0.0)
        how = How(running, self.eps, act, self.parts(input.shape))
        return self._by_batch(input, residual, how)

    def _by(
        self, known: tuple[Tensor, Tensor], input: Tensor, residual: Tensor | None, act: int
    ) -> Tensor:
        """By known mean and variance."""
        y, channels = torch.empty_like(input), input.shape[1]
        weight, bias = self.scaled()  # held until they have been read
        library().norm_apply(
            *map(at, (input, residual, weight, bias, *known)),
            *(self.eps, act, input.numel() // channels, channels),
            *(torch.get_num_threads(), y.data_ptr()),
        )
        return y

    def _by_batch(self, input: Tensor, residual: Tensor | None, how: How) -> Tensor:
        """By the batch's statistics, with gradients."""
        output: Tensor = _Norm.apply(input, residual, *self.scaled(), how)
        return output


class FusedBatchNorm2d(_Norm2d, nn.BatchNorm2d):
    """Batch norm, its running statistics included."""

    def channels(self) -> int:
        """As many as it was made with."""
        return self.num_features

    def parts(self, shape: torch.Size) -> tuple[int, int, int, int]:
        """One part, groups of one."""
        n, channels, height, width = shape
        return 1, n * height * width, channels, 1

    def running(self) -> tuple[Tensor | None, Tensor | None, float]:
        """Counts the batch, too."""
        factor = self.momentum
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if factor is None:
                factor = 1 / float(self.num_batches_tracked)
        return self.running_mean, self.running_var, factor or 0.0

    def known(self) -> tuple[Tensor, Tensor] | None:
        """The running ones."""
        mean, var = self.running_mean, self.running_var
        return None if mean is None or var is None else (mean, var)


class FusedGroupNorm(_Norm2d, nn.GroupNorm):
    """Group norm, with one group layer norm: each image is normalised by itself."""

    def channels(self) -> int:
        """As many as it was made with."""
        return self.num_channels

    def parts(self, shape: torch.Size) -> tuple[int, int, int, int]:
        """A part per image."""
        n, channels, height, width = shape
        return n, height * width, channels, channels // self.num_groups


class FusedShiftNorm(FusedBatchNorm2d, ShiftNorm):
    """The same for the norm of ``fast``, whose bias is scaled and whose weight is 1."""

    def scaled(self) -> tuple[Tensor | None, Tensor | None]:
        """No weight, and the scaled bias, fp32 [C]."""
        return None, self.bias * BIAS_SCALE

    def running(self) -> tuple[Tensor | None, Tensor | None, float]:
        """Counts nothing, as ``ShiftNorm``."""
        return self.running_mean, self.running_var, self.momentum or 0.0


class FusedMaxPool2d(nn.MaxPool2d):
    """Max pooling of 2x2 that looks for the greatest again instead of keeping where it was."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, H // 2, W // 2]."""
        if not (_takes(input) and input.shape[1] % LANES == 0 and min(input.shape[2:]) > 1):
            usual: Tensor = super().forward(input)
            return usual
        output: Tensor = _Pool.apply(input)
        return output


EXCHANGED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: FusedBatchNorm2d,
    nn.GroupNorm: FusedGroupNorm,
    ShiftNorm: FusedShiftNorm,
}


def choose_per_layer(net: nn.Module) -> None:
    """Exchange the norms and poolings of a net for those with kernels, which are there."""
    for layer in net.modules():
        layer.__class__ = _exchanged(layer)


def _exchanged(layer: nn.Module) -> type[nn.Module]:
    if type(layer) is nn.MaxPool2d:
        return FusedMaxPool2d if halves(layer) else nn.MaxPool2d
    return EXCHANGED.get(type(layer), type(layer))


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward that raises where its gradients are differentiated.

    torch's own decorator lets them pass as constants where those that come in are.
    """
    checked = once_differentiable(backward)

    @wraps(backward)
    def once(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():
            gradients = tuple(gradient.detach().requires_grad_() for gradient in gradients)
        return checked(ctx, *gradients)

    return once


class How(NamedTuple):
    """What is computed in one piece with a norm, beside its parameters."""

    running: tuple[Tensor | None, Tensor | None, float]
    eps: float
    act: int
    parts: tuple[int, int, int, int]


def norm_forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    how: How,
    moments: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """act(norm(x) + residual), and the statistics it was computed with.

    ``moments``, fp64 [2, C], are those of a batch, where they are known.
    """
    y, statistics = torch.empty_like(x), torch.empty(how.parts[0], 2, x.shape[1])
    mean, var, factor = how.running
    library().norm_forward(
        *map(at, (x, residual, weight, bias, mean, var)),
        *(factor, how.eps, how.act, *how.parts, at(moments)),
        *(torch.get_num_threads(), y.data_ptr(), statistics.data_ptr()),
    )
    return y, statistics


def kept(y: Tensor, residual: Tensor | None, act: int) -> Tensor | None:
    """What ``norm_backward`` needs of the output."""
    return y if act == RELU and residual is not None else None


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        how: How,
    ) -> Tensor:
        y, statistics = norm_forward(x, residual, weight, bias, how)
        ctx.how, ctx.added = how, residual is not None
        ctx.save_for_backward(x, kept(y, residual, how.act), weight, bias, statistics)
        return y

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, bias, statistics = ctx.saved_tensors
        x, y = laid_out(x), None if y is None else laid_out(y)
        given = like(gradients[0], x), x, y, weight, bias, statistics
        found = norm_backward(*given, ctx.how, added=ctx.added)
        return found.of_x, found.of_residual, found.of_weight, found.of_bias, None


class Gradients(NamedTuple):
    """Of a norm."""

    of_x: Tensor
    """Of its input; with ``numbers`` of what comes before the activation and the sum."""
    of_residual: Tensor | None
    of_weight: Tensor | None
    of_bias: Tensor | None
    numbers: Tensor | None


def norm_backward(
    gradient: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    how: How,
    *,
    added: bool,
    later: bool = False,
) -> Gradients:
    """The gradients of ``norm_forward``; ``later``: that of x is left to the convolution before."""
    of_affine = torch.empty(2, x.shape[1])
    of_sum = torch.empty_like(x) if added and how.act != NONE else None
    of_x = torch.empty_like(x) if not later or (how.act == GELU and of_sum is None) else None
    numbers = torch.empty(4, x.shape[1]) if later else None
    library().norm_backward(
        *map(at, (gradient, x, y, weight, bias, statistics)),
        *(how.act, *how.parts, torch.get_num_threads()),
        *map(at, (of_x, of_sum, of_affine, numbers)),
    )
    of_sum = gradient if of_sum is None else of_sum
    return Gradients(
        of_x if of_x is not None else of_sum,
        of_sum if added else None,
        None if weight is None else of_affine[0],
        None if bias is None else of_affine[1],
        numbers,
    )


class _Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.view_as(x), x.view_as(x)

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        first, second = (like(g, gradients[0]) for g in gradients)
        total = torch.empty_like(first)
        if not _takes(first):
            return torch.add(first, second, out=total)
        threads = torch.get_num_threads()
        library().add(at(first), at(second), first.numel(), threads, at(total))
        return total


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        y = x.new_empty((n, height // 2, width // 2, channels)).permute(0, 3, 1, 2)
        threads = torch.get_num_threads()
        library().pool_forward(at(x), n, height, width, channels, threads, at(y))
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x = laid_out(ctx.saved_tensors[0])
        gradient, of_x = like(gradients[0], x), torch.empty_like(x)
        n, channels, height, width = x.shape
        threads = torch.get_num_threads()
        library().pool_backward(at(gradient), at(x), n, height, width, channels, threads, at(of_x))
        return of_x


def like(gradient: Tensor, x: Tensor) -> Tensor:
    """A gradient as the kernels take it."""
    return laid_out(gradient.to(x.dtype))


def laid_out(x: Tensor) -> Tensor:
    """In the kernels' order, which hooks that keep elsewhere what was saved may have changed."""
    return x.contiguous(memory_format=torch.channels_last)


def _vector(tensor: Tensor, channels: int) -> bool:
    """Whether the kernels take it as a norm's parameter or statistics."""
    fits = tensor.dtype == torch.float32 and tensor.shape == (channels,)
    return fits and tensor.is_contiguous()


def _takes(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and takes_anywhere(tensor)


def takes_anywhere(tensor: Tensor) -> bool:
    """Whether kernels for its device take it: bf16 in channels_last."""
    return (
        tensor.dtype == torch.bfloat16
        and tensor.dim() == 4
        and tensor.numel() > 0
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def autocasts_to_bf16(device: torch.device) -> bool:
    """Whether convolutions there compute in bf16 now."""
    kind = device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16


def _code(act: nn.Module, residual: Tensor | None) -> int | None:
    if type(act) is nn.Identity:
        return NONE
    if type(act) is nn.ReLU:
        return RELU
    if type(act) is nn.GELU and act.approximate == "none" and residual is None:
        return GELU
    return None


def unheard(layer: nn.Module) -> bool:
    """Whether nobody listens to what a layer is given and gives, nor to the gradients."""
    return not layer._forward_hooks and only_output_heard(layer)


def only_output_heard(layer: nn.Module) -> bool:
    """Whether hooks of a layer, if it has any, come after its forward pass.

    These are then given its right output, if as its input, too.
    """
    hooks = layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return not (any(hooks) or _has_any_global_hook())


def halves(layer: nn.Module) -> bool:
    """Whether the windows of a pooling are 2x2 and side by side."""

    def of(name: str) -> set[Any]:
        value = getattr(layer, name)
        return {value} if isinstance(value, int) else set(value)

    return (
        (of("kernel_size"), of("stride"), of("padding"), of("dilation")) == ({2}, {2}, {0}, {1})
        and not layer.ceil_mode
        and not layer.return_indices
    )

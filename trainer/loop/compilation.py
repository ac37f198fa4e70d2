"""torch.compile for the training steps: fused norms and activations, or the net as it is.

What is compiled depends on the machine: a C++ compiler on a CPU, Triton on a GPU. Where that lacks
or fails, the run goes on uncompiled and says so, instead of ending.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import first_line
from trainer.kernels.build import compiler, no_compiler
from trainer.kernels.fused import halves

Forward = Callable[[Tensor], Tensor]


class Compiled:
    """A net's forward pass in training, compiled at its first call.

    Args:
        forward: the net, or what wraps it.
        device: where the net is.
        on_problem: told once, in one line, why training goes on uncompiled.
        on_size: told of each new size of images, before the step that compiles for it.
        sizes: how many sizes there will be at most.
        parts: at how many places what cannot be compiled divides the net, and one.
    """

    def __init__(
        self,
        forward: Forward,
        device: torch.device,
        on_problem: Callable[[str], None],
        on_size: Callable[[torch.Size], None] = lambda size: None,
        *,
        sizes: int = 1,
        parts: int = 1,
    ) -> None:
        self._count = sizes * parts
        self._uncompiled, self._on_problem, self._on_size = forward, on_problem, on_size
        self._forward: Forward | None = None
        self._sizes: set[torch.Size] = set()
        self._compiles = False
        self.lacks = _lacks(device)
        """What is known beforehand to be missing; empty: nothing."""
        self.problem = ""
        """Why nothing is compiled any more."""

    @property
    def given_up(self) -> bool:
        """Whether nothing is compiled any more."""
        return self._forward is self._uncompiled

    def __call__(self, images: Tensor) -> Tensor:
        """[N, C, H, W] to logits [N, classes]."""
        if self._forward is None:
            if self.lacks:
                return self._give_up(images, self.lacks)
            # tells of a CUDA toolkit that nothing here needs
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
            _begin_anew(self._count)
            try:
                # images of a few sizes, each compiled for itself
                self._forward = torch.compile(self._uncompiled, dynamic=False)
            except RuntimeError as error:  # not for this version of Python
                return self._give_up(images, first_line(error))
        if self.given_up:
            return self._forward(images)
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        self._compiles = images.shape not in self._sizes
        if self._compiles:
            self._sizes.add(images.shape)
            self._on_size(images.shape)
        try:
            return self._forward(images)
        except FailOnRecompileLimitHit:
            return self._give_up(images, "the net would be compiled again and again")
        except TorchDynamoException as error:
            return self._give_up(images, first_line(error))

    def fails(self, error: Exception) -> bool:
        """Whether the forward and backward pass that raised this may go well uncompiled.

        Gradients are compiled at their first use, and kernels are loaded at theirs: whatever fails
        then may be the compiler's fault, later only its own errors are. If so, nothing is compiled
        any more, and whoever asks repeats both passes.
        """
        if self._forward is None or self.given_up or isinstance(error, torch.OutOfMemoryError):
            return False
        from torch._dynamo.exc import TorchDynamoException

        if not (self._compiles or isinstance(error, TorchDynamoException)):
            return False
        self._stop(first_line(error))
        return True

    def _give_up(self, images: Tensor, reason: str) -> Tensor:
        self._stop(reason)
        return self._uncompiled(images)

    def _stop(self, reason: str) -> None:
        self.problem = reason
        self._on_problem(f"training without torch.compile: {reason}")
        self._forward = self._uncompiled


def _begin_anew(count: int) -> None:
    """Forget what earlier runs of this process compiled, and be told when too much is.

    Code is counted by function, not by net: that of earlier runs would fill the number that is
    allowed, and what comes after it silently run uncompiled. Nor by layer: one function of so many
    layers is compiled as often, and for each size of images, where the net is divided.
    """
    import torch._dynamo  # seconds to import: not before

    torch._dynamo.reset()
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, count)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, count)
    limits.fail_on_recompile_limit_hit = not limits.suppress_errors  # torch refuses both


def choose_per_layer(net: nn.Module, device: torch.device) -> None:
    """Exchange the layers of a net for those that the compiler makes the fastest code of.

    Classes are exchanged in place, as ``convolutions.choose_per_layer`` does.
    """
    if device.type != "cuda":
        return
    for layer in net.modules():
        if type(layer) is nn.MaxPool2d and halves(layer):
            layer.__class__ = HalvingMaxPool2d


class HalvingMaxPool2d(nn.MaxPool2d):
    """2x2 max pooling whose gradient is one pass over its output in compiled code.

    Of torch's own pooling, whose windows may overlap, the compiler's gradient looks for each number
    at all windows that it may be the maximum of: on an H200 0.25 ms for 1,000 images of 64x31x31,
    for which 0.06 would do to write it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, H // 2, W // 2]."""
        if not (torch.compiler.is_compiling() and torch.is_grad_enabled()):
            usual: Tensor = super().forward(input)
            return usual
        pooled: Tensor = Halving.apply(input)
        return pooled


class Halving(torch.autograd.Function):
    """Maximum of 2x2 windows, the first one of equals; works in the order of channels_last."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, H // 2, W // 2]."""
        ctx.shape = images.shape
        *_, height, width = images.shape
        rows, columns = height // 2, width // 2
        whole = images.permute(0, 2, 3, 1)[:, : 2 * rows, : 2 * columns]
        windows = whole.unflatten(2, (columns, 2)).unflatten(1, (rows, 2))
        upper, upper_at = _larger(windows[:, :, 0, :, 0], windows[:, :, 0, :, 1])
        lower, lower_at = _larger(windows[:, :, 1, :, 0], windows[:, :, 1, :, 1])
        largest, below = _larger(upper, lower)
        at = torch.where(below, lower_at.to(torch.uint8) + 2, upper_at.to(torch.uint8))
        ctx.save_for_backward(at)
        return largest.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The other way, 0 where no maximum was."""
        (at,) = ctx.saved_tensors
        count, channels, height, width = ctx.shape
        rows, columns = height // 2, width // 2
        place = torch.arange(4, dtype=torch.uint8, device=at.device).view(1, 1, 2, 1, 2, 1)
        above = gradient.permute(0, 2, 3, 1)[:, :, None, :, None]
        hit = at[:, :, None, :, None] == place
        whole = torch.where(hit, above, 0).reshape(count, 2 * rows, 2 * columns, channels)
        padded = F.pad(whole, (0, 0, 0, width - 2 * columns, 0, height - 2 * rows))
        return padded.permute(0, 3, 1, 2)


def _larger(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The larger of two, and whether it is the second; not a number is the largest."""
    is_second = (second > first) | second.isnan()
    return torch.where(is_second, second, first), is_second


def _lacks(device: torch.device) -> str:
    """What is known beforehand to be missing; empty: nothing."""
    if device.type == "mps":
        return "it is not made for Apple GPUs yet"
    if device.type == "cpu" and not compiler():
        return no_compiler()
    return ""

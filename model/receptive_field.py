"""Receptive fields: exact interval arithmetic for one image axis, and a probe to test it against.

The rule is the usual one, ``r += (k_eff - 1) * jump; jump *= stride`` with
``k_eff = dilation * (k - 1) + 1`` (Araujo et al. 2019, "Computing receptive fields of convolutional
neural networks"), kept as an interval instead of a length: so the union at a join is exact for
even kernels and uneven padding too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model.errors import ModelError, message
from model.inspection import first_device, submodule


class Underivable(Exception):  # noqa: N818  # an answer, not an error
    """The receptive field cannot be derived; the message is the reason."""


@dataclass(frozen=True)
class Axis:
    """What a position of a tensor sees of one axis of the image, not clipped to the image.

    Index ``i`` sees ``near[0] + jump * i`` to ``near[1] + jump * i``, and ``far`` whatever ``i``
    is: what came through global pooling. At least one of both is there.
    """

    near: tuple[int, int] | None = (0, 0)
    jump: int = 1
    far: tuple[int, int] | None = None
    before: int = 1
    """Extent just before global pooling, where there was one."""
    shut: Axis | None = None
    """What it comes to if the last pooling was a global one, because its window held all positions:
    that is so unless another window slides over the one position left."""

    @property
    def mixed(self) -> bool:
        """Whether no two positions of it are apart any more."""
        return self.near is None or self.shut is not None

    @property
    def extent(self) -> int:
        """Image rows or columns seen: the greater of both parts."""
        return max(hi - lo + 1 for lo, hi in (p for p in (self.near, self.far) if p is not None))

    def window(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Axis:
        """After a convolution or pooling; ``padding`` is that at the low end."""
        if self.near is None:
            return self
        lo = self.near[0] - self.jump * padding
        hi = self.near[1] + self.jump * (dilation * (kernel - 1) - padding)
        shut = self.shut if kernel == 1 else None
        return replace(self, near=(lo, hi), jump=self.jump * stride, shut=shut)

    def collapse(self, size: int) -> Axis:
        """After something that mixes all ``size`` positions: global pooling, a linear layer."""
        if self.near is None:
            return self
        if self.shut is not None:
            return self.shut
        whole = (self.near[0], self.near[1] + self.jump * (size - 1))
        return Axis(None, 0, _hull(self.far, whole), self.extent)

    def join(self, other: Axis) -> Axis:
        """After adding or concatenating: the union of what both see.

        Raises:
            Underivable: the axes have different strides.
        """
        far = _hull(self.far, other.far)
        before = max(self.before, other.before)
        if self.near is None or other.near is None:
            one, rest = (other, self) if self.near is None else (self, other)
            shut = one.shut.join(rest) if one.shut else None
            return Axis(one.near, one.jump, far, before, shut)
        if self.jump != other.jump:
            if self.shut or other.shut:
                return (self.shut or self).join(other.shut or other)
            raise Underivable(f"paths of jump {self.jump} and {other.jump} are joined")
        shut = self.shut.join(other.shut) if self.shut and other.shut else None
        return Axis(_hull(self.near, other.near), self.jump, far, before, shut)


def _hull(a: tuple[int, int] | None, b: tuple[int, int] | None) -> tuple[int, int] | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a[0], b[0]), max(a[1], b[1])


_IDENTITY = frozenset(
    """relu relu_ relu6 gelu silu mish elu selu celu leaky_relu leaky_relu_ prelu hardtanh
    hardtanh_ hardswish hardsigmoid sigmoid tanh softplus softsign logsigmoid threshold
    rrelu batch_norm group_norm layer_norm instance_norm rms_norm local_response_norm
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout""".split()  # noqa: SIM905
)


class _Linearised(TorchFunctionMode):
    """Activations and norms do nothing; max pooling takes the mean, so all of a window counts."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _IDENTITY:
            return args[0] if args else kwargs["input"]
        if name in ("max_pool2d", "_max_pool2d", "max_pool2d_with_indices"):
            return _mean_pool(*args, **kwargs)
        if name in ("adaptive_max_pool2d", "_adaptive_max_pool2d"):
            return F.adaptive_avg_pool2d(args[0], args[1])
        if name in ("amax", "max") and len(args) + len(kwargs) > 1:
            return torch.mean(args[0], *args[1:], **kwargs)
        return func(*args, **kwargs)


def _mean_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """As ``F.max_pool2d`` with sums (dilation included)."""
    if return_indices:
        raise ModelError("the gradient probe does not follow max pooling with indices")
    (kh, kw), (ph, pw) = _pair(kernel_size), _pair(padding)
    if max(_pair(dilation)) == 1:
        return F.avg_pool2d(input, (kh, kw), stride or None, (ph, pw), ceil_mode)
    channels = input.shape[1]
    ones = input.new_ones(channels, 1, kh, kw)
    step = _pair(stride or kernel_size)
    return F.conv2d(input, ones, None, step, (ph, pw), _pair(dilation), channels)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[-1])


def gradient_intervals(
    net: nn.Module, input_shape: tuple[int, ...] = (3, 32, 32), at: str = ""
) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last image row, and column, that reach the centre position of a tensor.

    A copy of the net gets positive weights and no biases, activations and norms do nothing, max
    pooling takes means: then nothing cancels, and the gradient of the centre is non-zero exactly
    in the receptive field. The weights are all different, so that a net which subtracts a mean
    does not cancel everything either. Clipped to the image.

    Args:
        net: any net; it is not changed.
        input_shape: of one image, [C, H, W].
        at: path of the module whose output is looked at; empty: the net's own output.

    Raises:
        ModelError: there is no such module, the net cannot be copied or run, or nothing of the
            image reaches the place.
    """
    try:
        probed = copy.deepcopy(net).double().eval()
    except (Exception, SystemExit) as error:
        raise ModelError(f"the net cannot be copied: {type(error).__name__}") from None
    generator = torch.Generator().manual_seed(0)  # not the global one: nobody's numbers change
    with torch.no_grad():
        for name, parameter in probed.named_parameters():
            # the mean over the inputs keeps numbers far from over- and underflow in deep nets
            inputs = parameter[0].numel() if parameter.ndim > 1 else 1
            weights = _unequal(parameter.shape, generator) / max(1, inputs)
            parameter.copy_(torch.zeros(()) if name.endswith("bias") else weights)
    seen: list[Tensor] = []
    handle = submodule(probed, at).register_forward_hook(lambda _m, _i, out: seen.append(out))
    image = torch.ones(1, *input_shape, device=first_device(net), dtype=torch.float64)
    image.requires_grad_()
    try:
        with torch.enable_grad(), _Linearised():
            probed(image)
            output = seen[-1]
            for size in output.shape[2:]:
                output = output.select(2, size // 2)
            weights = _unequal(output.shape, generator).to(output)
            (gradient,) = torch.autograd.grad((weights * output).sum(), image)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        line = (message(error).splitlines() or [""])[0]
        raise ModelError(f"the gradient probe fails: {type(error).__name__}: {line}") from None
    finally:
        handle.remove()
    return _span(gradient.abs().sum((0, 1, 3))), _span(gradient.abs().sum((0, 1, 2)))


def _unequal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Positive numbers whose mean is about 1."""
    return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5


def _span(gradient: Tensor) -> tuple[int, int]:
    index = gradient.nonzero().flatten().tolist()
    if not index:
        raise ModelError("nothing of the image reaches this place")
    return index[0], index[-1]

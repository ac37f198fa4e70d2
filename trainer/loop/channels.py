"""Which dimension of an activation holds its channels, told by the layer before it.

By the number of dimensions it cannot be told: [N, C, L] of a ``Conv1d`` and [N, T, C] of a sequence
have three, [N, C, H, W] and the [N, H, W, C] of ConvNeXt and Swin have four.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, instancenorm, pooling

_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm)
_SECOND = (
    conv._ConvNd,
    batchnorm._NormBase,
    instancenorm._InstanceNorm,
    nn.GroupNorm,
    pooling._MaxPoolNd,
    pooling._AvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
    pooling._AdaptiveAvgPoolNd,
)


@dataclass(frozen=True)
class _Given:
    """An output of a layer whose channels are known: shape, strides, dimension of the channels."""

    shape: torch.Size
    strides: tuple[int, ...]
    axis: int


class ChannelAxes:
    """Hears the outputs of layers in the order of a forward pass; keeps none of them."""

    def __init__(self) -> None:
        self._given: list[_Given] = []

    @staticmethod
    def tells(module: nn.Module) -> bool:
        """Whether this layer's output has its channels where its class says."""
        if isinstance(module, _SECOND):
            return True
        if not isinstance(module, _LAST) or len(getattr(module, "normalized_shape", (1,))) != 1:
            return False
        # one with a forward of its own may take [N, C, H, W]: the LayerNorm2d of ConvNeXt
        return any(type(module).forward is kind.forward for kind in _LAST)

    def hear(self, module: nn.Module, output: object) -> None:
        """A layer that ``tells`` has run."""
        if isinstance(output, Tensor) and output.ndim > 1:
            axis = 1 if isinstance(module, _SECOND) else output.ndim - 1
            self._given.append(_Given(output.shape, output.stride(), axis))

    def begin(self, images: object) -> None:
        """The net takes images, [N, C, H, W]."""
        if isinstance(images, Tensor) and images.ndim == 4:
            self._given = [_Given(images.shape, images.stride(), 1)]

    def of(self, output: Tensor) -> int | None:
        """The dimension of an activation's channels; None where no layer before it tells.

        Between both may lie what is elementwise, pooling, channels put together or parted, and
        dimensions in another order, as long as the sizes leave no doubt.
        """
        if output.ndim == 2:
            return 1
        same = (given for given in reversed(self._given) if given.shape == output.shape)
        if (given := next(same, None)) is not None:
            clear = _once(output.shape, output.shape[given.axis])
            return given.axis if clear or given.strides == output.stride() else None
        alike = [given for given in self._given if len(given.shape) == output.ndim]
        if not alike:
            return None
        given = alike[-1]
        axis = _moved(given, output.shape)
        if axis is None and all(one.axis == given.axis for one in alike):
            # all sizes alike, as 32 channels of 32x32: no layer so far has them elsewhere
            kept = _order(output.stride()) == _order(given.strides)
            return given.axis if kept and _same_places(given, output.shape) else None
        return axis


def _moved(given: _Given, shape: torch.Size) -> int | None:
    axis, channels = given.axis, given.shape[given.axis]
    # other channels at the same places, or the same channels at others
    if _same_places(given, shape) or shape[axis] == channels:
        return axis if _once(shape, shape[axis]) else None
    moved = sorted(given.shape) == sorted(shape) and _once(shape, channels)
    return list(shape).index(channels, 1) if moved else None


def _same_places(given: _Given, shape: torch.Size) -> bool:
    """Whether nothing but the number of channels is another one."""
    return all(given.shape[d] == shape[d] for d in range(len(shape)) if d != given.axis)


def _order(strides: tuple[int, ...]) -> list[int]:
    """Dimensions from the outermost in memory to the innermost."""
    return sorted(range(len(strides)), key=lambda dim: -strides[dim])


def _once(shape: torch.Size, size: int) -> bool:
    """Whether one dimension alone, but for the batch's, is of this size."""
    return list(shape[1:]).count(size) == 1

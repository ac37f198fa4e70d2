"""What a net sees of an image, by its gradient."""

from __future__ import annotations

from torch import nn

from model.receptive_field import gradient_intervals


def gradient_probe(
    net: nn.Module, input_shape: tuple[int, ...] = (3, 32, 32), at: str = ""
) -> tuple[int, int]:
    """Image rows and columns that reach a tensor's centre: ``gradient_intervals`` as lengths."""
    (top, bottom), (left, right) = gradient_intervals(net, input_shape, at)
    return bottom - top + 1, right - left + 1

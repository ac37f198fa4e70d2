"""Augmentation of a batch in one go over each image, to bf16 in channels_last, on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.kernels.build import at, library


@dataclass(frozen=True)
class Draws:
    """The random parameters of one epoch, one row per training image, on the device.

    ``None`` where the settings ask for nothing.
    """

    rows: Tensor | None
    """int64 [N, 32]: source row of each row, reflection and shift applied."""
    columns: Tensor | None
    """int64 [N, 32]: source column of each column, flip, shift and reflection applied."""
    warped: Tensor | None
    """bool [N]: whether shift-scale-rotate applies."""
    warps: Tensor | None
    """float32 [N, 2, 3]: map from the output's to the input's coordinates, both -1 to 1."""
    gray: Tensor | None
    """bool [N]."""
    holes: Tensor | None
    """int64 [N, 2]: top row and left column of the hole; outside the image where there is none."""


def augmented(
    images: Tensor,
    index: Tensor,
    draws: Draws,
    *,
    hole: int,
    luma: Tensor,
    scale: Tensor,
    offset: Tensor,
) -> Tensor:
    """What ``Augment`` does, up to rounding.

    Args:
        images: uint8 [B, 3, 32, 32].
        index: int64 [B], which row of the draws belongs to each.
        draws: the epoch's parameters.
        hole: side of the square that is covered, pixels.
        luma: weights of the colours in a gray value, [1, 3, 1, 1].
        scale, offset: normalisation of values 0 to 255, per colour, [1, 3, 1, 1].

    Returns:
        bf16 [B, 3, 32, 32] in channels_last.
    """
    count, colours, height, width = images.shape
    y = torch.empty((count, height, width, colours), dtype=torch.bfloat16)
    images, index = images.contiguous(), index.contiguous()
    library().augment(
        images.data_ptr(),
        index.data_ptr(),
        count,
        at(draws.rows),
        at(draws.columns),
        at(draws.warped),
        at(draws.warps),
        at(draws.gray),
        luma.data_ptr(),
        at(draws.holes),
        hole,
        scale.data_ptr(),
        offset.data_ptr(),
        torch.get_num_threads(),
        y.data_ptr(),
    )
    return y.permute(0, 3, 1, 2)

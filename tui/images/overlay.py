"""What is drawn over an enlarged image: maps of weights as light, boxes as frames. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""First and last row, first and last column."""
HOT = np.array([255.0, 96.0, 0.0])
THEORY, EFFECTIVE = (0, 224, 255), (255, 224, 0)
"""Colours of the frames: cyan and yellow differ in every colour vision, and in brightness."""


def lit(picture: Pixels, weights: bytes) -> Pixels:
    """An image [3, 32, 32] where its weights are, uint8 [32, 32]: dark elsewhere, warm there.

    Dark and bright tell it where there are no colours.
    """
    if len(weights) != picture.shape[1] * picture.shape[2]:
        return picture
    share = np.frombuffer(weights, np.uint8).reshape(1, *picture.shape[1:]) / 255
    drawn = picture * (0.3 + 0.7 * share)
    drawn += (HOT[:, None, None] - drawn) * 0.45 * share
    return drawn.round().astype(np.uint8)


def framed(
    picture: Pixels, scale: int, boxes: Sequence[tuple[Box | None, tuple[int, int, int]]]
) -> Pixels:
    """An image [3, H, W] enlarged by whole pixels, with frames of one pixel along inner edges.

    Returns:
        uint8 [3, scale H, scale W].
    """
    large: Pixels = picture.repeat(scale, 1).repeat(scale, 2)
    for box, colour in boxes:
        if box is None:
            continue
        top, left = box[0] * scale, box[2] * scale
        bottom, right = (box[1] + 1) * scale - 1, (box[3] + 1) * scale - 1
        for channel in range(3):
            plane = large[channel]
            plane[top : bottom + 1, [left, right]] = colour[channel]
            plane[[top, bottom], left : right + 1] = colour[channel]
    return large


def is_clipped(size: tuple[int, int] | None, box: Box | None) -> bool:
    """Whether a receptive field of this size reaches beyond the image."""
    if size is None or box is None:
        return False
    return size[0] > box[1] - box[0] + 1 or size[1] > box[3] - box[2] + 1

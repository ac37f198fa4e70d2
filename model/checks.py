"""Whether a net takes the images and gives the scores that it should."""

from __future__ import annotations

import torch
from torch import nn

from model.errors import ModelError
from model.inspection import first_device, untouched
from model.user_file import told_as


def check_output(net: nn.Module, classes: int, side: int = 32) -> None:
    """Run two square images through a net in eval mode; state, modes and RNG stay as they were.

    Args:
        net: it takes [2, 3, side, side].
        classes: it should give [2, classes].
        side: of the images in pixels.

    Raises:
        ModelError: it fails, or its output is not [2, classes].
    """
    shape = [2, 3, side, side]
    with untouched(net), torch.no_grad(), told_as(f"the net fails on a batch {shape}"):
        output = net(torch.zeros(shape, device=first_device(net)))
    check_scores(output, 2, classes)


def check_scores(output: object, images: int, classes: int) -> None:
    """Check what a net returns for a batch.

    Raises:
        ModelError: it is not one tensor [images, classes].
    """
    if not isinstance(output, torch.Tensor):
        kind = type(output).__name__
        raise ModelError(f"the net must return one tensor [N, {classes}], not a {kind}")
    if (*output.shape,) != (images, classes):
        raise ModelError(
            f"the net's output for {images} images has shape {[*output.shape]}: "
            f"it must be [{images}, {classes}], one score per class"
        )

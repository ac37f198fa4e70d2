"""The effective receptive field: how much each pixel really counts, measured by gradients.

Luo, Li, Urtasun, Zemel 2016, "Understanding the Effective Receptive Field in Deep Convolutional
Neural Networks", NIPS: within the theoretical field the influence of pixels falls off, much like a
Gaussian, so most of it comes from a smaller part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.errors import ModelError
from model.grad_cam import captured_output, gradient
from model.inspection import untouched

SHARE = 0.95
"""Of the gradient's mass, in the box."""

NOISE = 1e-5
"""What is left of a gradient whose parts cancel, as a share of them: rounding, no gradient."""


@dataclass(frozen=True)
class EffectiveField:
    """What the centre unit of a layer's output sees of the image."""

    map: Tensor
    """float32 [H, W] on the CPU, 0 to 1: mean absolute gradient, divided by its maximum."""
    box: tuple[int, int, int, int] | None
    """First and last row, first and last column, of at least ``SHARE`` of the mass; ``None``
    where no image changes the unit."""


def effective_receptive_field(net: nn.Module, images: Tensor, layer: str) -> EffectiveField:
    """Mean over a batch of ``|d y / d pixel|``, summed over the image's channels.

    ``y`` is the unit at ``size // 2`` of the layer's output, its channels summed with random but
    always the same signs: summed as they are, filters in pairs of both signs would cancel.

    Args:
        net: in any mode; modes, buffers and gradients of parameters stay as they were.
        images: normalised, [N, 3, H, W], on the net's device.
        layer: path of a module whose output is [N, C, H', W'].

    Raises:
        ModelError: there is no such layer, its output is no map, or the net fails.
        NoGradient: the net keeps no gradients up to there.
    """
    # the images twice: for the channels that are added, and for those that are subtracted
    image = torch.cat([images.detach()] * 2).requires_grad_()
    with untouched(net), captured_output(net, layer) as captured, torch.enable_grad():
        try:
            net(image)
        except (Exception, SystemExit) as error:
            raise ModelError(f"the net fails: {type(error).__name__}") from None
        output = captured.output
        if output is None or output.ndim != 4:
            raise ModelError(f"the output of {layer} is no map over the image")
        centre = output[:, :, output.shape[2] // 2, output.shape[3] // 2]
        added = torch.rand(output.shape[1], generator=torch.Generator().manual_seed(0)) < 0.5
        channels = torch.stack([added, ~added]).repeat_interleave(len(images), 0).to(centre.device)
        slope = gradient(centre[channels].sum(), image, layer)
    nothing = EffectiveField(torch.zeros(image.shape[2:]), None)
    if slope is None:
        return nothing
    plus, minus = slope.cpu().double().chunk(2)
    mass = (plus - minus).abs().sum(1).mean(0)
    if mass.max() <= NOISE * (plus.abs() + minus.abs()).sum(1).mean(0).max():
        return nothing
    return EffectiveField((mass / mass.max()).float(), mass_box(mass))


def mass_box(mass: Tensor, share: float = SHARE) -> tuple[int, int, int, int] | None:
    """A small box with at least a share of the mass, [H, W], none of it negative.

    On each axis the shortest interval that leaves out at most half of the rest: together they
    leave out at most all of it.

    Returns:
        First and last row, first and last column; ``None`` without mass.
    """
    if not bool(torch.isfinite(mass).all()) or not float(mass.sum()) > 0:
        return None
    inside = 1 - (1 - share) / 2
    return (*_shortest(mass.sum(1), inside), *_shortest(mass.sum(0), inside))


def _shortest(line: Tensor, share: float) -> tuple[int, int]:
    """The shortest interval with a share of a line's sum; of equally short ones the heaviest."""
    sums = [0.0, *line.double().cumsum(0).tolist()]
    # sums of the same numbers in another order differ in their last digits
    wanted = share * sums[-1] * (1 - 1e-12)
    best = (len(line), 0.0, 0, len(line) - 1)
    for first in range(len(line)):
        for last in range(first, len(line)):
            held = sums[last + 1] - sums[first]
            if held >= wanted:
                best = min(best, (last - first + 1, -held, first, last))
                break
    return best[2], best[3]

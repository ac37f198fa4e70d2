"""Grad-CAM: where in the image a class's score comes from, seen from a convolution.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import ModelError
from model.inspection import submodule, untouched


class NoGradient(ModelError):  # noqa: N818  # an answer, not an error
    """Nothing can be told by gradients: the net computes without them in between."""


@dataclass
class Captured:
    """The latest output of a layer."""

    output: Tensor | None = None


@contextmanager
def captured_output(net: nn.Module, layer: str) -> Iterator[Captured]:
    """Catch a layer's output inside the block; the hook is gone afterwards, whatever happens.

    Args:
        net: any net.
        layer: path of one of its modules.

    Raises:
        ModelError: the net has no such module.
    """
    module = submodule(net, layer)
    captured = Captured()

    def keep(_module: nn.Module, _inputs: object, output: object) -> object:
        if not isinstance(output, Tensor):
            return output
        captured.output = output
        # what follows may work in place, and would change what was caught
        return output.clone()

    handle = module.register_forward_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()


def gradient(value: Tensor, at: Tensor, layer: str) -> Tensor | None:
    """The gradient of a number at a tensor; ``None`` where the one does not come from the other.

    Raises:
        NoGradient: the net leaves gradients out: under ``torch.no_grad``, by ``argmax``, by
            reentrant checkpoints.
    """
    try:
        found: tuple[Tensor | None, ...] = torch.autograd.grad(value, at, allow_unused=True)
    except RuntimeError:
        raise NoGradient(f"the net keeps no gradients around {layer}") from None
    return found[0]


def conv_layers(net: nn.Module) -> tuple[str, ...]:
    """Paths of all convolutions over images, in the order they are declared."""
    return tuple(path for path, m in net.named_modules() if isinstance(m, nn.Conv2d))


def grad_cam(net: nn.Module, image: Tensor, layer: str, of_class: int) -> Tensor:
    """The map ``ReLU(sum_k a_k A_k)``, ``a_k`` the mean of the score's gradient over ``A_k``.

    Args:
        net: in any mode; modes, buffers and gradients of parameters stay as they were.
        image: normalised, [1, 3, H, W], on the net's device.
        layer: path of a convolution.
        of_class: whose score, before the softmax.

    Returns:
        float32 [H, W] on the CPU, 0 to 1: divided by its maximum, enlarged bilinearly to the
        image. All 0 where nothing speaks for the class.

    Raises:
        ModelError: there is no such layer, its output is no map, or the net fails.
        NoGradient: the net keeps no gradients from there on.
    """
    with untouched(net), captured_output(net, layer) as captured, torch.enable_grad():
        try:
            # a gradient at the image makes one at every layer, frozen weights or not
            scores = net(image.detach().clone().requires_grad_())
        except (Exception, SystemExit) as error:
            raise ModelError(f"the net fails: {type(error).__name__}") from None
        maps = captured.output
        if maps is None or maps.ndim != 4:
            raise ModelError(f"the output of {layer} is no map over the image")
        if not 0 <= of_class < scores.shape[1]:
            raise ModelError(f"the net has no class {of_class}: 0 to {scores.shape[1] - 1}")
        slope = gradient(scores[0, of_class], maps, layer)
    if slope is None:
        return torch.zeros(image.shape[2:])
    weights = slope.float().mean((2, 3), keepdim=True)
    cam = (weights * maps.detach().float()).sum(1, keepdim=True).relu()
    highest = cam.max()
    if highest > 0:
        cam = cam / highest
    size = [image.shape[2], image.shape[3]]
    return F.interpolate(cam, size, mode="bilinear", align_corners=False)[0, 0].clamp(0, 1).cpu()

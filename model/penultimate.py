"""Features before the classifier: what goes into a net's last layer with weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.errors import ModelError
from model.inspection import submodule, untouched

LAYERS = (nn.Linear, nn.Conv2d)


def last_layer(net: nn.Module, images: Tensor) -> str:
    """Path of the linear layer or convolution that runs last.

    Args:
        net: in any mode; it stays as it was.
        images: normalised, [N, 3, H, W], on the net's device; two are enough.

    Raises:
        ModelError: the net fails, or has no such layer.
    """
    called: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda _m, _a, path=path: called.append(path))
        for path, module in net.named_modules()
        if isinstance(module, LAYERS)
    ]
    try:
        with untouched(net), torch.no_grad():
            net(images)
    except (Exception, SystemExit) as error:
        raise ModelError(f"the net fails: {type(error).__name__}") from None
    finally:
        for handle in handles:
            handle.remove()
    if not called:
        raise ModelError("the net has no linear layer or convolution whose input could be taken")
    return called[-1]


def features(net: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """A layer's input and the net's output; the net must be in eval mode.

    Args:
        net: whose state does not change in eval mode.
        images: normalised, [N, 3, H, W], on the net's device.
        layer: path of a linear layer or convolution.

    Returns:
        float32 [N, D], of a map its mean over the positions (a 1x1 convolution before global
        average pooling is a linear layer after it), and float32 scores [N, C].

    Raises:
        ModelError: there is no such layer, the net fails, or the layer's input does not have a row
            for each image.
    """
    seen: list[Tensor] = []
    handle = submodule(net, layer).register_forward_pre_hook(
        lambda _m, args: seen.append(args[0].detach())
    )
    try:
        with torch.inference_mode():
            scores = net(images)
    except (Exception, SystemExit) as error:
        raise ModelError(f"the net fails: {type(error).__name__}") from None
    finally:
        handle.remove()
    if not seen or len(seen[-1]) != len(images):
        raise ModelError(f"the input of {layer} does not have a row for each image")
    found = seen[-1].float()
    found = found.mean((2, 3)) if found.ndim == 4 else found.flatten(1)
    return found, scores.float()

"""A small wide net for the quickest way to a good accuracy, best trained with Muon.

The recipe is that of Jordan 2024, "94 % on CIFAR-10 in 3.29 seconds on a single GPU": whitened
2x2 patches, pooling right after a group's first convolution, batch norm without scales, GELU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.blocks import conv_norm_act
from model.errors import ModelError

# Jordan's rates are for a loss summed over 2,000 images: 0.053 for biases and 0.67 for a head whose
# output is divided by its 256 inputs. With the mean loss that all other nets use these would be 106
# and 1340. A parameter that enters scaled by s learns s² times as fast: these scales make one rate
# of 0.67 do for both.
BIAS_SCALE = (0.053 * 2000 / 0.67) ** 0.5
HEAD_SCALE = 2000**0.5 / 256


class ShiftNorm(nn.BatchNorm2d):
    """Batch norm with a bias only, and quicker running statistics for short runs."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.4, affine=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to the same shape."""
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            torch.ones_like(self.bias),
            self.bias * BIAS_SCALE,
            self.training,
            0.4,
            self.eps,
        )


class Group(nn.Module):
    """3x3, max pooling, norm, GELU, 3x3, norm, GELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = ShiftNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = ShiftNorm(outputs)
        self.act = nn.GELU()
        for conv in (self.conv1, self.conv2):
            # the first filters copy their input: partial identity
            nn.init.dirac_(conv.weight.data[: conv.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H // 2, W // 2]."""
        x = conv_norm_act(self.conv1, self.norm1, self.act, x, pool=self.pool)
        return conv_norm_act(self.conv2, self.norm2, self.act, x)


class GlobalMaxPool(nn.AdaptiveMaxPool2d):
    """The largest value of each channel, by a window as large as the image.

    On a GPU torch's adaptive pooling takes 0.35 ms for 1,000 images of 256x3x3, as long as the
    convolution before it.
    """

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, 1, 1]."""
        return F.max_pool2d(input, (input.shape[2], input.shape[3]))


class Fast(nn.Module):
    """Whitening 2x2, three groups of 64, 256, 256 channels, max pooling, linear head.

    Call ``prepare`` with training images before the first step.

    Args:
        classes: number of outputs.
        norm: only ``batch``.
        width: factor on the channels of the groups.

    Raises:
        ModelError: another norm, or a width that leaves no channels.
    """

    def __init__(self, classes: int = 10, norm: str = "batch", width: float = 1.0) -> None:
        super().__init__()
        if norm != "batch":
            raise ModelError("fast is made for batch norm: leave model.norm out")
        if not 1 / 16 <= width <= 8:
            raise ModelError("fast: width must be between 0.0625 and 8")
        first, second, third = (round(c * width) for c in (64, 256, 256))
        # fixed, the bias too: training it would take a gradient back through the largest layers
        self.whiten = nn.Conv2d(3, 24, 2).requires_grad_(False)
        self.groups = nn.Sequential(
            nn.GELU(), Group(24, first), Group(first, second), Group(second, third)
        )
        self.pool = GlobalMaxPool()  # of what is left: 3x3 of a whole image
        self.flatten = nn.Flatten()
        self.head = nn.Linear(third, classes, bias=False)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.head.weight, std=1 / (third * HEAD_SCALE))

    def prepare(self, train_images: Tensor) -> None:
        """Look at training images, normalised float [N, 3, 32, 32], before the first step."""
        self.init_whitening(train_images)

    @torch.no_grad()
    def init_whitening(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the first layer to the eigenvectors of 2x2 patches, over the root of their variance.

        Args:
            images: normalised float [N, 3, H, W].
            eps: added to the variances.
        """
        patches = F.unfold(images.float(), 2).transpose(1, 2).reshape(-1, 12)
        variances, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (variances + eps).sqrt()).T.reshape(12, 3, 2, 2)
        # with both signs GELU keeps all there is in the patch
        self.whiten.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 32, 32] to logits [N, classes]."""
        logits: Tensor = self.head(self.flatten(self.pool(self.groups(self.whiten(x)))))
        return logits * HEAD_SCALE

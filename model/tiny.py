"""Accuracy under 100,000 parameters: depthwise separable layers, nearly all of them residual."""

from __future__ import annotations

from torch import Tensor, nn

from model.blocks import ConvNormAct, DepthwiseSeparable, GlobalAveragePooling, init_he


class Tiny(nn.Module):
    """Under 100k parameters, RF 57 with the usual numbers of layers.

    ====== ======================================= ======= ===
    block  layers                                  output  RF
    ====== ======================================= ======= ===
    stem   3x3, depthwise separable stride 2       64x16²  5
    middle depthwise separable, residual, 6 times  64x16²  29
    late   depthwise separable stride 2            128x8²  33
           depthwise separable, residual, 3 times  128x8²  57
    output global average pooling, FC              classes
    ====== ======================================= ======= ===

    Args:
        classes: number of outputs.
        norm: normalisation after each pair of convolutions.
        middle, late: how many residual layers there are at 16x16 and at 8x8.
    """

    def __init__(
        self, classes: int = 10, norm: str = "batch", middle: int = 6, late: int = 3
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvNormAct(3, 24, norm=norm), DepthwiseSeparable(24, 64, norm=norm, stride=2)
        )
        self.middle = nn.Sequential(*(DepthwiseSeparable(64, 64, norm=norm) for _ in range(middle)))
        self.late = nn.Sequential(
            DepthwiseSeparable(64, 128, norm=norm, stride=2),
            *(DepthwiseSeparable(128, 128, norm=norm) for _ in range(late)),
        )
        self.gap = GlobalAveragePooling()
        self.fc = nn.Linear(128, classes)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 32, 32] to logits [N, classes]."""
        out: Tensor = self.fc(self.gap(self.late(self.middle(self.stem(x)))))
        return out
